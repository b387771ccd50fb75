"""MODEL_CARD.md: the sections of Mitchell et al. 2019, from what bundle.json says and what an evaluation found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmtraits.errors import ConfigError, joined
from mmtraits.evaluation import views
from mmtraits.evaluation.contents import Estimate, Evaluation
from mmtraits.report import STATEMENT, environment
from mmtraits.schema import TraitSchema

SECTIONS = (
    "Model details", "Intended use", "Out of scope", "Factors", "Metrics", "Evaluation data", "Training data",
    "Disaggregated results", "Intersectional results", "Intervals", "Leakage", "Ethical considerations", "Caveats",
    "Findings",
)  # fmt: skip
_UNKNOWN = dict.fromkeys(("data", "citations", "protocol", "members", "config"))
_ABOUT = dict.fromkeys(("windowing", "calibration", "licence", "unlike"))
_COLUMNS = ("one_minus_mae", "mae", "skill", "ccc", "pearson", "r2", "macro_f1", "uar")


def render(info: Mapping[str, Any], found: Evaluation | None) -> str:
    """Markdown from bundle.json and the evaluation of what it was made from; None: its accuracy is said to be unknown.

    info: `name`, `schema`, `streams`; `windowing`, `calibration`, `licence` and `unlike` where there are any;
    `provenance` may hold `data` (a line), `citations` (lines), `protocol`, `members` and `config`. What is not there is
    said to be unknown.
    """
    info = {**_ABOUT, **info}
    return environment().get_template("MODEL_CARD.md").render(
        info=info, found=found,
        schema=TraitSchema.from_dict(info["schema"]), provenance=_UNKNOWN | info.get("provenance", {}),
        statement=STATEMENT, views=views, columns=_COLUMNS, sets=_sets(info["calibration"]), estimate=_estimate,
        cell=_cell, result_rows=_result_rows,
    )  # fmt: skip


def of_evaluation(found: Evaluation) -> str:
    """The card of a run folder, which is no bundle yet."""
    provenance = {name: found.provenance[name] for name in ("members", "config") if name in found.provenance}
    info = {"name": found.name, "schema": found.trait_schema, "streams": found.streams, "provenance": provenance}
    return render(info, found)


def check(text: str, where: str = "MODEL_CARD.md") -> None:
    """ConfigError that names every section that is missing or empty, and every audited attribute without its table."""
    sections = _split(text, "## ")
    problems = [
        f"{where}: section {name!r} is {'empty' if name in sections else 'missing'}; "
        "`mmtraits evaluate` and `mmtraits export` write it"
        for name in SECTIONS
        if not sections.get(name, "").strip()
    ]
    results = sections.get("Disaggregated results", "") + sections.get("Intersectional results", "")
    tables = {name for name, body in _split(results, "### By ").items() if re.search(r"^\|", body, re.MULTILINE)}
    audited = re.findall(r"^- by (.+)$", sections.get("Factors", ""), re.MULTILINE)
    problems += [
        f"{where}: no table of groups by {attributes!r}, which 'Factors' names; expected it under '### By {attributes}'"
        for attributes in audited
        if attributes not in tables
    ]
    if problems:
        raise ConfigError(joined(problems))


def _split(text: str, mark: str) -> dict[str, str]:
    """Heading -> text up to the next heading of the same mark."""
    parts = re.split(rf"^{mark}(.+)$", text, flags=re.MULTILINE)
    return {name.strip(): body for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _result_rows(rows: Any, names: list[str]) -> list[tuple[str, list[str]]]:
    """Lines under the traits of a table of results: means of the model, of the training mean and of the best floor."""
    model, mean = rows.systems[0].table.mean, views.floor_named(rows)
    floors = [(name, views.best_floor(rows, name)) for name in names]
    best = [f"{_estimate(f.table.mean[name], name)} ({_cell(f.name)})" if f else "–" for name, f in floors]
    lines = [("**mean**", [f"**{_estimate(model.get(name), name)}**" for name in names])]
    if mean is not None:
        lines.append(("training mean, mean", [_estimate(mean.table.mean.get(name), name) for name in names]))
    return [*lines, ("best floor, mean", best)] if any(floor for _, floor in floors) else lines


def _sets(calibration: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of the table of intervals."""
    if calibration is None:
        return []
    return [
        {
            "present": " + ".join(entry["present"]),
            "rows": max(entry["rows"]),
            "half": [
                f"{half:.3f}{' *' if borrowed else ''}"
                for half, borrowed in zip(entry["half_width"], entry["borrowed"], strict=True)
            ],
            "borrowed": any(entry["borrowed"]),
        }
        for entry in calibration["sets"]
    ]


def _estimate(found: Estimate | None, metric: str = "") -> str:
    """`0.412 [0.380, 0.447]`, or what is known of it."""
    digits = views.METRICS[metric].digits if metric in views.METRICS else 3
    value, lower, upper = (found.value, found.lower, found.upper) if found else (None, None, None)
    interval = (
        "" if lower is None or upper is None else f" [{views.number(lower, digits)}, {views.number(upper, digits)}]"
    )
    return views.number(value, digits) + interval


def _cell(text: str) -> str:
    """Text of users in Markdown: no table cell is broken, no tag or emphasis begins."""
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(str(text).split()))
