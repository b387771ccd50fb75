"""An evaluation as a reader sees it: how numbers are written, which floor is best, what differs, and the charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from markupsafe import Markup

from mmtraits.evaluation import plots
from mmtraits.evaluation.contents import (
    Audit,
    Coverage,
    Difference,
    Estimate,
    Evaluation,
    Finding,
    Group,
    Leakage,
    RowSet,
    System,
    Table,
)
from mmtraits.evaluation.side_by_side import SideBySide


class Metric(NamedTuple):
    """How a metric is written (what it means: templates/definitions.jinja); better: 1 = high, -1 = low, 0 = neither."""

    label: str
    better: Literal[1, -1, 0]
    digits: int = 3


METRICS = {
    "one_minus_mae": Metric("1 − MAE", 1, 4),
    "mae": Metric("MAE", -1, 4),
    "skill": Metric("skill", 1),
    "rmse": Metric("RMSE", -1, 4),
    "ccc": Metric("CCC", 1),
    "pearson": Metric("r", 1),
    "spearman": Metric("ρ", 1),
    "c_index": Metric("C-index", 1),
    "r2": Metric("R²", 1),
    "spread": Metric("spread", 0),
    "tail_mae": Metric("tail MAE", -1, 4),
    "macro_f1": Metric("macro F1", 1),
    "uar": Metric("UAR", 1),
}
LEVELS = ("fail", "warn", "info")
TRAINING_MEAN = "training mean"
FEWEST_DRAWN = 30  # labels behind a share that is drawn
HEADLINE = ("one_minus_mae", "skill", "ccc", "pearson", "macro_f1", "uar")
_MARKS: dict[str, plots.Mark] = {"model": "disc", "streams": "square", "seed": "ring", "floor": "diamond"}


def label(name: str) -> str:
    """`emotional_stability` -> `Emotional stability`."""
    return name.replace("_", " ").capitalize()


def by_level(findings: Sequence[Finding]) -> list[Finding]:
    """Fail before warn before info."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def number(value: float | None, digits: int = 3) -> str:
    """A number for a reader: `–` where it is unknown, a true minus, no minus zero."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 and text[0] == "-" else text).replace("-", "−")


def p_value(p: float | None) -> str:
    """`0.012`, `< 0.001`, or `–`."""
    return "< 0.001" if p is not None and p < 0.001 else number(p)


def columns_of(*tables: Mapping[str, Any], among: Iterable[str] = ()) -> list[str]:
    """Names of the metrics in mappings from them, in the order of METRICS, then any others; `among`: only these."""
    there = list(dict.fromkeys(name for table in tables for name in table))
    ordered = [name for name in METRICS if name in there] + [name for name in there if name not in METRICS]
    return [name for name in ordered if not among or name in among]


def headline_metrics(rows: RowSet) -> list[str]:
    """The few metrics that come first, of those that were computed."""
    return columns_of(*(system.table.mean for system in rows.systems), among=HEADLINE)


def floor_named(rows: RowSet, name: str = TRAINING_MEAN) -> System | None:
    """The floor of this name, where it was computed."""
    return next((system for system in rows.systems if system.kind == "floor" and system.name == name), None)


def best_floor(rows: RowSet, metric: str) -> System | None:
    """The floor that is best in the mean over traits; None where none has a value or the metric has no direction."""
    better = METRICS[metric].better if metric in METRICS else 0
    means = {s.name: s.table.mean.get(metric, Estimate(value=None)).value for s in rows.systems if s.kind == "floor"}
    known = {name: better * value for name, value in means.items() if value is not None}
    return floor_named(rows, max(known, key=lambda name: known[name])) if better and known else None


def verdict(metric: str, difference: Difference, *, holm: bool) -> Literal["better", "worse", "unclear"]:
    """Whether the model differs from the other system: p (`holm`: corrected) under .05, and an interval without 0."""
    p = difference.p_holm if holm else difference.p
    value, lower, upper = difference.value, difference.lower, difference.upper
    if value is None or lower is None or upper is None or lower <= 0 <= upper or (p is not None and p >= 0.05):
        return "unclear"
    return "better" if value * METRICS[metric].better > 0 else "worse"


def units(table: Table) -> str:
    """How many units each trait was judged on: `9781`, or `9640–9781`."""
    counts = [row.n for row in table.traits.values()] or [0]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"


def group_name(group: Group) -> str:
    """The value, `18-29`; of an intersection `gender = 2 · age_band = 18-29`."""
    if len(group.values) == 1:
        return next(iter(group.values.values()))
    return " · ".join(f"{attribute} = {value}" for attribute, value in group.values.items())


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested data as lines (`data.split_sha256`, text)."""
    if isinstance(value, Mapping):
        return [line for key, inner in value.items() for line in flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, (list, tuple)):
        return [(name, ", ".join(map(str, value)))]
    return [(name, "–" if value is None else str(value))]


def leakage_lines(found: Leakage | None) -> list[str]:
    """Sentences on what training shares with the evaluated rows; what is unknown is said to be."""
    if found is None:
        return ["Not measured: which rows and persons the model learned from is not known to the evaluation."]
    lines = []
    if found.trained_on:
        lines.append(f"{found.trained_on} of the evaluated clips were trained on.")
    if found.persons_shared is None:
        lines.append("No clip names its person: whether training and the evaluated rows share persons is unknown.")
    else:
        clips = number(found.clips_shared, 0)
        lines.append(
            f"{found.persons_shared} persons are in training and in the evaluated rows, with {clips} clips there."
        )
    lines.append(f"{found.near_duplicates} evaluated transcripts nearly repeat one of training.")
    if found.allowed:
        lines.append("Persons of test also in training: allowed by `allow_leakage`.")
    return lines


