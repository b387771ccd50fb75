"""MDPE / MER-PR (a folder of feature files per person) -> a manifest, one clip per recording.

The layout of SOURCE and the terms of the corpus: datasets/mdpe/README.md.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.data import prepare as shared
from mmtraits.data.problems import manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip, TraitSchema

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "mdpe"
TASKS = ("deception", "emotion")
MEDIA = {"video": ("raw_video", ".mp4"), "audio": ("raw_audio", ".wav")}
_TURN = re.compile(r"-(\d+)-")


@dataclass
class Recording:
    """What the folders hold of one recording of one person."""

    features: dict[str, Path] = field(default_factory=dict)  # by stream
    media: dict[str, Path] = field(default_factory=dict)  # by kind


Key = tuple[str, int, str]  # task, person, name of the recording


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    parser = shared.command_line(
        __doc__,
        source="folder with deception/features/ or emotion/features/, *label_personality*.csv and partition*.csv",
        media="folder with deception/raw_video/ and the like; SOURCE where it is not given",
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="the table of labels, where SOURCE holds several")
    parser.add_argument(
        "--partition", type=Path, metavar="FILE", help="the table of splits, where SOURCE holds several"
    )
    parser.add_argument("--features", nargs="+", metavar="SET", help="feature sets to take; all where it is not given")
    parser.add_argument("--scale", nargs=2, type=float, metavar=("LOW", "HIGH"), help="of the labels, where not 0 1")
    return shared.run(prepare, parser.parse_args(arguments))


def prepare(
    source: Path,
    out: Path,
    *,
    media: Path | None = None,
    labels: Path | None = None,
    partition: Path | None = None,
    features: Sequence[str] = (),
    scale: Sequence[float] | None = None,
) -> str:
    """Write the manifest and the .npy copies of .csv features; return the report. Raises ManifestError."""
    schema = _schema(scale)
    label_of = _labels(labels or _only(source, "*label_personality*.csv"), schema)
    split_of = _splits(partition or _only(source, "partition*.csv"))
    found, dropped = shared.Collected(), shared.Dropped()
    recordings = _recordings(source, media or source, features, dropped)
    arrays = _check_features(recordings, out, dropped)
    unlabelled = np.full(len(schema.traits), np.nan)
    for key, recording in sorted(recordings.items()):
        clip = _clip(key, recording)
        if not (clip.features or clip.video or clip.audio):
            dropped.add(clip.id, "recording without usable features, video and sound")
        elif key[1] not in label_of and key[1] not in split_of:
            dropped.add(clip.id, "recording of a person with neither labels nor split")
        else:
            found.add(clip, label_of.get(key[1], unlabelled), split_of.get(key[1]))
    for person in sorted(label_of.keys() - {person for _, person, _ in recordings}):
        dropped.add(f"{person:03d}", "labels of a person without recordings")
    return shared.finish(found.manifest(out, schema), dropped, CORPUS, files=_converted(arrays))


# ---------------------------------------------------------------------------------------------------- tables


def _schema(scale: Sequence[float] | None) -> TraitSchema:
    schema = manifests.read_schema(CORPUS / "schema.yaml")
    if scale is None:
        return schema
    low, high = scale
    if not low < high or not math.isfinite(high - low):
        raise ManifestError(f"--scale {low:g} {high:g}; expected two finite numbers, the lower one first")
    return replace(schema, traits=tuple(replace(trait, low=low, high=high) for trait in schema.traits))


def _only(source: Path, pattern: str) -> Path:
    found = sorted(source.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ManifestError(f"{source}: {pattern}: found {names}; expected one, or --labels and --partition to name it")
    return found[0]


def _labels(path: Path, schema: TraitSchema) -> dict[int, NDArray[np.float64]]:
    rows = shared.table(path, ("id",), key=("id",))
    columns, problems = {}, []
    for trait in schema.traits:  # spelled `Conscientiousnes` and `Open Mindedness` by the organisers
        found = [c for c in (rows[0].cells if rows else ()) if c.lower().startswith(trait.name[:4])]
        if len(found) == 1:
            columns[trait.name] = found[0]
        else:
            problems.append(f"{path}:1: {len(found)} columns for {trait.name}; expected one that begins like it")
    if problems:
        raise manifest_error(problems)
    try:
        values = shared.labels(rows, columns, schema)
    except ManifestError as error:
        raise ManifestError(f"{error}\n{path}: give --scale LOW HIGH if this file is on another scale") from error
    return dict(zip(_persons(rows, "id"), values, strict=True))


def _splits(path: Path) -> dict[int, str | None]:
    rows = shared.table(path, ())
    columns = list(rows[0].cells)[:2] if rows else []
    if len(columns) < 2:
        raise ManifestError(f"{path}: expected a header and rows of a person's number and the name of a split")
    problems: list[str] = []
    splits = [shared.split_name(row[columns[1]], row.where, problems) for row in rows]
    if problems:
        raise manifest_error(problems)
    return dict(zip(_persons(rows, columns[0]), splits, strict=True))


def _persons(rows: Sequence[shared.Row], column: str) -> list[int]:
    first: dict[int, str] = {}
    problems, persons = [], []
    for row in rows:
        if not row[column].isdecimal():
            problems.append(f"{row.where}: {column} {row[column]!r} is no person's number")
            continue
        persons.append(int(row[column]))
        if (at := first.setdefault(persons[-1], row.where)) != row.where:
            problems.append(f"{row.where}: person {row[column]} is already at {at}; expected one row each")
    if problems:
        raise manifest_error(problems)
    return persons


# ---------------------------------------------------------------------------------------------------- recordings


def _recordings(source: Path, media: Path, features: Sequence[str], dropped: shared.Dropped) -> dict[Key, Recording]:
    """Recordings by task, person and file name; files of one recording have one stem in every folder."""
    found: dict[Key, Recording] = {}
    sets = set()
    for task in ("", *TASKS):
        for folder in _folders(source / task / "features"):
            sets.add(folder.name)
            if features and folder.name not in features:
                continue
            for person, path in _files(folder, (".npy", ".csv"), dropped):
                held = found.setdefault((task, person, path.stem), Recording()).features
                if held.setdefault(shared.stream_name(folder.name), path) != path:
                    dropped.add(str(path), "second file of one recording in one feature set")
        for kind, (name, suffix) in MEDIA.items():
            for person, path in _files(media / task / name, (suffix,), dropped):
                found.setdefault((task, person, path.stem), Recording()).media[kind] = path
    if unknown := sorted(set(features or ()) - sets):
        raise ManifestError(f"{source}: no feature set {', '.join(unknown)}; found {', '.join(sorted(sets)) or 'none'}")
    if not found:
        raise ManifestError(f"{source}: no recordings; expected deception/features/SET/PERSON/*.npy or *.csv")
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _files(folder: Path, suffixes: Sequence[str], dropped: shared.Dropped) -> Iterator[tuple[int, Path]]:
    """A person's number and a file, for every file with one of the suffixes in `folder`/PERSON/."""
    for own in _folders(folder):
        if not own.name.isdecimal():
            dropped.add(str(own), "folder that is no person's number")
            continue
        yield from ((int(own.name), path) for path in sorted(own.iterdir()) if path.suffix.lower() in suffixes)


