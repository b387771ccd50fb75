"""Trained members -> one ONNX graph from decoded media to scores, and the check that it says what torch says."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmtraits.errors import BundleError
from mmtraits.media.text import Tokenizer
from mmtraits.model import TraitModel
from mmtraits.runtime import Predictor
from mmtraits.schema import FrameSpec, InputSpec, Raw, TextSpec, WaveSpec, Windowing, stack
from mmtraits.tokens import Tokens

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # onnxruntime against torch, on the schema's scale
BATCH_TOLERANCE = 1e-5  # a window alone against the same window in a padded batch
Window = dict[str, Raw]
_SMALL = {torch.int8: 3, torch.float16: 10}  # and their numbers in ONNX's TensorProto
_SENTENCE = (
    "i think that what i like most about my work is that you meet so many people, and no two days are the same. "
)


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


def to_onnx(members: Sequence[TraitModel], windowing: Windowing) -> bytes:
    """One graph of all members with free batch and time axes.

    Raises BundleError where compressed weights did not survive as they are stored.
    """
    specs, rng = members[0].specs, np.random.default_rng(0)
    # Full windows: an axis that is 1 in the example, here or after strides, would be 1 for ever in the graph.
    inputs = _tensors([_window(specs, set(specs), windowing, share, rng) for share in (1.0, 0.8)], tuple(specs))
    owners = _owners(members, inputs)
    mean = Mean(members, owners).eval()
    names = [name for stream in mean.streams for name in input_names(stream)]
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
    model = program.model_proto
    _check_small_weights(model, members, owners)
    _forget_sources(model)
    return bytes(model.SerializeToString())


def _forget_sources(model: Any) -> None:
    """Drop what the exporter notes for every node, the source line that made it: paths of this machine, megabytes."""
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        del part.metadata_props[:]
    for function in model.functions:
        for node in (function, *function.node):
            del node.metadata_props[:]


def _check_small_weights(model: Any, members: Sequence[TraitModel], owners: Sequence[Mapping[str, int]]) -> None:
    """The exporter may fold a weight and its Cast into one float32 constant, four times the size: not unseen."""
    used = {(stream, n) for owner in owners for stream, n in owner.items()}
    stored = [t for s, n in used for t in members[n].encoders[s].state_dict().values() if t.dtype in _SMALL]
    wanted = sum(t.numel() * t.element_size() for t in stored)
    found = sum(len(t.raw_data) for t in model.graph.initializer if t.data_type in _SMALL.values())
    if found < 0.99 * wanted:
        raise BundleError(f"export: {found} of {wanted} bytes of compressed weights are left; the others were unpacked")


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


def input_names(stream: str) -> tuple[str, str]:
    """The graph's two inputs of a stream: data and mask."""
    return stream, f"{stream}_mask"


def _tensors(windows: Sequence[Window], streams: Sequence[str]) -> list[Tensor]:
    stacked = [stack([window[stream] for window in windows]) for stream in streams]
    return [torch.from_numpy(array) for raw in stacked for array in raw]


# ---------------------------------------------------------------------------------------------------- the check


def check(
    predictor: Predictor, members: Sequence[TraitModel], batches: Sequence[Sequence[Window]]
) -> tuple[float, float]:
    """Largest difference to torch, and between a window alone and in a padded batch; BundleError beyond the limits.

    torch runs every member with its own front-end, so a front-end shared wrongly shows as a difference.
    """
    parity, batch_effect = 0.0, 0.0
    for windows in batches:
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


def examples(specs: Mapping[str, InputSpec], windowing: Windowing) -> Iterator[list[Window]]:
    """Batches of windows: every set of present streams (seven to a batch), short, middling and full lengths."""
    rng = np.random.default_rng(0)
    sets = [set(some) for n in range(len(specs), -1, -1) for some in itertools.combinations(specs, n)]
    for length in (0.0, 0.2, 1.0):
        for start in range(0, len(sets), 7):
            shares = length * rng.uniform(0.6, 1.0, 7)
            some = zip(sets[start : start + 7], shares, strict=False)
            yield [_window(specs, present, windowing, share, rng) for present, share in some]


def _window(
    specs: Mapping[str, InputSpec], present: set[str], windowing: Windowing, share: float, rng: np.random.Generator
) -> Window:
    return {s: _raw(spec, share, windowing, rng) if s in present else spec.empty() for s, spec in specs.items()}


def _raw(spec: InputSpec, share: float, windowing: Windowing, rng: np.random.Generator) -> Raw:
    """Plausible content for `share` of a full window; at least one step."""
    if isinstance(spec, FrameSpec):
        steps = _steps(share, spec.frames)
        data: NDArray[Any] = rng.integers(0, 256, (steps, spec.height_px, spec.width_px, 3)).astype(np.uint8)
    elif isinstance(spec, WaveSpec):
        steps = _steps(share, spec.sample_rate * (spec.max_s or windowing.length_s))
        data = (rng.uniform(0.01, 0.2) * rng.standard_normal(steps)).clip(-1, 1).astype(np.float32)
    elif isinstance(spec, TextSpec):
        ids, _ = Tokenizer(spec).encode(_SENTENCE * (spec.max_ids // 8 + 1))
        data = ids[: _steps(share, len(ids))]
    else:
        data = rng.standard_normal((_steps(share, 20), spec.width)).astype(np.float32)
    return Raw(data, np.ones(len(data), np.bool_))


def _steps(share: float, most: float) -> int:
    return max(1, round(share * max(2, most)))
