"""Scores to files: results.csv, results.jsonl and one self-contained HTML page; an evaluation to another such page."""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mmtraits.evaluation import views
from mmtraits.evaluation.contents import Evaluation
from mmtraits.evaluation.side_by_side import SideBySide
from mmtraits.evaluation.views import label
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
        unlike = scores.unlike[n]
        row |= {"unlike_training": None if unlike is None else bool(unlike), "duration_s": _finite(durations_s[n])}
        named = {} if unlike is None else {"unlike_training": unlike}
        row |= {"model": model, "construct": scores.schema.construct, "details": {**details[n], **named}}
        rows.append(row)
    return rows


def write_csv(path: Path, rows: Iterable[Record], names: Sequence[str]) -> None:
    """results.csv: six decimals, an unknown cell empty, text that a spreadsheet would run as a formula quoted by '."""
    with _whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_escaped(name) for name in names])
        writer.writerows([_cell(row[name]) for name in names] for row in rows)


def write_jsonl(path: Path, rows: Iterable[Record], names: Sequence[str]) -> None:
    """results.jsonl: the columns of results.csv as typed values, then not_for_decisions and the clip's details."""
    with _whole(path) as file:
        for row in rows:
            said = {name: row[name] for name in names}
            said |= {"not_for_decisions": True, "details": _plain(row["details"])}
            file.write(json.dumps(said) + "\n")


def write_page(
    path: Path,
    rows: Iterable[Record],
    counts: Mapping[str, int],
    schema: TraitSchema,
    streams: Sequence[str],
    model: str,
) -> None:
    """report.html: one card per clip, in the order of the rows; nothing is ranked or sorted by a score.

    Of more rows than a browser bears only the first are read; `counts`: how many rows of all have each status.
    """
    page = environment().get_template("report.html").render(
        rows=list(islice(rows, _SHOWN)), hidden=max(0, sum(counts.values()) - _SHOWN),
        counts={status: counts.get(status, 0) for status in ("ok", "degraded", "failed")}, schema=schema,
        streams=streams, model=model, statement=STATEMENT, reason_words=reason_words, bar=bar, label=label,
    )  # fmt: skip
    write_atomic(path, page)


def write_evaluation(path: Path, found: Evaluation) -> None:
    """report.html of an evaluation: every number beside its floor and interval; loads nothing, runs no script."""
    schema = TraitSchema.from_dict(found.trait_schema)
    template = environment().get_template("evaluation.html")
    write_atomic(path, template.render(found=found, schema=schema, statement=STATEMENT, views=views))


def write_comparison(path: Path, found: SideBySide) -> None:
    """report.html of several systems side by side, in the order given; loads nothing, runs no script."""
    schema = TraitSchema.from_dict(found.trait_schema)
    template = environment().get_template("comparison.html")
    write_atomic(path, template.render(found=found, schema=schema, statement=STATEMENT, views=views))


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with _whole(path) as file:
        file.write(text)


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A file that appears at `path` only when it is complete: written beside it, flushed to the disk, then renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def environment() -> Environment:
    """Give the templates of this package; HTML is escaped, an unknown name is an error."""
    found = Environment(
        loader=PackageLoader("mmtraits"), autoescape=select_autoescape(["html"]), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    found.filters["label"] = label
    return found


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
