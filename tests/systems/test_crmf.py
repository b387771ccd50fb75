"""Experts on three geometries: what the maps promise, in fp32 and under autocast, and that the system learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planted_streams import errors_of_mean, plant, settings

from mmtraits import config, parts
from mmtraits.data.schema_file import read_schema
from mmtraits.fusion import geometry_experts as geometry
from mmtraits.tokens import Tokens
from mmtraits.train import fit

ROOT = Path(__file__).parents[2]
STREAMS = ("text", "voice", "face")
SIZES = (0.0, 1e-8, 1e-3, 0.5, 2.0)
ALL_SIZES = (*SIZES, 10.0, 1e3, 1e6)


def vectors(size: float, rows: int = 16, width: int = 6) -> torch.Tensor:
    """Random directions of length `size`."""
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    return size * drawn / drawn.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("c", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("size", SIZES)
def test_log_undoes_exp_on_the_ball(size, c):
    u, curvature = vectors(size / c**0.5), torch.tensor(c)
    torch.testing.assert_close(geometry.log_ball(geometry.exp_ball(u, curvature), curvature), u, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", (*SIZES, 3.0))
def test_log_undoes_exp_on_the_sphere(size):
    u = vectors(size)
    torch.testing.assert_close(geometry.log_sphere(geometry.exp_sphere(u)), u, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("c", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("size", ALL_SIZES)
def test_points_stay_inside_the_ball_and_on_the_sphere(size, c):
    u, curvature = vectors(size), torch.tensor(c)
    x = geometry.exp_ball(u, curvature)
    y = geometry.exp_ball(vectors(size).flip(0), curvature)
    for points in (x, y, geometry.add_ball(x, y, curvature), geometry.add_ball(x, -x, curvature)):
        assert torch.isfinite(points).all()
        assert points.norm(dim=1).max() < 1 / c**0.5
    torch.testing.assert_close(geometry.exp_sphere(u).norm(dim=1), torch.ones(16), atol=1e-4, rtol=0)


def test_adding_on_the_ball_by_hand():
    """On a line of curvature -1, artanh adds: tanh(a) ⊕ tanh(b) = tanh(a + b). 0 is neutral, -x the inverse."""
    a, b, one = torch.tensor([[0.3]]), torch.tensor([[0.9]]), torch.tensor(1.0)
    found = geometry.add_ball(a.tanh(), b.tanh(), one)
    torch.testing.assert_close(found, (a + b).tanh())
    x = geometry.exp_ball(vectors(0.7), one)
    torch.testing.assert_close(geometry.add_ball(x, torch.zeros_like(x), one), x)
    torch.testing.assert_close(geometry.add_ball(-x, x, one), torch.zeros_like(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", ALL_SIZES)
def test_gradients_are_finite_at_zero_and_far_out(size):
    torch.manual_seed(0)
    for space in (geometry.Hyperbolic(6, 1.0), geometry.Spherical(6, 4)):
        u = vectors(size).requires_grad_()
        out = space(u)
        assert torch.isfinite(out).all()
        out.square().sum().backward()
        for value in (u, *space.parameters()):
            assert value.grad is not None and torch.isfinite(value.grad).all()
            assert value.grad.abs().max() < 1e5


def test_reflections_turn_the_sphere_without_bending_it():
    torch.manual_seed(0)
    space, u = geometry.Spherical(6, 4), vectors(1.0)
    before, after = geometry.exp_sphere(u), geometry.exp_sphere(space(u))
    torch.testing.assert_close(after @ after.T, before @ before.T, atol=1e-4, rtol=0)
    assert (after - before).abs().max() > 0.1


def test_curvature_starts_where_it_is_asked_to():
    for asked in (0.1, 1.0, 3.0):
        raw = geometry.Hyperbolic(4, asked).raw
        assert torch.nn.functional.softplus(raw).item() == pytest.approx(asked, rel=1e-5)


def test_manifolds_stay_in_single_precision_under_autocast():
    torch.manual_seed(0)
    space, u = geometry.Hyperbolic(6, 1.0), vectors(1.5)
    seen = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = geometry.in_fp32(space, u)
        geometry.in_fp32(lambda x: seen.append((x @ x.T).dtype) or x, u.bfloat16())
        assert (u @ u.T).dtype == torch.bfloat16, "autocast holds outside"
    assert seen == [torch.float32]
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, space(u), atol=0, rtol=0)


def test_the_whole_fusion_takes_autocast():
    torch.manual_seed(0)
    fusion = geometry.Fusion(geometry.Config(width=16, space=6), STREAMS)
    tokens = {s: Tokens(30 * torch.randn(4, 3, 16), torch.ones(4, 3, dtype=torch.bool)) for s in STREAMS}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, aux = fusion(tokens)
    (out.float().square().sum() + aux["loss_router"]).backward()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)


def test_the_router_loss_is_zero_where_experts_are_balanced_and_two_where_one_has_all():
    torch.manual_seed(0)
    fusion = geometry.Fusion(geometry.Config(width=16, space=6, dropout=0.0), STREAMS).eval()
    tokens = {s: Tokens(torch.randn(4, 3, 16), torch.ones(4, 3, dtype=torch.bool)) for s in STREAMS}
    last = fusion.router[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        assert fusion(tokens)[1]["loss_router"].item() == pytest.approx(0, abs=1e-6)
        last.bias[1] = 50.0
        _, aux = fusion(tokens)
    assert aux["loss_router"].item() == pytest.approx(2, abs=1e-5)
    torch.testing.assert_close(aux["weights"], torch.tensor([0.0, 1.0, 0.0]).expand(4, -1))


def test_the_config_says_twelve_targets():
    schema = read_schema(ROOT / "datasets" / "recruitview" / "schema.yaml")
    found = config.load(ROOT / "configs" / "systems" / "crmf.yaml", check=parts.problems)
    with torch.device("meta"):
        fusion = parts.fusion(found.fusion, tuple(found.streams))
        head = parts.head(found.head, fusion.width, len(schema.traits))
    assert head.layers[-1].out_features == 12
    assert set(found.loss) >= {"huber", "pairwise_rank", "router"}


@pytest.mark.slow
def test_it_learns_twelve_targets(tmp_path):
    """MAE on average at most .4 of the mean predictor's, with the config's own losses."""
    made = plant(tmp_path, traits=12)
    small = ("fusion.width=64", "fusion.hidden=64", "fusion.space=16", "fusion.trunk=late_fusion")
    changes = ("trainer.max_epochs=25", "modality_dropout=0.0", *small)
    found = settings("crmf", tmp_path, STREAMS, *changes, pool="mean")
    ratios = errors_of_mean(fit(found, root=tmp_path / "runs") / "single", made)
    assert sum(ratios.values()) / 12 < 0.4, ratios
