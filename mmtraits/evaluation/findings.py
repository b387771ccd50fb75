"""What a reader of an evaluation must know: leaks, floors that are not beaten, labels that run the other way.

`fail` spoils the figures, `warn` limits what they say, `info` is good to know. The kinds are stable names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from mmtraits.evaluation.contents import Estimate, Evaluation, Finding, RowSet, System
from mmtraits.evaluation.views import label

FEW_UNITS = 50
NARROW = 0.5  # spread of scores over spread of labels
REVERSED_R = -0.15


def of(found: Evaluation) -> list[Finding]:
    """Findings on the whole evaluation, on its first set of rows, and of floors on every set."""
    if not found.rows:
        return [Finding(level="warn", kind="no_labels", text="No clip here has a label: nothing is judged.")]
    rows = found.rows[0]
    return [
        *_leaks(found),
        *_reversed(rows.systems[0]),
        *_undefined(rows.systems[0]),
        *_skill(rows.systems[0]),
        *chain.from_iterable(map(_floors, found.rows)),
        *_spread(rows.systems[0]),
        *_size(found, rows),
    ]


def ordered(every: Iterable[Finding]) -> list[Finding]:
    """The worst first, otherwise as they come."""
    levels = ("fail", "warn", "info")
    return sorted(every, key=lambda finding: levels.index(finding.level))


def _leaks(found: Evaluation) -> Iterator[Finding]:
    leak = found.leakage
    if leak is None:
        yield Finding(
            level="warn",
            kind="leakage_unknown",
            text="Which persons the model learned from is not known here: these rows may be among them.",
        )
        return
    if leak.trained_on:
        text = f"{leak.trained_on} of the evaluated clips were in training: nothing here says how good the model is."
        yield Finding(level="fail", kind="trained_on_these_rows", text=text)
        return  # what else they share with training follows from that
    if leak.persons_shared:
        text = (
            f"{leak.persons_shared} persons ({leak.clips_shared} clips) of the evaluated rows are also in training: "
            "the figures count recognising a person as reading an impression."
        )
        yield Finding(level="warn" if leak.allowed else "fail", kind="persons_shared", text=text)
    if leak.near_duplicates:
        text = f"{leak.near_duplicates} evaluated clips say nearly what a training clip says, word for word."
        yield Finding(level="warn", kind="near_duplicates", text=text)
    if leak.persons_shared is None:
        text = "No clip names its person: whether training and evaluation share persons cannot be checked."
        yield Finding(level="warn", kind="persons_unknown", text=text)


def _reversed(model: System) -> Iterator[Finding]:
    for trait, row in model.table.traits.items():
        r = row.metrics.get("pearson")
        if r and r.value is not None and r.upper is not None and r.value < REVERSED_R and r.upper < 0:
            text = (
                f"{label(trait)}: scores and labels run against each other (r {_shown(r)}). Look for a flipped label "
                "or sign in this split or in training."
            )
            yield Finding(level="fail", kind="label_flip", text=text)


def _undefined(model: System) -> Iterator[Finding]:
    for trait, row in model.table.traits.items():
        if row.n and (r := row.metrics.get("pearson")) and r.value is None:
            text = f"{label(trait)}: scores or labels are constant, so that correlations are undefined."
            yield Finding(level="warn", kind="constant", text=text)
        if not row.n:
            yield Finding(level="warn", kind="no_labels", text=f"{label(trait)}: no clip here has label and score.")


def _skill(model: System) -> Iterator[Finding]:
    for trait, row in model.table.traits.items():
        skill = row.metrics.get("skill")
        if skill and skill.value is not None and (skill.lower is None or skill.lower <= 0):
            text = f"{label(trait)}: not better than always answering the training median (skill {_shown(skill)})."
            yield Finding(level="warn", kind="no_skill", text=text)


def _floors(rows: RowSet) -> Iterator[Finding]:
    """The floors whose mean absolute error the model does not clearly beat: one finding, which names the best."""
    floors = {system.name for system in rows.systems if system.kind == "floor"}
    by_mae = [one for one in rows.comparisons if one.system in floors and one.metric == "mae"]
    close = {
        one.system: Estimate(value=one.mean.value, lower=one.mean.lower, upper=one.mean.upper)
        for one in by_mae
        if one.mean.value is not None and (one.mean.upper is None or one.mean.upper >= 0)
    }
    if close:
        best = max(close, key=lambda name: close[name].value or 0.0)
        where = "all rows" if rows.name == "all" else f"rows {rows.name}"
        others = f"; nor than {len(close) - 1} of the other floors" if len(close) > 1 else ""
        text = f"{where}: not clearly better than “{best}” (difference in MAE {_shown(close[best])}){others}."
        yield Finding(level="warn", kind="floor_not_beaten", text=text)


def _spread(model: System) -> Iterator[Finding]:
    narrow = [
        f"{label(trait)} {row.metrics['spread'].value:.2f}"
        for trait, row in model.table.traits.items()
        if "spread" in row.metrics and (row.metrics["spread"].value or 1.0) < NARROW
    ]
    if narrow:
        text = f"Scores are drawn towards the mean (spread of scores over spread of labels: {', '.join(narrow)})."
        yield Finding(level="info", kind="narrow_spread", text=text)


def _size(found: Evaluation, rows: RowSet) -> Iterator[Finding]:
    if rows.units < FEW_UNITS:
        counted = f"{rows.units} persons" if found.unit == "person" else f"{rows.units} clips of {rows.persons} persons"
        text = f"{counted}: too few for figures that anybody should rely on."
        yield Finding(level="warn", kind="few_units", text=text)
    failed = max((row.unscored for row in rows.systems[0].table.traits.values()), default=0)
    if failed:
        text = f"{failed} labelled {found.unit}s have no score (failed): the figures leave them out."
        yield Finding(level="warn", kind="unscored", text=text)


def _shown(found: Estimate) -> str:
    if found.value is None:
        return "–"
    interval = "" if found.lower is None or found.upper is None else f", 95 % {found.lower:.3f} to {found.upper:.3f}"
    return f"{found.value:.3f}{interval}"
