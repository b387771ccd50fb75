"""Scores to files: results.csv, results.jsonl and one self-contained HTML page; an evaluation to another such page."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mmtraits import plots
from mmtraits.evaluation import Audit, Coverage, Difference, Estimate, Evaluation, Finding, Group, RowSet, System, Table
from mmtraits.schema import REASONS, Clip, Trait, TraitSchema, TraitScores

Record = dict[str, Any]  # one row: the columns of results.csv, then `details`

STATEMENT = (
    "These numbers estimate apparent personality: the impression that observers would form of a person in a clip, not "
    "what the person is. They are for research. They are not for decisions about people: not for hiring, education, "
    "credit, policing or health."
)
REASON_WORDS = {
    "unreadable_container": "the file cannot be read as media",
    "truncated_no_index": "the file is cut off and its index is lost",
    "truncated": "the file ends early",
    "corrupt_packets": "parts of the file are damaged",
    "codec_unsupported": "no decoder for its codec",
    "format_not_allowed": "its container format is not accepted",
    "too_large": "the picture is too large",
    "too_long": "the clip is too long",
    "decoder_crash": "decoding it failed",
    "timeout": "decoding it took too long",
    "out_of_memory": "decoding it needs too much memory",
    "no_modality": "it holds nothing that the model can use",
    "no_face": "no face found",
    "no_sound": "no sound, or too quiet",
    "no_transcript": "no transcript",
    "no_speech": "no speech in the sound",
    "text_truncated": "the transcript is longer than the model reads",
    "non_finite": "the model's answer is not a number",
}
_SHOWN = 2000  # clips on the page; a browser on a phone still opens it
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def columns(schema: TraitSchema, streams: Sequence[str], extra: Sequence[str] = ()) -> list[str]:
    """The columns of results.csv, in order; `extra`: of `speaker` and `question`, those that a manifest names."""
    names = schema.trait_names
    return [
        "clip", *extra, "status", "reason", *names, *(f"{name}_lower" for name in names),
        *(f"{name}_upper" for name in names), *(f"{stream}_present" for stream in streams),
        "unlike_training", "duration_s", "model", "construct",
    ]  # fmt: skip


def records(
    scores: TraitScores,
    clips: Sequence[Clip],
    durations_s: Sequence[float],
    details: Sequence[Mapping[str, Any]],
    model: str,
) -> list[Record]:
    """One record per row of `scores`; a failed cell is None."""
    names = scores.schema.trait_names
    rows = []
    for n, clip in enumerate(clips):
        row: Record = {"clip": clip.id, "speaker": clip.speaker, "question": clip.question}
        row |= {"status": scores.status[n], "reason": scores.reasons[n]}
        for suffix, table in (("", scores.values), ("_lower", scores.lower), ("_upper", scores.upper)):
            row |= {name + suffix: _finite(value) for name, value in zip(names, table[n], strict=True)}
        row |= {f"{stream}_present": bool(has) for stream, has in zip(scores.streams, scores.present[n], strict=True)}
        row |= {"unlike_training": None, "duration_s": _finite(durations_s[n])}
        row |= {"model": model, "construct": scores.schema.construct, "details": dict(details[n])}
        rows.append(row)
    return rows


def write_csv(path: Path, rows: Iterable[Record], names: Sequence[str]) -> None:
    """results.csv: six decimals, an unknown cell empty, text that a spreadsheet would run as a formula quoted by '."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_escaped(name) for name in names])
    writer.writerows([_cell(row[name]) for name in names] for row in rows)
    write_atomic(path, text.getvalue())


def write_jsonl(path: Path, rows: Iterable[Record], names: Sequence[str]) -> None:
    """results.jsonl: the columns of results.csv as typed values, then not_for_decisions and the clip's details."""
    lines = [
        json.dumps({name: row[name] for name in names} | {"not_for_decisions": True, "details": _plain(row["details"])})
        for row in rows
    ]
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def write_page(path: Path, rows: Sequence[Record], schema: TraitSchema, streams: Sequence[str], model: str) -> None:
    """report.html: one card per clip, in the order of the rows; nothing is ranked or sorted by a score."""
    counts = {status: sum(row["status"] == status for row in rows) for status in ("ok", "degraded", "failed")}
    page = environment().get_template("report.html").render(
        rows=rows[:_SHOWN], hidden=max(0, len(rows) - _SHOWN), counts=counts, schema=schema, streams=streams,
        model=model, statement=STATEMENT, reason_words=reason_words, bar=bar, label=label,
    )  # fmt: skip
    write_atomic(path, page)


