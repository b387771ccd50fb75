"""Conformal intervals per set of present streams and trait. NumPy only; the runtime applies what is fitted here.

Two methods, both on scores of rows that the scoring members did not learn from:

split_conformal   score ± the ceil((n + 1) · level)-th smallest |label − score| (Vovk et al. 2005; Lei et al. 2018)
cqr               two quantiles of the label given the score, moved outwards by the same rank of how far labels lay
                  beyond them (Romano et al. 2019): wider where the model errs more. Quantiles are lines in the score.

Either way an interval's ends are lines in the score, `intercept + slope · score`. Under exchangeability at least
`level` of new labels lie inside. An interval always holds its score: where a line would leave it out, the end is moved
to the score, which can only cover more; ends are then clipped to the scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["split_conformal", "cqr"]
Floats = NDArray[np.float64]
METHODS: tuple[Method, ...] = get_args(Method)
FOLDS = 5
_HALVINGS = 20  # of a bracket of slopes: to a hundred-thousandth of the labels' spread


# ---------------------------------------------------------------------------------------------------- what it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """N labelled clips with scores of members that did not learn from them, nor from their persons.

    labels: (N, K), NaN = unknown. scores: per set of streams that was given to the model (N, K), NaN where a row lacks
    one of them; a row that has more streams is also scored with the others masked.
    """

    ids: Sequence[str]
    persons: Sequence[str]
    labels: NDArray[np.floating[Any]]
    scores: Mapping[frozenset[str], NDArray[np.floating[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """The interval of one set of present streams.

    half: (K,) half width, with cqr its mean over the calibration rows. rows: (K,) labelled rows. borrowed: (K,) bool,
    too few rows of its own; the interval is the widest among its calibrated subsets and its coverage is not claimed.
    lower, upper: (K, 2) intercept and slope of the ends.
    """

    half: Floats
    rows: NDArray[np.int64]
    borrowed: NDArray[np.bool_]
    lower: Floats
    upper: Floats

    @classmethod
    def around(cls, half: Floats, rows: NDArray[np.int64], borrowed: NDArray[np.bool_]) -> Width:
        """Score ± half."""
        ends = [np.stack([sign * half, np.ones_like(half)], axis=1) for sign in (-1, 1)]
        return cls(half=half, rows=rows, borrowed=borrowed, lower=ends[0], upper=ends[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Intervals at `level` for every non-empty set of `streams`; low and high (K,) bound them on the schema's scale."""

    level: float
    streams: tuple[str, ...]
    low: Floats
    high: Floats
    widths: Mapping[frozenset[str], Width]
    method: Method = "split_conformal"

    def interval(self, scores: NDArray[np.floating[Any]], present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Scores (N, K), present (N, P) in the order of `streams` -> lower <= score <= upper (N, K).

        NaN where a score is NaN or no stream is present.
        """
        scores = np.asarray(scores, np.float64)
        lower, upper = np.full(scores.shape, np.nan), np.full(scores.shape, np.nan)
        for pattern in np.unique(present, axis=0):
            if pattern.any():
                key = frozenset(stream for stream, here in zip(self.streams, pattern, strict=True) if here)
                rows = (present == pattern).all(axis=1)
                lower[rows], upper[rows] = ends(self.widths[key], scores[rows], self.low, self.high)
        return lower, upper

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        sets = []
        for key, width in self.widths.items():
            entry: dict[str, Any] = {
                "present": [stream for stream in self.streams if stream in key],
                "half_width": width.half.tolist(),
                "rows": width.rows.tolist(),
                "borrowed": width.borrowed.tolist(),
            }
            if self.method == "cqr":
                entry |= {"lower": width.lower.tolist(), "upper": width.upper.tolist()}
            sets.append(entry)
        return {
            "method": self.method,
            "level": self.level,
            "streams": list(self.streams),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "sets": sets,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`."""
        if data["method"] not in METHODS:
            raise ValueError(f"calibration method {data['method']!r}; this version knows {', '.join(METHODS)}")
        widths = {}
        for entry in data["sets"]:
            width = Width.around(
                np.array(entry["half_width"], np.float64),
                np.array(entry["rows"], np.int64),
                np.array(entry["borrowed"], np.bool_),
            )
            if data["method"] == "cqr":
                width = replace(width, lower=np.array(entry["lower"]), upper=np.array(entry["upper"]))
            widths[frozenset(entry["present"])] = width
        return cls(
            level=data["level"],
            streams=tuple(data["streams"]),
            low=np.array(data["low"], np.float64),
            high=np.array(data["high"], np.float64),
            widths=widths,
            method=data["method"],
        )


def ends(width: Width, scores: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Lower and upper (N, K) of scores (N, K) from one set of streams, clipped to low, high (K,)."""
    lower = np.minimum(width.lower[:, 0] + width.lower[:, 1] * scores, scores)
    upper = np.maximum(width.upper[:, 0] + width.upper[:, 1] * scores, scores)
    return np.clip(lower, low, high), np.clip(upper, low, high)


# ---------------------------------------------------------------------------------------------------- fit


def fit(
    streams: Sequence[str],
    rows: Rows,
    *,
    low: NDArray[np.floating[Any]],
    high: NDArray[np.floating[Any]],
    level: float = 0.9,
    method: Method = "split_conformal",
) -> Calibration:
    """Fit the interval of every set of `streams`; low, high (K,) are the finite bounds of the scale.

    The quantiles of cqr and the rows that judge them share no person: five folds of persons; those that are shipped are
    fitted on all rows. A trait of a set with too few rows for its rank (at level .9 fewer than 9; with cqr also persons
    in fewer than five folds) borrows the widest interval among the set's calibrated subsets, else among all
    calibrated sets, else the whole scale. The order of the rows does not matter. Raises ValueError for scores from
    unknown streams.
    """
    for present in rows.scores:
        if not set(present) <= set(streams) or not present:
            raise ValueError(f"scores from {sorted(present)}; expected some of the streams {list(streams)}")
    rows = by_id(rows)
    bottom, top = np.asarray(low, np.float64), np.asarray(high, np.float64)
    parts = folds(rows.persons, seed=0)
    own = {key: _own(scores, rows.labels, parts, level, method) for key, scores in rows.scores.items()}
    none = np.zeros(len(bottom), np.int64)
    nothing = Width.around(np.full(len(bottom), np.inf), none, none == 0)
    sets = [frozenset(some) for size in range(1, len(streams) + 1) for some in combinations(streams, size)]
    widths = {key: _borrow(key, own.get(key, nothing), own, top - bottom) for key in sets}
    return Calibration(level=level, streams=tuple(streams), low=bottom, high=top, widths=widths, method=method)


def _own(scores: NDArray[Any], labels: NDArray[Any], parts: NDArray[np.int64], level: float, method: Method) -> Width:
    """The interval of one set of streams from its own rows; infinite where they are too few. parts: (N,) folds."""
    known = ~(np.isnan(scores) | np.isnan(labels))
    count = known.sum(axis=0)
    found = Width.around(np.full(len(count), np.inf), count, np.ones(len(count), np.bool_))
    for k, has in enumerate(known.T):
        x, y = scores[has, k].astype(np.float64), labels[has, k].astype(np.float64)
        lines = _split(x, y, level) if method == "split_conformal" else _cqr(x, y, parts[has], level)
        if lines is not None:
            found.lower[k], found.upper[k] = lines
            found.half[k] = (lines[1] - lines[0]) @ [1.0, x.mean()] / 2
            found.borrowed[k] = False
    return found


def _split(scores: Floats, labels: Floats, level: float) -> tuple[Floats, Floats] | None:
    half = conformal_quantile(np.abs(labels - scores), level)
    return (np.array([-half, 1.0]), np.array([half, 1.0])) if math.isfinite(half) else None


def _cqr(scores: Floats, labels: Floats, parts: NDArray[np.int64], level: float) -> tuple[Floats, Floats] | None:
    """Quantile lines, moved outwards by the conformal quantile of how far labels of other persons lay beyond them."""
    if len(np.unique(parts)) < FOLDS:
        return None
    beyond = np.empty(len(labels))
    for part in range(FOLDS):
        here = parts == part
        lower, upper = _quantiles(scores[~here], labels[~here], level)
        below, above = lower[0] + lower[1] * scores[here], upper[0] + upper[1] * scores[here]
        beyond[here] = np.maximum(below - labels[here], labels[here] - above)
    margin = conformal_quantile(beyond, level)
    lower, upper = _quantiles(scores, labels, level)
    return (lower - [margin, 0.0], upper + [margin, 0.0]) if math.isfinite(margin) else None


def _quantiles(scores: Floats, labels: Floats, level: float) -> tuple[Floats, Floats]:
    return quantile_line(scores, labels, (1 - level) / 2), quantile_line(scores, labels, (1 + level) / 2)


def _borrow(key: frozenset[str], own: Width, found: Mapping[frozenset[str], Width], scale: Floats) -> Width:
    width = Width(**{name: getattr(own, name).copy() for name in Width.__slots__})
    for k in np.flatnonzero(own.borrowed):
        known = {other: one for other, one in found.items() if not one.borrowed[k]}
        lenders = [one for other, one in known.items() if other < key] or list(known.values())
        if lenders:
            widest = max(lenders, key=lambda one: float(one.half[k]))
            width.half[k], width.lower[k], width.upper[k] = widest.half[k], widest.lower[k], widest.upper[k]
        else:
            width.half[k], width.lower[k], width.upper[k] = scale[k], (-scale[k], 1.0), (scale[k], 1.0)
    return width


def conformal_quantile(values: Floats, level: float) -> float:
    """The ceil((n + 1) · level)-th smallest of n values; infinite where there are too few."""
    rank = math.ceil((len(values) + 1) * level - 1e-9)  # (n + 1) · .9 may come out a hair above a whole number
    return float(np.sort(values)[rank - 1]) if 1 <= rank <= len(values) else math.inf


def quantile_line(x: Floats, y: Floats, tail: float) -> Floats:
    """Intercept and slope (2,) of the line below which a share `tail` of y lies: least pinball loss; x, y (n,).

    For a given slope the best intercept is a quantile of what is left, and what remains is convex in the slope: its
    derivative's sign halves a bracket of eight standard deviations (Koenker 2005). Level where x is constant.
    """
    centre, spread = x.mean(), x.std()
    if spread <= 1e-12 * max(1.0, abs(centre)):
        return np.array([np.quantile(y, tail), 0.0])
    unit = (x - centre) / spread
    least, most = -8 * y.std(), 8 * y.std()
    for _ in range(_HALVINGS):
        slope = (least + most) / 2
        left = y - slope * unit
        too_low = np.sum(unit * (tail - (left < np.quantile(left, tail)))) > 0
        least, most = (slope, most) if too_low else (least, slope)
    slope = (least + most) / (2 * spread)
    return np.array([np.quantile(y - slope * x, tail), slope])


# ---------------------------------------------------------------------------------------------------- persons


def by_id(rows: Rows) -> Rows:
    """Rows in the order of their ids: sums do not depend on the order in which they came."""
    return take(rows, np.argsort(np.asarray(rows.ids, np.str_), kind="stable"))


def take(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Some of the rows, by place."""
    return Rows(
        ids=[rows.ids[n] for n in places],
        persons=[rows.persons[n] for n in places],
        labels=rows.labels[places],
        scores={key: scores[places] for key, scores in rows.scores.items()},
    )


def folds(persons: Sequence[str], seed: int) -> NDArray[np.int64]:
    """A fold for each row (N,); no person is in two. The same persons are divided alike in any order."""
    names, code = np.unique(np.asarray(persons, np.str_), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[code]
