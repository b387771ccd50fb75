"""What a bundle says of labelled rows. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmtraits.baselines import Fold
from mmtraits.data import splits
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ManifestError
from mmtraits.evaluation.scored import (
    Scored,
    Scores,
    Split,
    Streams,
    bounds,
    check_traits,
    digest,
    official,
    rows_of,
    training_mean,
    training_median,
)
from mmtraits.jobs.inputs import find
from mmtraits.media.load import LoadedClip
from mmtraits.runtime import Predictor, concatenate
from mmtraits.schema import Clip, Raw, TraitSchema, TraitScores, Windowing


def score(folder: Path, manifest: Manifest, split: Split, device: Literal["cpu", "cuda"] = "cpu") -> Scored:
    """A bundle's scores of the rows of a split. Raises BundleError or ManifestError."""
    predictor = Predictor(folder, device=device)
    check_traits(predictor.schema, manifest, folder)
    rows = official(manifest, split)
    clips = [manifest.clips[row] for row in rows]
    if not any(clip.video or clip.audio or clip.transcript or clip.text for clip in clips):
        raise ManifestError(
            f"{manifest.path}: its clips name feature_<stream> files and no media or text; a bundle starts from media: "
            "evaluate the run, which takes features"
        )
    found, by_streams = _by_masks(predictor, clips)
    mean, median, floor_of = _bundle_floor(predictor.info, manifest, rows)
    notes = [f"{sum(s == 'failed' for s in found.status)} clips failed"] if "failed" in found.status else []
    if ignored := sum(bool(clip.features) for clip in clips):
        notes.append(f"feature_<stream> of {ignored} clips was not read: a bundle starts from media and text")
    train = np.flatnonzero([own == "train" for own in manifest.splits])
    ends = bounds(_transforms(predictor.info))
    return Scored(
        rows=rows,
        streams=found.streams,
        by_streams=by_streams,
        present=found.present,
        status=found.status,
        protocol=rows_of(manifest, split),
        low=ends[0],
        high=ends[1],
        mean=np.tile(mean, (len(rows), 1)),
        median=None if median is None else np.tile(median, (len(rows), 1)),
        floor_of=floor_of,
        folds=[Fold(train=train, test=rows)] if len(train) and split != "train" else (),
        calibration=predictor.calibration,
        notes=notes,
        about=predictor.info,
    )


def learned_from(said: Scored, manifest: Manifest) -> list[Fold]:
    """What the bundle was trained on, beside the rows that it scored; none where the manifest is another table.

    A bundle remembers no clips, but it knows the whole table again, and how that was divided.
    """
    known = said.about["provenance"]
    if known.get("data_sha256") != digest(manifest):
        return []
    train = np.arange(len(manifest.clips))
    if divided := known.get("divided"):
        parts = [splits.assign(manifest, member=n, **divided["by"])["train"] for n in range(divided["members"])]
        train = np.unique(np.concatenate(parts))
    return [Fold(train=train, test=said.rows)]


def by_window_length(predictor: Predictor, clips: Sequence[Clip], lengths_s: Sequence[float]) -> dict[float, Scores]:
    """Scores (n, K) with media cut into windows of each length, one after the other."""
    usual: Windowing = predictor.windowing
    found: dict[float, Scores] = {}
    try:
        for length_s in lengths_s:
            predictor.windowing = Windowing(length_s=length_s, hop_s=length_s)
            found[length_s] = predictor.predict(clips).values.astype(np.float64)
    finally:
        predictor.windowing = usual
    return found


def unlabelled(folder: Path, schema: TraitSchema) -> Manifest:
    """The media of a folder as a manifest without any label."""
    clips = find([folder])
    if not clips:
        raise ManifestError(f"{folder}: neither a clips.csv nor media files in it")
    labels = np.full((len(clips), len(schema.traits)), np.nan)
    return Manifest(
        path=folder / "clips.csv", schema=schema, clips=tuple(clips), labels=labels, splits=(None,) * len(clips)
    )


def _transforms(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = info["transform"]
    return found if isinstance(found, list) else [found]


def _by_masks(
    predictor: Predictor, clips: Sequence[Clip], group: int = 32
) -> tuple[TraitScores, dict[Streams, Scores]]:
    """A bundle's answer to every clip, and to every set of its streams by clearing the masks of the others."""
    names = predictor.streams
    sets = [frozenset(some) for size in range(1, len(names) + 1) for some in combinations(names, size)]
    whole: list[TraitScores] = []
    said: dict[Streams, list[Scores]] = {streams: [] for streams in sets}
    for start in range(0, len(clips), group):
        part = clips[start : start + group]
        ids, loaded = [clip.id for clip in part], [predictor.load(clip) for clip in part]
        whole.append(predictor.assess(ids, loaded))
        for streams in sets:
            scores = predictor.assess(ids, [_only(clip, streams) for clip in loaded]).values.astype(np.float64)
            has = np.asarray(whole[-1].present[:, [name in streams for name in names]].all(axis=1))
            said[streams].append(np.where(has[:, None], scores, np.nan))
    return concatenate(whole), {streams: np.concatenate(parts) for streams, parts in said.items()}


def _only(loaded: LoadedClip, streams: Streams) -> LoadedClip:
    """A loaded clip with the masks of all other streams cleared."""
    windows = tuple(
        replace(
            window,
            streams={
                name: raw if name in streams else Raw(raw.data[:0], raw.mask[:0])
                for name, raw in window.streams.items()
            },
        )
        for window in loaded.windows
    )
    return replace(loaded, windows=windows)


def _bundle_floor(
    info: Mapping[str, Any], manifest: Manifest, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, str]:
    """Mean and median of the bundle's training labels where it says them, else the best that this manifest offers."""
    known = info["provenance"].get("training_labels")
    if known:
        mean, median = (np.array(known[name], np.float64) for name in ("mean", "median"))  # null: NaN
        return mean, median, "the bundle's training rows"
    train = np.flatnonzero([own == "train" for own in manifest.splits])
    where = "the manifest's split train" if len(train) else "the evaluated rows themselves (a harder floor)"
    labels = manifest.labels[train if len(train) else rows]
    return training_mean(labels), training_median(labels), where
