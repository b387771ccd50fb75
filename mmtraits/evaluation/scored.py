"""What a run or a bundle says of labelled rows, by every set of streams that may speak."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmtraits.baselines import Fold
from mmtraits.calibrate import Calibration, Rows
from mmtraits.data import splits
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ManifestError
from mmtraits.schema import TraitSchema

Split = Literal["train", "val", "test"]
Streams = frozenset[str]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """n rows of a manifest and what was said of them; all arrays are in the order of `rows`.

    by_streams: per set of given streams (n, K), NaN where a row lacks one of them. present: (n, P). seeds: the scores
    of members of one seed, where there are several. folds: rows that members learned from and were tested on; none
    where the manifest does not hold them. low, high: (K,) finite ends of the scale. mean, median: (n, K) of the
    training labels. calibration: a bundle's own.
    """

    rows: NDArray[np.int64]
    streams: tuple[str, ...]
    by_streams: Mapping[Streams, Scores]
    present: NDArray[np.bool_]
    status: tuple[str, ...]
    protocol: str  # a sentence
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: Scores
    median: Scores | None
    floor_of: str  # where mean and median come from
    seeds: Mapping[str, Scores] = field(default_factory=dict)
    folds: Sequence[Fold] = ()
    calibration: Calibration | None = None
    notes: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)  # for the provenance

    @property
    def scores(self) -> Scores:
        """(n, K) from all streams that a row has; NaN where it has none."""
        return largest(self.by_streams)


def largest(by_streams: Mapping[Streams, Scores]) -> Scores:
    """Per set of streams (n, K) -> (n, K): of each row what belongs to the most streams."""
    best = np.full(next(iter(by_streams.values())).shape, np.nan)
    for streams in sorted(by_streams, key=len):  # smallest first: what stays is the largest set
        best = np.where(np.isnan(by_streams[streams]), best, by_streams[streams])
    return best


def to_calibrate(said: Scored, manifest: Manifest) -> Rows:
    """The same rows as calibration wants them."""
    clips = [manifest.clips[row] for row in said.rows]
    return Rows(
        ids=[clip.id for clip in clips],
        persons=[clip.whose for clip in clips],
        labels=manifest.labels[said.rows],
        scores=said.by_streams,
    )


def training_mean(labels: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Training labels (N, K), NaN = unknown -> the constant (K,) that it predicts; NaN for a trait without a label."""
    known = np.isfinite(labels)
    sums = np.where(known, labels, 0.0).sum(axis=0, dtype=np.float64)
    counts = known.sum(axis=0)
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def training_median(labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Training labels (N, K), NaN = unknown -> (K,); NaN for a trait without a label."""
    known = [column[~np.isnan(column)] for column in labels.T]
    return np.array([np.median(column) if len(column) else np.nan for column in known])


def check_traits(schema: TraitSchema, manifest: Manifest, source: Path) -> None:
    """ManifestError unless the manifest has the traits that `source` scores."""
    if schema.traits != manifest.schema.traits:
        raise ManifestError(
            f"{manifest.path}: traits {', '.join(manifest.schema.trait_names)} with their scales; "
            f"{source} scores {', '.join(schema.trait_names)} and needs the same traits, scales and order"
        )


def official(manifest: Manifest, split: Split) -> NDArray[np.int64]:
    """Rows of the manifest's own split; all where it divides nothing."""
    if not any(manifest.splits):
        return splits.real(manifest)
    rows = np.array([row for row in splits.real(manifest) if manifest.splits[row] == split], np.int64)
    if not len(rows):
        raise ManifestError(f"{manifest.path}: no row has split {split!r}; fill the column or name another split")
    return rows


def bounds(transforms: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The finite ends of the scale (K,), the widest of all members."""
    return np.min([one["low"] for one in transforms], axis=0), np.max([one["high"] for one in transforms], axis=0)


def rows_of(manifest: Manifest, split: Split) -> str:
    """`official`, in words."""
    named = f"the manifest's split `{split}`" if any(manifest.splits) else "all rows of the manifest"
    return f"{named}, {len(manifest.clips)} clips in all."


def digest(manifest: Manifest) -> str:
    """Hash of ids, persons, splits and labels, in any order of rows: whether two tables are the same."""
    labels = [[None if np.isnan(value) else value for value in row] for row in manifest.labels.tolist()]
    rows = zip(manifest.clips, manifest.splits, labels, strict=True)
    lines = sorted(json.dumps([clip.id, clip.person, split, label]) for clip, split, label in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