def write_evaluation(path: Path, found: Evaluation) -> None:
    """report.html of an evaluation: every number beside its floor and interval; loads nothing, runs no script."""
    helpers = (
        columns_of, headline_metrics, number, p_value, label, floor_named, best_floor, verdict, units, group_name, flat,
        ladder, coverage_chart, forests, curves,
    )  # fmt: skip
    page = environment().get_template("evaluation.html").render(
        found=found, schema=TraitSchema.from_dict(found.trait_schema), statement=STATEMENT, metrics=METRICS,
        findings=by_level(found.findings), unmeasured=unmeasured(found), pictures=trait_pictures(found),
        **{helper.__name__: helper for helper in helpers},
    )  # fmt: skip
    write_atomic(path, page)


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or nothing: a temporary file in the same folder, flushed, then renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def environment() -> Environment:
    """Give the templates of this package; HTML is escaped, an unknown name is an error."""
    return Environment(
        loader=PackageLoader("mmtraits"), autoescape=select_autoescape(["html"]), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def label(name: str) -> str:
    """`emotional_stability` -> `Emotional stability`."""
    return name.replace("_", " ").capitalize()


def reason_words(reason: str) -> str:
    """`no_face;no_sound` -> `no face found; no sound, or too quiet`."""
    return "; ".join(REASON_WORDS[code] for code in REASONS if code in reason.split(";"))


def bar(trait: Trait, row: Record) -> Markup:
    """Inline SVG of one score on its trait's scale, with the interval as a whisker where there is one."""
    low, high = _bounds(trait, row)
    at = [_position(row[trait.name + suffix], low, high) for suffix in ("", "_lower", "_upper")]
    score, lower, upper = at
    parts = [
        '<rect class="track" x="0" y="5" width="100" height="6"/>',
        f'<rect class="score" x="0" y="5" width="{score:.1f}" height="6"/>',
    ]
    if row[trait.name + "_lower"] is not None:
        parts.append(f'<path class="whisker" d="M{lower:.1f} 8H{upper:.1f}M{lower:.1f} 4V12M{upper:.1f} 4V12"/>')
    return Markup(f'<svg viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>')  # noqa: S704


def _bounds(trait: Trait, row: Record) -> tuple[float, float]:
    """The scale's ends; a trait without bounds is drawn over its interval, widened by half on each side."""
    if trait.low is not None and trait.high is not None:
        return trait.low, trait.high
    score = row[trait.name]
    lower, upper = (row[trait.name + s] if row[trait.name + s] is not None else score for s in ("_lower", "_upper"))
    margin = max(0.5 * (upper - lower), 1e-6)
    return lower - margin, upper + margin


def _position(value: float | None, low: float, high: float) -> float:
    return 0.0 if value is None else 100.0 * min(max((value - low) / (high - low), 0.0), 1.0)


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: the loudness of silence is null."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in details.items()}


def _finite(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6f}" if isinstance(value, float) else _escaped(str(value))


def _escaped(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


# ---------------------------------------------------------------------------------------------------- evaluations


class Metric(NamedTuple):
    """How a metric is written (what it means: templates/definitions.jinja); better: 1 = high, -1 = low, 0 = neither."""

    label: str
    better: Literal[1, -1, 0]
    digits: int = 3


METRICS = {
    "one_minus_mae": Metric("1 − MAE", 1, 4),
    "mae": Metric("MAE", -1),
    "skill": Metric("skill", 1),
    "rmse": Metric("RMSE", -1),
    "ccc": Metric("CCC", 1),
    "pearson": Metric("r", 1),
    "spearman": Metric("ρ", 1),
    "c_index": Metric("C-index", 1),
    "r2": Metric("R²", 1),
    "spread": Metric("spread", 0),
    "tail_mae": Metric("tail MAE", -1),
    "macro_f1": Metric("macro F1", 1),
    "uar": Metric("UAR", 1),
}
LEVELS = ("fail", "warn", "info")
TRAINING_MEAN = "training mean"
_HEADLINE = ("one_minus_mae", "skill", "ccc", "pearson", "macro_f1", "uar")
_MARKS: dict[str, plots.Mark] = {"model": "disc", "streams": "square", "seed": "ring", "floor": "diamond"}


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
    return columns_of(*(system.table.mean for system in rows.systems), among=_HEADLINE)


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
    """`gender = 2 · age_band = 18-29`."""
    return " · ".join(f"{attribute} = {value}" for attribute, value in group.values.items())


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested data as lines (`data.split_sha256`, text)."""
    if isinstance(value, Mapping):
        return [line for key, inner in value.items() for line in flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, (list, tuple)):
        return [(name, ", ".join(map(str, value)))]
    return [(name, "–" if value is None else str(value))]


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


def trait_pictures(found: Evaluation) -> list[Markup]:
    """Calibration and scatter of every trait."""
    charts = []
    for trait, picture in found.pictures.items():
        bins = [(part.n, part.score, part.label) for part in picture.bins]
        charts.append(plots.calibration(f"{label(trait)}: calibration", bins))
        charts.append(plots.scatter(f"{label(trait)}: scores and labels", picture.points))
    return charts


def coverage_chart(title: str, found: Sequence[Coverage]) -> Markup:
    """One row per set of streams or group, one stroke per trait, beside the level that was promised."""
    rows = [
        plots.Dot(name=f"{part.name} · {part.method}", others=[row.coverage.value for row in part.traits.values()])
        for part in found
    ]
    level = found[0].level
    return plots.dots(title, rows, x="share of labels inside", line=level, line_name=f"promised {number(level, 2)}")


def forests(audit: Audit) -> list[Markup]:
    """Per trait: the mean signed error of every group that is not suppressed."""
    traits = dict.fromkeys(trait for group in audit.groups for trait in group.traits)
    charts = []
    for trait in traits:
        dots = [
            _dot(group_name(group), group.traits[trait].signed_error, "disc")
            for group in audit.groups
            if trait in group.traits
        ]
        title = f"{label(trait)}: signed error by {' × '.join(audit.attributes)}"
        charts.append(plots.forest(title, dots, x="mean of score − label"))
    return charts


def curves(title: str, x: str, points: Sequence[tuple[float, Mapping[str, Estimate]]]) -> list[Markup]:
    """One curve per headline metric."""
    charts = []
    for metric in columns_of(*(mean for _, mean in points), among=_HEADLINE):
        known = [(at, mean[metric]) for at, mean in points if metric in mean]
        line = [(at, found.value, found.lower, found.upper) for at, found in known]
        charts.append(plots.curve(f"{METRICS[metric].label} {title}", line, x=x, y=METRICS[metric].label))
    return charts


def _dot(name: str, found: Estimate | None, mark: plots.Mark, digits: int = 3) -> plots.Dot:
    value, lower, upper = (found.value, found.lower, found.upper) if found else (None, None, None)
    return plots.Dot(name=name, value=value, lower=lower, upper=upper, text=number(value, digits), mark=mark)
