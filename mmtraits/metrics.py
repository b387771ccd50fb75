"""How far scores are from labels. Whole splits, float64, NaN = unknown or undefined.

Rows are put in the order of their clip ids before anything is summed: the same scores give the same bytes in any order
and under any batching. Definitions: one_minus_mae is the "accuracy" of the ChaLearn First Impressions challenge
(Ponce-López et al. 2016); ccc is Lin's concordance (1989) with population variances; c_index is Harrell's (1982).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.schema import Trait, TraitSchema

Vector = NDArray[np.float64]
Rows = NDArray[np.int64]
THRESHOLD = 0.5  # of binary traits, whose labels are 0 and 1
TAIL_PERCENTILES = (10, 90)
NAN = float("nan")


# ------------------------------------------------------------------------------------------ functions of two vectors


def mae(labels: Vector, scores: Vector) -> float:
    """Mean absolute error, on the scale of the inputs (n,)."""
    return float(np.mean(np.abs(labels - scores)))


def rmse(labels: Vector, scores: Vector) -> float:
    """Root of the mean squared error, on the scale of the inputs (n,)."""
    return float(np.sqrt(np.mean((labels - scores) ** 2)))


def pearson(labels: Vector, scores: Vector) -> float:
    """Pearson's r; NaN where either side is constant."""
    if _constant(labels) or _constant(scores):
        return NAN
    x, y = labels - labels.mean(), scores - scores.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def ccc(labels: Vector, scores: Vector) -> float:
    """Concordance: 2 cov / (var + var + squared difference of means); constant scores give 0, constant labels NaN."""
    if _constant(labels):
        return NAN
    if _constant(scores):
        return 0.0
    shift = labels.mean() - scores.mean()
    covariance = np.mean((labels - labels.mean()) * (scores - scores.mean()))
    return float(2 * covariance / (labels.var() + scores.var() + shift**2))


def r2(labels: Vector, scores: Vector) -> float:
    """1 − squared error / squared error of the evaluated labels' own mean (scikit-learn's); NaN for constant labels."""
    if _constant(labels):
        return NAN
    return float(1 - np.sum((labels - scores) ** 2) / np.sum((labels - labels.mean()) ** 2))


def spread(labels: Vector, scores: Vector) -> float:
    """Standard deviation of the scores over that of the labels: under 1, scores huddle; NaN for constant labels."""
    if _constant(labels):
        return NAN
    return 0.0 if _constant(scores) else float(scores.std() / labels.std())


def tail_mae(labels: Vector, scores: Vector) -> float:
    """Mean absolute error over labels below the 10th or above the 90th percentile of these labels; NaN if none is.

    A bootstrap keeps the thresholds of the evaluated labels: they are not found anew for each resample.
    """
    tail = in_tail(labels)
    return mae(labels[tail], scores[tail]) if tail.any() else NAN


def in_tail(labels: Vector) -> NDArray[np.bool_]:
    """Which labels lie strictly outside their 10th to 90th percentile (linear interpolation)."""
    low, high = np.percentile(labels, TAIL_PERCENTILES)
    return np.asarray((labels < low) | (labels > high))


def spearman(labels: Vector, scores: Vector) -> float:
    """Pearson's r of ranks, ties at their average rank; NaN where either side is constant."""
    return float(resampled_spearman(labels, scores, *_once(labels))[0])


def c_index(labels: Vector, scores: Vector) -> float:
    """Share of pairs with different labels whose scores are in the same order, equal scores half; NaN without pairs."""
    return float(resampled_c_index(labels, scores, *_once(labels))[0])


def macro_f1(labels: Vector, scores: Vector) -> float:
    """Mean of the F1 of both classes of a binary trait, cut at 0.5; NaN unless both occur among the labels."""
    return float(f1_and_uar(*_confusion(labels, scores))[0])


def uar(labels: Vector, scores: Vector) -> float:
    """Mean recall of both classes of a binary trait (balanced accuracy), cut at 0.5; NaN unless both occur."""
    return float(f1_and_uar(*_confusion(labels, scores))[1])


