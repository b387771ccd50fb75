"""What evaluation.json says, as types: evaluate fills it, report and card read it, its JSON Schema is published.

An undefined or unknown number is null, never 0. Scores, labels and errors are on the schema's own scale; one_minus_mae
is on the unit scale. Intervals of estimates are 95 %, over persons: cluster bootstraps, and Wilson's for coverage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from mmtraits.errors import ConfigError

FORMAT_VERSION = 2
Level = Literal["fail", "warn", "info"]


class Estimate(BaseModel, extra="forbid", frozen=True):
    """A number with its 95 % interval; null where undefined or not computed."""

    value: float | None
    lower: float | None = None
    upper: float | None = None


class Row(BaseModel, extra="forbid", frozen=True):
    """One trait: metric -> estimate; `n` units counted, `unscored` labelled units without a score."""

    metrics: dict[str, Estimate]
    n: int
    unscored: int = 0


class Table(BaseModel, extra="forbid", frozen=True):
    """Metrics per trait and their mean over traits; `undefined`: how many traits made a mean null, per metric."""

    traits: dict[str, Row]
    mean: dict[str, Estimate]
    undefined: dict[str, int] = {}


class System(BaseModel, extra="forbid", frozen=True):
    """One thing that scores the rows: the model, the model on fewer streams, one seed of it, or a floor."""

    name: str
    kind: Literal["model", "streams", "seed", "floor"]
    about: str  # what it sees and what it was fitted on
    table: Table


class Difference(BaseModel, extra="forbid", frozen=True):
    """Model minus the other system on the same resamples; p two-sided, p_holm corrected over the traits."""

    value: float | None
    lower: float | None
    upper: float | None
    p: float | None
    p_holm: float | None = None


class Comparison(BaseModel, extra="forbid", frozen=True):
    """The model against one other system in one metric."""

    system: str
    metric: str
    traits: dict[str, Difference]
    mean: Difference


class RowSet(BaseModel, extra="forbid", frozen=True):
    """A set of rows ("all", "with voice") and everything that scored it; the first system is the model itself."""

    name: str
    clips: int
    persons: int
    units: int  # what was counted: clips, or persons where the corpus rates persons
    systems: list[System]
    comparisons: list[Comparison] = []


class Bin(BaseModel, extra="forbid", frozen=True):
    """Units with neighbouring scores: how many, their mean score and mean label."""

    n: int
    score: float
    label: float


class Picture(BaseModel, extra="forbid", frozen=True):
    """What plots of one trait need: deciles of the score, and some units as (score, label)."""

    bins: list[Bin]
    points: list[tuple[float, float]]


class Coverage(BaseModel, extra="forbid", frozen=True):
    """How intervals held on persons outside their calibration, for one set of present streams or one group."""

    name: str
    method: str
    level: float
    borrowed: bool = False
    traits: dict[str, CoverageRow]


class CoverageRow(BaseModel, extra="forbid", frozen=True):
    """One trait: labelled units, share of labels inside, mean width, and the width of a constant's interval."""

    n: int
    coverage: Estimate
    width: float | None
    constant_width: float | None = None


class GroupRow(BaseModel, extra="forbid", frozen=True):
    """One trait in one group; definitions in `mmtraits.fairness`."""

    n: int
    mae: Estimate
    signed_error: Estimate
    ccc: Estimate
    ks_scores: float | None
    ks_labels: float | None
    wasserstein_scores: float | None
    wasserstein_labels: float | None
    bias_amplification: Estimate
    scoring_rate: float | None
    impact_ratio: float | None
    label_impact_ratio: float | None
    coverage: float | None = None


class Group(BaseModel, extra="forbid", frozen=True):
    """The rows that share attribute values; a group under 30 units is suppressed: counted, nothing else."""

    values: dict[str, str]  # attribute -> value; several for an intersection
    clips: int
    units: int
    suppressed: bool
    failed_rate: float | None = None
    degraded_rate: float | None = None
    traits: dict[str, GroupRow] = {}


class Gap(BaseModel, extra="forbid", frozen=True):
    """Between the groups of one audit, per trait: largest difference in mean signed error, ratio of MAE, ..."""

    signed_error: Estimate
    mae_difference: Estimate
    mae_ratio: float | None
    max_ks: float | None
    min_impact_ratio: float | None


class Audit(BaseModel, extra="forbid", frozen=True):
    """One attribute, or the intersection of several."""

    attributes: list[str]
    unknown: int  # units without a value
    groups: list[Group]
    gaps: dict[str, Gap] = {}
    notes: list[str] = []


class Subset(BaseModel, extra="forbid", frozen=True):
    """The model given some streams only, on the rows that have them."""

    streams: list[str]
    clips: int
    mean: dict[str, Estimate]


class DropPoint(BaseModel, extra="forbid", frozen=True):
    """Every stream of every row dropped with this probability, at least one kept."""

    rate: float
    mean: dict[str, Estimate]


class WindowPoint(BaseModel, extra="forbid", frozen=True):
    """Media cut into windows of this length."""

    length_s: float
    clips: int
    mean: dict[str, Estimate]


