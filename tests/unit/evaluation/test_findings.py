"""What a reader must know, from fabricated evaluations in which one thing at a time is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from mmtraits.evaluation import findings
from mmtraits.evaluation.contents import (
    Comparison,
    Difference,
    Estimate,
    Evaluation,
    Finding,
    Leakage,
    Row,
    RowSet,
    System,
    Table,
)

FINE = {
    "pearson": Estimate(value=0.5, lower=0.4, upper=0.6),
    "skill": Estimate(value=0.2, lower=0.1, upper=0.3),
    "spread": Estimate(value=0.8),
}
CLEAN = Leakage(persons_shared=0, clips_shared=0, near_duplicates=0)


def system(name: str = "model", kind: Any = "model", n: int = 80, unscored: int = 0, **metrics: Estimate) -> System:
    rows = {trait: Row(metrics=FINE, n=80) for trait in ("calm", "at_ease")}
    rows["at_ease"] = Row(metrics=FINE | metrics, n=n, unscored=unscored)
    return System(name=name, kind=kind, about="", table=Table(traits=rows, mean={}))


def against(name: str, value: float | None, upper: float | None, metric: str = "mae") -> Comparison:
    lower = None if value is None or upper is None else 2 * value - upper
    return Comparison(
        system=name, metric=metric, traits={}, mean=Difference(value=value, lower=lower, upper=upper, p=None)
    )


def row_set(name: str = "all", model: System | None = None, units: int = 80, *compared: Comparison) -> RowSet:
    kinds = {"a alone": "streams", "seed 0": "seed"}
    others = [system(one.system, kinds.get(one.system, "floor")) for one in compared]
    return RowSet(
        name=name, clips=160, persons=40, units=units, systems=[model or system(), *others], comparisons=list(compared)
    )


def evaluation(*rows: RowSet, leakage: Leakage | None = CLEAN, unit: Any = "clip") -> Evaluation:
    return Evaluation(
        name="x", source="x", kind="run", manifest="clips.csv", split="test", trait_schema={}, unit=unit, protocol="",
        streams=["a"], rows=list(rows) or [row_set()], pictures={}, resamples={}, provenance={}, leakage=leakage,
    )  # fmt: skip


def only(found: list[Finding]) -> tuple[str, str, str]:
    (one,) = found
    return one.level, one.kind, one.text


def test_nothing_wrong_nothing_said() -> None:
    assert findings.of(evaluation()) == []


# ---------------------------------------------------------------------------------------------------- leaks


def test_unknown_training_rows_are_said() -> None:
    level, kind, text = only(findings.of(evaluation(leakage=None)))
    assert (level, kind) == ("warn", "leakage_unknown") and "is not known here" in text


@pytest.mark.parametrize(("allowed", "wanted"), [(False, "fail"), (True, "warn")])
def test_shared_persons_spoil_the_figures_unless_they_are_meant(allowed: bool, wanted: str) -> None:
    leak = Leakage(persons_shared=3, clips_shared=7, near_duplicates=0, allowed=allowed)
    level, kind, text = only(findings.of(evaluation(leakage=leak)))
    assert (level, kind) == (wanted, "persons_shared") and text.startswith("3 persons (7 clips) of the evaluated rows")


def test_repeated_words_are_said() -> None:
    leak = Leakage(persons_shared=0, clips_shared=0, near_duplicates=5)
    level, kind, text = only(findings.of(evaluation(leakage=leak)))
    assert (level, kind) == ("warn", "near_duplicates") and text.startswith("5 evaluated clips say nearly what")


def test_unnamed_persons_cannot_be_checked() -> None:
    leak = Leakage(persons_shared=None, clips_shared=None, near_duplicates=0)
    level, kind, text = only(findings.of(evaluation(leakage=leak)))
    assert (level, kind) == ("warn", "persons_unknown") and text.startswith("No clip names its person")


def test_of_rows_that_were_trained_on_nothing_else_need_be_said() -> None:
    leak = Leakage(persons_shared=20, clips_shared=40, near_duplicates=9, trained_on=40)
    level, kind, text = only(findings.of(evaluation(leakage=leak)))
    assert (level, kind) == ("fail", "trained_on_these_rows") and text.startswith("40 of the evaluated clips were in")


# ---------------------------------------------------------------------------------------------------- traits


@pytest.mark.parametrize(
    ("r", "wanted"),
    [
        (Estimate(value=-0.16, lower=-0.3, upper=-0.01), ["label_flip"]),
        (Estimate(value=-0.14, lower=-0.3, upper=-0.01), []),  # so little may be any weak model
        (Estimate(value=-0.3, lower=-0.7, upper=0.1), []),  # so few rows may be chance
        (Estimate(value=-0.3), []),  # of one person: no interval
        (Estimate(value=0.3, lower=0.1, upper=0.5), []),
    ],
)
def test_scores_that_run_against_the_labels(r: Estimate, wanted: list[str]) -> None:
    found = findings.of(evaluation(row_set(model=system(pearson=r))))
    assert [one.kind for one in found] == wanted
    if wanted:
        assert found[0].level == "fail"
        assert found[0].text.startswith(
            "At ease: scores and labels run against each other (r -0.160, 95 % -0.300 to -0.010)"
        )


def test_an_undefined_correlation_is_said() -> None:
    found = only(findings.of(evaluation(row_set(model=system(pearson=Estimate(value=None))))))
    assert found == ("warn", "constant", "At ease: scores or labels are constant, so that correlations are undefined.")


def test_a_trait_without_labels_is_said_once() -> None:
    nothing = dict.fromkeys(FINE, Estimate(value=None))
    found = only(findings.of(evaluation(row_set(model=system(n=0, **nothing)))))
    assert found == ("warn", "no_labels", "At ease: no clip here has label and score.")


@pytest.mark.parametrize(
    ("skill", "said"),
    [
        (Estimate(value=0.1, lower=0.0, upper=0.2), "(skill 0.100, 95 % 0.000 to 0.200)"),
        (Estimate(value=-0.1, lower=-0.2, upper=-0.01), "(skill -0.100, 95 % -0.200 to -0.010)"),
        (Estimate(value=0.1), "(skill 0.100)"),
        (Estimate(value=0.1, lower=0.001, upper=0.2), None),
        (Estimate(value=None), None),  # the median is unknown
    ],
)
def test_no_better_than_the_median(skill: Estimate, said: str | None) -> None:
    found = findings.of(evaluation(row_set(model=system(skill=skill))))
    if said is None:
        assert found == []
    else:
        assert only(found) == (
            "warn",
            "no_skill",
            f"At ease: not better than always answering the training median {said}.",
        )


@pytest.mark.parametrize(("spread", "said"), [(0.49, True), (0.5, False), (None, False), (0.0, False)])
def test_scores_that_huddle(spread: float | None, said: bool) -> None:
    """Constant scores, whose spread is 0, are said to be constant."""
    found = findings.of(evaluation(row_set(model=system(spread=Estimate(value=spread)))))
    assert [(one.level, one.kind) for one in found] == [("info", "narrow_spread")] * said
    assert not said or "of labels: At ease 0.49)" in found[0].text


def test_metrics_that_a_schema_does_not_have() -> None:
    bare = System(name="model", kind="model", about="", table=Table(traits={"calm": Row(metrics={}, n=80)}, mean={}))
    assert findings.of(evaluation(row_set(model=bare))) == []


# ---------------------------------------------------------------------------------------------------- floors


@pytest.mark.parametrize(
    ("value", "upper", "said"),
    [
        (-0.02, -0.001, None),
        (-0.02, 0.0, "(difference in MAE -0.020, 95 % -0.040 to 0.000)"),
        (0.02, 0.03, "(difference in MAE 0.020, 95 % 0.010 to 0.030)"),
        (-0.02, None, "(difference in MAE -0.020)"),  # one person: no interval
        (None, None, None),
    ],
)
def test_a_floor_that_is_not_clearly_beaten(value: float | None, upper: float | None, said: str | None) -> None:
    found = findings.of(evaluation(row_set("all", None, 80, against("ridge: a", value, upper))))
    if said is None:
        assert found == []
    else:
        assert only(found) == (
            "warn", "floor_not_beaten", f"all rows: not clearly better than “ridge: a” {said}."
        )  # fmt: skip


def test_every_set_of_rows_names_the_best_floor_alone() -> None:
    compared = [
        against("training mean", -0.01, 0.01),
        against("ridge: a", 0.03, 0.05),
        against("look-up", 0.02, 0.04),
        against("ridge: a + b", -0.03, -0.01),  # beaten
        against("training median", 0.9, 0.9, metric="ccc"),
        against("a alone", 0.5, 0.6),  # the model itself on fewer streams, and one seed of it
        against("seed 0", 0.5, 0.6),
    ]
    beaten = row_set("with c", None, 80, against("training mean", -0.2, -0.1))
    found = findings.of(
        evaluation(row_set("all", None, 80, *compared[:1]), row_set("with b", None, 80, *compared), beaten)
    )
    assert [one.text for one in found] == [
        "all rows: not clearly better than “training mean” (difference in MAE -0.010, 95 % -0.030 to 0.010).",
        "rows with b: not clearly better than “ridge: a” (difference in MAE 0.030, 95 % 0.010 to 0.050); "
        "nor than 2 of the other floors.",
    ]


def test_all_but_floors_is_said_of_the_first_rows_alone() -> None:
    wrong = system(pearson=Estimate(value=-0.5, lower=-0.6, upper=-0.4), spread=Estimate(value=0.1), unscored=3)
    assert findings.of(evaluation(row_set(), row_set("with b", wrong, 10))) == []


# ---------------------------------------------------------------------------------------------------- size, order


def test_few_units_and_failed_ones() -> None:
    assert findings.of(evaluation(row_set(units=50))) == []
    assert only(findings.of(evaluation(row_set(units=49))))[2].startswith("49 clips of 40 persons: too few for figures")
    found = findings.of(evaluation(row_set(units=49, model=system(unscored=2)), unit="person"))
    assert [(one.level, one.kind) for one in found] == [("warn", "few_units"), ("warn", "unscored")]
    assert found[0].text.startswith("49 persons: too few for figures")
    assert found[1].text == "2 labelled persons have no score (failed): the figures leave them out."


def test_the_worst_comes_first_and_nothing_else_moves() -> None:
    given = [("info", "a"), ("warn", "b"), ("fail", "c"), ("warn", "d"), ("fail", "e"), ("info", "f")]
    found = findings.ordered(Finding(level=level, kind=kind, text="") for level, kind in given)  # type: ignore[arg-type]
    assert [one.kind for one in found] == ["c", "e", "b", "d", "a", "f"]