def skill(labels: Vector, scores: Vector, median: Vector) -> float:
    """1 − MAE / MAE of the training median, the best constant; NaN where that one is never wrong or unknown."""
    floor = mae(labels, np.broadcast_to(median, labels.shape))
    return 1 - mae(labels, scores) / floor if floor > 0 else NAN


def f1_and_uar(n: Vector, high: Vector, said: Vector, both: Vector) -> tuple[Vector, Vector]:
    """Macro-F1 and UAR of counts: rows, those with a high label, with a high score, with both; any shape."""
    neither = n - high - said + both
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = both / (high + said) + neither / (2 * n - high - said)
        recall = (both / high + neither / (n - high)) / 2
    undefined = (high <= 0) | (high >= n)
    return np.where(undefined, NAN, f1), np.where(undefined, NAN, recall)


def icc1(values: NDArray[np.floating[Any]], persons: Sequence[str]) -> float:
    """ICC(1,1): how alike values (n,) of one person are, 1 = equal; NaN values are left out.

    One-way analysis of variance (Shrout and Fleiss 1979), with the mean group size of Searle et al. (1992) as persons
    have unequal numbers of clips. NaN where no person has two values, where there is one person, or all are equal.
    """
    x = np.asarray(values, np.float64)
    known = ~np.isnan(x)
    x, names = x[known], np.asarray(persons, dtype=np.str_)[known]
    order = np.lexsort((x, names))  # by value within a person: sums do not depend on the order of rows
    _, of, sizes = np.unique(names[order], return_inverse=True, return_counts=True)
    groups, n = len(sizes), len(x)
    if groups < 2 or groups == n or _constant(x):
        return NAN
    x = x[order] - x[order].mean()
    means = np.bincount(of, weights=x) / sizes
    between = np.sum(sizes * means**2) / (groups - 1)
    within = np.sum((x - means[of]) ** 2) / (n - groups)
    size = (n - np.sum(sizes**2) / n) / (groups - 1)
    return float((between - within) / (between + (size - 1) * within))


METRICS: dict[str, Callable[[Vector, Vector], float]] = {
    "mae": mae,
    "rmse": rmse,
    "ccc": ccc,
    "pearson": pearson,
    "spearman": spearman,
    "c_index": c_index,
    "r2": r2,
    "spread": spread,
    "tail_mae": tail_mae,
}
BINARY: dict[str, Callable[[Vector, Vector], float]] = {"macro_f1": macro_f1, "uar": uar}
NAMES = ("one_minus_mae", *METRICS)  # of a table without a median and without binary traits


# ------------------------------------------------------------------------------------------------------------ tables


def names(schema: TraitSchema) -> tuple[str, ...]:
    """The metrics that say something about these traits, given a training median."""
    bounded = any(not math.isnan(unit(trait)) for trait in schema.traits)
    kinds = {trait.kind for trait in schema.traits}
    skipped = {name for name, fits in (("one_minus_mae", bounded), ("tail_mae", "continuous" in kinds)) if not fits}
    return tuple(name for name in (*_columns(schema), "skill") if name not in skipped)


def table(
    labels: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
    clip_ids: Sequence[str],
    schema: TraitSchema,
    *,
    median: NDArray[np.floating[Any]] | None = None,
) -> dict[str, Any]:
    """Every metric per trait and on average: {"traits": {trait: {metric: value, n, unscored}}, "mean": {...}}.

    labels, scores: (N, K) on the schema's scale; `median`, (K,) or (N, K), of the training labels adds `skill`, binary
    traits add macro_f1 and uar. Rows with an unknown label are left out; `n` is what remains and `unscored` counts
    labelled rows whose score is NaN (failed clips). The mean is over the traits that have labels and to which a metric
    applies (macro_f1, uar: binary; tail_mae: continuous) and is NaN where one of them is NaN: an undefined value is
    never taken for a good one, nor a mean of some traits for that of all. `mean.undefined` counts them.
    """
    y, p = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if y.shape != p.shape or y.shape != (len(clip_ids), len(schema.traits)):
        found = f"labels {y.shape}, scores {p.shape}, {len(clip_ids)} ids, {len(schema.traits)} traits"
        raise ValueError(f"{found}; expected (N, K) for all")
    order = np.argsort(np.asarray(clip_ids, dtype=np.str_), kind="stable")
    floor = None if median is None else np.broadcast_to(np.asarray(median, np.float64), y.shape)[order]
    y, p = y[order], p[order]
    columns = (*_columns(schema), *(() if median is None else ("skill",)))
    traits = {
        trait.name: _row(y[:, k], p[:, k], trait, columns, None if floor is None else floor[:, k])
        for k, trait in enumerate(schema.traits)
    }
    return {"traits": traits, "mean": _mean(traits, columns, schema)}


