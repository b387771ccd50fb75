import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtraits import metrics
from mmtraits.evaluation import bootstrap
from mmtraits.evaluation.bootstrap import Judgement, holm, judge, person_counts
from mmtraits.evaluation.contents import Difference, Estimate
from mmtraits.schema import Trait, TraitSchema


def schema(*traits: Trait) -> TraitSchema:
    return TraitSchema(name="s", traits=traits, construct="apparent", judged_by="us")


def many(traits: int) -> TraitSchema:
    return schema(*(Trait(name=f"t{k}", low=0.0, high=1.0) for k in range(traits)))


MIXED = schema(Trait(name="wide", low=1.0, high=7.0), Trait(name="yes", kind="binary"), Trait(name="free"))


class Corpus:
    """Persons with one to five clips, effects of persons on labels and on errors; what a judge is given."""

    def __init__(self, seed: int, persons: int = 40, traits: int = 2) -> None:
        self.draw = np.random.default_rng(seed)
        self.schema = many(traits)
        self.of = np.repeat(np.arange(persons), self.draw.integers(1, 6, persons))
        self.rows, self.traits = len(self.of), traits
        self.labels = 0.5 + 0.1 * self.by_person() + 0.1 * self.noise()
        self.ids = [f"clip{i}" for i in range(self.rows)]
        self.persons = [f"p{i}" for i in self.of]
        self.median = np.full(traits, 0.5)

    def noise(self) -> np.ndarray:
        return self.draw.normal(size=(self.rows, self.traits))

    def by_person(self) -> np.ndarray:
        return self.draw.normal(size=(self.of[-1] + 1, self.traits))[self.of]

    def scores(self, error: float = 0.1) -> np.ndarray:
        """Half of the label, an error of the person and one of the clip."""
        return 0.25 + 0.5 * self.labels + error * (0.7 * self.by_person() + 0.7 * self.noise())

    def judge(self, systems: dict[str, np.ndarray], **options) -> Judgement:
        given = {"median": self.median, "model": next(iter(systems)), "resamples": 200, "rank_resamples": 50, **options}
        return judge(systems, self.labels, self.ids, self.persons, self.schema, **given)


def mixed_corpus(seed: int) -> tuple[Corpus, dict[str, np.ndarray]]:
    """Three kinds of traits, unknown labels, failed rows that differ between systems."""
    corpus = Corpus(seed, traits=3)
    corpus.schema, corpus.median = MIXED, np.array([4.0, 0.0, 0.5])
    corpus.labels[:, 0] = np.clip(1 + 6 * corpus.labels[:, 0], 1, 7)
    corpus.labels[:, 1] = corpus.labels[:, 1] > 0.5
    systems = {"model": corpus.scores(), "other": corpus.scores(0.2), "flat": np.full(corpus.labels.shape, 0.5)}
    systems["model"][:, 0] = 1 + 6 * systems["model"][:, 0]
    corpus.labels[::7, 0] = np.nan
    corpus.labels[::11, 2] = np.nan
    systems["model"][3::13] = np.nan
    systems["other"][5::9] = np.nan
    return corpus, systems


def covers(estimate: Estimate | Difference, truth: float) -> bool:
    return estimate.lower <= truth <= estimate.upper


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_the_table(seed: int) -> None:
    corpus, systems = mixed_corpus(seed)
    found = corpus.judge(systems, ranks_of=["model"])
    for name, scores in systems.items():
        expected = metrics.table(corpus.labels, scores, corpus.ids, MIXED, median=corpus.median)
        table = found.tables[name]
        assert set(table.mean) == set(metrics.names(MIXED)) and table.undefined == expected["mean"]["undefined"]
        for trait, row in table.traits.items():
            assert (row.n, row.unscored) == (expected["traits"][trait]["n"], expected["traits"][trait]["unscored"])
        for metric in table.mean:
            for estimates, values in [(table.mean, expected["mean"])] + [
                (table.traits[trait].metrics, expected["traits"][trait]) for trait in table.traits
            ]:
                value = estimates[metric].value
                assert (math.nan if value is None else value) == pytest.approx(
                    values[metric], rel=0, abs=0, nan_ok=True
                )


