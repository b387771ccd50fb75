"""Which rows train, select and test: the corpus's own split, a hold-out or k folds that never divide a group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.manifest import SPLITS, Manifest
from mmtraits.errors import ManifestError

Rows = NDArray[np.int64]
VAL_SHARE = 0.1  # of the rows that are not tested: what early stopping looks at


def assign(
    manifest: Manifest,
    *,
    split: Literal["official", "holdout", "kfold"] = "official",
    folds: int = 5,
    by: str = "person",
    seed: int = 0,
    member: int = 0,
) -> dict[str, Rows]:
    """Row indices, ascending, of `train`, `val` and `test` for one member of a run.

    kfold: `member` is the fold that is tested. holdout: the first of `folds` folds is tested, whatever the member.
    official: the manifest's `split` column; rows without one are left out. Where it has no val rows, and always in the
    other two, a tenth of the rows that are not tested, again whole groups, becomes val. A group is a value of `by`
    (`person`, `speaker`, `question`, `id` or an attribute); a row without a value is its own group.
    The same clip ids and groups give the same split in any row order. Raises ManifestError.
    """
    groups = _groups(manifest, by)
    if split == "official":
        parts = {name: _rows(row for row, own in enumerate(manifest.splits) if own == name) for name in SPLITS}
        if not len(parts["train"]):
            raise ManifestError(f"{manifest.path}: no row has split `train`; fill the column or use holdout or kfold")
        if len(parts["val"]):
            return parts
        return {**_carve(parts["train"], groups, seed), "test": parts["test"]}
    if split == "kfold" and not 0 <= member < folds:
        raise ManifestError(f"{manifest.path}: fold {member} of {folds}; expected 0 to {folds - 1}")
    fold_of = _folds(groups, folds, seed, where=f"{manifest.path}: by {by}")
    tested = member if split == "kfold" else 0
    rest = _rows(row for row, group in enumerate(groups) if fold_of[group] != tested)
    return {**_carve(rest, groups, seed), "test": np.setdiff1d(np.arange(len(groups)), rest)}


def _rows(rows: Iterable[int]) -> Rows:
    return np.fromiter(rows, dtype=np.int64)


def _groups(manifest: Manifest, by: str) -> list[str]:
    """The group of every row. The prefixes keep the id of a row without a value apart from everybody's values."""
    if by in ("id", "person", "speaker", "question"):
        values = [getattr(clip, by) for clip in manifest.clips]
    else:
        values = [clip.attributes.get(by) for clip in manifest.clips]
    if not any(values):
        raise ManifestError(f"{manifest.path}: no row has a {by!r} to group by; fill the column or use `by: id`")
    return [f"{by}={v}" if v else f"id={clip.id}" for v, clip in zip(values, manifest.clips, strict=True)]


def _shuffled(sizes: Mapping[str, int], salt: str) -> list[str]:
    """Groups in an order that depends on their names and the salt alone."""
    return sorted(sizes, key=lambda group: hashlib.sha256(f"{salt}:{group}".encode()).digest())


def _sizes(groups: Iterable[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    return sizes


def _folds(groups: Sequence[str], folds: int, seed: int, where: str) -> dict[str, int]:
    """Fold of every group: the largest first, each to the fold with the fewest rows so far."""
    sizes = _sizes(groups)
    if len(sizes) < folds:
        raise ManifestError(f"{where}: {len(sizes)} groups; {folds} folds need at least {folds}")
    rows_in = [0] * folds
    fold_of = {}
    for group in sorted(_shuffled(sizes, f"{seed}"), key=lambda group: -sizes[group]):
        fold_of[group] = rows_in.index(min(rows_in))
        rows_in[fold_of[group]] += sizes[group]
    return fold_of


def _carve(rows: Rows, groups: Sequence[str], seed: int) -> dict[str, Rows]:
    """Split rows into train and val by whole groups; one group alone goes to train."""
    sizes = _sizes(groups[row] for row in rows)
    wanted, taken = VAL_SHARE * len(rows), set[str]()
    for group in _shuffled(sizes, f"val:{seed}")[:-1]:
        if wanted <= 0:
            break
        taken.add(group)
        wanted -= sizes[group]
    is_val = np.array([groups[row] in taken for row in rows], dtype=np.bool_)
    return {"train": rows[~is_val], "val": rows[is_val]}
