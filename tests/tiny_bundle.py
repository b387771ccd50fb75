"""A bundle whose scores can be worked out by hand: no torch, no training.

`brightness` is the mean of the real frames / 255, `loudness` the mean of |real samples|; each real token id adds .01 to
both. Scores are clipped to [0, 1]. With `ranges` the graph also says how far each stream lies from training: ten times
the brightness, ten times the loudness, the number of ids.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mmtraits import bundle
from mmtraits.bundle import FORMAT_VERSION
from mmtraits.errors import BundleError
from mmtraits.schema import FrameSpec, InputSpec, TextSpec, Trait, TraitSchema, WaveSpec
from mmtraits.unlike import Ranges

GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
tiny (uint8[B,F,8,8,3] face, bool[B,F] face_mask, float[B,S] voice, bool[B,S] voice_mask,
      int64[B,T] text, bool[B,T] text_mask)
  => (float[B,2] scores)
{
  zero = Constant <value_float = 0.0> ()
  one = Constant <value_float = 1.0> ()
  white = Constant <value_float = 255.0> ()
  step = Constant <value_float = 0.01> ()
  steps = Constant <value_ints = [1]> ()
  pixels = Constant <value_ints = [2, 3, 4]> ()

  grey = Cast <to = 1> (face)
  per_frame = ReduceMean <keepdims = 0> (grey, pixels)
  unit = Div (per_frame, white)
  real_frames = Where (face_mask, unit, zero)
  frame_sum = ReduceSum <keepdims = 1> (real_frames, steps)
  frame_ones = Cast <to = 1> (face_mask)
  frame_count = ReduceSum <keepdims = 1> (frame_ones, steps)
  frame_some = Max (frame_count, one)
  brightness = Div (frame_sum, frame_some)

  size = Abs (voice)
  real_samples = Where (voice_mask, size, zero)
  sample_sum = ReduceSum <keepdims = 1> (real_samples, steps)
  sample_ones = Cast <to = 1> (voice_mask)
  sample_count = ReduceSum <keepdims = 1> (sample_ones, steps)
  sample_some = Max (sample_count, one)
  loudness = Div (sample_sum, sample_some)

  real_ids = Cast <to = 1> (text_mask)
  id_count = ReduceSum <keepdims = 1> (real_ids, steps)
  said = Mul (id_count, step)

  both = Concat <axis = 1> (brightness, loudness)
  sum = Add (both, said)
  scores = Clip (sum, zero, one)
}
"""
WITH_DISTANCE = GRAPH.replace("scores)", "scores, float[B,3] distance)").replace(
    "  scores = Clip (sum, zero, one)",
    """  scores = Clip (sum, zero, one)
  all = Concat <axis = 1> (both, id_count)
  scales = Constant <value_floats = [10.0, 10.0, 1.0]> ()
  distance = Mul (all, scales)""",
)


def greedy(numbers: int) -> bytes:
    """The tiny graph made to hold twice `numbers` float32 more for every row; its scores stay what they are."""
    text = GRAPH.replace(
        "  scores = Clip (sum, zero, one)",
        f"""  much = Constant <value_ints = [1, {numbers}]> ()
  wide = Expand (loudness, much)
  wider = Abs (wide)
  most = ReduceMax <keepdims = 1> (wider, steps)
  nothing = Mul (most, zero)
  summed = Add (sum, nothing)
  scores = Clip (summed, zero, one)""",
    )
    return bytes(onnx.parser.parse_model(text).SerializeToString())


SCHEMA = TraitSchema(
    name="tiny",
    traits=(Trait(name="brightness", low=0.0, high=1.0), Trait(name="loudness", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="nobody",
)
SPECS: dict[str, InputSpec] = {
    "face": FrameSpec(frames=4, height_px=8, width_px=8),
    "voice": WaveSpec(sample_rate=8000),
    "text": TextSpec(tokenizer="tokenizer.json", max_ids=6),
}


def write_tiny_bundle(
    folder: Path, *, graph: bytes | None = None, ranges: Ranges | None = None, **changes: object
) -> Path:
    """Write the bundle into `folder`; `changes` replace keys of bundle.json, `graph` the model."""
    folder.mkdir(parents=True, exist_ok=True)
    text = WITH_DISTANCE if ranges else GRAPH
    (folder / "model.onnx").write_bytes(graph or onnx.parser.parse_model(text).SerializeToString())
    words = {word: n for n, word in enumerate(["[UNK]", "hello", "world"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    info = {
        "format_version": FORMAT_VERSION,
        "name": "tiny",
        "schema": SCHEMA.to_dict(),
        "transform": {"shift": [0, 0], "scale": [1, 1], "low": [0, 0], "high": [1, 1]},
        "streams": {name: {"spec": asdict(spec), "inputs": [name, f"{name}_mask"]} for name, spec in SPECS.items()},
        "output": "scores",
        "windowing": {"length_s": 2.0, "hop_s": 2.0},
        "calibration": None,
        "files": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in ("model.onnx", "tokenizer.json")},
        "versions": {},
        "provenance": {},
        "licence": "Apache-2.0",
    }
    if ranges:
        info |= {"distance": "distance", "unlike": ranges.to_dict()}
    (folder / "bundle.json").write_text(json.dumps(info | changes))
    return folder


def refused(folder: Path, message: str, **changes: Any) -> None:
    """Assert that the tiny bundle with these changes is refused in these words."""
    with pytest.raises(BundleError, match=message):
        bundle.read(write_tiny_bundle(folder, **changes))