@pytest.mark.parametrize("seed", range(3))
def test_comparisons_are_of_the_rows_that_both_scored(seed: int) -> None:
    corpus, systems = mixed_corpus(seed)
    found = corpus.judge(systems)
    assert [(one.system, one.metric) for one in found.comparisons] == [
        (name, metric) for name in ("other", "flat") for metric in ("mae", "ccc")
    ]
    for one in found.comparisons:
        both = np.isfinite(systems["model"]) & np.isfinite(systems[one.system])
        labels = np.where(both, corpus.labels, np.nan)
        own, its = (metrics.table(labels, systems[name], corpus.ids, MIXED) for name in ("model", one.system))
        for trait, difference in one.traits.items():
            assert difference.value == own["traits"][trait][one.metric] - its["traits"][trait][one.metric]
        assert one.mean.value == pytest.approx(own["mean"][one.metric] - its["mean"][one.metric], abs=1e-12)
        assert one.mean.p_holm is None


def resampled_tables(corpus: Corpus, scores: np.ndarray, resamples: int) -> list[dict]:
    """`metrics.table` of rows that are really repeated, for the counts that a judge draws."""
    persons, units = np.unique(corpus.persons, return_inverse=True)
    found = []
    for counts in np.concatenate([*person_counts(len(persons), resamples, seed=0)]).astype(int):
        rows = np.repeat(np.arange(corpus.rows), counts[units])
        ids = [str(i) for i in range(len(rows))]
        found.append(metrics.table(corpus.labels[rows], scores[rows], ids, corpus.schema, median=corpus.median))
    return found


def assert_interval(estimate: Estimate | Difference, draws: list[float]) -> None:
    known = np.array(draws)[np.isfinite(draws)]
    if estimate.value is None or len(known) < len(draws) / 2:
        assert estimate.lower is None and estimate.upper is None
    else:
        assert (estimate.lower, estimate.upper) == pytest.approx(
            tuple(np.quantile(known, [0.025, 0.975], method="weibull")), abs=1e-11
        )


@pytest.mark.parametrize("seed", range(2))
def test_intervals_are_quantiles_of_tables_of_repeated_rows(seed: int) -> None:
    corpus, systems = mixed_corpus(seed)
    found = corpus.judge(systems, ranks_of=systems, resamples=80, rank_resamples=80)
    for name, scores in systems.items():
        draws = resampled_tables(corpus, scores, 80)
        for metric in set(found.tables[name].mean) - {"tail_mae"}:  # its thresholds are not those of the resample
            for trait, row in found.tables[name].traits.items():
                assert_interval(row.metrics[metric], [draw["traits"][trait][metric] for draw in draws])
            assert_interval(found.tables[name].mean[metric], [draw["mean"][metric] for draw in draws])


def test_resamples_that_draw_one_value_only_are_undefined() -> None:
    """Two persons of forty differ from the others: 13 % of resamples have neither, and no variance but rounding."""
    corpus = Corpus(0)
    corpus.schema = schema(Trait(name="label", low=0.0, high=1.0), Trait(name="score", low=0.0, high=1.0))
    few = np.where(corpus.of < 2, 0.7, 0.1)
    corpus.labels[:, 0] = few
    scores = corpus.scores()
    scores[:, 1] = few
    found = corpus.judge({"m": scores}, ranks_of=["m"], resamples=200, rank_resamples=200).tables["m"]
    draws = resampled_tables(corpus, scores, 200)
    assert 10 < sum(math.isnan(draw["traits"]["label"]["ccc"]) for draw in draws) < 50
    for metric in set(found.mean) - {"tail_mae"}:
        for trait, row in found.traits.items():
            assert_interval(row.metrics[metric], [draw["traits"][trait][metric] for draw in draws])


def test_tails_are_those_of_the_evaluated_labels() -> None:
    corpus = Corpus(0, traits=1)
    scores = corpus.scores()
    tail = metrics.in_tail(corpus.labels[:, 0])
    errors = np.abs(corpus.labels - scores)[tail, 0]
    persons, units = np.unique(corpus.persons, return_inverse=True)
    counts = np.concatenate([*person_counts(len(persons), 100, seed=0)])[:, units[tail]]
    found = corpus.judge({"model": scores}, resamples=100).tables["model"].mean["tail_mae"]
    assert found.value == pytest.approx(errors.mean())
    assert_interval(found, list(counts @ errors / counts.sum(axis=1)))


