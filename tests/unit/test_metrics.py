import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from mmtraits import metrics
from mmtraits.metrics import NAMES, c_index, ccc, icc1, mae, pearson, r2, rmse, table
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
    assert math.isnan(metrics.spearman(y, FLAT)) and math.isnan(metrics.spearman(FLAT, y))
    assert c_index(y, FLAT) == 0.5 and math.isnan(c_index(FLAT, y))
    assert (
        metrics.spread(y, FLAT) == 0.0 and math.isnan(metrics.spread(FLAT, y)) and math.isnan(metrics.tail_mae(FLAT, y))
    )


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
    assert found["mean"]["undefined"] == {"one_minus_mae": 1, "pearson": 1, "spearman": 1}
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


# ---------------------------------------------------------------------------------------------------- ranks

coarse = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 6).map(float), min_size=n, max_size=n)] * 2)
)


def pairs_in_order(y: np.ndarray, p: np.ndarray) -> float:
    """C-index as it is defined, over all pairs."""
    above = y[:, None] > y[None, :]
    agreement = np.where(p[:, None] > p[None, :], 1.0, np.where(p[:, None] == p[None, :], 0.5, 0.0))
    return float(agreement[above].mean()) if above.any() else math.nan


@given(coarse)
def test_c_index_is_the_share_of_ordered_pairs(pair: tuple[list[float], list[float]]) -> None:
    y, p = map(np.array, pair)
    assert c_index(y, p) == pytest.approx(pairs_in_order(y, p), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("rows", [2, 64, 65, 129, 1000])
def test_c_index_over_any_number_of_blocks(rows: int) -> None:
    draw = np.random.default_rng(rows)
    y, p = draw.normal(size=(2, rows)).round(1)
    assert c_index(y, p) == pytest.approx(pairs_in_order(y, p), abs=1e-12)


@given(coarse)
def test_spearman_is_that_of_scipy(pair: tuple[list[float], list[float]]) -> None:
    y, p = map(np.array, pair)
    expected = math.nan if len(set(y)) < 2 or len(set(p)) < 2 else stats.spearmanr(y, p).statistic
    assert metrics.spearman(y, p) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(coarse, st.integers(0, 2**32 - 1))
def test_ranks_of_resamples_are_those_of_repeated_rows(pair: tuple[list[float], list[float]], seed: int) -> None:
    y, p = map(np.array, pair)
    draw = np.random.default_rng(seed)
    units = draw.integers(4, size=len(y))
    counts = draw.integers(4, size=(5, 4)).astype(np.float64)
    orders, concordance = (
        metric(y, p, units, counts) for metric in (metrics.resampled_spearman, metrics.resampled_c_index)
    )
    for b in range(5):
        rows = np.repeat(np.arange(len(y)), counts[b, units].astype(int))
        if len(rows):
            assert orders[b] == pytest.approx(metrics.spearman(y[rows], p[rows]), abs=1e-12, nan_ok=True)
            assert concordance[b] == pytest.approx(pairs_in_order(y[rows], p[rows]), abs=1e-12, nan_ok=True)
        else:
            assert math.isnan(orders[b]) and math.isnan(concordance[b])


# ---------------------------------------------------------------------------------------------------- other metrics


def test_spread_and_tail_by_hand() -> None:
    y, p = np.arange(11.0), np.full(11, 5.0) + np.arange(11.0) / 2
    assert metrics.spread(y, p) == pytest.approx(0.5)
    # percentiles 1 and 9: only 0 and 10 lie outside; their scores are 5 and 10
    assert metrics.tail_mae(y, p) == pytest.approx((5 + 0) / 2)


def test_skill_is_against_the_training_median() -> None:
    labels, scores, ids = random_table(3)
    median = np.array([0.4, 0.6])
    found = table(labels, scores, ids, UNIT, median=median)
    floor = table(labels, np.broadcast_to(median, labels.shape), ids, UNIT, median=median)
    for name in ("a", "b"):
        expected = 1 - found["traits"][name]["mae"] / floor["traits"][name]["mae"]
        assert found["traits"][name]["skill"] == pytest.approx(expected, abs=1e-12)
        assert floor["traits"][name]["skill"] == 0.0
    assert table(labels, scores, ids, UNIT, median=np.tile(median, (50, 1))) == found
    assert found["mean"]["skill"] == pytest.approx(np.mean([found["traits"][name]["skill"] for name in ("a", "b")]))
    assert "skill" not in table(labels, scores, ids, UNIT)["mean"]


def test_a_median_per_row_follows_its_row() -> None:
    labels, scores, ids = random_table(4)
    median = np.random.default_rng(0).uniform(size=labels.shape)
    back = slice(None, None, -1)
    assert table(labels[back], scores[back], ids[back], UNIT, median=median[back]) == table(
        labels, scores, ids, UNIT, median=median
    )


def test_skill_against_a_constant_that_is_right_or_unknown_is_undefined() -> None:
    y, p = np.array([0.5, 0.5]), np.array([0.4, 0.6])
    assert math.isnan(metrics.skill(y, p, np.array(0.5))) and math.isnan(metrics.skill(y, p, np.array(math.nan)))


@pytest.mark.parametrize("seed", range(5))
def test_binary_metrics_are_those_of_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    y, p = (draw.uniform(size=40) < 0.3).astype(float), draw.uniform(size=40)
    said = (p >= 0.5).astype(float)
    assert metrics.macro_f1(y, p) == pytest.approx(sk.f1_score(y, said, average="macro"), abs=1e-12)
    assert metrics.uar(y, p) == pytest.approx(sk.balanced_accuracy_score(y, said), abs=1e-12)
    assert metrics.uar(y, p) == pytest.approx(sk.recall_score(y, said, average="macro"), abs=1e-12)
    assert c_index(y, p) == pytest.approx(sk.roc_auc_score(y, p), abs=1e-12)


def test_a_binary_trait_that_is_always_said_low() -> None:
    y, p = np.array([0.0, 0.0, 1.0]), np.full(3, 0.2)
    assert metrics.uar(y, p) == 0.5
    assert metrics.macro_f1(y, p) == pytest.approx(sk.f1_score(y, p >= 0.5, average="macro", zero_division=0.0))


@pytest.mark.parametrize("only", [0.0, 1.0])
def test_binary_labels_of_one_class_leave_nothing_to_tell_apart(only: float) -> None:
    y, p = np.full(3, only), np.array([0.1, 0.6, 0.9])
    assert math.isnan(metrics.macro_f1(y, p)) and math.isnan(metrics.uar(y, p))


def test_means_are_over_the_traits_that_a_metric_is_for() -> None:
    mixed = schema(Trait(name="graded", low=0.0, high=1.0), Trait(name="yes", kind="binary"))
    draw = np.random.default_rng(0)
    labels, scores = draw.uniform(size=(2, 30, 2))
    labels[:, 1] = np.arange(30) < 2  # few enough to lie in the tail
    found = table(labels, scores, [str(i) for i in range(30)], mixed)
    assert found["mean"]["uar"] == found["traits"]["yes"]["uar"] and math.isnan(found["traits"]["graded"]["uar"])
    assert found["mean"]["tail_mae"] == found["traits"]["graded"]["tail_mae"]
    assert math.isnan(found["traits"]["yes"]["tail_mae"]) and found["mean"]["undefined"] == {}
    assert metrics.names(mixed) == (*NAMES, "macro_f1", "uar", "skill")


def test_names_are_of_what_applies() -> None:
    assert metrics.names(UNIT) == (*NAMES, "skill")
    assert "one_minus_mae" not in metrics.names(schema(Trait(name="free")))
    binary = metrics.names(schema(Trait(name="yes", kind="binary")))
    assert "tail_mae" not in binary and {"one_minus_mae", "macro_f1", "uar"} <= set(binary)


SMOOTH = ("one_minus_mae", "mae", "rmse", "ccc", "pearson", "r2", "spread", "skill")


@given(st.integers(0, 2**32 - 1))
def test_noise_of_batching_moves_a_metric_by_next_to_nothing(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels, scores, ids = random_table(seed, rows=200)
    moved = table(labels, scores + draw.uniform(-1e-7, 1e-7, scores.shape), ids, UNIT, median=np.full(2, 0.5))["mean"]
    still = table(labels, scores, ids, UNIT, median=np.full(2, 0.5))["mean"]
    assert all(abs(moved[name] - still[name]) <= 1e-6 for name in (*SMOOTH, "tail_mae"))


def test_ranks_move_only_where_scores_lie_closer_than_the_noise() -> None:
    draw = np.random.default_rng(0)
    labels, _, ids = random_table(0, rows=200)
    scores = draw.permuted(np.tile(np.linspace(0, 1, 200)[:, None], (1, 2)), axis=0)
    still = table(labels, scores, ids, UNIT)["mean"]
    moved = table(labels, scores + draw.uniform(-1e-7, 1e-7, scores.shape), ids, UNIT)["mean"]
    assert moved["spearman"] == still["spearman"] and moved["c_index"] == still["c_index"]


# ---------------------------------------------------------------------------------------------------- persons


def test_icc_by_hand() -> None:
    # mean 3.75, means of persons 2, 5 and 6: between (2 (1.75)^2 + 1.25^2 + 2.25^2) / 2, within (1 + 1) / 1
    between, within, size = 6.375, 2.0, (4 - 6 / 4) / 2
    found = icc1(np.array([1.0, 3.0, 5.0, 6.0]), ["a", "a", "b", "c"])
    assert found == pytest.approx((between - within) / (between + (size - 1) * within))


def test_icc_of_the_table_of_shrout_and_fleiss() -> None:
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], np.float64
    )
    assert icc1(ratings.ravel(), [f"t{i}" for i in range(6) for _ in range(4)]) == pytest.approx(0.17, abs=0.005)


