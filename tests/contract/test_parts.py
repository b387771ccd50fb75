"""What every encoder, fusion and head file must hold to, whoever wrote it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch
from exporting import Exported
from sweep import STREAMS, Case, cases, masked, real, row, spoiled
from torch import Tensor, nn

import mmtraits
from mmtraits.tokens import Tokens

STEPS = (1, 2, 3, 5, 7, 13, 29)
LENGTHS = [5, 1, 0, 7, 2, 3, 6]  # real steps of the rows of a batch; 0 = absent
TRAITS = 3
EXACT = 5e-5  # single precision through fifty layers, in standard deviations; a leak is far larger
ONNX = 1e-4
ATTRIBUTES = 1_500_000  # bytes of a graph that are no weights: operators, names, traces
SUBSETS = [tuple(s for n, s in enumerate(STREAMS) if bits >> n & 1) for bits in range(2 ** len(STREAMS))]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """Except where a test asks for them."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=cases("encoders"), ids=str)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """One encoder in eval mode, fitted where it standardises."""
    built = request.param.build(tmp_path_factory.mktemp("weights"))
    if hasattr(built, "standardize"):
        built.standardize.fit(*built.frontend(masked(built.spec, [7, 5, 6])))
    return built


@pytest.fixture(scope="module", params=cases("fusion"), ids=str)
def fusion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return request.param.build(tmp_path_factory.mktemp("weights"), STREAMS)


@pytest.fixture(scope="module", params=cases("heads"), ids=str)
def head(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return request.param.build(tmp_path_factory.mktemp("weights"), 8, TRAITS)


@pytest.mark.parametrize("folder", ["encoders", "fusion", "heads"])
def test_the_sweep_finds_every_file(folder):
    files = {path.stem for path in (Path(mmtraits.__file__).parent / folder).glob("*.py")} - {"__init__"}
    found: list[Case] = cases(folder)
    assert {case.name for case in found} == files
    assert len(found) >= len(files) > 0


# ------------------------------------------------------------------------------------------------------- encoders


def test_encoder_gives_tokens_of_its_width(encoder):
    raw_tokens = masked(encoder.spec, LENGTHS)
    out = encoder(raw_tokens)
    assert out.mask.dtype == torch.bool
    assert out.data.shape == (*out.mask.shape, encoder.width)
    assert out.data.dtype == torch.float32
    assert torch.isfinite(out.data).all()
    assert out.mask.any(1).tolist() == raw_tokens.mask.any(1).tolist(), "a row is absent where its input is"


@pytest.mark.parametrize("steps", STEPS)
def test_encoder_never_reads_under_a_false_mask(encoder, steps):
    clean = masked(encoder.spec, [steps, (steps + 1) // 2])
    features = encoder.frontend(clean)
    tokens = encoder.adapt(features)
    assert_same(encoder(spoiled(clean, extra=3)), tokens)
    assert_same(encoder.adapt(spoiled(features)), tokens)
    assert_same(encoder.adapt(spoiled(features, extra=2)), tokens)


def test_encoder_never_reads_a_gap(encoder):
    """A frame without a face, a word that is hidden."""
    clean = masked(encoder.spec, [6, 4])
    clean.mask[0, 2:4] = False
    assert_same(encoder(spoiled(clean)), encoder(clean))


def test_encoder_gives_a_clip_the_same_tokens_alone_and_in_a_batch(encoder):
    batch = masked(encoder.spec, LENGTHS)
    together = encoder(batch)
    for number in range(len(LENGTHS)):
        alone = encoder(row(batch, number))
        torch.testing.assert_close(real(alone)[0], real(together)[number], atol=EXACT, rtol=0)


@pytest.mark.parametrize("rows", [1, 3])
def test_encoder_takes_a_batch_without_anything(encoder, rows):
    out = encoder(spoiled(masked(encoder.spec, [0] * rows)))
    assert torch.isfinite(out.data).all()
    assert not out.mask.any()


def test_encoder_tells_clips_apart(encoder):
    one, other = (encoder(masked(encoder.spec, [7], seed)) for seed in (1, 2))
    assert (one.data - other.data).abs().max() > 1e-3


def test_encoder_trains_all_that_is_not_frozen(encoder):
    parameters = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert parameters
    encoder.train()
    features = encoder.frontend(masked(encoder.spec, LENGTHS))
    with torch.enable_grad():
        out = encoder.adapt(features)
        loss = sum((tokens * torch.randn_like(tokens)).sum() for tokens in real(out))
        assert_gradients(encoder, loss)
    encoder.eval()


def test_training_statistics_see_no_padding(encoder):
    """Batch normalisation would count absent clips and padded steps."""
    batch = masked(encoder.spec, [5, 2])
    more = masked(encoder.spec, [5, 2, 0])
    more.data[:2] = batch.data
    one, other = copy.deepcopy(encoder).train(), copy.deepcopy(encoder).train()
    one(batch), other(spoiled(more, extra=3))
    for (name, tensor), moved in zip(one.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(tensor, moved, atol=EXACT, rtol=EXACT, msg=f"{name} depends on padding")


def test_frozen_parts_stay_in_eval_mode(encoder):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.train()
    frozen = [module for module in encoder.modules() if is_frozen(module)]
    assert not any(inner.training for module in frozen for inner in module.modules())
    batch = masked(encoder.spec, [2, 1])
    first = encoder.frontend(batch)
    encoder.eval()
    assert_same(first, encoder.frontend(batch))
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tensor, before[name], msg=f"{name} moved in a front-end")


def test_encoder_in_onnx_is_the_encoder_in_torch(encoder):
    if not encoder.exportable:
        return
    exported = Exported(encoder, masked(encoder.spec, [4, 3]))
    assert len(exported.model) < 1.15 * stored_bytes(encoder) + ATTRIBUTES, "small weights must stay small in the graph"
    for number, lengths in enumerate(([1], [6], [0], [3, 0], [1, 1], LENGTHS, [9, 0, 0, 2, 8, 1, 3])):
        batch = spoiled(masked(encoder.spec, lengths, seed=number))
        expected, found = encoder(batch), exported(batch)
        assert torch.equal(found.mask, expected.mask)
        torch.testing.assert_close(found.data, expected.data, atol=ONNX, rtol=0)


# --------------------------------------------------------------------------------------------------------- fusion


def streams(fusion: nn.Module, lengths: dict[str, list[int]], seed: int = 0) -> dict[str, Tokens]:
    """Projected tokens per stream."""
    made = {}
    for number, (stream, steps) in enumerate(lengths.items()):
        source = torch.Generator().manual_seed(10 * seed + number)
        data = torch.randn(len(steps), max(1, *steps), fusion.width, generator=source)
        made[stream] = Tokens(data, torch.arange(data.shape[1]) < torch.tensor(steps)[:, None])
    return made


MIXED = {"text": [5, 1, 0, 7, 2, 0, 6], "face": [1, 0, 3, 0, 2, 0, 4], "voice": [2, 1, 0, 0, 1, 0, 1]}


def test_fusion_gives_one_vector_per_clip(fusion):
    vector, aux = fusion(streams(fusion, MIXED))
    assert vector.shape == (7, fusion.width)
    assert torch.isfinite(vector).all()
    assert all(torch.isfinite(value).all() for value in aux.values())


@pytest.mark.parametrize("steps", STEPS)
def test_fusion_never_reads_under_a_false_mask(fusion, steps):
    clean = streams(fusion, {"text": [steps, 1], "face": [1, steps], "voice": [(steps + 1) // 2, 0]})
    expected, _ = fusion(clean)
    for extra in (0, 4):
        found, _ = fusion({stream: spoiled(tokens, extra) for stream, tokens in clean.items()})
        torch.testing.assert_close(found, expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("present", SUBSETS, ids="+".join)
def test_fusion_takes_any_subset_of_streams(fusion, present):
    full = streams(fusion, {stream: [4, 2] for stream in STREAMS})
    some = {s: Tokens(t.data, t.mask & (s in present)) for s, t in full.items()}
    found, _ = fusion({stream: spoiled(tokens) for stream, tokens in some.items()})
    assert torch.isfinite(found).all()
    shortest = {s: t if s in present else Tokens(t.data[:, :1] * 0, t.mask[:, :1]) for s, t in some.items()}
    torch.testing.assert_close(found, fusion(shortest)[0], atol=EXACT, rtol=0)
    whole, _ = fusion(full)
    assert torch.equal(found, whole) == (present == STREAMS), "a missing stream must be noticed"


def test_fusion_gives_a_clip_the_same_vector_alone_and_in_a_batch(fusion):
    batch = streams(fusion, MIXED)
    together, _ = fusion(batch)
    for number in range(7):
        alone, _ = fusion({stream: row(tokens, number) for stream, tokens in batch.items()})
        torch.testing.assert_close(alone[0], together[number], atol=EXACT, rtol=0)


def test_fusion_trains_every_parameter(fusion):
    fusion.train()
    with torch.enable_grad():
        vector, _ = fusion(streams(fusion, MIXED))
        assert_gradients(fusion, (vector * torch.randn_like(vector)).sum())
    fusion.eval()


def test_fusion_in_onnx_is_the_fusion_in_torch(fusion):
    run = session(OfStreams(fusion), flat(streams(fusion, {"text": [4, 3], "face": [2, 3], "voice": [2, 0]})))
    batches = [MIXED, *({s: [n if s in some else 0] for n, s in enumerate(STREAMS, 1)} for some in SUBSETS)]
    batches.append({"text": [1, 13], "face": [29, 0], "voice": [0, 1]})
    for number, lengths in enumerate(batches):
        batch = {s: spoiled(tokens) for s, tokens in streams(fusion, lengths, seed=number).items()}
        torch.testing.assert_close(run(flat(batch)), fusion(batch)[0], atol=ONNX, rtol=0)


class OfStreams(nn.Module):
    """A fusion whose inputs are data and mask of each stream."""

    def __init__(self, fusion: nn.Module) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return self.fusion({s: Tokens(*inputs[2 * n : 2 * n + 2]) for n, s in enumerate(STREAMS)})[0]


def flat(batch: dict[str, Tokens]) -> list[Tensor]:
    return [tensor for stream in STREAMS for tensor in batch[stream]]


# ---------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_head_gives_one_row_of_traits_per_clip(head, rows):
    fused = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
    values, aux = head(fused)
    assert values.shape == (rows, TRAITS)
    assert torch.isfinite(values).all()
    assert all(torch.isfinite(value).all() for value in aux.values())
    torch.testing.assert_close(torch.cat([head(one[None])[0] for one in fused]), values, atol=EXACT, rtol=0)


def test_head_trains_every_parameter(head):
    head.train()
    with torch.enable_grad():
        values, aux = head(torch.randn(7, 8, generator=torch.Generator().manual_seed(0)))
        told = [values, *(value for name, value in aux.items() if name == "log_variance")]  # which a loss reads too
        assert_gradients(head, torch.stack([(value * torch.randn_like(value)).sum() for value in told]).sum())
    head.eval()


def test_head_in_onnx_is_the_head_in_torch(head):
    run = session(OfOne(head), [torch.randn(3, 8)])
    for rows in (1, 2, 7):
        fused = torch.randn(rows, 8)
        torch.testing.assert_close(run([fused]), head(fused)[0], atol=ONNX, rtol=0)


class OfOne(nn.Module):
    """A head whose input is a list of one tensor."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return self.head(inputs[0])[0]