def test_differences_are_paired() -> None:
    corpus, systems = mixed_corpus(0)
    both = np.isfinite(systems["model"]) & np.isfinite(systems["other"])
    corpus.labels[~both] = np.nan
    drawn = [resampled_tables(corpus, systems[name], 80) for name in ("model", "other")]
    for one in corpus.judge(systems, resamples=80).comparisons[:2]:
        for trait, difference in one.traits.items():
            draws = np.array(
                [a["traits"][trait][one.metric] - b["traits"][trait][one.metric] for a, b in zip(*drawn, strict=True)]
            )
            assert_interval(difference, list(draws))
            assert difference.p == pytest.approx(min(1, 2 * (1 + min(sum(draws <= 0), sum(draws >= 0))) / 81))
        assert_interval(one.mean, [a["mean"][one.metric] - b["mean"][one.metric] for a, b in zip(*drawn, strict=True)])
        assert [row.p_holm for row in one.traits.values()] == holm([row.p for row in one.traits.values()])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.4]) == [0.8, None, 0.8]
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


# ---------------------------------------------------------------------------------------------------- order and size


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_byte(random) -> None:
    corpus, systems = mixed_corpus(0)
    median = np.broadcast_to(corpus.median, corpus.labels.shape) + corpus.draw.uniform(size=(corpus.rows, 1))
    order = list(range(corpus.rows))
    random.shuffle(order)
    first, then = (
        judge(
            {name: scores[rows] for name, scores in systems.items()}, corpus.labels[rows],
            [corpus.ids[row] for row in rows], [corpus.persons[row] for row in rows], MIXED,
            median=median[rows], model="model", ranks_of=["model", "flat"], resamples=60, rank_resamples=20,
        )
        for rows in (list(range(corpus.rows)), order)
    )  # fmt: skip
    assert first.model_dump_json() == then.model_dump_json()


def test_noise_of_batching_moves_no_bound_by_more_than_a_millionth() -> None:
    corpus = Corpus(0, persons=150)
    scores = corpus.scores()
    moved = scores + corpus.draw.uniform(-1e-7, 1e-7, scores.shape)
    still, other = (corpus.judge({"model": some}, resamples=500).tables["model"].mean for some in (scores, moved))
    for name in set(still) - {"spearman", "c_index"}:
        for bound in ("value", "lower", "upper"):
            assert abs(getattr(still[name], bound) - getattr(other[name], bound)) <= 1e-6, (name, bound)


def test_resamples_do_not_depend_on_how_they_are_cut() -> None:
    whole = np.concatenate([*person_counts(7, 100, seed=3)])
    assert whole.shape == (100, 7) and (whole.sum(axis=1) == 7).all()
    for width in (bootstrap.BLOCK, bootstrap.BLOCK // 3, bootstrap.BLOCK // 41):
        pieces = [*person_counts(7, 100, seed=3, width=width)]
        assert len(pieces) > 1 and np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(np.concatenate([*person_counts(7, 30, seed=3)]), whole[:30])


def test_persons_are_drawn_as_by_a_multinomial() -> None:
    counts = np.concatenate([*person_counts(50, 20_000, seed=0)])
    assert counts.mean(axis=0) == pytest.approx(1, abs=0.03)
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.01)
    assert np.cov(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / 50, abs=0.03)


def test_the_seed_counts() -> None:
    corpus = Corpus(0)
    scores = corpus.scores()
    same, again, other = (corpus.judge({"m": scores}, seed=seed).tables["m"].mean["mae"] for seed in (0, 0, 1))
    assert same == again and same.value == other.value and same.lower != other.lower


@pytest.mark.parametrize("shift", [1e5, -1e5])
def test_a_scale_far_from_zero_cancels_nothing(shift: float) -> None:
    corpus = Corpus(0)
    scores = corpus.scores()
    near = corpus.judge({"m": scores}).tables["m"].mean
    corpus.labels, corpus.median = corpus.labels + shift, corpus.median + shift
    far = corpus.judge({"m": scores + shift}).tables["m"].mean
    for name, estimate in near.items():
        assert (far[name].lower, far[name].upper) == pytest.approx((estimate.lower, estimate.upper), abs=1e-8), name


