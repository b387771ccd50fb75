"""Trained members -> one ONNX graph from decoded media to scores and distances, and the check against torch."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from mmtraits.errors import BundleError
from mmtraits.layers import masked_mean, present
from mmtraits.media.text import Tokenizer
from mmtraits.model import TraitModel, trained_state
from mmtraits.runtime import Predictor
from mmtraits.schema import FrameSpec, InputSpec, Raw, TextSpec, WaveSpec, Windowing, stack
from mmtraits.tokens import Tokens

log = logging.getLogger(__name__)

OUTPUTS = ("scores", "distance")
TOLERANCE = 1e-4  # onnxruntime against torch, on the schema's scale; distances: also of themselves where above 1
BATCH_TOLERANCE = 1e-5  # a window alone against the same window in a padded batch
Window = dict[str, Raw]
Front = tuple[str, int]  # a stream, and the member whose front-end is run
_SMALL = {torch.int8: 3, torch.float16: 10}  # and their numbers in ONNX's TensorProto
_SENTENCE = (
    "i think that what i like most about my work is that you meet so many people, and no two days are the same. "
)


class Fronts(nn.Module):
    """Decoded media -> tokens of every front-end that is needed; members that share one make it once."""

    def __init__(self, members: Sequence[TraitModel], fronts: Sequence[Front]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.fronts = list(fronts)
        self.streams = members[0].streams

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Data and mask of each stream, in order -> data and mask of each front-end, in order."""
        raw = {s: Tokens(*inputs[2 * p : 2 * p + 2]) for p, s in enumerate(self.streams)}
        tokens = [_frontend(self.members[n], stream, raw[stream]) for stream, n in self.fronts]
        return [tensor.clone() for pair in tokens for tensor in pair]  # a mask may be the input itself


class Member(nn.Module):
    """Tokens of front-ends -> scores and distances by a state that comes from outside: one trace for every member."""

    def __init__(self, model: TraitModel) -> None:
        super().__init__()
        self.model = model
        self.names = list(trained_state(model))

    def forward(self, state: list[Tensor], features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The tensors of `trained_state`, data and mask of each stream -> scores (B, K), distances (B, P)."""
        given = dict(zip(self.names, state, strict=True))
        tokens = {s: Tokens(*features[2 * p : 2 * p + 2]) for p, s in enumerate(self.model.streams)}
        targets = functional_call(self.model, given, (tokens,))[0]
        scaled = targets * given["scale"] + given["shift"]
        scores = torch.minimum(torch.maximum(scaled, given["low"]), given["high"])
        return scores, distances(tokens, given)


def distances(features: Mapping[str, Tokens], state: Mapping[str, Tensor]) -> Tensor:
    """How far front-end outputs {stream: (B, T, ...)} lie from those of training, (B, P); `state`: a model's.

    Root mean square over the features of the mean over time, standardised as the encoder does but not clipped: about 1
    for a training clip. 0 where the stream is absent, and for encoders that do not standardise.
    """
    columns = []
    for stream, tokens in features.items():
        column = torch.zeros(tokens.mask.shape[:1])
        if (name := f"encoders.{stream}.standardize") + ".mean" in state:
            units = (masked_mean(tokens) - state[f"{name}.mean"]) / state[f"{name}.std"]
            column = units.square().mean(1).sqrt()
        columns.append(torch.where(present(tokens), column, torch.zeros_like(column)))
    return torch.stack(columns, 1)


def to_onnx(members: Sequence[TraitModel], windowing: Windowing) -> bytes:
    """One graph of all members with free batch and time axes.

    The front-ends and one member are traced once each; the member is then repeated with the weights of the others.
    Raises BundleError where compressed weights did not survive as they are stored.
    """
    specs, rng = members[0].specs, np.random.default_rng(0)
    # Full windows: an axis that is 1 in the example, here or after strides, would be 1 for ever in the graph.
    inputs = _tensors([_window(specs, set(specs), windowing, share, rng) for share in (1.0, 0.8)], tuple(specs))
    owners = _owners(members, inputs)
    fronts = list(dict.fromkeys(front for owner in owners for front in owner.items()))
    first = Fronts(members, fronts).eval()
    made = first(inputs)
    free = torch.export.Dim.DYNAMIC
    fixed = [getattr(members[0].encoders[s], "lengths", "free") == "fixed" for s in specs]
    axes = [{0: free} if still else {0: free, 1: free} for still in fixed for _ in range(2)]
    names = [name for stream in specs for name in input_names(stream)]
    front = _traced(first, (inputs,), (axes,), names, _token_names(fronts))
    one = Member(members[0]).eval()
    state = [trained_state(members[0])[name] for name in one.names]
    shared = [fronts.index(front_) for front_ in owners[0].items()]
    features = [made[2 * n + k] for n in shared for k in (0, 1)]
    axes = [{0: free, 1: torch.export.Dim.AUTO} if tensor.shape[1] > 1 else {0: free} for tensor in features]
    names = [*one.names, *_token_names([("feature", n) for n in range(len(specs))])]
    member = _traced(one, (state, features), ([{}] * len(state), axes), names, OUTPUTS)
    model = _composed(front, member, members, owners, fronts)
    _check_small_weights(model, members, owners)
    _forget_sources(model)
    return bytes(model.SerializeToString())


def _traced(
    module: nn.Module, arguments: tuple[Any, ...], axes: tuple[Any, ...], names: Sequence[str], outputs: Sequence[str]
) -> Any:
    """Trace a module to an ONNX model whose inputs and outputs have these names."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            module, arguments, input_names=names, output_names=outputs, dynamic_shapes=axes, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
    if program is None:
        raise BundleError("export: torch.onnx returned no graph")
    return program.model_proto


def _composed(
    front: Any, member: Any, members: Sequence[TraitModel], owners: Sequence[Mapping[str, int]], fronts: Sequence[Front]
) -> Any:
    """The front-ends' graph, then the member's once for each member, then their mean."""
    graph = front.graph
    read = {name for node in member.graph.node for name in node.input}
    constants = {tensor.name: f"member.{tensor.name}" for tensor in member.graph.initializer if tensor.name in read}
    for tensor in member.graph.initializer:
        if tensor.name in read:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = constants[tensor.name]
    for n, (model, owner) in enumerate(zip(members, owners, strict=True)):
        names = constants | {name: f"member{n}.{name}" for node in member.graph.node for name in node.output}
        for p, key in enumerate(owner.items()):
            names |= dict(zip(_token_names([("feature", p)]), _token_names([fronts[fronts.index(key)]]), strict=True))
        for name, tensor in trained_state(model).items():
            if name in read:
                names[name] = f"member{n}.{name}"
                graph.initializer.append(onnx.numpy_helper.from_array(tensor.detach().cpu().numpy(), names[name]))
        for node in member.graph.node:
            copied = graph.node.add()
            copied.CopyFrom(node)
            copied.name = f"member{n}.{node.name}"
            copied.input[:] = [names.get(name, name) for name in node.input]
            copied.output[:] = [names[name] for name in node.output]
    del graph.output[:], graph.value_info[:]
    for name, width in zip(OUTPUTS, (len(members[0].centre), len(members[0].streams)), strict=True):
        said = [f"member{n}.{name}" for n in range(len(members))]
        graph.node.append(onnx.helper.make_node("Mean", said, [name]))
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width]))
    return front


