import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from mmtraits.calibrate import FOLDS, Calibration, Rows, conformal_quantile, fit, folds, quantile_line

LOW, HIGH = np.zeros(2), np.ones(2)
WIDE = {"low": np.full(1, -99.0), "high": np.full(1, 99.0)}
STREAMS = ("face", "voice", "text")


def normal(rows: int, spread: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, size=(rows, 2))


def rows(residuals: dict[tuple[str, ...], np.ndarray], persons: list[str] | None = None) -> Rows:
    """Every set of streams its own rows, whose scores are .5 and whose labels lie off by the residuals."""
    total = sum(map(len, residuals.values()))
    labels = 0.5 + np.concatenate([np.zeros((0, 2)), *residuals.values()])
    scores, start = {}, 0
    for key, values in residuals.items():
        scores[frozenset(key)] = np.full(labels.shape, np.nan)
        scores[frozenset(key)][start : start + len(values)] = 0.5
        start += len(values)
    ids = [f"c{n:05d}" for n in range(total)]
    return Rows(ids=ids, persons=persons or ids, labels=labels, scores=scores)


def column(labels: np.ndarray, scores: np.ndarray, persons: list[str] | None = None) -> Rows:
    """One trait, one stream."""
    ids = [f"c{n:05d}" for n in range(len(labels))]
    scored = {frozenset(["text"]): np.asarray(scores, np.float64)[:, None]}
    return Rows(ids=ids, persons=persons or ids, labels=np.asarray(labels, np.float64)[:, None], scores=scored)


def half(calibration: Calibration, *streams: str) -> np.ndarray:
    return calibration.widths[frozenset(streams)].half


# ---------------------------------------------------------------------------------------------------- split conformal


def test_the_quantile_by_hand() -> None:
    residuals = np.stack([np.arange(1, 20), -np.arange(1, 20) / 10], axis=1) / 100
    found = fit(["text"], rows({("text",): residuals}), low=LOW, high=HIGH)
    np.testing.assert_allclose(half(found, "text"), [0.18, 0.018])  # the 18th of 19: ceil(20 · .9)
    nine = fit(["text"], rows({("text",): residuals[:9]}), low=LOW, high=HIGH)
    np.testing.assert_allclose(half(nine, "text"), [0.09, 0.009])  # the largest of 9: ceil(10 · .9)


@pytest.mark.parametrize(
    ("n", "level", "rank"), [(9, 0.9, 9), (8, 0.9, None), (19, 0.9, 18), (99, 0.9, 90), (10, 0.5, 6), (4, 0.8, 4)]
)
def test_ranks_are_exact(n: int, level: float, rank: int | None) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert conformal_quantile(values, level) == (np.inf if rank is None else rank)


def test_coverage_on_new_rows_is_the_level() -> None:
    """Many small calibration sets: the mean coverage is the level, not only near it for large n."""
    draw = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        residuals, new = draw.laplace(size=(60, 2)), draw.laplace(size=(200, 2))
        found = fit(["text"], rows({("text",): residuals}), low=np.full(2, -99.0), high=np.full(2, 99.0))
        lower, upper = found.interval(np.zeros((200, 2)), np.ones((200, 1), np.bool_))
        covered.append(((lower <= new) & (new <= upper)).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)


def test_coverage_per_set_of_streams() -> None:
    spreads = {("text",): 0.12, ("voice", "text"): 0.08, ("face", "text"): 0.05}
    residuals = {key: normal(2000, spread, seed) for seed, (key, spread) in enumerate(spreads.items())}
    found = fit(STREAMS, rows(residuals), low=LOW, high=HIGH)
    for key, spread in spreads.items():
        present = np.tile([stream in key for stream in STREAMS], (4000, 1))
        lower, upper = found.interval(np.full((4000, 2), 0.5), present)
        label = 0.5 + normal(4000, spread, seed=9)
        assert ((lower <= label) & (label <= upper)).mean() == pytest.approx(0.9, abs=0.02)


# ---------------------------------------------------------------------------------------------------- cqr


