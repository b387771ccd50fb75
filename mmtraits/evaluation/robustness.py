"""What missing streams cost: every set of streams, streams dropped at random, and each stream's Shapley share.

Everything here follows from scores by every set of present streams; nothing is run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray

from mmtraits import metrics
from mmtraits.evaluation.contents import DropPoint, Estimate, Robustness, Subset, WindowPoint, number
from mmtraits.schema import TraitSchema

Streams = frozenset[str]
Scores = NDArray[np.float64]
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # of the GCNet line of work on missing modalities
DRAWS = 10  # per rate; their metrics are averaged


def measure(
    by_streams: Mapping[Streams, Scores],
    nothing: Scores,
    labels: Scores,
    ids: Sequence[str],
    schema: TraitSchema,
    *,
    streams: Sequence[str],
    seed: int = 0,
) -> Robustness:
    """by_streams: scores (N, K) per set of given streams, NaN where a row lacks one; nothing: the training mean (N, K).

    labels (N, K), NaN = unknown. The order of the rows changes nothing: they are sorted by id first.
    """
    order = np.argsort(np.asarray(ids, dtype=np.str_), kind="stable")
    said = {some: scores[order] for some, scores in by_streams.items()}
    names = [ids[row] for row in order]
    found = _Scorer(labels[order], names, schema)
    return Robustness(
        subsets=[_subset(some, scores, streams, found) for some, scores in said.items()],
        drop_curve=_drop_curve(said, found, streams, seed) if len(streams) > 1 else [],
        shapley=_shapley(said, nothing[order], labels[order], streams) if len(streams) > 1 else {},
    )


def window(length_s: float, scores: Scores, labels: Scores, ids: Sequence[str], schema: TraitSchema) -> WindowPoint:
    """Metrics of scores (N, K) of media cut into windows of this length."""
    clips = int((~np.isnan(scores)).any(axis=1).sum())
    return WindowPoint(length_s=length_s, clips=clips, mean=_estimates(_Scorer(labels, ids, schema)(scores)))


class _Scorer:
    """Mean metrics of any scores of the same rows."""

    def __init__(self, labels: Scores, ids: Sequence[str], schema: TraitSchema) -> None:
        self.labels, self.ids, self.schema = labels, ids, schema

    def __call__(self, scores: Scores) -> dict[str, float]:
        mean = metrics.table(self.labels, scores, self.ids, self.schema)["mean"]
        return {name: mean[name] for name in metrics.names(self.schema) if name in mean}


def _estimates(values: Mapping[str, float]) -> dict[str, Estimate]:
    return {name: Estimate(value=number(value)) for name, value in values.items()}


def _subset(some: Streams, scores: Scores, streams: Sequence[str], found: _Scorer) -> Subset:
    clips = int((~np.isnan(scores).all(axis=1)).sum())
    return Subset(streams=[s for s in streams if s in some], clips=clips, mean=_estimates(found(scores)))


# ---------------------------------------------------------------------------------------------------- drop curve


def _drop_curve(said: Mapping[Streams, Scores], found: _Scorer, streams: Sequence[str], seed: int) -> list[DropPoint]:
    """Each present stream of each row goes with probability `rate`; where all would go, one of them is kept."""
    present = _present(said, streams)
    curve = []
    for rate in RATES:
        draws = 1 if rate == 0 else DRAWS
        means = [found(_dropped(said, streams, present, rate, (seed, draw))) for draw in range(draws)]
        curve.append(
            DropPoint(rate=rate, mean=_estimates({n: float(np.mean([m[n] for m in means])) for n in means[0]}))
        )
    return curve


def _present(said: Mapping[Streams, Scores], streams: Sequence[str]) -> NDArray[np.bool_]:
    rows = len(next(iter(said.values())))
    alone = [said.get(frozenset([stream])) for stream in streams]
    return np.stack(
        [np.zeros(rows, np.bool_) if scores is None else ~np.isnan(scores).all(axis=1) for scores in alone], axis=1
    )


def _dropped(
    said: Mapping[Streams, Scores],
    streams: Sequence[str],
    present: NDArray[np.bool_],
    rate: float,
    seed: tuple[int, int],
) -> Scores:
    """Scores (N, K) from what is left of each row."""
    draw = np.random.default_rng(seed)
    luck = draw.random(present.shape)
    kept = present & (luck >= rate)
    last = np.argmax(np.where(present, luck, -1.0), axis=1)
    gone = present.any(axis=1) & ~kept.any(axis=1)
    kept[gone, last[gone]] = True
    scores = np.full(next(iter(said.values())).shape, np.nan)
    for some, values in said.items():
        rows = (kept == [stream in some for stream in streams]).all(axis=1)
        scores[rows] = values[rows]
    return scores


# ---------------------------------------------------------------------------------------------------- shares


def _shapley(
    said: Mapping[Streams, Scores], nothing: Scores, labels: Scores, streams: Sequence[str]
) -> dict[str, float]:
    """Share of each stream in how far scores move from the training mean, exact over all sets (Shapley 1953).

    Per row over the streams that it has; |share| in units of the labels' standard deviation, averaged over traits and
    rows, then divided by the sum. {} where scores never move.
    """
    values = {frozenset[str](): nothing, **said}
    present = _present(said, streams)
    unit = np.array([np.std(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 0.0 for column in labels.T])
    moved = dict.fromkeys(streams, 0.0)
    for pattern in np.unique(present, axis=0):
        having = [stream for stream, here in zip(streams, pattern, strict=True) if here]
        rows = (present == pattern).all(axis=1)
        for stream in having:
            others = [other for other in having if other != stream]
            share = sum(
                _weight(size, len(having)) * (values[frozenset(some) | {stream}][rows] - values[frozenset(some)][rows])
                for size in range(len(others) + 1)
                for some in combinations(others, size)
            )
            moved[stream] += float(np.nansum(np.abs(share) / np.where(unit > 0, unit, 1.0)))
    total = sum(moved.values())
    return {stream: moved[stream] / total for stream in streams} if total > 0 else {}


def _weight(size: int, streams: int) -> float:
    return factorial(size) * factorial(streams - size - 1) / factorial(streams)
