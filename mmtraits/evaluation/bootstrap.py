"""How sure a metric is, and whether one system beats another: persons are resampled, never clips.

Clips of one person are alike, so a cluster bootstrap draws persons with replacement, each with all of its clips
(Davison and Hinkley 1997, section 3.8). Most metrics are functions of sums over rows: with sums per person, all
resamples are one matrix product, sums (..., persons) @ counts (persons, B). Rank metrics are counted per resample.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from mmtraits import metrics
from mmtraits.evaluation.contents import Comparison, Difference, Estimate, Row, Table, number
from mmtraits.schema import Trait, TraitSchema

Vector = NDArray[np.float64]
Draws = dict[tuple[str, int], Vector]  # metric, number of the cell -> its value in every resample (B,), NaN = undefined

QUANTILES = (0.025, 0.975)
COMPARED = ("mae", "ccc")
RANKS = {"spearman": metrics.resampled_spearman, "c_index": metrics.resampled_c_index}
BLOCK = 2**21  # elements of the largest temporary array
NONE: Vector = np.zeros(0)
FLAT = 1e-12  # a variance in a resample that is under this share of that of all rows is rounding


class Judgement(BaseModel):
    """A table per system, in the order given, and the model against every other system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tables: dict[str, Table]
    comparisons: list[Comparison]


def judge(
    systems: Mapping[str, NDArray[np.floating[Any]]],
    labels: NDArray[np.floating[Any]],
    ids: Sequence[str],
    persons: Sequence[str],
    schema: TraitSchema,
    *,
    median: NDArray[np.floating[Any]] | None,
    model: str,
    ranks_of: Collection[str] = (),
    resamples: int = 10_000,
    rank_resamples: int = 500,
    seed: int = 0,
) -> Judgement:
    """`metrics.table` of every system with 95 % percentile intervals, and the model's paired differences to the others.

    systems, labels: (N, K) on the schema's scale, NaN = not scored or unknown; `median`, (K,) or (N, K), of the
    training labels, None leaves `skill` out. All systems meet the same resamples. spearman and c_index have intervals,
    from the first `rank_resamples`, for the systems in `ranks_of` only. An interval is null where fewer than two
    persons have rows or the metric is undefined in over half of the resamples; others that are undefined are left out.

    Comparisons are of the rows that both systems scored. p = 2 (1 + r) / (1 + resamples), at most 1, r the rarer of
    resamples at or below 0 and at or above 0; p_holm over the traits (Holm 1979).
    Raises ValueError for shapes that do not agree, ids that repeat and systems that are not there.
    """
    unknown = sorted({model, *ranks_of} - set(systems))
    if unknown:
        raise ValueError(f"no system {', '.join(unknown)}; expected some of {', '.join(systems)}")
    rows = _rows(systems, labels, ids, persons, schema, median)
    own = {name: [rows.cell(name, k, rows.scored(name, k)) for k in range(rows.traits)] for name in systems}
    tabled = len(rows.cells)
    pairs = {name: _paired(rows, model, name) for name in systems if name != model}
    draws: Draws = {}
    if rows.persons > 1:
        draws = _from_sums(rows, tabled, resamples, seed)
        draws |= _from_ranks(rows, {cell for name in ranks_of for cell in own[name]}, rank_resamples, seed)
    tables = {name: _table(rows, name, own[name], draws) for name in systems}
    return Judgement(
        tables=tables,
        comparisons=[_compare(rows, name, metric, pairs[name], draws) for name in pairs for metric in COMPARED],
    )


# -------------------------------------------------------------------------------------------------------------- rows


