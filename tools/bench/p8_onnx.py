"""P8: torch eager ÷ ONNX Runtime, one thread each, batch 1 and 16: the default bundle, and every config's graph.

Both run the same windows from arrays to scores, padding included; front-ends that members share run once in both. The
default bundle's torch twin is its config with as many members, whose weights are random: time does not depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from measuring import Found, in_turn, medians, ratio, seconds
from numpy.typing import NDArray

from mmtraits import config, graph, model, parts
from mmtraits.model import TraitModel
from mmtraits.runtime import Predictor
from mmtraits.schema import FrameSpec, InputSpec, Raw, TargetTransform, TextSpec, Trait, TraitSchema, WaveSpec, stack
from mmtraits.tokens import Tokens

CONFIGS = Path(__file__).parents[2] / "configs"
BATCHES = (1, 16)
WORDS = 60  # token ids of a window: what is said in 15 s
VECTORS = 20  # steps of a stream that is given as vectors
TOO_LONG_S = 1.5  # a forward pass of one window; then 16 are not tried
Window = dict[str, Raw]


def measure(folder: Path, rounds: int) -> Iterator[Found]:
    """CPU seconds with one thread; parity of both is checked on the way where they have the same weights."""
    torch.set_num_threads(1)
    names = [path for path in sorted(CONFIGS.rglob("*.yaml")) if _is_system(path)]
    yield from _default(rounds)
    for path in names:
        yield from _of_config(path, rounds)


def _is_system(path: Path) -> bool:
    """No prompts and questionnaires, nothing that is only inherited from, no pre-training without scores."""
    return path.parent.name in ("configs", "systems") and path.stem not in ("base", "social_mae_pretrain")


def _default(rounds: int) -> list[Found]:
    predictor = Predictor(threads=1)
    count = len(predictor.info["provenance"]["members"])
    members = [_member(CONFIGS / "first_impressions.yaml", predictor.schema, seed) for seed in range(count)]
    if members[0].specs.keys() != predictor.specs.keys():
        raise RuntimeError("the default bundle has other streams than configs/first_impressions.yaml")
    found = []
    for size in BATCHES:
        windows = _windows(predictor.specs, size, predictor.windowing.length_s)
        works = {"eager": partial(_eager, members, windows), "onnx": partial(predictor.examine, windows)}
        taken = in_turn(works, rounds)
        found.append(
            Found(
                claim="P8", what=f"torch eager / ONNX Runtime, default bundle, batch {size}",
                figure=ratio(taken["eager"], taken["onnx"]), at_least=1.3,
                details={"cpu_s": medians(taken), "members": count},
            )
        )  # fmt: skip
    return found


def _of_config(path: Path, rounds: int) -> list[Found]:
    traits = tuple(Trait(name=f"trait_{n}", low=0.0, high=1.0) for n in range(5))
    schema = TraitSchema(name="any", traits=traits, construct="apparent", judged_by="nobody")
    settings = config.load(path, check=parts.problems)
    members, windowing = [_member(path, schema, 0)], settings.data.windowing
    session = _session(graph.to_onnx(members, windowing))
    found = []
    for size in BATCHES:
        windows = _windows(members[0].specs, size, windowing.length_s)
        eager, onnx = partial(_eager, members, windows), partial(_onnx, session, members[0].specs, windows)
        apart = float(np.abs(eager() - onnx()).max())
        if apart > graph.TOLERANCE:
            raise RuntimeError(f"{path.stem}: onnxruntime differs by {apart:.1e} from torch")
        taken = in_turn({"eager": eager, "onnx": onnx}, rounds)
        details = {"cpu_s": medians(taken), "apart": apart, "weights_m": _millions(members[0])}
        what = f"torch eager / ONNX Runtime, {path.stem}, batch {size}"
        found.append(Found(claim="P8", what=what, figure=ratio(taken["eager"], taken["onnx"]), details=details))
        if seconds(eager) > TOO_LONG_S:
            break
    return found


def _member(path: Path, schema: TraitSchema, seed: int) -> TraitModel:
    torch.manual_seed(seed)
    labels = np.random.default_rng(0).uniform(0.1, 0.9, (50, len(schema.traits)))
    return model.build(config.load(path, check=parts.problems), schema, TargetTransform.fit(schema, labels)).eval()


def _eager(members: Sequence[TraitModel], windows: Sequence[Window]) -> NDArray[np.float32]:
    raw = {s: Tokens(*map(torch.from_numpy, stack([w[s] for w in windows]))) for s in members[0].streams}
    with torch.inference_mode():
        features = members[0].frontend(raw)
        scores = torch.stack([member.to_scale(member(features)[0]) for member in members]).mean(0)
    return np.asarray(scores.numpy(), np.float32)


def _onnx(
    session: onnxruntime.InferenceSession, specs: dict[str, InputSpec], windows: Sequence[Window]
) -> NDArray[np.float32]:
    feeds = {}
    for stream in specs:
        feeds |= dict(zip(graph.input_names(stream), stack([w[stream] for w in windows]), strict=True))
    return np.asarray(session.run([graph.OUTPUTS[0]], feeds)[0], np.float32)


def _session(content: bytes) -> onnxruntime.InferenceSession:
    """As the runtime opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _windows(specs: dict[str, InputSpec], count: int, length_s: float) -> list[Window]:
    rng = np.random.default_rng(count)
    return [{stream: _raw(spec, length_s, rng) for stream, spec in specs.items()} for _ in range(count)]


def _raw(spec: InputSpec, length_s: float, rng: np.random.Generator) -> Raw:
    """A full window of what the stream takes."""
    data: Any
    if isinstance(spec, FrameSpec):
        data = rng.integers(0, 256, (spec.frames, spec.height_px, spec.width_px, 3)).astype(np.uint8)
    elif isinstance(spec, WaveSpec):
        length = math.floor(spec.sample_rate * min(length_s, spec.max_s or length_s))
        data = (0.1 * rng.standard_normal(length)).clip(-1, 1).astype(np.float32)
    elif isinstance(spec, TextSpec):
        data = rng.integers(1000, 30_000, min(WORDS, spec.max_ids))
    else:
        data = rng.standard_normal((VECTORS, spec.width)).astype(np.float32)
    return Raw(data, np.ones(len(data), np.bool_))


def _millions(made: TraitModel) -> float:
    return round(sum(parameter.numel() for parameter in made.parameters()) / 1e6, 2)
