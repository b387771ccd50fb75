"""What a run says of labelled rows, each scored by the members that did not learn from it; and its clips' features."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits import config, extract, run
from mmtraits.baselines import Fold
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, ManifestError
from mmtraits.evaluation.scored import (
    Scored,
    Scores,
    Split,
    Streams,
    bounds,
    check_traits,
    largest,
    official,
    rows_of,
    training_mean,
    training_median,
)
from mmtraits.schema import TraitSchema

ByRow = tuple[list[int], Scores]  # rows of the manifest, scores (n, K)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spoken:
    """What one member says of the rows it is asked about; its training labels' mean and median (K,)."""

    seed: str
    fold: Fold
    mean: NDArray[np.float64]
    median: NDArray[np.float64] | None
    by_streams: Mapping[Streams, ByRow]


def score(folder: Path, manifest: Manifest, split: Split, device: str = "cpu") -> Scored:
    """A run's scores of its own rows of a split, or of a foreign manifest. Raises ConfigError or ManifestError."""
    about, spoken, home = _members(folder, manifest, split, device)
    rows = np.unique(np.concatenate([member.fold.test for member in spoken])).astype(np.int64)
    if not len(rows):
        raise ManifestError(f"{manifest.path}: none of its clips is in split {split!r} of {folder}")
    shape = manifest.labels.shape
    said = {streams: scores[rows] for streams, scores in _mean_of_members(spoken, shape).items()}
    if not said:
        streams = ", ".join(about["streams"])
        raise ManifestError(f"{manifest.path}: none of the clips to score has any of the streams {streams} of {folder}")
    present = np.stack([_has(said, stream, len(rows)) for stream in about["streams"]], axis=1)
    known = [(member.fold.test, member.median) for member in spoken if member.median is not None]
    ends = _ends(about, manifest.schema)
    return Scored(
        rows=rows,
        streams=tuple(about["streams"]),
        by_streams=said,
        present=present,
        status=tuple(_status(row) for row in present),
        protocol=_protocol(folder, manifest, split, home=home),
        low=ends[0],
        high=ends[1],
        mean=_spread([(member.fold.test, member.mean) for member in spoken], shape)[rows],
        median=_spread(known, shape)[rows] if len(known) == len(spoken) else None,
        floor_of="each member's training rows",
        seeds=_seeds(spoken, rows, shape),
        folds=_unique([member.fold for member in spoken]) if home else (),
        notes=_notes(about, spoken, manifest),
        about=about,
    )


def _notes(about: Mapping[str, Any], spoken: Sequence[_Spoken], manifest: Manifest) -> list[str]:
    missing = len(about["members"]) - len(spoken)
    notes = [f"{missing} of {len(about['members'])} members are not trained to their end"] if missing else []
    used = _clips_of(about)
    strange = sum(clip.id not in used for clip in manifest.clips)
    if any("question" in member for member in about["members"].values()):
        notes.append("A trait with a question of its own is scored and judged on answers to that question alone.")
    if 0 < strange < len(manifest.clips):
        notes.append(f"{strange} clips of the manifest are in no split of the run: left out")
    return notes


def _clips_of(about: Mapping[str, Any]) -> set[str]:
    """Ids of all clips that a run divided."""
    return {clip for member in about["members"].values() for ids in member["splits"].values() for clip in ids}


def _seeds(spoken: Sequence[_Spoken], rows: NDArray[np.int64], shape: tuple[int, ...]) -> dict[str, Scores]:
    """Scores (n, K) by the members of one seed, where there are several."""
    groups = {seed: [one for one in spoken if one.seed == seed] for seed in sorted({one.seed for one in spoken})}
    if len(groups) < 2:
        return {}
    return {f"seed {seed}": largest(_mean_of_members(group, shape))[rows] for seed, group in groups.items()}


