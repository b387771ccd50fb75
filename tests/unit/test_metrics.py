import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from mmtraits.metrics import NAMES, ccc, mae, pearson, r2, rmse, table
from mmtraits.schema import Trait, TraitSchema

FLAT = np.full(4, 0.3)


def schema(*traits: Trait) -> TraitSchema:
    return TraitSchema(name="s", traits=traits, construct="apparent", judged_by="us")


UNIT = schema(Trait(name="a", low=0.0, high=1.0), Trait(name="b", low=0.0, high=1.0))


def random_table(seed: int, rows: int = 50) -> tuple[np.ndarray, np.ndarray, list[str]]:
    draw = np.random.default_rng(seed)
    labels = draw.uniform(size=(rows, 2))
    return labels, 0.5 * labels + 0.5 * draw.uniform(size=(rows, 2)), [f"clip{i}" for i in range(rows)]


def test_by_hand() -> None:
    y, p = np.array([0.0, 0.5, 1.0]), np.array([0.25, 0.5, 0.5])
    assert mae(y, p) == pytest.approx(0.25)
    assert rmse(y, p) == pytest.approx(math.sqrt(0.3125 / 3))
    # sums of squares 1/2 and 1/24, of products 1/8; the means differ by 1/12
    assert ccc(y, p) == pytest.approx(2 * (0.125 / 3) / (0.5 / 3 + (1 / 24) / 3 + (1 / 12) ** 2))
    assert pearson(y, p) == pytest.approx(0.125 / math.sqrt(0.5 * (1 / 24)))
    assert r2(y, p) == pytest.approx(1 - 0.3125 / 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_and_scipy(seed: int) -> None:
    labels, scores, _ = random_table(seed)
    y, p = labels[:, 0], scores[:, 0]
    assert mae(y, p) == pytest.approx(sk.mean_absolute_error(y, p), abs=1e-12)
    assert rmse(y, p) == pytest.approx(sk.root_mean_squared_error(y, p), abs=1e-12)
    assert r2(y, p) == pytest.approx(sk.r2_score(y, p), abs=1e-12)
    assert pearson(y, p) == pytest.approx(stats.pearsonr(y, p).statistic, abs=1e-12)
    spread = 2 * pearson(y, p) * y.std() * p.std() / (y.var() + p.var() + (y.mean() - p.mean()) ** 2)
    assert ccc(y, p) == pytest.approx(spread, abs=1e-12)


vectors = st.lists(st.floats(-100, 100).map(lambda value: round(value, 6)), min_size=2, max_size=30)


@given(vectors.filter(lambda values: len(set(values)) > 1))
def test_a_vector_agrees_with_itself(values: list[float]) -> None:
    x = np.array(values)
    assert ccc(x, x) == pytest.approx(1.0)
    assert pearson(x, x) == pytest.approx(1.0)
    assert r2(x, x) == 1.0 and mae(x, x) == 0.0


@given(
    vectors.flatmap(lambda a: st.tuples(st.just(a), st.lists(st.floats(-100, 100), min_size=len(a), max_size=len(a))))
)
def test_concordance_is_at_most_the_correlation(pair: tuple[list[float], list[float]]) -> None:
    y, p = map(np.array, pair)
    if not math.isnan(pearson(y, p)):
        assert abs(ccc(y, p)) <= abs(pearson(y, p)) + 1e-9 <= 1 + 1e-9


def test_constants_are_undefined_and_never_a_good_value() -> None:
    y = np.array([0.1, 0.2, 0.3, 0.4])
    assert math.isnan(pearson(y, FLAT)) and ccc(y, FLAT) == 0.0 and r2(y, FLAT) < 0
    assert math.isnan(pearson(FLAT, y)) and math.isnan(ccc(FLAT, y)) and math.isnan(r2(FLAT, y))
    assert math.isnan(ccc(FLAT, FLAT))


def test_the_order_of_rows_changes_no_byte() -> None:
    labels, scores, ids = random_table(0, rows=997)
    labels[::7, 0] = np.nan
    first = json.dumps(table(labels, scores, ids, UNIT))
    for seed in range(5):
        order = list(range(len(ids)))
        random.Random(seed).shuffle(order)
        assert json.dumps(table(labels[order], scores[order], [ids[i] for i in order], UNIT)) == first


def test_unknown_labels_are_masked_and_failed_clips_are_counted() -> None:
    labels, scores, ids = random_table(1)
    labels[:10, 0] = np.nan
    scores[5:15] = np.nan
    found = table(labels, scores, ids, UNIT)["traits"]
    assert (found["a"]["n"], found["a"]["unscored"]) == (35, 5)
    assert (found["b"]["n"], found["b"]["unscored"]) == (40, 10)
    assert found["a"]["mae"] == pytest.approx(mae(labels[15:, 0], scores[15:, 0]))


def test_the_unit_scale_comes_from_the_bounds() -> None:
    labels = np.array([[1.0, 0.0, 5.0], [7.0, 1.0, 9.0]])
    scores = np.array([[2.5, 0.5, 5.0], [5.5, 0.5, 8.0]])
    wide = schema(Trait(name="wide", low=1.0, high=7.0), Trait(name="binary", kind="binary"), Trait(name="free"))
    found = table(labels, scores, ["x", "y"], wide)
    assert found["traits"]["wide"]["one_minus_mae"] == pytest.approx(0.75)
    assert found["traits"]["wide"]["mae"] == pytest.approx(1.5)
    assert found["traits"]["binary"]["one_minus_mae"] == pytest.approx(0.5)
    assert math.isnan(found["traits"]["free"]["one_minus_mae"])
    assert found["mean"]["undefined"] == {"one_minus_mae": 1, "pearson": 1}
    assert math.isnan(found["mean"]["one_minus_mae"])
    assert found["mean"]["mae"] == pytest.approx((1.5 + 0.5 + 0.5) / 3)


def test_a_trait_without_labels_is_not_in_the_mean() -> None:
    labels, scores, ids = random_table(2)
    labels[:, 1] = np.nan
    found = table(labels, scores, ids, UNIT)
    assert all(math.isnan(found["traits"]["b"][name]) for name in NAMES)
    assert found["mean"]["ccc"] == found["traits"]["a"]["ccc"] and found["mean"]["undefined"] == {}


def test_a_trait_whose_clips_all_failed_spoils_the_mean() -> None:
    labels, scores, ids = random_table(2)
    scores[:, 1] = np.nan
    found = table(labels, scores, ids, UNIT)
    assert math.isnan(found["mean"]["mae"]) and found["mean"]["undefined"]["mae"] == 1


def test_no_rows_at_all() -> None:
    found = table(np.zeros((0, 2)), np.zeros((0, 2)), [], UNIT)
    assert found["traits"]["a"]["n"] == 0 and math.isnan(found["mean"]["mae"])


def test_shapes_must_agree() -> None:
    with pytest.raises(
        ValueError, match=r"labels \(3, 2\), scores \(2, 2\), 3 ids, 2 traits; expected \(N, K\) for all"
    ):
        table(np.zeros((3, 2)), np.zeros((2, 2)), ["a", "b", "c"], UNIT)