# -------------------------------------------------------------------------------------------------------- helpers


def assert_same(found: Tokens, expected: Tokens) -> None:
    """Equal real tokens in every row, whatever the padding, which is finite in what an encoder returns."""
    for one, other in zip(real(found), real(expected), strict=True):
        torch.testing.assert_close(one, other, atol=EXACT, rtol=0)
    assert torch.isfinite(found.data).all()


def assert_gradients(part: nn.Module, loss: Tensor) -> None:
    """Every trainable parameter gets a finite gradient, and not all of them zeros."""
    part.zero_grad()
    loss.backward()
    trainable = {name: p for name, p in part.named_parameters() if p.requires_grad}
    missing = [name for name, p in trainable.items() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not missing
    assert any(p.grad.abs().max() > 0 for p in trainable.values())
    part.zero_grad()


def stored_bytes(part: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*part.parameters(), *part.buffers()))


def is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def session(part: nn.Module, example: list[Tensor]):
    """The part, which takes a list of tensors, run by ONNX Runtime; batch free, and time where there is a mask."""
    free = torch.export.Dim.DYNAMIC
    shapes = [{0: free, 1: free} if len(example) > 1 else {0: free} for _ in example]
    names = [f"in_{number}" for number in range(len(example))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 calls a deprecated function of its own
        program = torch.onnx.export(
            part.eval(), (example,), input_names=names, output_names=["out"], dynamic_shapes=(shapes,), dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
    opened = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    return lambda inputs: torch.from_numpy(
        opened.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})[0]
    )
