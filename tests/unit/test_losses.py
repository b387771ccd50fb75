"""Losses: values against the plain formulas, unknown labels, finite gradients."""

import math

import numpy as np
import pytest
import torch

from mmtraits.losses import LOSSES, total

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


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_labels_give_neither_value_nor_gradient(name):
    torch.manual_seed(0)
    predictions = torch.randn(6, 2, requires_grad=True)
    targets = torch.randn(6, 2)
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