def _protocol(folder: Path, manifest: Manifest, split: Split, *, home: bool) -> str:
    options = config.load(folder / "config.yaml").protocol
    clips = len(manifest.clips)
    if not home:
        return f"Clips that training did not see: {rows_of(manifest, split)}"
    if options.split == "kfold" and split == "test":
        return f"Out of fold: {options.folds} folds of {clips} clips, no {options.by} in two of them."
    whose = "the corpus's own split" if options.split == "official" else f"a split that divides no {options.by}"
    return f"Rows `{split}` of {whose}, of {clips} clips in all."


def _has(said: Mapping[Streams, Scores], stream: str, rows: int) -> NDArray[np.bool_]:
    """(n,) rows that were scored from this stream alone."""
    alone = said.get(frozenset([stream]))
    return np.zeros(rows, np.bool_) if alone is None else np.asarray(np.isfinite(alone).any(axis=1))


def _status(present: NDArray[np.bool_]) -> str:
    return "ok" if present.all() else "degraded" if present.any() else "failed"


def _unique(folds: Sequence[Fold]) -> list[Fold]:
    """Members that differ in their seed alone share a fold."""
    return list({(fold.train.tobytes(), fold.test.tobytes()): fold for fold in folds}.values())


def _members(folder: Path, manifest: Manifest, split: Split, device: str) -> tuple[dict[str, Any], list[_Spoken], bool]:
    """run.json; what every finished member says of its own rows of the split, or of a foreign manifest; which it is."""
    about = run.read_run(folder)
    check_traits(TraitSchema.from_dict(about["schema"]), manifest, folder)
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    home = bool(_clips_of(about) & row_of.keys())
    asked = None if home else official(manifest, split).tolist()
    protocol = config.load(folder / "config.yaml").protocol
    # Validation rows that were carved out of training: floors select nothing, so they learn from these too.
    learned = (
        ("train", "val")
        if split == "test" and (protocol.split != "official" or "val" not in manifest.splits)
        else ("train",)
    )
    spoken = [_ask(member, about, manifest, row_of, split, asked, learned, device) for member in run.members_of(folder)]
    if not spoken:
        raise ConfigError(f"{folder}: no member is trained to its end; finish it with `mmtraits train --resume`")
    return about, spoken, home and all(m.median is not None for m in spoken)


def _ask(
    member: Path,
    about: Mapping[str, Any],
    manifest: Manifest,
    row_of: Mapping[str, int],
    split: Split,
    asked: list[int] | None,
    learned: Sequence[str],
    device: str,
) -> _Spoken:
    """One member's scores of `asked`, or where that is None of its own rows of the split."""
    own_about = about["members"][member.name]
    splits = own_about["splits"]
    own = {name: [row_of[clip] for clip in ids if clip in row_of] for name, ids in splits.items()}
    trait = own_about.get("trait")
    rows = own[split] if asked is None else run.rows_asked(manifest, asked, own_about.get("question")).tolist()
    if asked is None and split == "test":
        table = _recorded(member / "predictions.csv")
    else:
        table = _computed(member, run.own(manifest, trait), rows, device)
    train = [row for name in learned for row in own[name]]
    labels = labels_of(manifest, train, trait)
    mean, median = training_mean(labels), training_median(labels)
    whole = len(own["train"]) == len(splits["train"])  # else the manifest does not hold what the member learned from
    return _Spoken(
        seed=str(own_about["seed"]),
        fold=Fold(train=np.array(train, np.int64), test=np.array(rows, np.int64)),
        mean=mean if whole else _remembered_mean(member, manifest.schema),
        median=median if whole else None,
        by_streams=_by_streams(table, row_of, manifest.schema),
    )


