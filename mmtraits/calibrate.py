"""Split-conformal intervals per set of present streams and trait. NumPy only; the runtime applies what is fitted here.

Residuals must be out of fold, on persons outside training. The half width is the ceil((n + 1) · level)-th smallest
absolute residual (Vovk et al. 2005; Lei et al. 2018): under exchangeability at least `level` of new labels lie inside.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Residuals = tuple[Collection[str], NDArray[np.floating[Any]]]  # the streams that were present, labels − scores (n, K)


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """The interval of one set of present streams: half widths (K,) and labelled rows (K,).

    `borrowed`: (K,) bool, too few rows of its own; the width is the widest among its calibrated subsets and its
    coverage is not claimed.
    """

    half: NDArray[np.float64]
    rows: NDArray[np.int64]
    borrowed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Intervals at `level` for every non-empty set of `streams`; low and high (K,) bound them on the schema's scale."""

    level: float
    streams: tuple[str, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    widths: Mapping[frozenset[str], Width]

    def interval(
        self, scores: NDArray[np.floating[Any]], present: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores (N, K), present (N, P) in the order of `streams` -> lower, upper (N, K).

        NaN where a score is NaN or no stream is present.
        """
        scores = np.asarray(scores, np.float64)
        half = np.full(scores.shape, np.nan)
        for pattern in np.unique(present, axis=0):
            if pattern.any():
                key = frozenset(stream for stream, here in zip(self.streams, pattern, strict=True) if here)
                half[(present == pattern).all(axis=1)] = self.widths[key].half
        return np.clip(scores - half, self.low, self.high), np.clip(scores + half, self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        sets = [
            {
                "present": [stream for stream in self.streams if stream in key],
                "half_width": width.half.tolist(),
                "rows": width.rows.tolist(),
                "borrowed": width.borrowed.tolist(),
            }
            for key, width in self.widths.items()
        ]
        return {
            "method": "split_conformal",
            "level": self.level,
            "streams": list(self.streams),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "sets": sets,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`."""
        if data["method"] != "split_conformal":
            raise ValueError(f"calibration method {data['method']!r}; this version knows split_conformal")
        widths = {
            frozenset(entry["present"]): Width(
                half=np.array(entry["half_width"], np.float64),
                rows=np.array(entry["rows"], np.int64),
                borrowed=np.array(entry["borrowed"], np.bool_),
            )
            for entry in data["sets"]
        }
        return cls(
            level=data["level"],
            streams=tuple(data["streams"]),
            low=np.array(data["low"], np.float64),
            high=np.array(data["high"], np.float64),
            widths=widths,
        )


def fit(
    streams: Sequence[str],
    residuals: Sequence[Residuals],
    *,
    low: NDArray[np.floating[Any]],
    high: NDArray[np.floating[Any]],
    level: float = 0.9,
) -> Calibration:
    """Fit the widths of every set of `streams`; residuals of the same set are pooled, NaN = unknown label.

    Rows of a larger set that were scored again with streams masked belong to the smaller set; the caller does that.
    low, high: (K,) finite bounds of the scale. A trait of a set with too few rows for its quantile (at level .9 fewer
    than 9) borrows the widest width among the set's calibrated subsets, else among all calibrated sets, else the whole
    scale. Raises ValueError for residuals of unknown streams.
    """
    bottom, top = np.asarray(low, np.float64), np.asarray(high, np.float64)
    pooled: dict[frozenset[str], list[NDArray[np.float64]]] = {}
    for present, values in residuals:
        if not set(present) <= set(streams) or not present:
            raise ValueError(f"residuals of {sorted(present)}; expected some of the streams {list(streams)}")
        pooled.setdefault(frozenset(present), []).append(np.abs(np.asarray(values, np.float64)))
    own = {key: _own(np.concatenate(values), level) for key, values in pooled.items()}
    nothing = Width(
        half=np.full(len(bottom), np.inf), rows=np.zeros(len(bottom), np.int64), borrowed=np.ones(len(bottom), np.bool_)
    )
    sets = [frozenset(some) for size in range(1, len(streams) + 1) for some in combinations(streams, size)]
    widths = {key: _borrow(key, own.get(key, nothing), own, top - bottom) for key in sets}
    return Calibration(level=level, streams=tuple(streams), low=bottom, high=top, widths=widths)


def _own(residuals: NDArray[np.float64], level: float) -> Width:
    """The conformal quantile of each column of absolute residuals (n, K); infinite where the rows are too few."""
    rows = np.sum(~np.isnan(residuals), axis=0)
    half = np.full(residuals.shape[1], np.inf)
    for k, n in enumerate(rows):
        rank = math.ceil((n + 1) * level - 1e-9)  # (n + 1) · .9 may come out a hair above a whole number
        if 1 <= rank <= n:
            half[k] = np.sort(residuals[:, k])[rank - 1]  # NaN sorts last
    return Width(half=half, rows=rows.astype(np.int64), borrowed=np.isinf(half))


def _borrow(
    key: frozenset[str], own: Width, found: Mapping[frozenset[str], Width], scale: NDArray[np.float64]
) -> Width:
    half = own.half.copy()
    for k in np.flatnonzero(own.borrowed):
        known = {other: width.half[k] for other, width in found.items() if not width.borrowed[k]}
        subsets = [width for other, width in known.items() if other < key]
        half[k] = max(subsets or known.values(), default=scale[k])
    return Width(half=half, rows=own.rows, borrowed=own.borrowed)
