import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtraits.calibrate import Calibration, fit

LOW, HIGH = np.zeros(2), np.ones(2)
STREAMS = ("face", "voice", "text")


def normal(rows: int, spread: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, size=(rows, 2))


def half(calibration: Calibration, *streams: str) -> np.ndarray:
    return calibration.widths[frozenset(streams)].half


def test_the_quantile_by_hand() -> None:
    residuals = np.stack([np.arange(1, 20), -np.arange(1, 20) / 10], axis=1) / 100
    found = fit(["text"], [(["text"], residuals)], low=LOW, high=HIGH)
    np.testing.assert_allclose(half(found, "text"), [0.18, 0.018])  # the 18th of 19: ceil(20 · .9)
    nine = fit(["text"], [(["text"], residuals[:9])], low=LOW, high=HIGH)
    np.testing.assert_allclose(half(nine, "text"), [0.09, 0.009])  # the largest of 9: ceil(10 · .9)


def test_coverage_on_new_rows_is_the_level() -> None:
    """Many small calibration sets: the mean coverage is the level, not only near it for large n."""
    draw = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        residuals, new = draw.laplace(size=(60, 2)), draw.laplace(size=(200, 2))
        found = fit(["text"], [(["text"], residuals)], low=np.full(2, -99.0), high=np.full(2, 99.0))
        lower, upper = found.interval(np.zeros((200, 2)), np.ones((200, 1), np.bool_))
        covered.append(((lower <= new) & (new <= upper)).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)


def test_coverage_per_set_of_streams() -> None:
    spreads = {("text",): 0.12, ("voice", "text"): 0.08, ("face", "text"): 0.05}
    residuals = [(key, normal(2000, spread, seed)) for seed, (key, spread) in enumerate(spreads.items())]
    found = fit(STREAMS, residuals, low=LOW, high=HIGH)
    for key, spread in spreads.items():
        present = np.tile([stream in key for stream in STREAMS], (4000, 1))
        lower, upper = found.interval(np.full((4000, 2), 0.5), present)
        label = 0.5 + normal(4000, spread, seed=9)
        assert ((lower <= label) & (label <= upper)).mean() == pytest.approx(0.9, abs=0.02)


def test_a_set_without_rows_borrows_the_widest_of_its_subsets_per_trait() -> None:
    wide_first, wide_second = normal(200, 0.1) * [2, 1], normal(200, 0.1) * [1, 3]
    found = fit(
        STREAMS,
        [(["face"], wide_first), (["text"], wide_second), (["voice", "text"], normal(200, 0.9))],
        low=LOW,
        high=HIGH,
    )
    np.testing.assert_array_equal(half(found, "face", "text"), [half(found, "face")[0], half(found, "text")[1]])
    assert found.widths[frozenset(["face", "text"])].borrowed.all()
    assert not found.widths[frozenset(["face"])].borrowed.any()
    # voice has no calibrated subset at all: the widest of everything
    np.testing.assert_array_equal(half(found, "voice"), half(found, "voice", "text"))
    assert len(found.widths) == 7


def test_too_few_rows_borrow_and_keep_their_count() -> None:
    few = normal(50, 0.2)
    few[8:, 1] = np.nan  # eight labels of the second trait: one too few for a 90 % quantile
    found = fit(["face", "text"], [(["text"], normal(100, 0.1)), (["face", "text"], few)], low=LOW, high=HIGH)
    both = found.widths[frozenset(["face", "text"])]
    assert both.rows.tolist() == [50, 8] and both.borrowed.tolist() == [False, True]
    assert both.half[1] == half(found, "text")[1]


def test_nothing_calibrated_is_the_whole_scale() -> None:
    found = fit(["text"], [], low=np.array([1.0, 0.0]), high=np.array([7.0, 1.0]))
    lower, upper = found.interval(np.array([[4.0, 0.9]]), np.array([[True]]))
    np.testing.assert_array_equal(lower, [[1.0, 0.0]])
    np.testing.assert_array_equal(upper, [[7.0, 1.0]])


def test_pooled_sets_and_any_order_of_names() -> None:
    one, two = normal(30, 0.1, 1), normal(30, 0.1, 2)
    pooled = fit(STREAMS, [(["text", "face"], one), (("face", "text"), two)], low=LOW, high=HIGH)
    whole = fit(STREAMS, [({"face", "text"}, np.concatenate([one, two]))], low=LOW, high=HIGH)
    np.testing.assert_array_equal(half(pooled, "face", "text"), half(whole, "face", "text"))


def test_intervals_are_clipped_and_absent_rows_have_none() -> None:
    found = fit(["face", "text"], [(["text"], np.full((20, 2), 0.2))], low=LOW, high=HIGH)
    scores = np.array([[0.1, 0.95], [0.5, 0.5], [np.nan, np.nan]], np.float32)
    lower, upper = found.interval(scores, np.array([[False, True], [False, False], [True, True]]))
    np.testing.assert_allclose(lower[0], [0.0, 0.75], atol=1e-6)
    np.testing.assert_allclose(upper[0], [0.3, 1.0], atol=1e-6)
    assert np.isnan(lower[1:]).all() and np.isnan(upper[1:]).all()


def test_no_rows_have_no_intervals() -> None:
    found = fit(["text"], [], low=LOW, high=HIGH)
    lower, upper = found.interval(np.zeros((0, 2)), np.zeros((0, 1), np.bool_))
    assert lower.shape == upper.shape == (0, 2)


def test_json_round_trip() -> None:
    found = fit(STREAMS, [(["text"], normal(40, 0.1)), (["face"], normal(3, 0.1))], low=LOW, high=HIGH, level=0.8)
    again = Calibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict() and again.level == 0.8
    assert [entry["present"] for entry in found.to_dict()["sets"]][:4] == [
        ["face"],
        ["voice"],
        ["text"],
        ["face", "voice"],
    ]


@given(st.lists(st.floats(0, 1), min_size=9, max_size=60), st.floats(0.5, 0.9))
def test_at_least_the_level_of_the_calibration_rows_is_inside(values: list[float], level: float) -> None:
    residuals = np.array(values)[:, None]
    width = fit(["text"], [(["text"], residuals)], low=np.zeros(1), high=np.ones(1), level=level).widths[
        frozenset(["text"])
    ]
    assert (residuals[:, 0] <= width.half[0]).mean() >= level


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"residuals of \['smell'\]; expected some of the streams \['text'\]"):
        fit(["text"], [(["smell"], normal(9, 1))], low=LOW, high=HIGH)
    with pytest.raises(ValueError, match=r"residuals of \[\]"):
        fit(["text"], [([], normal(9, 1))], low=LOW, high=HIGH)
    with pytest.raises(ValueError, match="calibration method 'guess'; this version knows split_conformal"):
        Calibration.from_dict({"method": "guess"})