def _recorded(path: Path) -> list[dict[str, str]]:
    """Rows of predictions.csv; none where no test clip had any stream."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _computed(member: Path, manifest: Manifest, rows: Sequence[int], device: str) -> list[dict[str, str]]:
    """The same rows as in predictions.csv, for any clips."""
    options = config.load(member.parent / "config.yaml")
    found = extract.extract(options, manifest, rows, device=device)
    return run.score_by_streams(run.load_member(member, device), found.windows, manifest, options.data.batch_size)


def _remembered_mean(member: Path, schema: TraitSchema) -> NDArray[np.float64]:
    """The mean (K,) of the training labels that the trained model itself holds; NaN for traits that it does not say."""
    model = run.load_member(member)
    known = dict(zip(model.traits, model.to_scale(model.centre).tolist(), strict=True))
    return np.array([known.get(name, np.nan) for name in schema.trait_names], np.float64)


def labels_of(manifest: Manifest, rows: Sequence[int], trait: str | None) -> NDArray[np.float64]:
    """Labels (n, K) of some rows; where a trait is named, NaN for all others."""
    others = [k for k, name in enumerate(manifest.schema.trait_names) if trait not in (None, name)]
    labels = manifest.labels[rows].copy()
    labels[:, others] = np.nan
    return labels


def _ends(about: Mapping[str, Any], schema: TraitSchema) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The finite ends of the scale (K,), the widest of all members."""
    members = list(about["members"].values())
    if not any(member.get("trait") for member in members):
        return bounds([member["transform"] for member in members])
    by_trait = [bounds([m["transform"] for m in members if m["trait"] == name]) for name in schema.trait_names]
    return np.concatenate([low for low, _ in by_trait]), np.concatenate([high for _, high in by_trait])


def _by_streams(
    table: Iterable[Mapping[str, str]], row_of: Mapping[str, int], schema: TraitSchema
) -> dict[Streams, ByRow]:
    rows: dict[Streams, list[int]] = {}
    scores: dict[Streams, list[list[float]]] = {}
    for line in table:
        if line["clip"] in row_of:
            streams = frozenset(line["streams"].split("+"))
            rows.setdefault(streams, []).append(row_of[line["clip"]])
            scores.setdefault(streams, []).append([float(line.get(name, "nan")) for name in schema.trait_names])
    return {streams: (rows[streams], np.array(scores[streams], np.float64)) for streams in rows}


def _mean_of_members(spoken: Sequence[_Spoken], shape: tuple[int, ...]) -> dict[Streams, Scores]:
    """Per set of given streams (N, K), NaN where no member scored the row from these streams."""
    sets = {some for member in spoken for some in member.by_streams}
    return {
        streams: _spread([m.by_streams[streams] for m in spoken if streams in m.by_streams], shape)
        for streams in sorted(sets, key=lambda some: (len(some), sorted(some)))
    }


def _spread(said: Iterable[tuple[Any, NDArray[np.float64]]], shape: tuple[int, ...]) -> Scores:
    """Mean (N, K) of what several said of some rows and traits each, NaN where nobody said anything."""
    total, count = np.zeros(shape), np.zeros(shape)
    for rows, values in said:
        total[rows] += np.where(np.isnan(values), 0.0, values)
        count[rows] += ~np.isnan(values)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


# ---------------------------------------------------------------------------------------------------- features


def features(source: Path, manifest: Manifest, device: str = "cpu") -> dict[str, NDArray[np.float32]]:
    """What a run's front-ends make of every clip, averaged over its time: {stream: (N, D)}, a row of NaN = absent."""
    options = config.load(source / "config.yaml")
    found = extract.extract(options, manifest, device=device)
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, NDArray[np.float64]] = {}
    for window in found.windows:
        for stream, held in window.streams.items():
            raw = held.read()
            if not raw.mask.any() or raw.data.ndim != 2:  # pictures and waves themselves are no features
                continue
            mean = raw.data[raw.mask].astype(np.float64).mean(axis=0)
            if stream not in sums:
                sums[stream] = np.zeros((len(manifest.clips), len(mean)))
                counts[stream] = np.zeros(len(manifest.clips))
            sums[stream][window.row] += window.seconds * mean
            counts[stream][window.row] += window.seconds
    with np.errstate(invalid="ignore"):
        return {stream: (sums[stream] / counts[stream][:, None]).astype(np.float32) for stream in sums}
