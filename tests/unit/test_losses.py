"""Losses: values against the plain formulas, unknown labels, finite gradients."""

import math

import numpy as np
import pytest
import torch

from mmtraits.losses import LOSSES, bell, check_targets, gaussian_nll, split, total

NAN = math.nan


def known(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.bool)


@pytest.mark.parametrize(
    ("name", "value"), [("mse", (1 + 9 + 0.25) / 3), ("l1", (1 + 3 + 0.5) / 3), ("huber", (0.5 + 2.5 + 0.125) / 3)]
)
def test_mean_over_known_labels(name, value):
    predictions = torch.tensor([[1.0, 3.0], [0.5, 9.0]])
    targets = torch.tensor([[0.0, 0.0], [0.0, 100.0]])
    assert LOSSES[name](predictions, targets, known([1, 1], [1, 0])).item() == pytest.approx(value)


def test_ccc_is_lins_formula_per_trait():
    rng = np.random.default_rng(0)
    p, t = rng.normal(0.3, 1, (20, 2)), rng.normal(0, 2, (20, 2))
    keep = np.ones((20, 2), bool)
    keep[:7, 1] = False
    expected = []
    for k in range(2):
        a, b = p[keep[:, k], k], t[keep[:, k], k]
        expected.append(
            1 - 2 * np.mean((a - a.mean()) * (b - b.mean())) / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
        )
    found = LOSSES["ccc"](torch.tensor(p), torch.tensor(t), torch.tensor(keep))
    assert found.item() == pytest.approx(np.mean(expected), abs=1e-6)


def test_ccc_of_equal_columns_is_zero_and_of_opposite_ones_two():
    x = torch.tensor([[-1.0], [0.0], [1.0]])
    assert LOSSES["ccc"](x, x, torch.ones(3, 1, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES["ccc"](-x, x, torch.ones(3, 1, dtype=torch.bool)).item() == pytest.approx(2, abs=1e-6)


def test_ccc_leaves_out_traits_with_fewer_than_two_labels():
    x = torch.tensor([[-1.0, 5.0], [0.0, 6.0], [1.0, 7.0]])
    y = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert LOSSES["ccc"](x, y, known([1, 1], [1, 0], [1, 0])).item() == pytest.approx(0, abs=1e-6)


def test_total_weighs_by_name():
    predictions, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]])
    every = torch.ones(2, 1, dtype=torch.bool)
    assert total({"mse": 2.0, "l1": 0.5}, predictions, targets, every).item() == pytest.approx(2 * 5 + 0.5 * 2)


def test_pearson_is_one_minus_the_correlation_per_trait():
    rng = np.random.default_rng(0)
    p, t = rng.normal(0.3, 1, (20, 2)), rng.normal(0, 2, (20, 2))
    keep = np.ones((20, 2), bool)
    keep[:7, 1] = False
    expected = [1 - np.corrcoef(p[keep[:, k], k], t[keep[:, k], k])[0, 1] for k in range(2)]
    found = LOSSES["pearson"](torch.tensor(p), torch.tensor(t), torch.tensor(keep))
    assert found.item() == pytest.approx(np.mean(expected), abs=1e-6)


def test_bell_by_hand():
    predictions, targets = torch.tensor([[0.7, 0.1], [0.5, 9.0]]), torch.tensor([[0.5, 0.1], [0.1, 0.0]])
    value = ((1 - math.exp(-0.5)) + 0 + (1 - math.exp(-2))) / 3  # errors of one θ, none, and two
    assert bell(predictions, targets, known([1, 1], [1, 0])).item() == pytest.approx(value)
    wide = bell(predictions, targets, known([1, 1], [1, 0]), theta=9.0)  # CR-Net's: a multiple of the squared error
    assert wide.item() == pytest.approx((0.04 + 0.16) / 3 / 162, rel=2e-3)


def test_bell_pulls_hardest_at_an_error_of_theta():
    errors = torch.linspace(0, 1, 101, requires_grad=True)
    for error in errors:
        bell(error.view(1, 1), torch.zeros(1, 1), known([1])).backward()
    assert errors.grad.argmax().item() == 20


def test_pairwise_rank_by_hand():
    predictions = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 7.0]])
    targets = torch.tensor([[0.2, 0.5], [0.1, 0.5], [0.2, 0.0]])
    # first trait: rows 0 and 2 stand above row 1, rows 0 and 2 are equal; second: only equal ones are known
    value = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-3))) / 2
    found = LOSSES["pairwise_rank"](predictions, targets, known([1, 1], [1, 1], [1, 0]))
    assert found.item() == pytest.approx(value)


