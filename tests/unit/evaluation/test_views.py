from __future__ import annotations

import evaluations
import pytest

from mmtraits.evaluation import views
from mmtraits.evaluation.contents import Difference, Estimate, Group, Leakage, Row, RowSet, System, Table


def system(name: str, kind: str = "floor", **means: float | None) -> System:
    mean = {metric: Estimate(value=value) for metric, value in means.items()}
    return System(name=name, kind=kind, about="", table=Table(traits={}, mean=mean))


def rows(*systems: System) -> RowSet:
    return RowSet(name="all", clips=3, persons=2, units=3, systems=list(systems))


def difference(value, lower, upper, p=0.001, p_holm=0.001) -> Difference:
    return Difference(value=value, lower=lower, upper=upper, p=p, p_holm=p_holm)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.12345, 3, "0.123"), (0.12345, 4, "0.1235"), (-0.5, 2, "−0.50"), (-0.0001, 3, "0.000"), (0.0, 1, "0.0"),
        (None, 3, "–"), (float("nan"), 3, "–"), (float("inf"), 3, "–"), (1781, 0, "1781"),
    ],
)  # fmt: skip
def test_numbers(value, digits, text):
    assert views.number(value, digits) == text


@pytest.mark.parametrize(("p", "text"), [(0.0001, "< 0.001"), (0.0, "< 0.001"), (0.0434, "0.043"), (None, "–")])
def test_p_values(p, text):
    assert views.p_value(p) == text


def test_metrics_come_in_one_order_and_none_is_lost():
    assert views.columns_of({"r2": 1, "of_tomorrow": 2}, {"mae": 3, "r2": 4}) == ["mae", "r2", "of_tomorrow"]
    assert views.columns_of({"r2": 1, "mae": 2}, among=("ccc", "r2")) == ["r2"]


def test_best_floor_by_the_direction_of_the_metric():
    found = rows(
        system("model", "model", mae=0.01, ccc=0.9, spread=1.0),
        system("training mean", mae=0.3, ccc=0.0, spread=0.0),
        system("look-up", mae=0.2, ccc=-0.1, spread=0.9),
        system("undefined", mae=None, ccc=None),
        system("text", "streams", mae=0.1, ccc=0.5),
    )
    assert views.best_floor(found, "mae").name == "look-up"
    assert views.best_floor(found, "ccc").name == "training mean"
    assert views.best_floor(found, "spread") is None  # neither high nor low is better
    assert views.best_floor(found, "pearson") is None
    assert views.floor_named(found).table.mean["mae"].value == 0.3
    assert views.floor_named(rows(system("training mean", "model"))) is None


@pytest.mark.parametrize(
    ("metric", "found", "says"),
    [
        ("mae", difference(-0.1, -0.2, -0.05), "better"),
        ("mae", difference(0.1, 0.05, 0.2), "worse"),
        ("ccc", difference(0.1, 0.05, 0.2), "better"),
        ("ccc", difference(-0.1, -0.2, -0.05), "worse"),
        ("ccc", difference(0.1, -0.05, 0.2), "unclear"),
        ("ccc", difference(0.1, 0.05, 0.2, p_holm=0.2), "unclear"),
        ("ccc", difference(None, None, None, None, None), "unclear"),
        ("ccc", difference(0.1, None, None), "unclear"),
    ],
)
def test_verdict(metric, found, says):
    assert views.verdict(metric, found, holm=True) == says


def test_verdict_on_the_mean_takes_p_uncorrected():
    assert views.verdict("ccc", difference(0.1, 0.05, 0.2, p=0.01, p_holm=None), holm=False) == "better"
    assert views.verdict("ccc", difference(0.1, 0.05, 0.2, p=0.5, p_holm=0.001), holm=False) == "unclear"


def test_units_of_a_table():
    table = Table(traits={"a": Row(metrics={}, n=9), "b": Row(metrics={}, n=12)}, mean={})
    assert views.units(table) == "9–12"
    assert views.units(Table(traits={"a": Row(metrics={}, n=9)}, mean={})) == "9"
    assert views.units(Table(traits={}, mean={})) == "0"


def test_names_of_groups():
    def named(**values):
        return views.group_name(Group(values=values, clips=1, units=1, suppressed=True))

    assert named(gender="2") == "2"
    assert named(gender="2", age="18-29") == "gender = 2 · age = 18-29"


def test_nested_data_become_lines():
    data = {"data": {"sha": "ab", "rows": 3}, "seeds": [0, 1], "device": None}
    assert views.flat(data) == [("data.sha", "ab"), ("data.rows", "3"), ("seeds", "0, 1"), ("device", "–")]


def test_findings_by_level_keep_their_order():
    found = views.by_level(evaluations.full().findings)
    assert [finding.kind for finding in found] == ["persons_shared", "bias_amplified", "floor", "shrunk"]


def test_unmeasured_parts_are_named():
    assert views.unmeasured(evaluations.full()) == []
    assert "nuisances" in views.unmeasured(evaluations.small())
    assert "calibration and scatter of scores" not in views.unmeasured(evaluations.small())


def test_ladder_draws_each_system_beside_the_training_mean():
    found = evaluations.full().rows[0]
    charts = views.ladder(found)
    assert len(charts) == 4
    for chart in charts:
        assert chart.count('class="mark') >= len(found.systems) - 2  # two floors have no correlation
        assert all(one.name.split(" an_")[0].removesuffix(" +") in chart for one in found.systems)
    assert "training mean</text>" in charts[0] and 'stroke-dasharray="3 2"' in charts[0]
    assert 'stroke-dasharray="3 2"' not in charts[3]  # r of a constant is undefined: no line


def test_forests_leave_out_suppressed_groups():
    audit = evaluations.full().audits[1]
    charts = views.forests(audit)
    assert len(charts) == len(evaluations.TRAITS)
    assert all(chart.count('class="mark') == 3 and "70+" not in chart for chart in charts)


def test_coverage_chart_draws_a_stroke_per_trait_unless_labels_are_few():
    first, *_, borrowed = evaluations.full().intervals
    few = {trait: row.model_copy(update={"n": 3}) for trait, row in first.traits.items()}
    charts = [views.coverage_chart("t", [part]) for part in (first, borrowed, first.model_copy(update={"traits": few}))]
    strokes = [chart.count('stroke-opacity="0.6"') for chart in charts]
    assert strokes == [len(evaluations.TRAITS), 0, 0]
    assert "promised 0.90" in charts[0] and "n 911" in charts[0]
    assert "not claimed" in charts[1] and "n 3: not drawn" in charts[2]


def leak(**changes) -> str:
    return " ".join(
        views.leakage_lines(Leakage(**{"persons_shared": 0, "clips_shared": 0, "near_duplicates": 0, **changes}))
    )


def test_leakage_in_words():
    assert "0 persons are in training and in the evaluated rows" in leak()
    assert "allow_leakage" not in leak()
    assert "allowed by `allow_leakage`" in leak(persons_shared=3, clips_shared=4, allowed=True)
    assert "unknown" in leak(persons_shared=None, clips_shared=None)
    assert "7 of the evaluated clips were trained on" in leak(trained_on=7)
    assert views.leakage_lines(None)[0].startswith("Not measured")
