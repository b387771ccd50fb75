"""How a face or body moves: named statistics of action-unit, pose or landmark series (T, D). NumPy only.

The families are those of Bitbox (arXiv 2512.17655); definitions and code are ours, so values are not comparable with
its. Each family is a function of a uniform series; `summary` gathers them into one vector with names and units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCALES_S = (0.5, 2.0, 8.0)
MIN_STEPS = 8  # fewer tell nothing of motion, whose third differences must leave several
LANDMARKS = 68
PEAK_SHARE = 0.25  # a peak stands out of its surroundings by this share of the series' range

# Mirrored points of the 68-point layout (iBUG 300-W, which OpenFace and Py-Feat write), by region.
_MIRRORED = {
    "jaw": [(n, 16 - n) for n in range(8)],
    "brow": [(n, 43 - n) for n in range(17, 22)],
    "nose": [(31, 35), (32, 34)],
    "eye": [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)],
    "mouth": [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)],
}
REGIONS = (*_MIRRORED, "overall")


class Summary(NamedTuple):
    """Statistics of one series: a name, a unit and a value each."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    values: Floats


def summary(
    series: NDArray[Any], names: Sequence[str], fps: float, *, scales_s: Sequence[float] = SCALES_S
) -> Summary | None:
    """All families for a series (T, D) of named signals at `fps`; None, missing, with fewer than MIN_STEPS steps.

    Columns x_0..x_67 and y_0..y_67, where all are there, are landmarks: they give asymmetry and are no signals.
    Units: `u` is the signal's own. Raises ValueError for a series that is not finite, or names of another number.
    """
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(names) or not np.isfinite(values).all() or not fps > 0:
        raise ValueError(f"behaviour: series {values.shape} at {fps} fps; expected finite (T, {len(names)}), fps > 0")
    if len(values) < MIN_STEPS:
        return None
    points = _points(values, names)
    signals = [n for n, name in enumerate(names) if points is None or not _is_point(name)]
    found: list[tuple[str, str, float]] = []
    for n in signals:
        found += _of_signal(names[n], values[:, n], fps, scales_s)
    if len(signals) > 1:
        for scale_s in scales_s:
            overall, framewise = diversity(values[:, signals], fps, scale_s)
            found += [(f"diversity_{scale_s:g}s", "of its maximum", overall)]
            found += [(f"diversity_framewise_{scale_s:g}s", "of its maximum", framewise)]
    if points is not None:
        unit = "of the distance of the eyes"
        for region, errors in asymmetry(points).items():
            stats = {"mean": errors.mean(), "sd": errors.std(), "max": errors.max()}
            found += [(f"asymmetry_{region}_{stat}", unit, float(value)) for stat, value in stats.items()]
    labels, units, numbers = zip(*found, strict=True)
    return Summary(labels, units, np.array(numbers))


def uniform(values: NDArray[Any], times_s: NDArray[Any], fps: float) -> Floats:
    """A series (T, D) at any times (T,), rising -> one at `fps` from the first to the last, linear between steps."""
    if not len(times_s) or np.any(np.diff(times_s) <= 0):
        raise ValueError("behaviour: times do not rise; expected one step per time, in order")
    grid = np.arange(times_s[0], times_s[-1] + 0.5 / fps, 1 / fps)
    return np.stack([np.interp(grid, times_s, column) for column in np.asarray(values, np.float64).T], axis=1)


# ---------------------------------------------------------------------------------------------------- families


def expressivity(signal: Floats, fps: float, scale_s: float) -> dict[str, float]:
    """Peaks of one signal (T,) at a time scale: how many, how much of the time, how high above the median.

    frequency: per minute; density: share of the time within half a scale of a peak; mean, sd, min, max: of heights, in
    the signal's unit, 0 without a peak.
    """
    smooth = _smoothed(signal[:, None], fps, scale_s / 4)[:, 0]
    at = peaks(smooth, max(1, round(scale_s * fps / 2)))
    heights = smooth[at] - np.median(smooth) if len(at) else np.zeros(1)
    near = np.abs(np.arange(len(signal))[:, None] - at).min(axis=1, initial=len(signal)) <= scale_s * fps / 2
    return {
        "frequency": len(at) / (len(signal) / fps / 60),
        "density": float(near.mean()) if len(at) else 0.0,
        "mean": float(heights.mean()),
        "sd": float(heights.std()),
        "min": float(heights.min()),
        "max": float(heights.max()),
    }


