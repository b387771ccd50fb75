"""Yeo-Johnson against scipy and scikit-learn, its limits, and its inverse in float32 and in ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.preprocessing import PowerTransformer

from mmtraits import power
from mmtraits.model import on_scale, straightened
from mmtraits.schema import TargetTransform, Trait, TraitSchema

DRAW = np.random.default_rng(0)
LABELS = {
    "ratings": 1 + 4 * DRAW.beta(2, 5, 300),
    "shares": DRAW.beta(5, 2, 300),
    "both signs": DRAW.normal(size=300),
    "below 0": -DRAW.gamma(2, 1, 300),
    "skewed over 0": DRAW.gamma(1.2, 2, 500) - 0.5,
    "at the top": 7 - DRAW.gamma(1.0, 0.3, 200),
    "sixteenths": np.round(DRAW.uniform(1, 5, 400) * 16) / 16,
}
RATES = (-1.5, -1e-9, 0.0, 1e-7, 0.5, 1.0, 2 - 1e-7, 2.0, 2 + 1e-9, 3.4)


def fitted(labels: np.ndarray, low: float | None = None, high: float | None = None) -> TargetTransform:
    schema = TraitSchema(
        name="s", traits=(Trait(name="a", low=low, high=high),), construct="apparent", judged_by="us",
        transform="yeo_johnson",
    )  # fmt: skip
    return TargetTransform.fit(schema, labels[:, None])


def state(how: TargetTransform) -> dict[str, torch.Tensor]:
    names = ("shift", "scale", "low", "high", "curve")
    return {name: torch.tensor(getattr(how, name), dtype=torch.float32) for name in names}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_targets_are_scikit_learns_and_lambda_is_scipys(labels) -> None:
    how = fitted(labels)
    given = np.append(labels, np.nan)  # an unknown label has no part in it
    np.testing.assert_allclose(fitted(given).power, how.power)
    np.testing.assert_allclose(how.power, stats.yeojohnson(labels)[1], atol=1e-6)
    expected = PowerTransformer("yeo-johnson").fit_transform(labels[:, None])
    np.testing.assert_allclose(how.to_target(labels[:, None]), expected, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_the_transform_is_scipys_and_its_inverse_exact_near_the_limits(rate) -> None:
    values = np.array([-6.0, -0.3, -1e-9, 0.0, 1e-9, 0.4, 5.0])
    moved = power.forward(values, np.array(rate))
    np.testing.assert_allclose(moved, stats.yeojohnson(values, rate), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(power.inverse(moved, np.array(rate)), values, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_float32_gives_labels_and_targets_back(labels) -> None:
    how = fitted(labels)
    targets = how.to_target(labels[:, None])
    np.testing.assert_allclose(how.to_scale(targets)[:, 0], labels, atol=1e-9)
    found = on_scale(torch.tensor(targets, dtype=torch.float32), state(how))[:, 0]
    np.testing.assert_allclose(found, labels, atol=5e-6)
    back = straightened(torch.tensor(labels[:, None], dtype=torch.float32), state(how)["curve"])
    np.testing.assert_allclose(back, targets, atol=5e-5)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("low", "high"), [(1.0, 5.0), (-4.0, 3.0), (-5.0, -1.0)])
def test_torch_is_numpy_for_every_rate_and_any_target(rate, low, high) -> None:
    values = np.array([low, high, 0.3 * low + 0.7 * high])
    moved = power.forward(values, np.full(3, rate))
    how = TargetTransform(
        shift=moved[2:], scale=np.array([abs(moved[1] - moved[0]) / 4]), low=values[:1], high=values[1:2],
        power=np.array([rate]),
    )  # fmt: skip
    targets = np.array([-1e30, -9.0, -2.0, -0.5, 0.0, 1e-4, 0.7, 2.0, 9.0, 1e30])[:, None]
    found = on_scale(torch.tensor(targets, dtype=torch.float32), state(how)).numpy()
    np.testing.assert_allclose(found, how.to_scale(targets), atol=2e-5)
    np.testing.assert_allclose(found[[0, -1], 0], [low, high], atol=2e-6)
    assert found.min() >= low and found.max() <= high


def test_equal_labels_change_nothing_but_the_place() -> None:
    how = fitted(np.full(5, 2.5), 1.0, 4.0)
    assert how.power == 1.0
    np.testing.assert_allclose(how.to_scale(np.array([[0.0]])), [[2.5]])


def test_plain_data_holds_the_power_only_where_there_is_one() -> None:
    how = fitted(LABELS["ratings"])
    again = TargetTransform.from_dict(how.to_dict())
    np.testing.assert_array_equal(again.to_target(np.ones((1, 1))), how.to_target(np.ones((1, 1))))
    old = {"shift": [0.0], "scale": [1.0], "low": [0.0], "high": [1.0]}
    assert TargetTransform.from_dict(old).to_dict() == old
    assert TargetTransform.from_dict(old).curve is None


def test_transforms_of_single_traits_are_put_side_by_side() -> None:
    parts = [fitted(LABELS[name]) for name in ("ratings", "shares")]
    joined = TargetTransform.joined(parts)
    values = np.array([[2.0, 0.4]])
    expected = np.concatenate([part.to_target(values[:, k : k + 1]) for k, part in enumerate(parts)], 1)
    np.testing.assert_array_equal(joined.to_target(values), expected)