def _token_names(fronts: Sequence[tuple[str, int]]) -> list[str]:
    """Names of data and mask between the front-ends and the members."""
    return [f"{stream}{n}.{part}" for stream, n in fronts for part in ("tokens", "mask")]


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
    parity, batch_effect, drift = 0.0, 0.0, 0.0
    for windows in batches:
        expected, distance = _torch_answers(members, windows)
        together, far = predictor.examine(windows)
        alone, far_alone = map(np.concatenate, zip(*(predictor.examine([window]) for window in windows), strict=True))
        two, far_two = predictor.examine(windows[:2])
        parity = max(parity, *(_difference(found, expected[: len(found)]) for found in (together, alone, two)))
        batch_effect = max(batch_effect, _difference(together, alone), _difference(together[:2], two))
        drift = max(drift, *(_relative(found, distance[: len(found)]) for found in (far, far_alone, far_two)))
    log.info("export: %.1e from torch, %.1e between batches, distances %.1e", parity, batch_effect, drift)
    if parity > TOLERANCE:
        raise BundleError(f"export: onnxruntime's scores differ from torch's by {parity:.1e}; allowed {TOLERANCE:.0e}")
    if drift > TOLERANCE:
        raise BundleError(
            f"export: onnxruntime's distances differ by {drift:.1e} from torch's; allowed {TOLERANCE:.0e}"
        )
    if batch_effect > BATCH_TOLERANCE:
        raise BundleError(
            f"export: scores differ by {batch_effect:.1e} between a window alone and in a batch; "
            f"allowed {BATCH_TOLERANCE:.0e}"
        )
    return parity, batch_effect


def _torch_answers(
    members: Sequence[TraitModel], windows: Sequence[Window]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean scores (B, K) and distances (B, P) of the members."""
    tensors = _tensors(windows, members[0].streams)
    raw = {s: Tokens(*tensors[2 * p : 2 * p + 2]) for p, s in enumerate(members[0].streams)}
    with torch.no_grad():
        features = [member.frontend(raw) for member in members]
        pairs = list(zip(members, features, strict=True))
        scores = torch.stack([member.to_scale(member(given)[0]) for member, given in pairs]).mean(0)
        far = torch.stack([distances(given, member.state_dict()) for member, given in pairs]).mean(0)
    return scores.numpy(), far.numpy()


def _relative(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of distances above 1, the difference in parts of them."""
    scale = np.maximum(1, b)
    return _difference(a / scale, b / scale)


def _difference(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
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