def test_icc_finds_the_share_of_persons_in_the_variance() -> None:
    draw = np.random.default_rng(0)
    persons = draw.integers(2000, size=6000)
    values = 0.7**0.5 * draw.normal(size=2000)[persons] + 0.3**0.5 * draw.normal(size=6000)
    assert icc1(values, [str(p) for p in persons]) == pytest.approx(0.7, abs=0.03)


def test_icc_needs_a_person_with_two_values_and_another_person() -> None:
    assert math.isnan(icc1(np.array([1.0, 2.0]), ["a", "b"])) and math.isnan(icc1(np.array([1.0, 2.0]), ["a", "a"]))
    assert math.isnan(icc1(np.array([1.0, 1.0, 1.0]), ["a", "a", "b"]))
    assert math.isnan(icc1(np.array([1.0, math.nan, 2.0]), ["a", "a", "b"])) and math.isnan(icc1(np.array([]), []))


def test_icc_leaves_unknown_values_out() -> None:
    values, persons = np.array([1.0, 2.0, 4.0, 5.0]), ["a", "a", "b", "b"]
    assert icc1(np.append(values, math.nan), [*persons, "b"]) == icc1(values, persons)


@given(st.permutations(range(12)))
def test_the_order_of_rows_changes_no_bit_of_an_icc(order: list[int]) -> None:
    labels, _, _ = random_table(5, rows=12)
    persons = [f"p{i % 4}" for i in range(12)]
    assert icc1(labels[:, 0], persons) == icc1(labels[order, 0], [persons[i] for i in order])
