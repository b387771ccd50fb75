"""Which rows train, select and test: the corpus's own split, a hold-out or k folds that never divide a group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.manifest import SPLITS, Manifest
from mmtraits.errors import ManifestError

Rows = NDArray[np.int64]
Facts = dict[str, NDArray[np.float64]]  # group -> what it brings to a part
LEVELS = 5  # of a group's mean label
VAL_SHARE = 0.1  # of the rows that are not tested: what early stopping looks at
MADE, MADE_FROM = "made", "made_from"  # attributes of a row that no corpus holds: how it was made, and of which clip


def assign(
    manifest: Manifest,
    *,
    split: Literal["official", "holdout", "kfold"] = "official",
    folds: int = 5,
    by: str = "person",
    seed: int = 0,
    member: int = 0,
    stratify: Sequence[str] = (),
) -> dict[str, Rows]:
    """Row indices, ascending, of `train`, `val` and `test` for one member of a run.

    kfold: `member` is the fold that is tested. holdout: the first of `folds` folds is tested, whatever the member.
    official: the manifest's `split` column; rows without one are left out. Where it has no val rows, and always in the
    other two, a tenth of the rows that are not tested, again whole groups, becomes val. A group is a value of `by`
    (`person`, `speaker`, `question`, `id` or an attribute); a row without a value is its own group.
    `stratify`: what parts are alike in besides their size: `label` (every trait) and attributes, as far as whole groups
    allow. The same clip ids and groups give the same split in any row order. Raises ManifestError.

    Rows with the attribute `made` (augmented, pseudo-labelled) are only ever trained on: the others are divided as if
    these were not there, and then they join `train` but for those whose group is in val or test (official: and those
    whose split is not `train`). A row made of another (`made_from`) is of that clip's group.
    """
    options: dict[str, Any] = {"folds": folds, "seed": seed, "member": member, "stratify": stratify}
    found = real(manifest)
    if len(found) == len(manifest.clips):
        return _assign(manifest, split, by, **options)
    alone = replace(
        manifest,
        clips=tuple(manifest.clips[row] for row in found),
        labels=manifest.labels[found],
        splits=tuple(manifest.splits[row] for row in found),
    )
    parts = {name: found[rows] for name, rows in _assign(alone, split, by, **options).items()}
    groups = _groups(manifest, by, needed=split != "official")
    held = {groups[row] for name in ("val", "test") for row in parts[name]}
    made = np.setdiff1d(np.arange(len(groups)), found)
    joining = [r for r in made if groups[r] not in held and (split != "official" or manifest.splits[r] == "train")]
    return {**parts, "train": np.union1d(parts["train"], _rows(joining))}


def real(manifest: Manifest) -> Rows:
    """Rows of clips that the corpus holds, ascending: those that were not made of others or labelled by a model."""
    return _rows(row for row, clip in enumerate(manifest.clips) if MADE not in clip.attributes)


def _assign(
    manifest: Manifest,
    split: Literal["official", "holdout", "kfold"],
    by: str,
    *,
    folds: int,
    seed: int,
    member: int,
    stratify: Sequence[str],
) -> dict[str, Rows]:
    parts = {name: _rows(row for row, own in enumerate(manifest.splits) if own == name) for name in SPLITS}
    if split == "official" and not len(parts["train"]):
        raise ManifestError(f"{manifest.path}: no row has split `train`; fill the column or use holdout or kfold")
    if split == "official" and len(parts["val"]):
        return parts
    groups = _groups(manifest, by)
    facts = _facts(manifest, groups, stratify) if stratify else None
    if split == "official":
        return {**_carve(parts["train"], groups, seed, facts), "test": parts["test"]}
    if split == "kfold" and not 0 <= member < folds:
        raise ManifestError(f"{manifest.path}: fold {member} of {folds}; expected 0 to {folds - 1}")
    fold_of = _folds(groups, folds, f"{seed}", facts, where=f"{manifest.path}: by {by}")
    tested = member if split == "kfold" else 0
    rest = _rows(row for row, group in enumerate(groups) if fold_of[group] != tested)
    return {**_carve(rest, groups, seed, facts), "test": np.setdiff1d(np.arange(len(groups)), rest)}


def _rows(rows: Iterable[int]) -> Rows:
    return np.fromiter(rows, dtype=np.int64)


def _groups(manifest: Manifest, by: str, *, needed: bool = True) -> list[str]:
    """The group of every row. The prefixes keep the id of a row without a value apart from everybody's values."""
    own = [clip.attributes.get(MADE_FROM, clip.id) for clip in manifest.clips]
    values: Sequence[str | None]
    if by == "id":
        values = own
    elif by in ("person", "speaker", "question"):
        values = [getattr(clip, by) for clip in manifest.clips]
    else:
        values = [clip.attributes.get(by) for clip in manifest.clips]
    if needed and not any(values):
        raise ManifestError(f"{manifest.path}: no row has a {by!r} to group by; fill the column or use `by: id`")
    return [f"{by}={v}" if v else f"id={one}" for v, one in zip(values, own, strict=True)]