# ---------------------------------------------------------------------------------------------------- simulation


def simulated(corpora: int) -> tuple[Corpus, np.ndarray, dict[str, float]]:
    """Corpora of 150 persons with one to five clips, as traits of one schema; scores, and the truth by formula."""
    corpus = Corpus(1, persons=150, traits=corpora)
    corpus.labels = corpus.by_person() + corpus.noise()
    scores = 0.5 * corpus.labels + 0.3 + 0.6 * corpus.by_person() + 0.3 * corpus.noise()
    own, bias = 0.6**2 + 0.3**2, 0.3
    labels, scored, shared = 2.0, 0.25 * 2 + own, 0.5 * 2  # variances and covariance
    error = 0.25 * 2 + own
    cdf = math.erf(bias / math.sqrt(2 * error)) / 2
    truth = {
        "mae": math.sqrt(2 * error / math.pi) * math.exp(-(bias**2) / (2 * error)) + 2 * bias * cdf,
        "ccc": 2 * shared / (labels + scored + bias**2),
        "pearson": shared / math.sqrt(labels * scored),
        "r2": 1 - (error + bias**2) / labels,
    }
    return corpus, scores, truth


def coverage(found: Judgement, metric: str, truth: float) -> float:
    return float(np.mean([covers(row.metrics[metric], truth) for row in found.tables["m"].traits.values()]))


def test_intervals_cover_the_truth() -> None:
    corpus, scores, truth = simulated(2500)
    found = corpus.judge({"m": scores}, resamples=300)
    for metric, value in truth.items():
        assert coverage(found, metric, value) == pytest.approx(0.95, abs=0.02), metric


def test_intervals_of_means_over_traits_cover_the_truth() -> None:
    """Traits that share their errors: averaging the bounds would do, taking traits for independent would not."""
    hits = []
    for seed in range(1000):
        corpus = Corpus(seed, persons=150, traits=2)
        error = 0.6 * (corpus.by_person()[:, :1] + corpus.noise()[:, :1]) / math.sqrt(2)
        found = corpus.judge({"m": corpus.labels + error})
        hits.append(covers(found.tables["m"].mean["mae"], 0.6 * math.sqrt(2 / math.pi)))
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_rows_instead_of_persons_would_be_too_sure() -> None:
    corpus, scores, truth = simulated(500)
    corpus.persons = corpus.ids
    found = corpus.judge({"m": scores}, resamples=300)
    assert coverage(found, "mae", truth["mae"]) < 0.91 and coverage(found, "ccc", truth["ccc"]) < 0.91


def test_equal_systems_are_told_apart_as_rarely_as_the_level_says() -> None:
    corpus = Corpus(2, persons=150, traits=600)
    found = corpus.judge({"model": corpus.scores(), "other": corpus.scores()}, resamples=400)
    for one in found.comparisons:
        rows = list(one.traits.values())
        assert np.mean([row.p <= 0.05 for row in rows]) == pytest.approx(0.05, abs=0.025)
        assert np.mean([covers(row, 0.0) for row in rows]) == pytest.approx(0.95, abs=0.025)
        assert not any(row.p_holm <= 0.05 for row in rows)


def test_a_planted_difference_is_found() -> None:
    corpus = Corpus(3, persons=150, traits=5)
    better, worse = corpus.scores(0.10), corpus.scores(0.10)
    worse[:, 2] = corpus.scores(0.2)[:, 2]
    mae, ccc = corpus.judge({"model": better, "other": worse}, resamples=2000).comparisons
    assert mae.traits["t2"].upper < 0 < ccc.traits["t2"].lower
    assert mae.traits["t2"].p_holm == pytest.approx(5 * 2 / 2001) and ccc.traits["t2"].p_holm < 0.05
    assert all(mae.traits[name].p_holm > 0.05 for name in ("t0", "t1", "t3", "t4"))
    assert mae.mean.upper < 0


def test_pairing_finds_what_two_intervals_hide() -> None:
    corpus = Corpus(4, persons=60, traits=1)
    scores = corpus.scores(0.2)
    found = corpus.judge({"model": scores, "other": corpus.labels + 1.05 * (scores - corpus.labels)}, resamples=1000)
    own, its = (found.tables[name].mean["mae"] for name in ("model", "other"))
    assert own.upper > its.lower and found.comparisons[0].mean.upper < 0