class _Cell(NamedTuple):
    """One trait of one system on some rows: which (N,); their labels, scores, training median and persons (n,)."""

    trait: Trait
    chosen: NDArray[np.bool_]
    labels: Vector
    scores: Vector
    median: Vector
    units: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Everything in the order of ids; units: (N,) number of each row's person. Cells are made as they are asked for."""

    schema: TraitSchema
    ids: Sequence[str]
    units: NDArray[np.int64]
    persons: int
    systems: Mapping[str, Vector]
    labels: Vector
    median: Vector | None
    cells: list[_Cell] = field(default_factory=list)
    of_trait: dict[int, list[int]] = field(default_factory=dict)

    @property
    def traits(self) -> int:
        return len(self.schema.traits)

    def scored(self, name: str, k: int) -> NDArray[np.bool_]:
        """Rows (N,) with a label and a score."""
        return ~np.isnan(self.labels[:, k]) & np.isfinite(self.systems[name][:, k])

    @property
    def labelled(self) -> list[int]:
        """Traits with a label in any row: those that a mean is over."""
        return np.flatnonzero(~np.isnan(self.labels).all(axis=0)).tolist()

    def cell(self, name: str, k: int, chosen: NDArray[np.bool_]) -> int:
        """Number of the cell of a system's trait on the chosen rows.

        Equal ones are one cell: systems that say the same differ by 0, not by rounding.
        """
        scores, alike = self.systems[name][chosen, k], self.of_trait.setdefault(k, [])
        for place in alike:
            if np.array_equal(self.cells[place].chosen, chosen) and np.array_equal(self.cells[place].scores, scores):
                return place
        median = np.full(len(scores), np.nan) if self.median is None else self.median[chosen, k]
        cell = _Cell(self.schema.traits[k], chosen, self.labels[chosen, k], scores, median, self.units[chosen])
        alike.append(len(self.cells))
        self.cells.append(cell)
        return alike[-1]


def _rows(
    systems: Mapping[str, NDArray[np.floating[Any]]],
    labels: NDArray[np.floating[Any]],
    ids: Sequence[str],
    persons: Sequence[str],
    schema: TraitSchema,
    median: NDArray[np.floating[Any]] | None,
) -> _Rows:
    shape = (len(ids), len(schema.traits))
    found = {"labels": np.shape(labels), **{f"scores of {name}": np.shape(some) for name, some in systems.items()}}
    wrong = [f"{name} {some}" for name, some in found.items() if some != shape]
    if wrong or len(persons) != len(ids):
        told = ", ".join([*wrong, f"{len(persons)} persons"])
        raise ValueError(f"{told}; expected (N, K) = {shape} and N persons")
    names, order = np.unique(np.asarray(ids, dtype=np.str_), return_index=True)
    if len(names) < len(ids):
        raise ValueError(f"{len(ids)} ids, {len(names)} of them different; expected each once")
    people, units = np.unique(np.asarray(persons, dtype=np.str_), return_inverse=True)
    return _Rows(
        schema=schema,
        ids=names.tolist(),
        units=units[order],
        persons=len(people),
        systems={name: np.asarray(some, np.float64)[order] for name, some in systems.items()},
        labels=np.asarray(labels, np.float64)[order],
        median=None if median is None else np.broadcast_to(np.asarray(median, np.float64), shape)[order],
    )


def _paired(rows: _Rows, model: str, other: str) -> list[tuple[int, int]]:
    """Per trait the cells of both systems on the rows that both scored."""
    both = [rows.scored(model, k) & rows.scored(other, k) for k in range(rows.traits)]
    return [(rows.cell(model, k, chosen), rows.cell(other, k, chosen)) for k, chosen in enumerate(both)]


# --------------------------------------------------------------------------------------------------------- resamples