def test_pairwise_rank_averages_over_traits():
    predictions, targets = torch.tensor([[0.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = LOSSES["pairwise_rank"](predictions, targets, known([1, 1], [1, 1]))
    assert found.item() == pytest.approx((math.log(2) + math.log1p(math.exp(4))) / 2)


def test_masked_bce_reads_probabilities():
    predictions, targets = torch.tensor([[0.8, 0.3], [0.25, 0.5]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    value = -(math.log(0.8) + math.log(0.7) + math.log(0.25)) / 3
    assert LOSSES["masked_bce"](predictions, targets, known([1, 1], [1, 0])).item() == pytest.approx(value)


def test_masked_bce_draws_what_leaves_the_scale_back_and_not_what_is_right():
    predictions = torch.tensor([[-0.5], [1.5], [-0.5], [1.5]], requires_grad=True)
    costs = torch.stack(
        [
            LOSSES["masked_bce"](row, target, known([1]))
            for row, target in zip(
                predictions.split(1), torch.tensor([[1.0], [0.0], [0.0], [1.0]]).split(1), strict=True
            )
        ]
    )
    costs.sum().backward()
    tangent = -math.log(0.01) + 0.51 / 0.01
    assert costs.tolist() == pytest.approx([tangent, tangent, 0, 0], abs=1e-4)
    assert predictions.grad.flatten().tolist() == pytest.approx([-100, 100, 0, 0], rel=1e-5)


def test_masked_bce_learns_the_share_of_ones():
    share = torch.full((1, 1), 0.0, requires_grad=True)
    targets = torch.tensor([[1.0], [0.0], [0.0], [1.0], [0.0]])
    for _ in range(300):
        (slope,) = torch.autograd.grad(LOSSES["masked_bce"](share.expand(5, 1), targets, targets >= 0), share)
        share = (share - 0.01 * slope).detach().requires_grad_()
    assert share.item() == pytest.approx(0.4, abs=1e-3)


def test_gaussian_nll_by_hand_and_without_its_variance():
    predictions, targets = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 0.0]])
    aux = {"log_variance": torch.tensor([[math.log(4.0), 0.0]])}
    found = total({"gaussian_nll": 2.0}, predictions, targets, known([1, 0]), aux)
    assert found.item() == pytest.approx(2 * 0.5 * (math.log(4) + 4 / 4))
    with pytest.raises(ValueError, match="gaussian_nll: the head gives no log_variance; use a head that does"):
        total({"gaussian_nll": 1.0}, predictions, targets, known([1, 0]))


def test_gaussian_nll_is_least_at_the_squared_error():
    levels = torch.linspace(-3, 3, 601)
    costs = [
        gaussian_nll(torch.zeros(1, 1), torch.ones(1, 1) * 0.5, known([1]), level.view(1, 1)).item() for level in levels
    ]
    assert levels[int(np.argmin(costs))].item() == pytest.approx(math.log(0.25), abs=0.01)


def test_auxiliary_losses_are_weighted_by_name():
    zeros, every = torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool)
    aux = {"loss_router": torch.tensor(3.0), "loss_other": torch.tensor(100.0), "members": torch.zeros(2, 4, 1)}
    assert total({"mse": 1.0, "router": 0.5}, zeros, zeros + 2, every, aux).item() == pytest.approx(4 + 1.5)
    with pytest.raises(ValueError, match="found roter; expected mse, .*gaussian_nll, other, router"):
        total({"roter": 1.0}, zeros, zeros, every, aux)
    assert total({"mse": 1.0, "emotion": 0.0}, zeros, zeros + 2, every, {}).item() == 4  # taken out of a parent config
    assert split({"mse": 1.0, "gaussian_nll": 0.1, "router": 0.5}) == (
        {"mse": 1.0, "gaussian_nll": 0.1},
        {"router": 0.5},
    )


def test_targets_that_are_no_probabilities_are_refused_for_bce_alone():
    targets, every = torch.tensor([[0.25], [1.5], [NAN]]), torch.ones(3, 1, dtype=torch.bool)
    check_targets({"mse": 1.0}, targets, every)
    check_targets({"masked_bce": 1.0}, targets[:1], every[:1])
    check_targets({"masked_bce": 1.0}, targets, known([1], [0], [1]))
    with pytest.raises(
        ValueError, match="loss.masked_bce: found targets from 0.25 to 1.5; expected 0 to 1: give every"
    ):
        check_targets({"masked_bce": 1.0}, targets, every)


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_labels_give_neither_value_nor_gradient(name):
    torch.manual_seed(0)
    predictions = torch.rand(6, 2, requires_grad=True)
    targets = torch.rand(6, 2)
    targets[0, 0] = NAN
    mask = torch.ones(6, 2, dtype=torch.bool)
    mask[1, 1] = False
    loss = total({name: 1.0}, predictions, targets, mask)
    loss.backward()
    assert loss.isfinite()
    assert predictions.grad[0, 0] == 0
    assert predictions.grad[1, 1] == 0
    assert predictions.grad.isfinite().all()
    assert (predictions.grad != 0).sum() == 10
    moved = predictions.detach().clone()
    moved[0, 0] = moved[1, 1] = 50.0
    torch.testing.assert_close(total({name: 1.0}, moved, targets, mask), loss.detach())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rows", [1, 4])
def test_nothing_known_and_constant_predictions_are_finite(name, rows):
    predictions = torch.zeros(rows, 3, requires_grad=True)
    for targets in (torch.full((rows, 3), NAN), torch.zeros(rows, 3)):
        loss = total({name: 1.0}, predictions, targets, torch.ones(rows, 3, dtype=torch.bool))
        predictions.grad = None
        loss.backward()
        assert loss.isfinite()
        assert predictions.grad.isfinite().all()
    assert total({name: 1.0}, predictions, torch.full((rows, 3), NAN), torch.ones(rows, 3, dtype=torch.bool)) == 0


def test_total_names_the_losses_that_exist():
    with pytest.raises(ValueError, match="found mes; expected mse, l1, huber, ccc"):
        total({"mes": 1.0}, torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