def test_constants_that_fail_on_different_rows_are_not_taken_for_one() -> None:
    corpus = Corpus(6)
    first, second = np.full((2, *corpus.labels.shape), 0.5)
    first[:20], second[-20:] = np.nan, np.nan
    found = corpus.judge({"first": first, "second": second}).tables["second"]
    assert found == corpus.judge({"second": second}).tables["second"]


def test_systems_that_say_the_same_differ_by_nothing() -> None:
    corpus = Corpus(5)
    scores = corpus.scores()
    for one in corpus.judge({"model": scores, "copy": scores.copy()}).comparisons:
        for row in (*one.traits.values(), one.mean):
            assert (row.value, row.lower, row.upper, row.p) == (0.0, 0.0, 0.0, 1.0)


# ---------------------------------------------------------------------------------------------------- undefined


def test_one_person_has_no_interval() -> None:
    corpus = Corpus(0)
    corpus.persons = ["same"] * corpus.rows
    found = corpus.judge({"model": corpus.scores(), "other": corpus.scores()}, ranks_of=["model"])
    for table in found.tables.values():
        for estimate in table.mean.values():
            assert estimate.value is not None and estimate.lower is None and estimate.upper is None
    for one in found.comparisons:
        assert one.mean.value is not None and one.mean.lower is None and one.mean.p is None
        assert [row.p_holm for row in one.traits.values()] == [None, None]


def test_a_trait_that_one_person_has_spoils_the_interval_of_the_mean() -> None:
    corpus = Corpus(0)
    corpus.labels[np.array(corpus.persons) != "p1", 0] = np.nan
    table = corpus.judge({"model": corpus.scores()}, ranks_of=["model"]).tables["model"]
    for metric in ("mae", "spearman", "c_index", "tail_mae"):
        assert table.traits["t0"].metrics[metric].lower is None and table.mean[metric].lower is None
        assert table.traits["t1"].metrics[metric].lower is not None


@pytest.mark.parametrize("constant", [0.1, 0.3, 0.55])  # the mean of many 0.3 is not 0.3
def test_constant_scores_have_no_correlation_and_it_is_counted(constant: float) -> None:
    corpus = Corpus(0)
    table = corpus.judge({"model": np.full(corpus.labels.shape, constant)}, ranks_of=["model"]).tables["model"]
    for estimate in (table.mean["pearson"], table.traits["t0"].metrics["spearman"]):
        assert (estimate.value, estimate.lower, estimate.upper) == (None, None, None)
    assert table.undefined == {"pearson": 2, "spearman": 2}
    for metric, value in (("ccc", 0.0), ("spread", 0.0), ("c_index", 0.5)):
        assert (table.mean[metric].lower, table.mean[metric].value, table.mean[metric].upper) == (value,) * 3


def test_constant_labels_leave_errors_only() -> None:
    corpus = Corpus(0, traits=1)
    corpus.labels[:] = 0.3
    table = corpus.judge({"model": corpus.scores()}, ranks_of=["model"]).tables["model"]
    assert {name for name, one in table.mean.items() if one.value is None} == {
        "ccc", "pearson", "spearman", "c_index", "r2", "spread", "tail_mae",
    }  # fmt: skip
    assert table.mean["mae"].lower is not None and table.mean["ccc"].lower is None


@pytest.mark.parametrize(("high", "known"), [(1, False), (3, True)])
def test_what_most_resamples_lack_has_no_interval(high: int, known: bool) -> None:
    """Of 20 persons one is high: 36 % of resamples have none. Three: 4 %. With a second rarity over half lack one."""
    rows = 20
    labels = np.zeros((rows, 2))
    labels[:high, 0] = 1
    labels[rows - high :, 1] = 1
    names = [f"c{i:02d}" for i in range(rows)]
    two = schema(Trait(name="a", kind="binary"), Trait(name="b", kind="binary"))
    scores = np.random.default_rng(0).uniform(size=(rows, 2))
    found = judge({"m": scores}, labels, names, names, two, median=None, model="m", resamples=400).tables["m"]
    assert found.traits["a"].metrics["uar"].lower is not None
    assert found.mean["uar"].value is not None and (found.mean["uar"].lower is not None) == known


