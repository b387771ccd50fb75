"""What is counted in an evaluation: clips, or persons where the corpus rates persons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.manifest import Manifest
from mmtraits.schema import Status

_WORST_LAST: tuple[Status, ...] = ("ok", "degraded", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """U units of n rows of a manifest; labels (U, K), NaN = unknown.

    place: (n,) the unit of each row; order: (n,) rows by clip id, in which they are summed.
    """

    ids: tuple[str, ...]
    persons: tuple[str, ...]
    labels: NDArray[np.float64]
    attributes: tuple[Mapping[str, str], ...]
    place: NDArray[np.int64]
    order: NDArray[np.int64]

    @property
    def clips(self) -> NDArray[np.int64]:
        """(U,) rows of each unit."""
        return np.bincount(self.place, minlength=len(self.ids))

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (n, K) -> units (U, K): the mean of what is known, NaN where nothing is."""
        return _mean(values, self.place, self.order, len(self.ids))

    def any(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows (n,) -> units (U,)."""
        return np.bincount(self.place, flags, minlength=len(self.ids)) > 0

    def status(self, found: Sequence[str]) -> list[str]:
        """Status of rows -> of units: a person is as well off as the best of the person's clips."""
        best = np.full(len(self.ids), len(_WORST_LAST) - 1)
        np.minimum.at(best, self.place, [_WORST_LAST.index(one) for one in found])
        return [_WORST_LAST[one] for one in best]


def of(manifest: Manifest, rows: NDArray[np.int64]) -> Units:
    """The units of some rows of a manifest. Labels of a person's rows are averaged where the corpus rates persons."""
    clips = [manifest.clips[row] for row in rows]
    persons = [clip.whose for clip in clips]
    names = [clip.id for clip in clips] if manifest.schema.rated == "clip" else persons
    first: dict[str, int] = {}  # unit -> its first row
    for n, name in enumerate(names):
        first.setdefault(name, n)
    number = {name: n for n, name in enumerate(first)}
    place = np.array([number[name] for name in names], np.int64)
    order = np.argsort(np.array([clip.id for clip in clips], np.str_), kind="stable")
    return Units(
        ids=tuple(first),
        persons=tuple(persons[n] for n in first.values()),
        labels=_mean(manifest.labels[rows], place, order, len(first)),
        attributes=tuple(clips[n].attributes for n in first.values()),
        place=place,
        order=order,
    )


def _mean(
    values: NDArray[np.float64], place: NDArray[np.int64], order: NDArray[np.int64], units: int
) -> NDArray[np.float64]:
    values, place = values[order], place[order]
    known = ~np.isnan(values)
    sums, counts = np.zeros((units, values.shape[1])), np.zeros((units, values.shape[1]))
    np.add.at(sums, place, np.where(known, values, 0.0))
    np.add.at(counts, place, known)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
