"""One or several trained members to a bundle: one ONNX graph from decoded media to scores, and all that it needs.

A bundle is refused, and nothing of it is left, when onnxruntime's scores differ from torch's by more than `TOLERANCE`
for some set of present streams, batch size or length, or when a score depends on its batch mates.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmtraits import __version__, card
from mmtraits.calibrate import Calibration
from mmtraits.errors import BundleError, ConfigError
from mmtraits.media.text import Tokenizer, tokenizer_file
from mmtraits.model import TraitModel
from mmtraits.runtime import FORMAT_VERSION, GRAPH, Predictor
from mmtraits.schema import (
    FrameSpec,
    InputSpec,
    Raw,
    TargetTransform,
    TextSpec,
    TraitSchema,
    WaveSpec,
    Windowing,
    stack,
)
from mmtraits.tokens import Tokens

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # onnxruntime against torch, on the schema's scale
BATCH_TOLERANCE = 1e-5  # a clip alone against the same clip in a padded batch
Window = dict[str, Raw]
_SENTENCE = (
    "i think that what i like most about my work is that you meet so many people, and no two days are the same. "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a bundle says of itself beside its graph."""

    name: str
    schema: TraitSchema
    windowing: Windowing
    transforms: Sequence[TargetTransform]  # one per member
    calibration: Calibration | None
    licence: str
    provenance: Mapping[str, Any]  # data, citations, config, seeds: printed on the card
    metrics: Mapping[str, Any]  # rows of the card's table: name -> metrics.table(...)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A finished bundle: its folder, the graph's size and the largest differences that were found."""

    folder: Path
    graph_mb: float
    parity: float
    batch_effect: float


