"""The three baselines that reviewers ask for: late concatenation, low-rank fusion, the cross-modal transformer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planted_streams import errors_of_mean, plant, settings
from pydantic import ValidationError
from torch import Tensor

from mmtraits import parts
from mmtraits.fusion import cross_modal_transformer, late_fusion, low_rank
from mmtraits.tokens import Tokens
from mmtraits.train import fit

STREAMS = ("text", "voice", "face")
NAMES = ("late_fusion", "low_rank", "cross_modal_transformer")


def batch(width: int, rows: int = 2, steps: tuple[int, ...] = (3, 1, 2), seed: int = 0) -> dict[str, Tokens]:
    source = torch.Generator().manual_seed(seed)
    return {
        stream: Tokens(torch.randn(rows, n, width, generator=source), torch.ones(rows, n, dtype=torch.bool))
        for stream, n in zip(STREAMS, steps, strict=True)
    }


def without(tokens: dict[str, Tokens], stream: str) -> dict[str, Tokens]:
    return {**tokens, stream: Tokens(tokens[stream].data, torch.zeros_like(tokens[stream].mask))}


# ---------------------------------------------------------------------------------------------------- late fusion


def test_plain_concatenation_is_a_linear_layer_over_means_and_presence():
    fusion = late_fusion.Fusion(late_fusion.Config(width=4, hidden=None, slot="zero"), STREAMS).eval()
    tokens = without(batch(4), "voice")
    means = [tokens["text"].data.mean(1), torch.zeros(2, 4), tokens["face"].data.mean(1)]
    expected = fusion.join(torch.cat([*means, torch.tensor([[1.0, 0.0, 1.0]]).expand(2, -1)], 1))
    torch.testing.assert_close(fusion(tokens)[0], expected)


def test_an_absent_stream_has_a_learned_slot_or_zeros():
    tokens = without(batch(4), "face")
    for slot, learned in (("learned", True), ("zero", False)):
        fusion = late_fusion.Fusion(late_fusion.Config(width=4, slot=slot), STREAMS).eval()
        assert (fusion.slots is not None) == learned
        whole, before = fusion(batch(4))[0], fusion(tokens)[0]
        if fusion.slots is not None:
            with torch.no_grad():
                fusion.slots += 1
            assert (fusion(tokens)[0] - before).abs().max() > 1e-3
            torch.testing.assert_close(fusion(batch(4))[0], whole)


# ------------------------------------------------------------------------------------------------------- low rank


def test_the_low_rank_product_is_the_contracted_outer_product_tensor():
    """W = sum over r of w_r^text ⊗ w_r^voice ⊗ w_r^face, contracted with [z;1] ⊗ [z;1] ⊗ [z;1]."""
    source = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 3, 4, generator=source, dtype=torch.float64)
    factors = torch.randn(3, 2, 5, 6, generator=source, dtype=torch.float64)
    x, y, z = torch.cat([vectors, torch.ones(5, 3, 1, dtype=torch.float64)], -1).unbind(1)
    outer = torch.einsum("bi,bj,bk->bijk", x, y, z)
    weights = torch.einsum("rid,rjd,rkd->ijkd", *factors.unbind())
    expected = torch.einsum("bijk,ijkd->bd", outer, weights)
    found = low_rank.product(vectors, torch.ones(5, 3, dtype=torch.bool), factors)
    torch.testing.assert_close(found, expected)


def test_an_absent_stream_is_the_neutral_element():
    vectors, factors = torch.randn(2, 3, 4), torch.randn(3, 2, 5, 6)
    there = torch.tensor([[True, False, True], [False, False, False]])
    found = low_rank.product(vectors, there, factors)
    two = low_rank.product(vectors[:, [0, 2]], torch.ones(2, 2, dtype=torch.bool), factors[[0, 2]])
    torch.testing.assert_close(found[0], two[0])
    torch.testing.assert_close(found[1], torch.full((6,), 2.0))


def test_an_untrained_product_of_nothing_but_zeros_is_the_rank():
    fusion = low_rank.Fusion(low_rank.Config(width=6, hidden=4, rank=3), STREAMS)
    found = low_rank.product(torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool), fusion.factors)
    torch.testing.assert_close(found, torch.full((1, 6), 3.0))


# ------------------------------------------------------------------------------------------- cross-modal transformer


def mult(**options) -> cross_modal_transformer.Fusion:
    torch.manual_seed(0)
    config = cross_modal_transformer.Config(width=8, heads=2, layers=2, **options)
    return cross_modal_transformer.Fusion(config, STREAMS).eval()


def test_every_ordered_pair_has_a_stack_of_its_own():
    fusion = mult()
    assert [len(reader.across) for reader in fusion.readers] == [2, 2, 2]
    assert {len(stack) for reader in fusion.readers for stack in reader.across} == {2}
    assert {reader.width for reader in fusion.readers} == {16}  # two views side by side
    assert fusion.absence.shape == (3, 48)


def test_a_block_is_cross_attention_then_feed_forward_as_torch_computes_them():
    torch.manual_seed(0)
    config = cross_modal_transformer.Config(width=8, heads=2, dropout=0.0)
    block = cross_modal_transformer.Block(8, config, across=True).eval()
    target, source = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(
        block(all_real(target), all_real(source)).data, plain(block, target, source), atol=1e-6, rtol=0
    )


def plain(block: cross_modal_transformer.Block, target: Tensor, source: Tensor) -> Tensor:
    """Softmax over keys, one head at a time, the null key first."""
    read, normed = block.read, block.norm(target)
    memory = torch.cat([read.null.expand(2, -1, -1), read.key_value(block.norm_memory(source))], 1)
    queries = read.query(normed)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        keys, values = memory[..., :8][..., part], memory[..., 8:][..., part]
        heads.append((queries[..., part] @ keys.transpose(1, 2) / 2).softmax(-1) @ values)
    x = target + read.out(torch.cat(heads, -1))
    return x + block.feed_forward(x)


def all_real(data: Tensor) -> Tokens:
    return Tokens(data, torch.ones(data.shape[:2], dtype=torch.bool))


def test_streams_are_told_apart_and_order_in_time_counts():
    fusion, tokens = mult(), batch(8)
    before = fusion(tokens)[0]
    turned = {**tokens, "text": Tokens(tokens["text"].data.flip(1), tokens["text"].mask)}
    assert (fusion(turned)[0] - before).abs().max() > 1e-3
    fusion.positions = False
    torch.testing.assert_close(fusion(turned)[0], fusion(tokens)[0], atol=1e-5, rtol=0)


def test_the_convolution_reads_neighbours_but_no_padding():
    fusion, tokens = mult(kernel=3), batch(8)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    masked = {**tokens, "text": Tokens(tokens["text"].data, mask)}
    spoiled = {**tokens, "text": Tokens(torch.where(mask[..., None], tokens["text"].data, torch.nan), mask)}
    torch.testing.assert_close(fusion(spoiled)[0], fusion(masked)[0], atol=1e-6, rtol=0)
    with pytest.raises(ValidationError, match="kernel"):
        cross_modal_transformer.Config(kernel=2)


def test_one_stream_alone_has_only_self_attention():
    fusion = cross_modal_transformer.Fusion(cross_modal_transformer.Config(width=8, heads=2), ("text",)).eval()
    assert fusion({"text": batch(8)["text"]})[0].shape == (2, 8)


# -------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_at_its_own_widths(name):
    found = settings(name, Path("nowhere"), STREAMS)
    assert found.fusion.use == name
    assert parts.fusion(found.fusion, STREAMS).width == 64


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_sums_and_products_of_streams(name, tmp_path):
    """MAE at most .35 of the mean predictor's on a sum, .45 where a product is a third of the variance."""
    made = plant(tmp_path)
    found = settings(name, tmp_path, STREAMS, "trainer.max_epochs=25", "modality_dropout=0.0", pool="mean")
    ratios = errors_of_mean(fit(found, root=tmp_path / "runs") / "single", made)
    assert ratios["trait_1"] < 0.35, ratios
    assert ratios["trait_0"] < 0.45, ratios