def applies(name: str, trait: Trait) -> bool:
    """Whether a trait takes part in the mean of a metric."""
    return trait.kind == {"macro_f1": "binary", "uar": "binary", "tail_mae": "continuous"}.get(name, trait.kind)


def unit(trait: Trait) -> float:
    """Length of a trait's scale, by which errors of traits and corpora compare; NaN for an unbounded trait."""
    if trait.kind == "binary":
        return 1.0
    return NAN if trait.low is None or trait.high is None else trait.high - trait.low


def _columns(schema: TraitSchema) -> tuple[str, ...]:
    return (*NAMES, *(BINARY if any(trait.kind == "binary" for trait in schema.traits) else ()))


def _row(
    labels: Vector, scores: Vector, trait: Trait, columns: Sequence[str], floor: Vector | None
) -> dict[str, float]:
    known, scored = ~np.isnan(labels), np.isfinite(scores)
    y, p = labels[known & scored], scores[known & scored]
    values = dict.fromkeys(columns, NAN)
    if len(y):
        functions = {name: metric for name, metric in (METRICS | BINARY).items() if name in values}
        values |= {name: metric(y, p) for name, metric in functions.items() if applies(name, trait)}
        values["one_minus_mae"] = 1 - values["mae"] / unit(trait)
        if floor is not None:
            values["skill"] = skill(y, p, floor[known & scored])
    return {**values, "n": len(y), "unscored": int(np.sum(known & ~scored))}


def _mean(traits: Mapping[str, Mapping[str, float]], columns: Sequence[str], schema: TraitSchema) -> dict[str, Any]:
    means, undefined = {}, {}
    for name in columns:
        rows = [traits[trait.name] for trait in schema.traits if applies(name, trait)]
        values = [row[name] for row in rows if row["n"] + row["unscored"]]
        means[name] = float(np.mean(values)) if values else NAN
        undefined[name] = int(np.isnan(values).sum())
    return {**means, "undefined": {name: count for name, count in undefined.items() if count}}


def _constant(values: Vector) -> bool:
    return bool(values.min() == values.max() or values.var() == 0)  # a variance may underflow


def _confusion(labels: Vector, scores: Vector) -> tuple[Vector, Vector, Vector, Vector]:
    high, said = labels >= THRESHOLD, scores >= THRESHOLD
    counts = np.array([len(labels), high.sum(), said.sum(), (high & said).sum()], np.float64)
    return counts[0], counts[1], counts[2], counts[3]


# --------------------------------------------------------------------------- ranks of many resamples of the same rows

LEAF_ROWS = 64
PIECE = 200_000  # elements of a temporary array: small enough for the processor's cache


def resampled_spearman(labels: Vector, scores: Vector, units: Rows, counts: Vector) -> Vector:
    """Spearman's r (B,) of rows (n,) that are repeated counts[b, units[row]] times; counts (B, P)."""
    sides = [(_ties(values), values) for values in (labels, scores)]
    found = np.empty(len(counts))
    for piece in _pieces(counts, len(labels)):
        weights = counts[piece]
        ranks, squares = [], []
        for groups, _ in sides:
            own = groups.sums(weights, units)
            middle = own.cumsum(axis=1) - own / 2 - own.sum(axis=1, keepdims=True) / 2
            squares.append(np.einsum("bg,bg,bg->b", own, middle, middle))
            ranks.append(middle.take(groups.of, axis=1))
        product = np.einsum("bn,bn,bn->b", weights.take(units, axis=1), *ranks)
        scale = np.sqrt(squares[0]) * np.sqrt(squares[1])
        found[piece] = np.divide(product, scale, out=np.full_like(scale, NAN), where=scale > 0)
    return np.asarray(np.clip(found, -1.0, 1.0))


