"""Where a clip is cut into windows and at which times its frames are taken. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmtraits.schema import Windowing

_ROUNDING_S = 1e-6


def windows(
    duration_s: float, windowing: Windowing, start_s: float = 0.0, end_s: float | None = None
) -> tuple[tuple[float, float], ...]:
    """Cut the stretch from `start_s` to `end_s` (None: the end) of a medium of `duration_s` into (start, end) seconds.

    Windows of `length_s` start every `hop_s`, the last one is moved back so that it ends with the stretch; a stretch of
    up to `length_s` is one window. Together they cover the stretch wherever hop_s <= length_s. There is at least one,
    an empty one (start == end) where nothing lies in the stretch. Raises ValueError where hop_s or length_s is
    not positive.
    """
    length_s, hop_s = windowing.length_s, windowing.hop_s
    if not (length_s > 0 and hop_s > 0):
        raise ValueError(f"windowing: length_s {length_s}, hop_s {hop_s}; both must be positive")
    start = max(0.0, start_s)
    end = max(start, duration_s if end_s is None else min(end_s, duration_s))
    rest = end - start - length_s
    if rest <= _ROUNDING_S:
        return ((start, end),)
    count = math.ceil((rest - _ROUNDING_S) / hop_s)
    regular = [(start + k * hop_s, start + k * hop_s + length_s) for k in range(count)]
    return (*regular, (end - length_s, end))


def frame_times(start_s: float, end_s: float, n: int) -> NDArray[np.float64]:
    """The centres of n equal parts of a window: (n,) seconds, ascending, strictly inside."""
    return start_s + (np.arange(n, dtype=np.float64) + 0.5) * ((end_s - start_s) / n)


def time_covered(windows: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Seconds that each window stands for: time under several windows is shared equally; equal if all are empty."""
    starts, ends = np.array(windows, np.float64).T
    edges = np.unique(np.concatenate([starts, ends]))
    inside = (starts[:, None] <= edges[:-1]) & (ends[:, None] >= edges[1:])  # (W, pieces)
    shared = np.diff(edges) / np.maximum(inside.sum(axis=0), 1)
    seconds = (inside * shared).sum(axis=1)
    return seconds if seconds.sum() > 0 else np.ones(len(windows))
