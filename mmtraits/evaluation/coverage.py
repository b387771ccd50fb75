"""How intervals hold on persons outside their calibration: coverage and width. NumPy only.

A run's intervals are calibrated here on other persons (cross-fitting); a bundle brings its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.calibrate import METHODS, Calibration, Floats, Method, Rows, conformal_quantile, ends, fit, folds, take
from mmtraits.evaluation.contents import Coverage, CoverageRow, Estimate, number

_Z = 1.959964  # of a two-sided 95 % interval
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Intervals of N rows from a calibration on other persons, (N, K) each; NaN where a row has no score.

    constant: width of the split-conformal interval around the mean label. borrowed: the interval of another set.
    """

    lower: Floats
    upper: Floats
    constant: Floats
    borrowed: Bools


def coverage(
    streams: Sequence[str],
    rows: Rows,
    traits: Sequence[str],
    *,
    low: NDArray[np.floating[Any]],
    high: NDArray[np.floating[Any]],
    groups: Mapping[str, Bools] | None = None,
    level: float = 0.9,
    methods: Sequence[Method] = METHODS,
) -> tuple[list[Coverage], list[Coverage]]:
    """How intervals hold on persons outside their calibration, method by method: (sets of streams, groups).

    Sets: "all", every row with all the streams that it has; each set that some rows have and no more ("text + voice");
    each set given to all rows that have at least it ("text, others masked"). groups: (N,) bool each, of rows with all
    the streams that they have. Width is the mean after clipping, constant_width that of the mean label's own
    split-conformal interval on the same rows; `proportion` says how the interval of a coverage is made.
    """
    rows, groups = _in_order(rows, groups)
    found = [
        _judged(
            streams,
            rows,
            traits,
            held_out(streams, rows, low=low, high=high, level=level, method=method),
            groups,
            (method, level),
        )
        for method in methods
    ]
    return [one for sets, _ in found for one in sets], [one for _, of_groups in found for one in of_groups]


def measured(
    streams: Sequence[str],
    rows: Rows,
    traits: Sequence[str],
    calibration: Calibration,
    *,
    groups: Mapping[str, Bools] | None = None,
) -> tuple[list[Coverage], list[Coverage]]:
    """`coverage` of a calibration that is there, on rows that it does not know; constant_width is null."""
    rows, groups = _in_order(rows, groups)
    return _judged(streams, rows, traits, applied(calibration, rows), groups, (calibration.method, calibration.level))


def _in_order(rows: Rows, groups: Mapping[str, Bools] | None) -> tuple[Rows, dict[str, Bools]]:
    order = np.argsort(np.asarray(rows.ids, np.str_), kind="stable")
    return take(rows, order), {name: np.asarray(mask)[order] for name, mask in (groups or {}).items()}


def _judged(
    streams: Sequence[str],
    rows: Rows,
    traits: Sequence[str],
    held: Mapping[frozenset[str], Held],
    groups: Mapping[str, Bools],
    how: tuple[Method, float],
) -> tuple[list[Coverage], list[Coverage]]:
    """By set of streams and by group."""
    named = _named_sets(streams, rows)
    if not named:
        return [], []
    whole, judge = fullest(held), _Judge(rows, traits, *how)
    sets = [judge("all", whole, np.ones(len(rows.ids), np.bool_))]
    sets += [judge(name, held[key], mask) for name, key, mask in named]
    return sets, [judge(name, whole, mask) for name, mask in groups.items()]


def held_out(
    streams: Sequence[str],
    rows: Rows,
    *,
    low: NDArray[np.floating[Any]],
    high: NDArray[np.floating[Any]],
    level: float = 0.9,
    method: Method = "split_conformal",
) -> dict[frozenset[str], Held]:
    """Per set of given streams, every row's interval by a calibration on other persons: five folds of persons."""
    parts, shape = folds(rows.persons, seed=1), rows.labels.shape
    found = {
        key: Held(
            lower=np.full(shape, np.nan),
            upper=np.full(shape, np.nan),
            constant=np.full(shape, np.nan),
            borrowed=np.zeros(shape, np.bool_),
        )
        for key in rows.scores
    }
    for part in np.unique(parts):
        here = parts == part
        others = take(rows, np.flatnonzero(~here))
        calibration = fit(streams, others, low=low, high=high, level=level, method=method)
        for key, held in found.items():
            scores, width = np.asarray(rows.scores[key][here], np.float64), calibration.widths[key]
            held.lower[here], held.upper[here] = ends(width, scores, calibration.low, calibration.high)
            held.constant[here] = np.where(np.isnan(scores), np.nan, _constant(others, key, calibration))
            held.borrowed[here] = width.borrowed
    return found