def _check_features(recordings: Mapping[Key, Recording], out: Path, dropped: shared.Dropped) -> dict[str, Path]:
    """Leave out what training could not read, and name the .npy that takes the place of each .csv: name -> source."""
    converted: dict[str, Path] = {}
    widths: dict[str, dict[int, Path]] = {}
    for (task, person, name), recording in sorted(recordings.items()):
        for stream, path in sorted(recording.features.items()):
            width = shared.feature_width(path) if path.suffix.lower() == ".npy" else _csv_width(path)
            if isinstance(width, str):
                del recording.features[stream]
                dropped.add(str(path), f"unusable features in {stream}")
                continue
            widths.setdefault(stream, {}).setdefault(width, path)
            if path.suffix.lower() != ".npy":
                copy = f"arrays/{stream}/{task}/{person:03d}/{name}.npy".replace("//", "/")
                converted[copy] = path
                recording.features[stream] = out / copy
    problems = [
        f"{stream}: vectors of {len(found)} widths: {', '.join(f'{w} in {p}' for w, p in sorted(found.items()))}"
        for stream, found in widths.items()
        if len(found) > 1
    ]
    if problems:
        raise manifest_error(problems)
    return converted


def _csv_width(path: Path) -> int | str:
    try:
        array = _csv_array(path)
    except ValueError as error:
        return str(error)
    return array.shape[1] if array.size and np.isfinite(array).all() else "no numbers, or NaN or infinity among them"


def _csv_array(path: Path) -> NDArray[np.float32]:
    """(T, D) from a .csv without a header; ValueError where a cell is no number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty file; the caller says so
        return np.loadtxt(path, dtype=np.float32, delimiter=",", ndmin=2, encoding="utf-8-sig")


def _converted(arrays: Mapping[str, Path]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    return ((name, _csv_array(path)) for name, path in arrays.items())


def _clip(key: Key, recording: Recording) -> Clip:
    task, person, name = key
    turn = _TURN.search(name)
    return Clip(
        id="/".join(filter(None, (task, f"{person:03d}", name))),
        video=recording.media.get("video"),
        audio=recording.media.get("audio"),
        person=f"{person:03d}",
        question=" ".join(filter(None, (task, turn[1]))) if turn else None,
        features={stream: str(path) for stream, path in recording.features.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
