"""Masked building blocks, fusions and heads: values, and that nothing under a False mask is ever read."""

import math

import pytest
import torch

from mmtraits.fusion import mean_pool, text_centric
from mmtraits.heads import ensemble, linear, mlp
from mmtraits.layers import Attention, FeedForward, Standardize, concat, hidden, masked_mean, present, sinusoids
from mmtraits.tokens import Tokens

STREAMS = ("text", "voice", "face")
FUSIONS = {
    "text_centric": lambda: text_centric.Fusion(text_centric.Config(width=8, heads=2, layers=2), STREAMS),
    "mean_pool": lambda: mean_pool.Fusion(mean_pool.Config(width=8), STREAMS),
}
HEADS = {
    "linear": lambda: linear.Head(linear.Config(), 8, 5),
    "mlp": lambda: mlp.Head(mlp.Config(hidden=6), 8, 5),
    "ensemble": lambda: ensemble.Head(ensemble.Config(members=4, hidden=(6, 3)), 8, 5),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tokens(*lengths: int, steps: int = 4, width: int = 8, garbage: float = float("nan")) -> Tokens:
    """Rows with `lengths` real steps first, the rest masked garbage."""
    mask = torch.arange(steps) < torch.tensor(lengths)[:, None]
    return Tokens(torch.where(mask[..., None], torch.randn(len(lengths), steps, width), garbage), mask)


def streams(**lengths: tuple[int, ...]) -> dict[str, Tokens]:
    return {name: tokens(*own) for name, own in lengths.items()}


# ------------------------------------------------------------------------------------------------- masks


def test_hidden_zeroes_garbage_in_any_shape():
    frames = Tokens(torch.full((1, 2, 3, 3), float("nan")), torch.tensor([[True, False]]))
    frames.data[0, 0] = 2.0
    assert hidden(frames).tolist() == [[[[2.0] * 3] * 3, [[0.0] * 3] * 3]]


def test_masked_mean_of_real_steps_only():
    data = torch.tensor([[[1.0], [3.0], [math.nan]], [[math.inf], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(Tokens(data, mask)).tolist() == [[2.0], [0.0]]
    assert present(Tokens(data, mask)).tolist() == [True, False]


def test_concat_joins_along_time():
    joined = concat([tokens(1, steps=2), tokens(3, steps=3)])
    assert joined.data.shape == (1, 5, 8)
    assert joined.mask.tolist() == [[True, False, True, True, True]]


def test_sinusoids():
    positions = sinusoids(5, 4)
    assert positions.shape == (5, 4)
    assert positions[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    assert positions[3].tolist() == pytest.approx(expected, abs=1e-6)


# --------------------------------------------------------------------------------------------- attention


def test_attention_equals_the_formula():
    attention = Attention(8, 2).eval()
    query, memory = torch.randn(1, 3, 8), tokens(4)
    keys, values = torch.cat([attention.null, attention.key_value(memory.data)], 1)[0].chunk(2, -1)
    q = attention.query(query)[0]
    heads = [
        torch.softmax(q[:, own] @ keys[:, own].T / math.sqrt(4), -1) @ values[:, own]
        for own in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(attention(query, memory)[0], attention.out(torch.cat(heads, -1)))


def test_attention_over_nothing_reads_the_null_value():
    attention = Attention(8, 2).eval()
    read = attention(torch.randn(2, 3, 8), tokens(0, 0))
    expected = attention.out(attention.null[0, 0, 8:])
    torch.testing.assert_close(read, expected.expand(2, 3, 8))


def test_attention_ignores_what_is_masked_and_any_padding():
    attention = Attention(8, 2).eval()
    query, memory = torch.randn(1, 2, 8), tokens(3)
    alone = Tokens(memory.data[:, :3], memory.mask[:, :3])
    torch.testing.assert_close(attention(query, memory), attention(query, alone))


def test_attention_dropout_only_in_training():
    attention = Attention(8, 2, dropout=0.5)
    query, memory = torch.randn(1, 2, 8), tokens(4)
    assert not torch.equal(attention(query, memory), attention(query, memory))
    attention.eval()
    assert torch.equal(attention(query, memory), attention(query, memory))


def test_attention_wants_heads_that_divide_the_width():
    with pytest.raises(ValueError, match="width 8 is not divisible by 3 heads"):
        Attention(8, 3)


def test_feed_forward_keeps_the_width():
    layer = FeedForward(8, expansion=1.5)
    assert layer(torch.randn(2, 3, 8)).shape == (2, 3, 8)
    assert layer.layers[0].out_features == 12


# ------------------------------------------------------------------------------------------- standardize


def test_standardize_fits_real_rows_only_and_clips():
    standardize = Standardize(2, clip=1.5)
    data = torch.tensor([[[0.0, 5.0], [4.0, 5.0]], [[math.nan, math.nan], [2.0, 5.0]]])
    standardize.fit(data, torch.tensor([[True, True], [False, True]]))
    assert standardize.mean.tolist() == [2.0, 5.0]
    assert standardize.std.tolist() == pytest.approx([math.sqrt(8 / 3), 1.0])  # a constant column is left unscaled
    assert standardize(torch.tensor([100.0, -100.0])).tolist() == [1.5, -1.5]
    assert standardize(torch.tensor([2.0, 5.0])).tolist() == [0.0, 0.0]


def test_standardize_is_the_identity_before_fit():
    assert Standardize(2)(torch.tensor([1.5, -2.0])).tolist() == [1.5, -2.0]


def test_standardize_keeps_its_buffers_in_the_state():
    assert set(Standardize(2).state_dict()) == {"mean", "std"}


def test_standardize_wants_a_real_row():
    with pytest.raises(ValueError, match="found no real row to fit on"):
        Standardize(2).fit(torch.zeros(3, 1, 2), torch.zeros(3, 1, dtype=torch.bool))


# ----------------------------------------------------------------------------------------------- fusions


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_is_finite_whatever_is_absent(name):
    fusion = FUSIONS[name]()
    fused, aux = fusion(streams(text=(4, 0, 3, 0), voice=(1, 1, 0, 0), face=(2, 0, 0, 0)))
    assert fused.shape == (4, fusion.width)
    assert fused.isfinite().all()
    assert aux == {}
    fused.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fusion.parameters())


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_never_reads_garbage_padding_or_batch_mates(name):
    fusion = FUSIONS[name]().eval()
    batch = streams(text=(4, 0, 3), voice=(1, 2, 0), face=(0, 1, 4))
    together, _ = fusion(batch)
    for row in range(3):
        longest = {k: max(1, int(t.mask[row].sum())) for k, t in batch.items()}
        alone = {
            k: Tokens(t.data[row : row + 1, : longest[k]], t.mask[row : row + 1, : longest[k]])
            for k, t in batch.items()
        }
        torch.testing.assert_close(fusion(alone)[0], together[row : row + 1])
    zeroed = {k: Tokens(hidden(t), t.mask) for k, t in batch.items()}
    torch.testing.assert_close(fusion(zeroed)[0], together)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("stream", STREAMS)
def test_fusion_hears_every_stream_and_its_absence(name, stream):
    fusion = FUSIONS[name]().eval()
    batch = streams(text=(4,), voice=(2,), face=(3,))
    changed = {**batch, stream: Tokens(batch[stream].data + torch.randn(8), batch[stream].mask)}
    absent = {**batch, stream: Tokens(batch[stream].data, torch.zeros_like(batch[stream].mask))}
    outs = [fusion(features)[0] for features in (batch, changed, absent)]
    assert all((a - b).abs().max() > 1e-3 for a, b in ((outs[0], outs[1]), (outs[0], outs[2]), (outs[1], outs[2])))


def test_text_centric_tells_streams_apart():
    fusion = FUSIONS["text_centric"]().eval()
    batch = streams(text=(2,), voice=(1,), face=(1,))
    swapped = {**batch, "voice": batch["face"], "face": batch["voice"]}
    assert (fusion(batch)[0] - fusion(swapped)[0]).abs().max() > 1e-3


def test_text_centric_counts_only_when_told():
    once, thrice = streams(text=(1,), voice=(0,), face=(0,)), streams(text=(3,), voice=(0,), face=(0,))
    thrice["text"].data[:, :3] = once["text"].data[:, :1]
    fused = {}
    for length in (True, False):
        torch.manual_seed(1)
        fusion = text_centric.Fusion(text_centric.Config(width=8, heads=2, length=length), STREAMS).eval()
        fused[length] = (fusion(thrice)[0] - fusion(once)[0]).abs().max(), fusion.length
    assert fused[True][1] is not None
    assert fused[False][1] is None
    assert fused[True][0] > fused[False][0]


def test_text_centric_on_the_anchor_alone():
    fusion = text_centric.Fusion(text_centric.Config(width=8, heads=2), ("text",))
    assert fusion(streams(text=(4, 0)))[0].isfinite().all()


def test_text_centric_wants_its_anchor():
    with pytest.raises(ValueError, match="anchor 'text' is no stream; choose voice, face"):
        text_centric.Fusion(text_centric.Config(), ("voice", "face"))


def test_mean_pool_is_the_mean_of_present_streams():
    fusion = FUSIONS["mean_pool"]().eval()
    batch = streams(text=(4,), voice=(2,), face=(0,))
    mean = (batch["text"].data[0].mean(0) + batch["voice"].data[0, :2].mean(0)) / 2 + fusion.absence[2]
    torch.testing.assert_close(fusion(batch)[0][0], torch.nn.functional.layer_norm(mean, (8,)))


# ------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("name", HEADS)
def test_head_gives_one_row_of_traits_per_clip(name):
    head = HEADS[name]().eval()
    fused = torch.randn(3, 8)
    scores, _ = head(fused)
    assert scores.shape == (3, 5)
    torch.testing.assert_close(head(fused[1:2])[0], scores[1:2])


def test_ensemble_is_the_mean_of_its_separate_members():
    head = HEADS["ensemble"]().eval()
    fused = torch.randn(3, 8)
    scores, aux = head(fused)
    first, second, last = head.layers
    for member in range(4):
        x = torch.relu(fused @ first.weight[member] + first.bias[member])
        x = torch.relu(x @ second.weight[member] + second.bias[member])
        torch.testing.assert_close(aux["members"][:, member], x @ last.weight[member] + last.bias[member])
    torch.testing.assert_close(scores, aux["members"].mean(1))
    assert len({round(float(value), 6) for value in aux["members"][0, :, 0].detach()}) == 4


def test_ensemble_without_hidden_layers_is_linear():
    head = ensemble.Head(ensemble.Config(members=2, hidden=(), dropout=0.0), 8, 5)
    a, b = torch.randn(2, 1, 8)
    torch.testing.assert_close(head(a)[0] + head(b)[0], head(a + b)[0] + head(torch.zeros(1, 8))[0])