def test_a_system_that_failed_everywhere() -> None:
    corpus = Corpus(0)
    found = corpus.judge({"model": corpus.scores(), "none": np.full(corpus.labels.shape, np.nan)}, ranks_of=["none"])
    assert found.tables["none"].mean["mae"] == Estimate(value=None)
    assert found.tables["none"].undefined["mae"] == 2
    assert found.comparisons[0].mean == Difference(value=None, lower=None, upper=None, p=None)
    assert found.tables["model"].mean["mae"].lower is not None


def test_a_trait_without_labels_is_in_no_mean() -> None:
    corpus = Corpus(0)
    corpus.labels[:, 1] = np.nan
    found = corpus.judge({"model": corpus.scores(), "other": corpus.scores()}, ranks_of=["model"])
    table = found.tables["model"]
    assert table.traits["t1"].n == 0 and table.traits["t1"].metrics["mae"] == Estimate(value=None)
    assert table.mean == table.traits["t0"].metrics
    one = found.comparisons[0]
    assert one.traits["t1"].p_holm is None and one.traits["t0"].p_holm == one.traits["t0"].p == one.mean.p


def test_no_labels_and_no_rows() -> None:
    empty = judge(
        {"m": np.zeros((0, 2)), "o": np.zeros((0, 2))}, np.zeros((0, 2)), [], [], many(2), median=None, model="m"
    )
    assert empty.tables["m"].mean["mae"] == Estimate(value=None) and empty.comparisons[0].mean.value is None
    corpus = Corpus(0)
    corpus.labels[:] = np.nan
    found = corpus.judge({"m": corpus.scores(), "o": corpus.scores()}, ranks_of=["m"])
    assert found.tables["m"].mean["mae"] == Estimate(value=None) and found.comparisons[1].mean.value is None


def test_no_median_no_skill() -> None:
    corpus = Corpus(0)
    scores = corpus.scores()
    assert "skill" not in corpus.judge({"m": scores}, median=None).tables["m"].mean
    floor = corpus.judge({"m": np.broadcast_to(corpus.median, scores.shape)}).tables["m"].mean["skill"]
    assert (floor.value, floor.lower, floor.upper) == (0.0, 0.0, 0.0)


def test_ranks_have_intervals_where_asked_for() -> None:
    corpus = Corpus(0)
    systems = {"model": corpus.scores(), "other": corpus.scores()}
    found = corpus.judge(systems, ranks_of=["model"], rank_resamples=30)
    assert covers(found.tables["model"].mean["c_index"], found.tables["model"].mean["c_index"].value)
    assert found.tables["other"].mean["c_index"].value is not None
    assert found.tables["other"].mean["c_index"].lower is None
    shorter = corpus.judge(systems, ranks_of=["model"], resamples=30, rank_resamples=30)
    assert shorter.tables["model"].mean["spearman"] == found.tables["model"].mean["spearman"]
    none = corpus.judge(systems, ranks_of=["model"], resamples=0, rank_resamples=0)
    assert none.tables["model"].mean["spearman"].lower is None and none.comparisons[0].mean.p is None


# ---------------------------------------------------------------------------------------------------- errors


def test_wrong_input_is_refused() -> None:
    y, ids = np.zeros((3, 1)), ["a", "b", "c"]
    with pytest.raises(
        ValueError, match=r"scores of m \(2, 1\), 3 persons; expected \(N, K\) = \(3, 1\) and N persons"
    ):
        judge({"m": y[:2]}, y, ids, ids, many(1), median=None, model="m")
    with pytest.raises(ValueError, match=r"2 persons; expected .* N persons"):
        judge({"m": y}, y, ids, ids[:2], many(1), median=None, model="m")
    with pytest.raises(ValueError, match="3 ids, 2 of them different; expected each once"):
        judge({"m": y}, y, ["a", "b", "a"], ids, many(1), median=None, model="m")
    with pytest.raises(ValueError, match="no system n, o; expected some of m"):
        judge({"m": y}, y, ids, ids, many(1), median=None, model="n", ranks_of=["m", "o"])
