"""What comparison.json says, as types: several systems on the same rows, each beside the others."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from mmtraits.evaluation.contents import MARKS, TITLES, Difference, Finding, System, Table, text_line

FORMAT_VERSION = 1


class Spread(BaseModel, extra="forbid", frozen=True):
    """One metric, mean over traits, of every seed judged alone; sd with n − 1."""

    values: dict[str, float | None]
    mean: float | None
    sd: float | None


class Side(BaseModel, extra="forbid", frozen=True):
    """One of several systems that are compared; `settings` are those in which they differ, as text."""

    name: str
    source: str
    streams: list[str]
    members: int
    unscored: int  # clips of the test rows that it has no score for
    settings: dict[str, str]
    seeds: dict[str, Spread] = {}  # metric -> its spread, where there are several seeds
    table: Table


class Pair(BaseModel, extra="forbid", frozen=True):
    """First minus second, a system or a floor, in one metric.

    p_holm of traits is corrected over all pairs and traits of the metric, that of means over all pairs.
    """

    first: str
    second: str
    metric: str
    traits: dict[str, Difference]
    mean: Difference


class SideBySide(BaseModel, extra="forbid", frozen=True):
    """Several systems under one protocol, out of fold, on the rows that all of them scored; in the order given."""

    format_version: int = FORMAT_VERSION
    manifest: str
    trait_schema: dict[str, Any]
    unit: Literal["clip", "person"]
    protocol: str
    clips: int
    persons: int
    units: int
    systems: list[Side]
    floors: list[System]
    pairs: list[Pair]
    floor_pairs: list[Pair]
    resamples: dict[str, int]
    findings: list[Finding] = []
    notes: list[str] = []
    provenance: dict[str, Any]


def to_text(found: SideBySide) -> str:
    """For a terminal: findings, then every system and floor in the order given; intervals are in the files."""
    lines = [f"{len(found.systems)} systems on {found.manifest}", found.protocol, ""]
    lines += [f"{MARKS[finding.level]}  {finding.text}" for finding in found.findings]
    columns = [name for name in TITLES if name in found.systems[0].table.mean]
    lines += ["", f"{'mean over traits':<36}{''.join(f'{TITLES[name]:>8}' for name in columns)}       n"]
    tables = [(side.name, side.table) for side in found.systems] + [(floor.name, floor.table) for floor in found.floors]
    for name, table in tables:
        most = max((row.n for row in table.traits.values()), default=0)
        lines.append(text_line(name, table.mean, columns, str(most)))
    return "\n".join([*lines, "", *(f"note: {note}" for note in found.notes)])