def peaks(signal: Floats, reach: int) -> NDArray[np.intp]:
    """Where a signal (T,) is the highest of the `reach` steps on either side, and stands out of both sides.

    By at least PEAK_SHARE of the signal's whole range; the first step of a plateau counts, a side cut off by an end of
    the series does not stand lower.
    """
    if np.ptp(signal) <= 1e-9 * np.abs(signal).max(initial=1e-12):
        return np.zeros(0, np.intp)
    ahead = np.lib.stride_tricks.sliding_window_view(np.pad(signal, (0, reach), mode="edge"), reach + 1)
    behind = np.lib.stride_tricks.sliding_window_view(np.pad(signal, (reach, 0), mode="edge"), reach + 1)
    highest = (signal >= ahead.max(axis=1)) & (signal > behind[:, :-1].max(axis=1))
    least = np.maximum(ahead.min(axis=1), behind.min(axis=1))
    return np.flatnonzero(highest & (signal - least >= PEAK_SHARE * np.ptp(signal)))


def diversity(signals: Floats, fps: float, scale_s: float) -> tuple[float, float]:
    """Entropy of how activity is shared by D > 1 signals (T, D): of the whole, and the mean over frames; in [0, 1].

    Activity is the distance from the signal's median after smoothing over the scale; base D: 1 = all alike.
    """
    activity = np.abs(_smoothed(signals, fps, scale_s) - np.median(signals, axis=0))
    return float(_entropy(activity.sum(axis=0)[None])[0]), float(np.mean(_entropy(activity)))


def kinematics(points: Floats, fps: float) -> dict[str, float]:
    """Motion of one point (T, d): range (diagonal of its box), path; mean and highest speed, mean acceleration."""
    speed = np.linalg.norm(_derivative(points, fps, 1), axis=1)
    return {
        "range": float(np.linalg.norm(np.ptp(points, axis=0))),
        "path": float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum()),
        "speed_mean": float(speed.mean()),
        "speed_max": float(speed.max()),
        "acceleration_mean": float(np.linalg.norm(_derivative(points, fps, 2), axis=1).mean()),
    }


def smoothness(points: Floats, fps: float) -> dict[str, float]:
    """Mean jerk of one point (T, d), and its log dimensionless jerk (Hogan & Sternad 2009; 0 for a point at rest).

    −ln(duration³ / highest speed² × ∫|jerk|² dt): higher is smoother.
    """
    jerk = np.linalg.norm(_derivative(points, fps, 3), axis=1)
    top = float(np.linalg.norm(_derivative(points, fps, 1), axis=1).max())
    duration_s = len(points) / fps
    total = float((jerk**2).mean()) * duration_s
    still = top <= 1e-9 or total <= 1e-18
    return {
        "jerk_mean": float(jerk.mean()),
        "log_dimensionless_jerk": 0.0 if still else -float(np.log(duration_s**3 / top**2 * total)),
    }


def relative_motion(points: Floats, reference: Literal["mean", "first"] = "mean") -> dict[str, float]:
    """Distances of one point (T, d) from its mean place or its first: least, mean, s.d. and most."""
    distance = np.linalg.norm(points - (points.mean(axis=0) if reference == "mean" else points[0]), axis=1)
    return {
        "distance_min": float(distance.min()),
        "distance_mean": float(distance.mean()),
        "distance_sd": float(distance.std()),
        "distance_max": float(distance.max()),
    }