def _shuffled(sizes: Mapping[str, int], salt: str) -> list[str]:
    """Groups in an order that depends on their names and the salt alone."""
    return sorted(sizes, key=lambda group: hashlib.sha256(f"{salt}:{group}".encode()).digest())


def _sizes(groups: Iterable[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    return sizes


def _folds(groups: Sequence[str], folds: int, salt: str, facts: Facts | None, where: str) -> dict[str, int]:
    """Fold of every group: the largest first, each to the fold with the fewest rows (of its kind) so far."""
    sizes = _sizes(groups)
    if len(sizes) < folds:
        raise ManifestError(f"{where}: {len(sizes)} groups; {folds} folds need at least {folds}")
    order = sorted(_shuffled(sizes, salt), key=lambda group: -sizes[group])
    if facts is not None:
        return _alike(order, folds, facts)
    rows_in = [0] * folds
    fold_of = {}
    for group in order:
        fold_of[group] = rows_in.index(min(rows_in))
        rows_in[fold_of[group]] += sizes[group]
    return fold_of


def _carve(rows: Rows, groups: Sequence[str], seed: int, facts: Facts | None) -> dict[str, Rows]:
    """Split rows into train and val by whole groups; one group alone goes to train."""
    own = [groups[row] for row in rows]
    sizes = _sizes(own)
    parts = round(1 / VAL_SHARE)
    if facts is not None and len(sizes) >= parts:
        taken = {group for group, fold in _folds(own, parts, f"val:{seed}", facts, where="val").items() if not fold}
    else:
        taken = _drawn(sizes, VAL_SHARE * len(rows), f"val:{seed}")
    is_val = np.array([group in taken for group in own], dtype=np.bool_)
    return {"train": rows[~is_val], "val": rows[is_val]}


def _drawn(sizes: Mapping[str, int], wanted: float, salt: str) -> set[str]:
    """Groups in a shuffled order until they have as many rows as wanted; never all."""
    taken = set[str]()
    for group in _shuffled(sizes, salt)[:-1]:
        if wanted <= 0:
            break
        taken.add(group)
        wanted -= sizes[group]
    return taken


# ---------------------------------------------------------------------------------------------------- stratified


def _facts(manifest: Manifest, groups: Sequence[str], stratify: Sequence[str]) -> Facts:
    """Per group what is to be alike: its rows, and its rows of each kind (a fifth of the labels, an attribute's value).

    Each column is divided by the root of its sum: squares of what folds hold then add up to a chi-square.
    """
    names = sorted(set(groups))
    place = {name: n for n, name in enumerate(names)}
    by_id = sorted(range(len(groups)), key=lambda row: manifest.clips[row].id)  # sums are the same in any order of rows
    owner = np.array([place[groups[row]] for row in by_id], np.int64)
    counts = np.bincount(owner, minlength=len(names)).astype(np.float64)
    blocks = [counts[:, None]]
    for name in stratify:
        if name == "label":
            labels = manifest.labels[by_id]
            blocks += [_kinds(_level(labels[:, k], owner, len(names)), counts) for k in range(labels.shape[1])]
            continue
        values = [manifest.clips[row].attributes.get(name, "") for row in by_id]
        if not any(values):
            raise ManifestError(f"{manifest.path}: no row has attr_{name} to stratify by; name `label` or an attribute")
        kinds = np.unique(values, return_inverse=True)[1]
        table = np.zeros((len(names), kinds.max() + 1))
        np.add.at(table, (owner, kinds), 1.0)
        blocks.append(table)
    table = np.concatenate(blocks, axis=1)
    return dict(zip(names, table / np.sqrt(np.maximum(table.sum(axis=0), 1)), strict=True))


def _level(labels: NDArray[np.float64], owner: Rows, groups: int) -> NDArray[np.int64]:
    """Which fifth of all groups' mean labels each group is in; LEVELS where it has no label."""
    known = np.isfinite(labels)
    sums, counts = (np.bincount(owner[known], w, minlength=groups) for w in (labels[known], np.ones(known.sum())))
    means = sums[counts > 0] / counts[counts > 0]
    found = np.full(groups, LEVELS, np.int64)
    if len(means):
        found[counts > 0] = np.searchsorted(np.quantile(means, np.arange(1, LEVELS) / LEVELS), means)
    return found


def _kinds(kind: NDArray[np.int64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of each kind (G, kinds) where all rows of a group are of one kind."""
    return np.where(kind[:, None] == np.arange(LEVELS + 1), counts[:, None], 0.0)


def _alike(order: Sequence[str], folds: int, facts: Facts) -> dict[str, int]:
    """Each group to the fold that has the least of what it brings: the sum of squared shares grows the least."""
    held = np.zeros((folds, len(facts[order[0]])))
    fold_of = {}
    for group in order:
        fold_of[group] = int(np.argmin(held @ facts[group]))
        held[fold_of[group]] += facts[group]
    return fold_of
