"""How far scores are from labels. Whole splits, float64, NaN = unknown or undefined.

Rows are put in the order of their clip ids before anything is summed: the same scores give the same bytes in any order
and under any batching. Definitions: one_minus_mae is the "accuracy" of the ChaLearn First Impressions challenge
(Ponce-López et al. 2016); ccc is Lin's concordance (1989) with population variances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.schema import Trait, TraitSchema

Vector = NDArray[np.float64]


def mae(labels: Vector, scores: Vector) -> float:
    """Mean absolute error, on the scale of the inputs (n,)."""
    return float(np.mean(np.abs(labels - scores)))


def rmse(labels: Vector, scores: Vector) -> float:
    """Root of the mean squared error, on the scale of the inputs (n,)."""
    return float(np.sqrt(np.mean((labels - scores) ** 2)))


def pearson(labels: Vector, scores: Vector) -> float:
    """Pearson's r; NaN where either side is constant."""
    if _constant(labels) or _constant(scores):
        return float("nan")
    x, y = labels - labels.mean(), scores - scores.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def ccc(labels: Vector, scores: Vector) -> float:
    """Concordance: 2 cov / (var + var + squared difference of means); constant scores give 0, constant labels NaN."""
    if _constant(labels):
        return float("nan")
    if _constant(scores):
        return 0.0
    shift = labels.mean() - scores.mean()
    covariance = np.mean((labels - labels.mean()) * (scores - scores.mean()))
    return float(2 * covariance / (labels.var() + scores.var() + shift**2))


def r2(labels: Vector, scores: Vector) -> float:
    """1 − squared error / squared error of the evaluated labels' own mean; NaN where the labels are constant."""
    if _constant(labels):
        return float("nan")
    return float(1 - np.sum((labels - scores) ** 2) / np.sum((labels - labels.mean()) ** 2))


METRICS: dict[str, Callable[[Vector, Vector], float]] = {
    "mae": mae,
    "rmse": rmse,
    "ccc": ccc,
    "pearson": pearson,
    "r2": r2,
}
NAMES = ("one_minus_mae", *METRICS)


def table(
    labels: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
    clip_ids: Sequence[str],
    schema: TraitSchema,
) -> dict[str, Any]:
    """Every metric per trait and on average: {"traits": {trait: {metric: value, n, unscored}}, "mean": {...}}.

    labels, scores: (N, K) on the schema's scale. Rows with an unknown label are left out; `n` is what remains and
    `unscored` counts labelled rows whose score is NaN (failed clips). The mean is over the traits that have labels and
    is NaN where one of them is NaN: an undefined value is never taken for a good one. `mean.undefined` counts them.
    """
    y, p = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if y.shape != p.shape or y.shape != (len(clip_ids), len(schema.traits)):
        found = f"labels {y.shape}, scores {p.shape}, {len(clip_ids)} ids, {len(schema.traits)} traits"
        raise ValueError(f"{found}; expected (N, K) for all")
    order = np.argsort(np.asarray(clip_ids, dtype=np.str_), kind="stable")
    y, p = y[order], p[order]
    traits = {trait.name: _row(y[:, k], p[:, k], trait) for k, trait in enumerate(schema.traits)}
    return {"traits": traits, "mean": _mean(traits)}


def _row(labels: Vector, scores: Vector, trait: Trait) -> dict[str, float]:
    known, scored = ~np.isnan(labels), np.isfinite(scores)
    y, p = labels[known & scored], scores[known & scored]
    if not len(y):
        values = dict.fromkeys(NAMES, float("nan"))
    else:
        values = {name: metric(y, p) for name, metric in METRICS.items()}
        values = {"one_minus_mae": _one_minus_mae(values["mae"], trait), **values}
    return {**values, "n": len(y), "unscored": int(np.sum(known & ~scored))}


def _one_minus_mae(error: float, trait: Trait) -> float:
    """On the unit scale, so that traits and corpora compare; NaN for an unbounded trait."""
    if trait.kind == "binary":
        return 1 - error
    if trait.low is None or trait.high is None:
        return float("nan")
    return 1 - error / (trait.high - trait.low)


def _mean(traits: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    counted = [row for row in traits.values() if row["n"] + row["unscored"]]
    means = {name: float(np.mean([row[name] for row in counted])) if counted else float("nan") for name in NAMES}
    undefined = {name: sum(np.isnan(row[name]) for row in counted) for name in NAMES}
    return {**means, "undefined": {name: int(count) for name, count in undefined.items() if count}}


def _constant(values: Vector) -> bool:
    return bool(values.min() == values.max())