@pytest.mark.parametrize("tail", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("n", [12, 60, 400])
def test_quantile_line_has_the_least_pinball_loss(n: int, tail: float) -> None:
    """Against the linear programme that defines quantile regression (Koenker and Bassett 1978)."""
    draw = np.random.default_rng(n)
    x = draw.normal(3, 2, n)
    y = 0.4 * x + draw.normal(size=n) * (0.2 + abs(x))
    columns = np.column_stack([np.ones(n), -np.ones(n), x, -x, np.eye(n), -np.eye(n)])
    cost = np.concatenate([np.zeros(4), np.full(n, tail), np.full(n, 1 - tail)])
    best = linprog(cost, A_eq=columns, b_eq=y).fun
    intercept, slope = quantile_line(x, y, tail)
    left = y - intercept - slope * x
    assert best <= np.sum(left * (tail - (left < 0))) + 1e-9 <= best * 1.0001 + 1e-9


def test_quantile_line_of_constant_scores_is_level() -> None:
    y = np.arange(101.0)
    np.testing.assert_allclose(quantile_line(np.full(101, 0.3), y, 0.05), [5.0, 0.0])


def test_cqr_by_hand() -> None:
    """Labels at 0 and at twice the score, as many of each: the lines are 0 and 2 · score, and no label lies beyond."""
    scores = np.tile(np.linspace(0.1, 0.4, 50), 2)
    labels = np.where(np.arange(100) < 50, 0.0, 2 * scores)
    plain = fit(["text"], column(labels, scores), low=np.zeros(1), high=np.ones(1), method="cqr")
    width = plain.widths[frozenset(["text"])]
    np.testing.assert_allclose(width.lower, [[0, 0]], atol=1e-4)
    np.testing.assert_allclose(width.upper, [[0, 2]], atol=1e-3)
    np.testing.assert_allclose(width.half, [0.25], atol=1e-3)  # the mean score
    lower, upper = plain.interval(np.array([[0.1], [0.4]]), np.ones((2, 1), np.bool_))
    np.testing.assert_allclose(lower, [[0], [0]], atol=1e-4)
    np.testing.assert_allclose(upper, [[0.2], [0.8]], atol=1e-3)


def test_the_margin_of_cqr_is_a_conformal_quantile_of_other_persons() -> None:
    """Level lines, since the scores are constant: what is left is arithmetic, fold by fold."""
    labels = np.random.default_rng(4).normal(size=57)
    persons = [f"p{n % 19}" for n in range(57)]
    found = fit(["text"], column(labels, np.zeros(57), persons), method="cqr", **WIDE).widths[frozenset(["text"])]
    parts, beyond = folds(persons, seed=0), []
    for part in range(FOLDS):
        low, high = np.quantile(labels[parts != part], [0.05, 0.95])
        beyond += [max(low - y, y - high) for y in labels[parts == part]]
    margin = sorted(beyond)[53 - 1]  # ceil(58 · .9)
    np.testing.assert_allclose(found.lower[0], [np.quantile(labels, 0.05) - margin, 0], atol=1e-9)
    np.testing.assert_allclose(found.upper[0], [np.quantile(labels, 0.95) + margin, 0], atol=1e-9)
    assert margin != pytest.approx(sorted(max(low - y, y - high) for y in labels)[52])


def heteroscedastic(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose noise grows with the score."""
    draw = np.random.default_rng(seed)
    scores = draw.uniform(1, 5, n)
    return scores + draw.normal(size=n) * 0.3 * scores, scores


def test_cqr_covers_where_split_conformal_does_not() -> None:
    labels, scores = heteroscedastic(4000, 1)
    new, at = heteroscedastic(20_000, 2)
    rates = {}
    for method in ("split_conformal", "cqr"):
        found = fit(["text"], column(labels, scores), method=method, **WIDE)
        lower, upper = found.interval(at[:, None], np.ones((len(at), 1), np.bool_))
        inside = (lower[:, 0] <= new) & (new <= upper[:, 0])
        rates[method] = [inside.mean(), inside[at < 2].mean(), inside[at > 4].mean()]
    np.testing.assert_allclose(rates["cqr"], 0.9, atol=0.02)
    assert rates["split_conformal"][0] == pytest.approx(0.9, abs=0.02)
    assert rates["split_conformal"][1] > 0.98 and rates["split_conformal"][2] < 0.84


def test_cqr_covers_new_persons_at_the_level() -> None:
    """Several clips of a person share a shift, as faces and voices do."""
    draw = np.random.default_rng(3)
    covered = []
    for _ in range(60):
        shift = np.repeat(draw.normal(0, 0.5, 60), 4)
        labels, scores = draw.normal(size=240) + shift, draw.normal(size=240)
        new = draw.normal(size=400) + draw.normal(0, 0.5, 400)
        persons = [f"p{n // 4}" for n in range(240)]
        found = fit(["text"], column(labels, scores, persons), method="cqr", **WIDE)
        lower, upper = found.interval(draw.normal(size=(400, 1)), np.ones((400, 1), np.bool_))
        covered.append(((lower[:, 0] <= new) & (new <= upper[:, 0])).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)


def test_an_interval_holds_its_score() -> None:
    """Scores that are far off: quantiles of the labels alone would leave them out."""
    labels, scores = np.random.default_rng(0).normal(0.5, 0.01, 200), np.full(200, 0.9)
    found = fit(["text"], column(labels, scores), low=np.zeros(1), high=np.ones(1), method="cqr")
    lower, upper = found.interval(np.array([[0.9], [0.1]]), np.ones((2, 1), np.bool_))
    assert upper[0] == 0.9 and 0.4 < lower[0] < 0.5
    assert lower[1] == 0.1 and 0.5 < upper[1] < 0.6


# ---------------------------------------------------------------------------------------------------- either


@pytest.mark.parametrize("method", ["split_conformal", "cqr"])
def test_a_set_without_rows_borrows_the_widest_of_its_subsets_per_trait(method) -> None:
    wide_first, wide_second = normal(200, 0.1) * [2, 1], normal(200, 0.1) * [1, 3]
    residuals = {("face",): wide_first, ("text",): wide_second, ("voice", "text"): normal(200, 0.9)}
    found = fit(STREAMS, rows(residuals), low=LOW, high=HIGH, method=method)
    np.testing.assert_array_equal(half(found, "face", "text"), [half(found, "face")[0], half(found, "text")[1]])
    assert found.widths[frozenset(["face", "text"])].borrowed.all()
    assert not found.widths[frozenset(["face"])].borrowed.any()
    # voice has no calibrated subset at all: the widest of everything
    np.testing.assert_array_equal(half(found, "voice"), half(found, "voice", "text"))
    assert len(found.widths) == 7
    lines = found.widths[frozenset(["face", "text"])].upper, found.widths[frozenset(["face"])].upper
    np.testing.assert_array_equal(lines[0][0], lines[1][0])


def test_too_few_rows_borrow_and_keep_their_count() -> None:
    few = normal(50, 0.2)
    few[8:, 1] = np.nan  # eight labels of the second trait: one too few for a 90 % quantile
    found = fit(["face", "text"], rows({("text",): normal(100, 0.1), ("face", "text"): few}), low=LOW, high=HIGH)
    both = found.widths[frozenset(["face", "text"])]
    assert both.rows.tolist() == [50, 8] and both.borrowed.tolist() == [False, True]
    assert both.half[1] == half(found, "text")[1]


def test_cqr_of_too_few_persons_borrows() -> None:
    four = [f"p{n % 4}" for n in range(100)]
    found = fit(["text"], rows({("text",): normal(100, 0.1)}, four), low=LOW, high=HIGH, method="cqr")
    assert found.widths[frozenset(["text"])].borrowed.all()
    np.testing.assert_array_equal(half(found, "text"), [1, 1])


@pytest.mark.parametrize("method", ["split_conformal", "cqr"])
def test_nothing_calibrated_is_the_whole_scale(method) -> None:
    found = fit(["text"], rows({}), low=np.array([1.0, 0.0]), high=np.array([7.0, 1.0]), method=method)
    lower, upper = found.interval(np.array([[4.0, 0.9]]), np.array([[True]]))
    np.testing.assert_array_equal(lower, [[1.0, 0.0]])
    np.testing.assert_array_equal(upper, [[7.0, 1.0]])


def test_intervals_are_clipped_and_absent_rows_have_none() -> None:
    found = fit(["face", "text"], rows({("text",): np.full((20, 2), 0.2)}), low=LOW, high=HIGH)
    scores = np.array([[0.1, 0.95], [0.5, 0.5], [np.nan, np.nan]], np.float32)
    lower, upper = found.interval(scores, np.array([[False, True], [False, False], [True, True]]))
    np.testing.assert_allclose(lower[0], [0.0, 0.75], atol=1e-6)
    np.testing.assert_allclose(upper[0], [0.3, 1.0], atol=1e-6)
    assert np.isnan(lower[1:]).all() and np.isnan(upper[1:]).all()


def test_no_rows_have_no_intervals() -> None:
    found = fit(["text"], rows({}), low=LOW, high=HIGH)
    lower, upper = found.interval(np.zeros((0, 2)), np.zeros((0, 1), np.bool_))
    assert lower.shape == upper.shape == (0, 2)


@pytest.mark.parametrize("method", ["split_conformal", "cqr"])
def test_json_round_trip(method) -> None:
    labelled = rows({("text",): normal(40, 0.1), ("face",): normal(3, 0.1)})
    found = fit(STREAMS, labelled, low=LOW, high=HIGH, level=0.8, method=method)
    again = Calibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict() and again.level == 0.8 and again.method == method
    singles = [["face"], ["voice"], ["text"]]
    assert [entry["present"] for entry in found.to_dict()["sets"]][:4] == [*singles, ["face", "voice"]]
    scores, present = normal(50, 0.3) + 0.5, np.random.default_rng(0).random((50, 3)) < 0.5
    for one, other in zip(found.interval(scores, present), again.interval(scores, present), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_calibration_written_before_cqr_is_read() -> None:
    entry = {"present": ["text"], "half_width": [0.2], "rows": [40], "borrowed": [False]}
    data = {
        "method": "split_conformal",
        "level": 0.9,
        "streams": ["text"],
        "low": [0.0],
        "high": [1.0],
        "sets": [entry],
    }
    lower, upper = Calibration.from_dict(data).interval(np.array([[0.5]]), np.array([[True]]))
    assert (lower, upper) == (0.3, 0.7)


@pytest.mark.parametrize("method", ["split_conformal", "cqr"])
def test_any_order_of_rows_gives_the_same_bytes(method) -> None:
    labels, scores = heteroscedastic(300, 5)
    labelled = column(labels, scores, [f"p{n % 70}" for n in range(300)])
    written = set()
    for seed in range(8):
        order = np.random.default_rng(seed).permutation(300)
        moved = Rows(
            ids=[labelled.ids[n] for n in order],
            persons=[labelled.persons[n] for n in order],
            labels=labelled.labels[order],
            scores={key: values[order] for key, values in labelled.scores.items()},
        )
        written.add(json.dumps(fit(["text"], moved, method=method, **WIDE).to_dict()))
    assert len(written) == 1


@given(st.lists(st.floats(0, 1), min_size=9, max_size=60), st.floats(0.5, 0.9))
def test_at_least_the_level_of_the_calibration_rows_is_inside(values: list[float], level: float) -> None:
    labelled = column(np.array(values), np.zeros(len(values)))
    found = fit(["text"], labelled, low=np.zeros(1), high=np.ones(1), level=level)
    lower, upper = found.interval(np.zeros((len(values), 1)), np.ones((len(values), 1), np.bool_))
    inside = (lower <= labelled.labels) & (labelled.labels <= upper)
    assert inside.mean() >= level or found.widths[frozenset(["text"])].borrowed.all()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores from \['smell'\]; expected some of the streams \['text'\]"):
        fit(["text"], rows({("smell",): normal(9, 1)}), low=LOW, high=HIGH)
    with pytest.raises(ValueError, match=r"scores from \[\]"):
        fit(["text"], rows({(): normal(9, 1)}), low=LOW, high=HIGH)
    with pytest.raises(ValueError, match="calibration method 'guess'; this version knows split_conformal, cqr"):
        Calibration.from_dict({"method": "guess"})