def applied(calibration: Calibration, rows: Rows) -> dict[frozenset[str], Held]:
    """Per set of given streams, every row's interval by one calibration."""
    found = {}
    for key, scores in rows.scores.items():
        width, unknown = calibration.widths[key], np.full(rows.labels.shape, np.nan)
        lower, upper = ends(width, np.asarray(scores, np.float64), calibration.low, calibration.high)
        borrowed = np.broadcast_to(width.borrowed, rows.labels.shape)
        found[key] = Held(lower=lower, upper=upper, constant=unknown, borrowed=borrowed)
    return found


def fullest(held: Mapping[frozenset[str], Held]) -> Held:
    """Every row's interval from all the streams that it has."""
    best = Held(**{field.name: getattr(next(iter(held.values())), field.name).copy() for field in fields(Held)})
    for key in sorted(held, key=len):  # smallest first: what stays is the largest set
        known = ~np.isnan(held[key].lower)
        for field in fields(Held):
            getattr(best, field.name)[known] = getattr(held[key], field.name)[known]
    return best


def _constant(rows: Rows, key: frozenset[str], calibration: Calibration) -> Floats:
    """Width (K,) of the split-conformal interval around the mean label of the rows that have these streams."""
    labels = np.where(np.isnan(rows.scores[key]), np.nan, rows.labels)
    widths = np.full(labels.shape[1], np.nan)
    for k, column in enumerate(labels.T):
        known = np.sort(column[~np.isnan(column)])  # sorted: the sum does not depend on the order of the rows
        if len(known):
            mean = known.mean()
            half = conformal_quantile(np.abs(known - mean), calibration.level)
            widths[k] = min(mean + half, calibration.high[k]) - max(mean - half, calibration.low[k])
    return widths


def _named_sets(streams: Sequence[str], rows: Rows) -> list[tuple[str, frozenset[str], Bools]]:
    """Names of the sets of streams, largest first, and which rows (N,) each is measured on."""
    scored = {key: ~np.isnan(scores).all(axis=1) for key, scores in rows.scores.items()}
    found = []
    for key in sorted(scored, key=lambda key: (-len(key), [n for n, s in enumerate(streams) if s in key])):
        name = " + ".join(stream for stream in streams if stream in key)
        more = np.any([has for other, has in scored.items() if other > key] or [np.zeros_like(scored[key])], axis=0)
        if (scored[key] & ~more).any():
            found.append((name, key, scored[key] & ~more))
        if (scored[key] & more).any():
            found.append((f"{name}, others masked", key, scored[key]))
    return found


@dataclass(frozen=True, slots=True)
class _Judge:
    """One method on sorted rows."""

    rows: Rows
    traits: Sequence[str]
    method: Method
    level: float

    def __call__(self, name: str, held: Held, mask: Bools) -> Coverage:
        """The coverage of the rows of `mask` (N,)."""
        traits = {trait: self._row(held, mask, k) for k, trait in enumerate(self.traits)}
        borrowed = bool(held.borrowed[mask].any())
        return Coverage(name=name, method=self.method, level=self.level, borrowed=borrowed, traits=traits)

    def _row(self, held: Held, mask: Bools, k: int) -> CoverageRow:
        here = np.flatnonzero(mask & ~(np.isnan(self.rows.labels[:, k]) | np.isnan(held.lower[:, k])))
        label, lower, upper = self.rows.labels[here, k], held.lower[here, k], held.upper[here, k]
        return CoverageRow(
            n=len(here),
            coverage=proportion((lower <= label) & (label <= upper), [self.rows.persons[int(n)] for n in here]),
            width=_mean(upper - lower),
            constant_width=_mean(held.constant[here, k]),
        )


def proportion(inside: Bools, persons: Sequence[str]) -> Estimate:
    """The share of rows inside with its 95 % interval (Wilson 1927), rows of one person not being independent.

    Wilson's n is the number of independent rows whose share would vary as much, from the persons' own totals (the
    design effect; Kish 1965), but at least n² / Σ n_i², as if rows of a person were copies, and at most n. Unlike a
    bootstrap it has a width where all rows are inside. Null without rows.
    """
    n = len(inside)
    if not n:
        return Estimate(value=None)
    _, code = np.unique(np.asarray(persons, np.str_), return_inverse=True)
    sizes, hits, share = np.bincount(code), np.bincount(code, inside), float(inside.mean())
    variance = float(np.sum((hits - share * sizes) ** 2)) / n**2
    copies = float(n**2 / np.sum(sizes**2))
    independent = min(max(share * (1 - share) / variance, copies), n) if variance > 0 else copies
    scale = 1 + _Z**2 / independent
    middle = (share + _Z**2 / (2 * independent)) / scale
    half = _Z * math.sqrt(share * (1 - share) / independent + (_Z / (2 * independent)) ** 2) / scale
    return Estimate(value=share, lower=max(0.0, middle - half), upper=min(1.0, middle + half))


def _mean(values: Floats) -> float | None:
    return number(float(values.mean())) if len(values) else None