def person_counts(persons: int, resamples: int, seed: int, *, width: int = 1) -> Iterator[Vector]:
    """How often each person is drawn, (b, persons) at a time; with `width` rows per product, blocks stay small."""
    draw = np.random.default_rng(seed)
    step = max(1, BLOCK // max(persons, width))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = draw.integers(persons, size=(size, persons)) + np.arange(size)[:, None] * persons
        yield np.bincount(drawn.ravel(), minlength=size * persons).reshape(size, persons).astype(np.float64)


def _from_ranks(rows: _Rows, cells: Collection[int], resamples: int, seed: int) -> Draws:
    counts = np.concatenate([*person_counts(rows.persons, resamples, seed), np.zeros((0, rows.persons))])
    asked = [(place, rows.cells[place]) for place in sorted(cells) if len(np.unique(rows.cells[place].units)) > 1]
    return {
        (name, place): metric(cell.labels, cell.scores, cell.units, counts)
        for place, cell in asked
        for name, metric in RANKS.items()
    }


def _from_sums(rows: _Rows, tabled: int, resamples: int, seed: int) -> Draws:
    """Metrics that are functions of sums: all of them of the first `tabled` cells, the compared ones of every cell."""
    sums = np.stack([_sums(cell, rows.persons) for cell in rows.cells])
    facts, flat = _facts(rows.cells, sums), sums.reshape(-1, rows.persons)
    found: dict[str, Vector] = {}
    done = 0
    for counts in person_counts(rows.persons, resamples, seed, width=len(flat)):
        after = done + len(counts)
        drawn = (flat @ counts.T).reshape(*sums.shape[:2], len(counts))
        for name, values in _metrics(_Sums(*drawn.swapaxes(0, 1)), facts).items():
            kept = values if name in COMPARED else values[:tabled]
            found.setdefault(name, np.empty((len(kept), resamples)))[:, done:after] = kept
        done = after
    return {(name, place): values for name, some in found.items() for place, values in enumerate(some)}


class _Sums(NamedTuple):
    """Sums over rows, each (persons,) of a cell, or (C, b) of cells in resamples. Labels and scores are centred."""

    n: Vector
    error: Vector
    error2: Vector
    y: Vector
    p: Vector
    yy: Vector
    pp: Vector
    yp: Vector
    floor: Vector  # absolute error of the training median
    tail: Vector  # rows whose label is in the tails, and their absolute error
    tail_error: Vector
    high: Vector  # of binary traits: rows with a high label, a high score, both
    said: Vector
    both: Vector


class _Facts(NamedTuple):
    """What resampling leaves alone, (C, 1): shift between the means taken off, variances, scale, persons."""

    shift: Vector
    y_variance: Vector
    p_variance: Vector
    unit: Vector
    persons: Vector
    tail_persons: Vector


def _sums(cell: _Cell, persons: int) -> Vector:
    """(S, persons) as in `_Sums`."""
    y, p = (side - side.sum() / max(len(side), 1) for side in (cell.labels, cell.scores))  # squares must not cancel
    error = np.abs(cell.labels - cell.scores)
    tail = metrics.in_tail(cell.labels).astype(np.float64) if len(error) else error
    high, said = (np.asarray(side >= metrics.THRESHOLD, np.float64) for side in (cell.labels, cell.scores))
    columns = _Sums(
        n=np.ones_like(y), error=error, error2=error**2, y=y, p=p, yy=y * y, pp=p * p, yp=y * p,
        floor=np.abs(cell.labels - cell.median), tail=tail, tail_error=tail * error,
        high=high, said=said, both=high * said,
    )  # fmt: skip
    return np.stack([np.bincount(cell.units, weights=column, minlength=persons) for column in columns])


def _facts(cells: Sequence[_Cell], sums: Vector) -> _Facts:
    all_of = _Sums(*sums.swapaxes(0, 1))
    n = np.maximum(all_of.n.sum(axis=1), 1)
    columns = _Facts(
        shift=np.array([np.sum(cell.labels) - np.sum(cell.scores) for cell in cells]) / n,
        y_variance=all_of.yy.sum(axis=1) / n,
        p_variance=all_of.pp.sum(axis=1) / n,
        unit=np.array([metrics.unit(cell.trait) for cell in cells]),
        persons=np.count_nonzero(all_of.n, axis=1),
        tail_persons=np.count_nonzero(all_of.tail, axis=1),
    )
    return _Facts(*(column[:, None] for column in columns))


def _metrics(sums: _Sums, facts: _Facts) -> dict[str, Vector]:
    """Metrics (C, b) as `mmtraits.metrics` defines them; NaN where undefined and where fewer than two persons are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.where((sums.n > 0) & (facts.persons > 1), sums.n, np.nan)
        tail = np.where(facts.tail_persons > 1, sums.tail, np.nan)
        y, p, mae, floor = sums.y / n, sums.p / n, sums.error / n, sums.floor / n
        y_variance, p_variance = sums.yy / n - y**2, sums.pp / n - p**2
        y_variance = np.where(y_variance > FLAT * facts.y_variance, y_variance, np.nan)
        p_variance = np.where(p_variance > FLAT * facts.p_variance, p_variance, 0.0)
        covariance = sums.yp / n - y * p
        pearson = np.where(p_variance > 0, covariance / np.sqrt(y_variance * p_variance), np.nan)
        f1, uar = metrics.f1_and_uar(n, sums.high, sums.said, sums.both)
        return {
            "one_minus_mae": 1 - mae / facts.unit,
            "mae": mae,
            "skill": np.where(floor > 0, 1 - mae / floor, np.nan),
            "rmse": np.sqrt(sums.error2 / n),
            "ccc": 2 * covariance / (y_variance + p_variance + (facts.shift + y - p) ** 2),
            "pearson": np.clip(pearson, -1.0, 1.0),
            "r2": 1 - sums.error2 / n / y_variance,
            "spread": np.sqrt(p_variance / y_variance),
            "tail_mae": sums.tail_error / tail,
            "macro_f1": f1,
            "uar": uar,
        }


# ----------------------------------------------------------------------------------------------------------- results


def _table(rows: _Rows, name: str, cells: Sequence[int], draws: Draws) -> Table:
    found = metrics.table(rows.labels, rows.systems[name], rows.ids, rows.schema, median=rows.median)
    shown = [metric for metric in metrics.names(rows.schema) if metric in found["mean"]]
    traits, mean = {}, {}
    for trait, cell in zip(rows.schema.traits, cells, strict=True):
        row = found["traits"][trait.name]
        estimates = {metric: _estimate(row[metric], draws.get((metric, cell))) for metric in shown}
        traits[trait.name] = Row(metrics=estimates, n=row["n"], unscored=row["unscored"])
    for metric in shown:
        counted = [cells[k] for k in rows.labelled if metrics.applies(metric, rows.schema.traits[k])]
        known = [draws[metric, cell] for cell in counted if (metric, cell) in draws]
        whole = known and len(known) == len(counted)
        mean[metric] = _estimate(found["mean"][metric], np.mean(known, axis=0) if whole else None)
    undefined = {metric: count for metric, count in found["mean"]["undefined"].items() if metric in shown}
    return Table(traits=traits, mean=mean, undefined=undefined)


def _estimate(value: float, draws: Vector | None) -> Estimate:
    lower, upper = (None, None) if draws is None or np.isnan(value) else _interval(draws)
    return Estimate(value=number(value), lower=lower, upper=upper)


def _interval(draws: Vector) -> tuple[float, float] | tuple[None, None]:
    known = draws[np.isfinite(draws)]
    if not len(known) or 2 * len(known) < len(draws):
        return None, None
    lower, upper = np.quantile(known, QUANTILES, method="weibull")
    return float(lower), float(upper)


def _compare(rows: _Rows, other: str, metric: str, pairs: Sequence[tuple[int, int]], draws: Draws) -> Comparison:
    def value(place: int) -> float:
        cell = rows.cells[place]
        return metrics.METRICS[metric](cell.labels, cell.scores) if len(cell.labels) else np.nan

    values = [value(own) - value(its) for own, its in pairs]
    drawn = [draws.get((metric, own), NONE) - draws.get((metric, its), NONE) for own, its in pairs]
    found = [_difference(*some) for some in zip(values, drawn, strict=True)]
    corrected = holm([one.p for one in found])
    traits = {
        name: one.model_copy(update={"p_holm": p})
        for name, one, p in zip(rows.schema.trait_names, found, corrected, strict=True)
    }
    mean = Difference(value=None, lower=None, upper=None, p=None)
    if counted := rows.labelled:
        mean = _difference(float(np.mean([values[k] for k in counted])), np.mean([drawn[k] for k in counted], axis=0))
    return Comparison(system=other, metric=metric, traits=traits, mean=mean)


def _difference(value: float, draws: Vector) -> Difference:
    lower, upper = _interval(draws) if np.isfinite(value) else (None, None)
    if lower is None:
        return Difference(value=number(value), lower=None, upper=None, p=None)
    known = draws[np.isfinite(draws)]
    rarer = min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0))
    return Difference(value=number(value), lower=lower, upper=upper, p=min(1.0, 2 * (1 + rarer) / (1 + len(known))))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Corrects p values for being several (Holm 1979); None, no value, is not counted."""
    known = [place for place, p in enumerate(values) if p is not None]
    order = sorted(known, key=lambda place: values[place] or 0.0)
    found: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * (values[place] or 0.0)))
        found[place] = largest
    return found