class Robustness(BaseModel, extra="forbid", frozen=True):
    """What missing streams and shorter windows cost."""

    subsets: list[Subset] = []
    drop_curve: list[DropPoint] = []
    windows: list[WindowPoint] = []
    shapley: dict[str, float] = {}  # stream -> its share of the mean absolute move of the scores


class Change(BaseModel, extra="forbid", frozen=True):
    """One trait under one disturbance: score after minus score before."""

    mean: float | None
    median_abs: float | None
    p95_abs: float | None
    ccc_before: float | None = None  # concordance with the labels, of the same clips
    ccc: float | None = None
    ccc_retained: float | None = None


class Nuisance(BaseModel, extra="forbid", frozen=True):
    """One disturbance of the input that should not matter, at one strength."""

    name: str
    strength: str
    stream: str
    clips: int
    lost: int  # clips that lost the touched stream or their score
    traits: dict[str, Change]


class Reliability(BaseModel, extra="forbid", frozen=True):
    """ICC(1,1) over the clips of one person, of labels and of scores (Shrout and Fleiss 1979)."""

    icc_labels: float | None
    icc_scores: float | None


class Leakage(BaseModel, extra="forbid", frozen=True):
    """What training shares with the evaluated rows: persons (null: unnamed), transcripts, and whole rows."""

    persons_shared: int | None
    clips_shared: int | None
    near_duplicates: int
    trained_on: int = 0
    allowed: bool = False  # by protocol.allow_leakage


class Finding(BaseModel, extra="forbid", frozen=True):
    """Something that a reader must know: `kind` is a stable name, `text` a sentence."""

    level: Level
    kind: str
    text: str


class Evaluation(BaseModel, extra="forbid", frozen=True):
    """One system on one split of one manifest."""

    format_version: int = FORMAT_VERSION
    name: str
    source: str
    kind: Literal["run", "bundle"]
    manifest: str
    split: str
    trait_schema: dict[str, Any]
    unit: Literal["clip", "person"]
    protocol: str
    streams: list[str]
    rows: list[RowSet]
    pictures: dict[str, Picture]
    intervals: list[Coverage] = []
    interval_groups: list[Coverage] = []
    audits: list[Audit] = []
    robustness: Robustness = Robustness()
    nuisances: list[Nuisance] = []
    reliability: dict[str, Reliability] = {}
    leakage: Leakage | None = None
    resamples: dict[str, int]  # "sums", "ranks", "groups" -> number of bootstrap resamples
    findings: list[Finding] = []
    notes: list[str] = []
    provenance: dict[str, Any]  # hashes of data and split, versions, seeds, hardware


def number(value: float) -> float | None:
    """A finite number, else null."""
    return float(value) if math.isfinite(value) else None


def to_json(found: BaseModel) -> str:
    """The text of evaluation.json, or of another such model."""
    return json.dumps(found.model_dump(mode="json"), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


TITLES = {
    "one_minus_mae": "1-MAE", "skill": "skill", "pearson": "r", "ccc": "CCC", "r2": "R2", "macro_f1": "F1",
    "uar": "UAR",
}  # fmt: skip
MARKS = {"fail": "FAIL", "warn": "warn", "info": "info"}


def to_text(found: Evaluation) -> str:
    """For a terminal: what must be known first, then a table per set of rows; intervals are in the files."""
    lines = [f"{found.name} ({found.kind}) on {found.manifest}", found.protocol, ""]
    lines += [f"{MARKS[finding.level]}  {finding.text}" for finding in found.findings]
    for rows in found.rows:
        counted = f"{rows.clips} clips of {rows.persons} persons"
        columns = [name for name in TITLES if name in rows.systems[0].table.mean]
        header = "".join(f"{TITLES[name]:>8}" for name in columns)
        lines += ["", f"{rows.name}: {counted}", f"  {'':<34}{header}       n"]
        model = rows.systems[0].table
        lines += [text_line(trait, row.metrics, columns, str(row.n)) for trait, row in model.traits.items()]
        for system in rows.systems:
            most = max((row.n for row in system.table.traits.values()), default=0)
            lines.append(text_line(f"{system.name}, mean", system.table.mean, columns, str(most)))
    return "\n".join([*lines, "", *(f"note: {note}" for note in found.notes)])


def text_line(name: str, metrics: Mapping[str, Estimate], columns: Sequence[str], n: str) -> str:
    """One row of a table for a terminal."""
    values = [metrics[column].value if column in metrics else None for column in columns]
    return f"  {name[:33]:<34}{''.join(f'{_cell(value):>8}' for value in values)}{n:>8}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def read(path: Path) -> Evaluation:
    """Read an evaluation.json; ConfigError where it is none of this version."""
    try:
        return Evaluation.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: {reason}; expected what this version of `mmtraits evaluate` writes") from None


def json_schema() -> Mapping[str, Any]:
    """JSON Schema of evaluation.json, as published in `templates/evaluation.schema.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Evaluation.model_json_schema()}