def asymmetry(landmarks: Floats) -> dict[str, Floats]:
    """Landmarks (T, 68, 2) -> per region and `overall`, each frame's (T,) distance from its own mirror image.

    The mirror image is moved and turned onto the face (least squares) and distances are divided by that of the outer
    corners of the eyes, so that place, size and roll of the head do not count; yaw does.
    """
    face = landmarks[..., 0] + 1j * landmarks[..., 1]
    face = face - face.mean(axis=1, keepdims=True)
    mirror = -np.conj(face)[:, _mirror_order()]
    turn = (face * np.conj(mirror)).sum(axis=1, keepdims=True)
    eyes = np.maximum(np.abs(face[:, 36] - face[:, 45]), 1e-9)
    error = np.abs(face - turn / np.maximum(np.abs(turn), 1e-12) * mirror) / eyes[:, None]
    regions = {name: sorted({n for pair in pairs for n in pair}) for name, pairs in _MIRRORED.items()}
    return {**{name: error[:, of].mean(axis=1) for name, of in regions.items()}, "overall": error.mean(axis=1)}


# ---------------------------------------------------------------------------------------------------- parts of them


def _of_signal(name: str, signal: Floats, fps: float, scales_s: Sequence[float]) -> list[tuple[str, str, float]]:
    found: list[tuple[str, str, float]] = []
    for scale_s in scales_s:
        for stat, value in expressivity(signal, fps, scale_s).items():
            unit = {"frequency": "/min", "density": "of the time"}.get(stat, "u")
            found.append((f"{name}_peak_{stat}_{scale_s:g}s", unit, value))
    point = signal[:, None]
    units = {"speed_mean": "u/s", "speed_max": "u/s", "acceleration_mean": "u/s2", "jerk_mean": "u/s3"}
    units["log_dimensionless_jerk"] = "1"
    for stat, value in (kinematics(point, fps) | smoothness(point, fps) | relative_motion(point)).items():
        found.append((f"{name}_{stat}", units.get(stat, "u"), value))
    return found


def _smoothed(signals: Floats, fps: float, width_s: float) -> Floats:
    """Centred moving mean over `width_s` of each column; at the ends over the steps there are."""
    half = round(width_s * fps / 2)
    total = np.concatenate([np.zeros((1, signals.shape[1])), np.cumsum(signals, axis=0)])
    steps = np.arange(len(signals))
    low, high = np.maximum(steps - half, 0), np.minimum(steps + half + 1, len(signals))
    smoothed: Floats = (total[high] - total[low]) / (high - low)[:, None]
    return smoothed


def _derivative(points: Floats, fps: float, order: int) -> Floats:
    """Central differences, without the `order` steps at either end where they would be one-sided."""
    for _ in range(order):
        points = (points[2:] - points[:-2]) * (fps / 2)
    return points


def _entropy(activity: Floats) -> Floats:
    """Rows (R, D) of activity >= 0 -> their entropy over D, base D; 0 where nothing is active."""
    total = activity.sum(axis=1, keepdims=True)
    share = activity / np.where(total > 0, total, 1)
    return np.asarray(-(share * np.log(np.where(share > 0, share, 1))).sum(axis=1) / np.log(activity.shape[1]) + 0.0)


def _is_point(name: str) -> bool:
    return name[:2] in ("x_", "y_") and name[2:].isdigit() and int(name[2:]) < LANDMARKS


def _points(values: Floats, names: Sequence[str]) -> Floats | None:
    wanted = [[f"{axis}_{n}" for n in range(LANDMARKS)] for axis in "xy"]
    if not {name for axis in wanted for name in axis} <= set(names):
        return None
    place = {name: n for n, name in enumerate(names)}
    return np.stack([values[:, [place[name] for name in axis]] for axis in wanted], axis=-1)


def _mirror_order() -> NDArray[np.intp]:
    order = np.arange(LANDMARKS)
    for left, right in (pair for pairs in _MIRRORED.values() for pair in pairs):
        order[left], order[right] = right, left
    return order