def resampled_c_index(labels: Vector, scores: Vector, units: Rows, counts: Vector) -> Vector:
    """C-index (B,) of rows (n,) that are repeated counts[b, units[row]] times; counts (B, P).

    Knight's way (1966) with weights: pairs in the wrong order are inversions of the scores in the order of the labels.
    """
    ties = [_ties(labels), _ties(scores), _ties(labels, scores)]
    squares = np.empty((len(ties), len(counts)))
    for piece in _pieces(counts, len(labels)):
        for found, groups in zip(squares, ties, strict=True):
            found[piece] = np.square(groups.sums(counts[piece], units)).sum(axis=1)
    total = counts @ np.bincount(units, minlength=counts.shape[1])
    pairs = (total**2 - squares[0]) / 2
    equal = (squares[1] - squares[2]) / 2
    by_labels, by_scores = np.lexsort((scores, labels)), np.lexsort((labels, scores))
    rank = np.empty(len(labels), np.int64)
    rank[by_scores] = np.arange(len(labels))
    wrong = _inversions(rank[by_labels], units[by_labels], counts)
    right: Vector = np.divide(pairs - wrong - equal / 2, pairs, out=np.full_like(pairs, NAN), where=pairs > 0)
    return right


def _inversions(rank: Rows, units: Rows, counts: Vector) -> Vector:
    """Weight (B,) of pairs of rows whose ranks, a permutation (n,), fall: a merge sort that counts all resamples."""
    blocks = 1 << max(0, math.ceil(math.log2(len(rank) / LEAF_ROWS)))
    size = -(-len(rank) // blocks)
    full = blocks * size
    rank = np.concatenate([rank, np.arange(len(rank), full)])
    units = np.concatenate([units, np.full(full - len(units), counts.shape[1])])
    counts = np.pad(counts, ((0, 0), (0, 1)))  # rows that fill the last block count nothing
    pieces = list(_pieces(counts, full))
    found = np.zeros(len(counts))
    leaves = rank.reshape(blocks, size)
    falls = np.triu(leaves[:, :, None] > leaves[:, None, :]).astype(np.float64)
    for piece in pieces:
        weights = counts[piece].take(units, axis=1).reshape(-1, blocks, size).transpose(1, 0, 2)
        found[piece] = np.einsum("kbi,kbi->b", weights @ falls, weights)
    while size < full:
        size *= 2
        order = np.argsort(rank.reshape(-1, size), axis=1) + np.arange(0, full, size)[:, None]
        late = order % size >= size // 2
        for piece in pieces:
            weights = counts[piece].take(units[order], axis=1)
            passed = np.cumsum(weights * late, axis=2)  # later rows of lower rank
            found[piece] += np.einsum("bki,bki->b", weights * ~late, passed)
    return found


class _Ties(NamedTuple):
    """Groups of equal rows, ascending: rows by group, where each group starts among them, and each row's group."""

    order: Rows
    starts: Rows
    of: Rows

    def sums(self, counts: Vector, units: Rows) -> Vector:
        """How often each group is in each resample (B, G)."""
        return np.add.reduceat(counts.take(units[self.order], axis=1), self.starts, axis=1)


def _ties(*keys: Vector) -> _Ties:
    order = np.lexsort(keys[::-1])
    first = np.zeros(len(order), np.bool_)
    for key in keys:
        ascending = key[order]
        first[1:] |= ascending[1:] != ascending[:-1]
    first[:1] = True
    of = np.empty(len(order), np.int64)
    of[order] = np.cumsum(first) - 1
    return _Ties(order, np.flatnonzero(first), of)


def _pieces(counts: Vector, rows: int) -> Iterator[slice]:
    step = max(1, PIECE // rows)
    return (slice(start, start + step) for start in range(0, len(counts), step))


def _once(labels: Vector) -> tuple[Rows, Vector]:
    return np.zeros(len(labels), np.int64), np.ones((1, 1))
