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
from mmtraits.model import TraitModel, on_scale, trained_state
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
        return on_scale(targets, given), distances(tokens, given)


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

    The front-ends and one member of each design are traced once; a member is then repeated with the weights of others.
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
    features = [[made[2 * fronts.index(key) + k] for key in owner.items() for k in (0, 1)] for owner in owners]
    kinds = [(member.design, [(n, t.shape) for n, t in trained_state(member).items()]) for member in members]
    firsts = [kinds.index(kind) for kind in kinds]
    traced = {n: _traced_member(members[n], features[n]) for n in sorted(set(firsts))}
    model = _composed(front, [traced[n] for n in firsts], members, owners, fronts)
    _check_small_weights(model, members, owners)
    _forget_sources(model)
    return bytes(model.SerializeToString())


def _traced_member(model: TraitModel, features: list[Tensor]) -> Any:
    """One member's graph, whose weights are inputs."""
    one, free = Member(model).eval(), torch.export.Dim.DYNAMIC
    state = [trained_state(model)[name] for name in one.names]
    axes = [{0: free, 1: torch.export.Dim.AUTO} if tensor.shape[1] > 1 else {0: free} for tensor in features]
    names = [*one.names, *_token_names([("feature", n) for n in range(len(model.streams))])]
    return _traced(one, (state, features), ([{}] * len(state), axes), names, OUTPUTS)


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
    front: Any,
    traced: Sequence[Any],
    members: Sequence[TraitModel],
    owners: Sequence[Mapping[str, int]],
    fronts: Sequence[Front],
) -> Any:
    """The front-ends' graph, then each member's own with its weights, then the mean of those that say the same."""
    graph = front.graph
    constants: dict[int, dict[str, str]] = {}  # by design
    for n, (member, model, owner) in enumerate(zip(traced, members, owners, strict=True)):
        read = {name for node in member.graph.node for name in node.input}
        if id(member) not in constants:
            constants[id(member)] = _take_constants(graph, member.graph, read, f"design{len(constants)}.")
        names = constants[id(member)] | {
            name: f"member{n}.{name}" for node in member.graph.node for name in node.output
        }
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
    _add_means(graph, members)
    return front


def _take_constants(graph: Any, member: Any, read: set[str], prefix: str) -> dict[str, str]:
    """A member's constants, copied into the graph: their new names by the old ones."""
    names = {tensor.name: f"{prefix}{tensor.name}" for tensor in member.initializer if tensor.name in read}
    for tensor in member.initializer:
        if tensor.name in read:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = names[tensor.name]
    return names


def _add_means(graph: Any, members: Sequence[TraitModel]) -> None:
    """The outputs: scores averaged over the members of the same traits and put side by side; distances averaged."""
    groups, node = by_traits(members), onnx.helper.make_node
    scores, distance = OUTPUTS
    said = [[f"member{n}.{scores}" for n in group] for group in groups]
    if len(groups) == 1:
        graph.node.append(node("Mean", said[0], [scores]))
    else:
        means = [f"{scores}.{'+'.join(members[group[0]].traits)}" for group in groups]
        graph.node.extend([node("Mean", some, [name]) for some, name in zip(said, means, strict=True)])
        graph.node.append(node("Concat", means, [scores], axis=1))
    graph.node.append(node("Mean", [f"member{n}.{distance}" for n in range(len(members))], [distance]))
    widths = (sum(len(members[group[0]].centre) for group in groups), len(members[0].streams))
    for name, width in zip(OUTPUTS, widths, strict=True):
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width]))


def by_traits(members: Sequence[TraitModel]) -> list[list[int]]:
    """Numbers of the members that say the same traits; groups and traits in the order in which they first come."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for n, member in enumerate(members):
        groups.setdefault(member.traits, []).append(n)
    return list(groups.values())


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
    """Scores (B, K), the mean of the members that say the same traits, and mean distances (B, P)."""
    tensors = _tensors(windows, members[0].streams)
    raw = {s: Tokens(*tensors[2 * p : 2 * p + 2]) for p, s in enumerate(members[0].streams)}
    with torch.no_grad():
        features = [member.frontend(raw) for member in members]
        pairs = list(zip(members, features, strict=True))
        said = [member.to_scale(member(given)[0]) for member, given in pairs]
        scores = torch.cat([torch.stack([said[n] for n in group]).mean(0) for group in by_traits(members)], 1)
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