def unmeasured(found: Evaluation) -> list[str]:
    """The parts of an evaluation that this one has not."""
    robustness = found.robustness
    parts = {
        "differences to the floors": any(rows.comparisons for rows in found.rows),
        "calibration and scatter of scores": found.pictures, "coverage of intervals": found.intervals,
        "subgroup audit": found.audits, "sets of streams": robustness.subsets, "dropped streams": robustness.drop_curve,
        "window length": robustness.windows, "nuisances": found.nuisances, "reliability": found.reliability,
        "leakage": found.leakage,
    }  # fmt: skip
    return [name for name, part in parts.items() if not part]


# ---------------------------------------------------------------------------------------------------- charts


def ladder(rows: RowSet) -> list[Markup]:
    """Per headline metric: every system with its interval, beside a line at the training mean."""
    mean = floor_named(rows)
    charts = []
    for metric in headline_metrics(rows):
        dots = [_dot(s.name, s.table.mean.get(metric), _MARKS[s.kind], METRICS[metric].digits) for s in rows.systems]
        line = mean.table.mean[metric].value if mean and metric in mean.table.mean else None
        title = f"{METRICS[metric].label}, {rows.name}"
        charts.append(plots.dots(title, dots, x=METRICS[metric].label, line=line, line_name=TRAINING_MEAN))
    return charts


def sides(found: SideBySide) -> list[Markup]:
    """Per headline metric: the systems as they were given, then the floors; strokes are single seeds."""
    charts = []
    for metric in columns_of(*(side.table.mean for side in found.systems), among=HEADLINE):
        digits = METRICS[metric].digits
        dots = [_dot(side.name, side.table.mean.get(metric), "disc", digits) for side in found.systems]
        for n, side in enumerate(found.systems):
            if metric in side.seeds:
                dots[n] = replace(dots[n], others=list(side.seeds[metric].values.values()))
        dots += [_dot(floor.name, floor.table.mean.get(metric), "diamond", digits) for floor in found.floors]
        charts.append(plots.dots(f"{METRICS[metric].label}, mean over traits", dots, x=METRICS[metric].label))
    return charts


def pair_forests(found: SideBySide) -> list[Markup]:
    """Per metric: the difference of every pair of systems, beside a line at 0."""
    rows: dict[str, list[plots.Dot]] = {}
    for pair in found.pairs:
        mean = Estimate(value=pair.mean.value, lower=pair.mean.lower, upper=pair.mean.upper)
        rows.setdefault(pair.metric, []).append(_dot(f"{pair.first} − {pair.second}", mean, "disc", 4))
    return [
        plots.forest(f"{METRICS[metric].label}: difference, mean over traits", dots, x="first − second")
        for metric, dots in rows.items()
    ]


def trait_pictures(found: Evaluation) -> list[Markup]:
    """Calibration and scatter of every trait."""
    charts = []
    for trait, picture in found.pictures.items():
        bins = [(part.n, part.score, part.label) for part in picture.bins]
        charts.append(plots.calibration(f"{label(trait)}: calibration", bins))
        charts.append(plots.scatter(f"{label(trait)}: scores and labels", picture.points))
    return charts


def coverage_chart(title: str, found: Sequence[Coverage]) -> Markup:
    """One row per set of streams or group, one stroke per trait, beside the level that was promised.

    Shares of a few labels are in the table alone: they would stretch the axis and say nothing.
    """
    rows = []
    for part in found:
        n = max((row.n for row in part.traits.values()), default=0)
        drawn = [row.coverage.value for row in part.traits.values() if row.n >= FEWEST_DRAWN]
        text = "not claimed" if part.borrowed else f"n {n}" if drawn else f"n {n}: not drawn"
        rows.append(plots.Dot(name=f"{part.name} · {part.method.replace('_', ' ')}", text=text, others=drawn))
    level = found[0].level
    return plots.dots(title, rows, x="share of labels inside", line=level, line_name=f"promised {number(level, 2)}")


def forests(audit: Audit) -> list[Markup]:
    """Per trait: the mean signed error of every group that is not suppressed."""
    rows: dict[str, list[plots.Dot]] = {}
    for group in audit.groups:
        for trait, row in group.traits.items():
            rows.setdefault(trait, []).append(_dot(group_name(group), row.signed_error, "disc"))
    every = [dot for dots in rows.values() for dot in dots]
    by = " × ".join(label(attribute).lower() for attribute in audit.attributes)
    return [
        plots.forest(f"{label(trait)}: signed error by {by}", dots, x="mean of score − label", reach=every)
        for trait, dots in rows.items()
    ]


def curves(title: str, x: str, points: Sequence[tuple[float, Mapping[str, Estimate]]]) -> list[Markup]:
    """One curve per headline metric."""
    charts = []
    for metric in columns_of(*(mean for _, mean in points), among=HEADLINE):
        known = [(at, mean[metric]) for at, mean in points if metric in mean]
        line = [(at, found.value, found.lower, found.upper) for at, found in known]
        charts.append(plots.curve(f"{METRICS[metric].label} {title}", line, x=x, y=METRICS[metric].label))
    return charts


def _dot(name: str, found: Estimate | None, mark: plots.Mark, digits: int = 3) -> plots.Dot:
    value, lower, upper = (found.value, found.lower, found.upper) if found else (None, None, None)
    return plots.Dot(name=name, value=value, lower=lower, upper=upper, text=number(value, digits), mark=mark)