def write_bundle(members: Sequence[TraitModel], facts: Facts, out: Path | str) -> Exported:
    """Export the mean of `members` as a bundle into the new folder `out`.

    Raises ConfigError where `out` exists or an encoder cannot be exported, BundleError where the check fails; either
    way nothing is left.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"--out {out}: already exists; name a new folder")
    _check_exportable(members)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        exported = _fill(folder, members, facts)
        folder.chmod(0o755)
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return replace(exported, folder=out)


def _fill(folder: Path, members: Sequence[TraitModel], facts: Facts) -> Exported:
    members = [member.eval() for member in members]
    specs = _with_tokenizers(members[0].specs, folder)
    examples = list(_examples(members[0].specs, facts.windowing))
    graph = to_onnx(members, examples[-1])
    (folder / GRAPH).write_bytes(graph)
    info = _info(members[0], specs, facts)
    (folder / "MODEL_CARD.md").write_text(card.render(info, facts.metrics), encoding="utf-8")
    info["files"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    (folder / "bundle.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    parity, batch_effect = check(Predictor(folder), members, examples)
    return Exported(folder=folder, graph_mb=len(graph) / 1e6, parity=parity, batch_effect=batch_effect)


def _check_exportable(members: Sequence[TraitModel]) -> None:
    if not members:
        raise ConfigError("export: the run has no finished member; train it first")
    first = members[0]
    for stream, encoder in first.encoders.items():
        if not getattr(encoder, "exportable", True):
            raise ConfigError(f"export: the encoder of {stream!r} cannot be exported ({type(encoder).__module__})")
    for member in members[1:]:
        if member.specs != first.specs:
            raise ConfigError("export: the members read different input; they must be of one run")


def _with_tokenizers(specs: Mapping[str, InputSpec], folder: Path) -> dict[str, InputSpec]:
    """Copy every tokenizer into the bundle; equal files once."""
    copied: dict[str, InputSpec] = {}
    names: dict[str, str] = {}
    for stream, spec in specs.items():
        if isinstance(spec, TextSpec):
            content = tokenizer_file(spec.tokenizer).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            name = names.setdefault(digest, f"{stream}_tokenizer.json" if names else "tokenizer.json")
            (folder / name).write_bytes(content)
            spec = replace(spec, tokenizer=name)
        copied[stream] = spec
    return copied


def _info(model: TraitModel, specs: Mapping[str, InputSpec], facts: Facts) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "name": facts.name,
        "schema": facts.schema.to_dict(),
        "transform": [transform.to_dict() for transform in facts.transforms],
        "streams": {s: {"spec": asdict(specs[s]), "inputs": list(_names(s))} for s in model.streams},
        "output": "scores",
        "windowing": asdict(facts.windowing),
        "calibration": facts.calibration.to_dict() if facts.calibration else None,
        "versions": {
            "mmtraits": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__, "python": platform.python_version(),
        },
        "provenance": dict(facts.provenance),
        "licence": facts.licence,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- the graph


class Mean(nn.Module):
    """Decoded media -> the mean of the members' scores (B, K); a front-end that members share runs once."""

    def __init__(self, members: Sequence[TraitModel], owners: Sequence[Mapping[str, int]]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.owners = [dict(owner) for owner in owners]  # per member: stream -> the member whose front-end is run
        self.streams = members[0].streams

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Data and mask of each stream, in order -> scores (B, K)."""
        raw = {s: Tokens(*inputs[2 * p : 2 * p + 2]) for p, s in enumerate(self.streams)}
        members: Any = self.members
        made: dict[tuple[str, int], Tokens] = {}
        scores = []
        for member, owner in zip(members, self.owners, strict=True):
            for key in owner.items():
                if key not in made:
                    made[key] = _frontend(members[key[1]], key[0], raw[key[0]])
            features = {key[0]: made[key] for key in owner.items()}
            scores.append(member.to_scale(member(features)[0]))
        return torch.stack(scores).mean(0)


def to_onnx(members: Sequence[TraitModel], example: Sequence[Window]) -> bytes:
    """One graph of all members with free batch and time axes; `example`: at least two windows, more than one step."""
    inputs = _tensors(example, members[0].streams)
    mean = Mean(members, _owners(members, inputs)).eval()
    names = [name for stream in mean.streams for name in _names(stream)]
    fixed = [getattr(members[0].encoders[s], "lengths", "free") == "fixed" for s in mean.streams]
    free = torch.export.Dim.DYNAMIC
    shapes = [{0: free} if still else {0: free, 1: free} for still in fixed for _ in range(2)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            mean, (inputs,), input_names=names, output_names=["scores"], dynamic_shapes=(shapes,), dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
    if program is None:
        raise BundleError("export: torch.onnx returned no graph")
    return bytes(program.model_proto.SerializeToString())


def _owners(members: Sequence[TraitModel], inputs: list[Tensor]) -> list[dict[str, int]]:
    """Per member and stream: the first member whose front-end gives the same tokens, bit for bit."""
    made: dict[str, list[tuple[int, Tokens]]] = {stream: [] for stream in members[0].streams}
    owners: list[dict[str, int]] = []
    for n, member in enumerate(members):
        owners.append({})
        for p, stream in enumerate(member.streams):
            tokens = _frontend(member, stream, Tokens(*inputs[2 * p : 2 * p + 2]))
            same = next((owner for owner, other in made[stream] if _equal(tokens, other)), None)
            if same is None:
                made[stream].append((n, tokens))
            owners[n][stream] = n if same is None else same
    return owners


def _equal(a: Tokens, b: Tokens) -> bool:
    return torch.equal(a.mask, b.mask) and torch.equal(a.data, b.data)


def _frontend(member: Any, stream: str, raw: Tokens) -> Tokens:
    with torch.no_grad():
        tokens: Tokens = member.encoders[stream].frontend(raw)
    return tokens


def _names(stream: str) -> tuple[str, str]:
    return stream, f"{stream}_mask"


def _tensors(windows: Sequence[Window], streams: Sequence[str]) -> list[Tensor]:
    stacked = [stack([window[stream] for window in windows]) for stream in streams]
    return [torch.from_numpy(array) for raw in stacked for array in raw]


# ---------------------------------------------------------------------------------------------------- the check


def check(
    predictor: Predictor, members: Sequence[TraitModel], examples: Sequence[Sequence[Window]]
) -> tuple[float, float]:
    """Largest difference to torch, and between a window alone and in a padded batch; BundleError beyond the limits.

    torch runs every member with its own front-end, so a front-end shared wrongly shows as a difference.
    """
    parity, batch_effect = 0.0, 0.0
    for windows in examples:
        for batch in (windows, windows[:2], windows[-1:]):
            expected = _torch_scores(members, batch)
            found = predictor.score(batch)
            parity = max(parity, _difference(found, expected))
        together = predictor.score(windows)
        alone = np.concatenate([predictor.score([window]) for window in windows])
        batch_effect = max(batch_effect, _difference(together, alone))
    log.info("export: %.1e from torch, %.1e between batches", parity, batch_effect)
    if parity > TOLERANCE:
        raise BundleError(f"export: onnxruntime's scores differ from torch's by {parity:.1e}; allowed {TOLERANCE:.0e}")
    if batch_effect > BATCH_TOLERANCE:
        raise BundleError(
            f"export: scores differ by {batch_effect:.1e} between a window alone and in a batch; "
            f"allowed {BATCH_TOLERANCE:.0e}"
        )
    return parity, batch_effect


def _torch_scores(members: Sequence[TraitModel], windows: Sequence[Window]) -> NDArray[np.float32]:
    tensors = _tensors(windows, members[0].streams)
    raw = {s: Tokens(*tensors[2 * p : 2 * p + 2]) for p, s in enumerate(members[0].streams)}
    with torch.no_grad():
        scores: NDArray[np.float32] = torch.stack([member.scores(raw) for member in members]).mean(0).numpy()
    return scores


def _difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    difference = np.abs(a.astype(np.float64) - b)
    return float("inf") if np.isnan(difference).any() else float(difference.max())


def _examples(specs: Mapping[str, InputSpec], windowing: Windowing) -> Iterator[list[Window]]:
    """Batches of windows: every set of present streams (seven to a batch), short, middling and full lengths."""
    rng = np.random.default_rng(0)
    sets = [set(some) for n in range(len(specs), -1, -1) for some in itertools.combinations(specs, n)]
    for length in (0.0, 0.2, 1.0):
        for start in range(0, len(sets), 7):
            batch = [_window(specs, some, windowing, length, rng) for some in sets[start : start + 7]]
            yield batch


def _window(
    specs: Mapping[str, InputSpec], present: set[str], windowing: Windowing, length: float, rng: np.random.Generator
) -> Window:
    share = length * rng.uniform(0.6, 1.0)
    return {s: _raw(spec, share, windowing, rng) if s in present else spec.empty() for s, spec in specs.items()}


def _raw(spec: InputSpec, share: float, windowing: Windowing, rng: np.random.Generator) -> Raw:
    """Plausible content for `share` of a full window; at least one step."""
    if isinstance(spec, FrameSpec):
        steps = max(1, round(share * spec.frames))
        data: NDArray[Any] = rng.integers(0, 256, (steps, spec.height_px, spec.width_px, 3)).astype(np.uint8)
    elif isinstance(spec, WaveSpec):
        steps = max(1, round(share * spec.sample_rate * (spec.max_s or windowing.length_s)))
        data = (rng.uniform(0.01, 0.2) * rng.standard_normal(steps)).clip(-1, 1).astype(np.float32)
    elif isinstance(spec, TextSpec):
        ids, _ = Tokenizer(spec).encode(_SENTENCE * (spec.max_ids // 8 + 1))
        data = ids[: max(1, round(share * len(ids)))]
    else:
        data = rng.standard_normal((max(1, round(share * 20)), spec.width)).astype(np.float32)
    return Raw(data, np.ones(len(data), np.bool_))
