"""What the tools that prepare a corpus share: reading its tables and pickles, saying what was left out, writing OUT.

A tool reads its corpus into a `Manifest` and hands it to `finish`. Everything is checked before OUT is touched, and the
same SOURCE gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.data.features import feature_file, read_features
from mmtraits.data.pickles import load_pickle
from mmtraits.data.problems import manifest_error
from mmtraits.data.tables import Row, checked, labels, split_name, table
from mmtraits.errors import ManifestError, MMTraitsError
from mmtraits.schema import Clip, TraitSchema

__all__ = [
    "CHECKSUMS",
    "Collected",
    "Dropped",
    "Row",
    "checked",
    "command_line",
    "feature_width",
    "files_by_name",
    "finish",
    "labels",
    "load_pickle",
    "run",
    "split_name",
    "stream_name",
    "table",
]

CHECKSUMS = "clips.csv.sha256"
_PATHS = ("video", "audio", "transcript")
_NAMED = 5  # how many of the things left out for one reason the report names

Contents = str | NDArray[Any] | Mapping[str, NDArray[Any]]


# ---------------------------------------------------------------------------------------------------- command line


def command_line(doc: str | None, *, source: str, media: str = "") -> argparse.ArgumentParser:
    """The parser of a prepare tool: SOURCE OUT and, where `media` describes it, [--media FOLDER]."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("source", type=Path, help=source)
    parser.add_argument("out", type=Path, help="folder for clips.csv, schema.yaml, dataset.yaml and clips.csv.sha256")
    if media:
        parser.add_argument("--media", type=Path, metavar="FOLDER", help=media)
    return parser


def run(prepare: Callable[..., str], options: argparse.Namespace) -> int:
    """Call `prepare` with the parsed options by name and write its report: 0, or 2 with the problems on stderr."""
    try:
        given = vars(options)
        source, out = given.get("source"), given.get("out")  # a tool may call what it reads otherwise
        if isinstance(source, Path) and isinstance(out, Path) and source.resolve() == out.resolve():
            raise ManifestError(f"{out}: OUT is SOURCE; expected another folder, nothing is written to a corpus")
        report = prepare(**given)
    except (MMTraitsError, OSError) as error:  # OSError: OUT cannot be written; it says which file
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{report}\n")
    return 0


# ---------------------------------------------------------------------------------------------------- what was found


@dataclass
class Collected:
    """Clips as a tool finds them, each with its labels (K,), NaN = unknown, and its split."""

    clips: list[Clip] = field(default_factory=list)
    labels: list[Sequence[float] | NDArray[np.float64]] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)

    def add(self, clip: Clip, labels: Sequence[float] | NDArray[np.float64], split: str | None = None) -> None:
        """One more clip."""
        self.clips.append(clip)
        self.labels.append(labels)
        self.splits.append(split)

    def manifest(self, out: Path, schema: TraitSchema) -> manifests.Manifest:
        """All of them as the manifest of the folder `out`."""
        labels = np.array(self.labels, dtype=np.float64).reshape(-1, len(schema.traits))
        path, clips, splits = out / "clips.csv", tuple(self.clips), tuple(self.splits)
        return manifests.Manifest(path=path, schema=schema, clips=clips, labels=labels, splits=splits)


class Dropped:
    """What did not make it into the manifest, by reason, in the order in which it was found."""

    def __init__(self) -> None:
        self._by_reason: dict[str, list[str]] = {}

    def add(self, what: str, why: str) -> None:
        """Note that `what` (an id, a file) was left out because of `why`."""
        self._by_reason.setdefault(why, []).append(what)

    def count(self, why: str) -> int:
        """How many things were left out for this reason."""
        return len(self._by_reason.get(why, ()))

    def lines(self) -> list[str]:
        """One line per reason: how many, why, and the first few by name."""
        return [
            f"left out: {len(what)}, {why}: {', '.join(what[:_NAMED])}{', ...' if len(what) > _NAMED else ''}"
            for why, what in self._by_reason.items()
        ] or ["left out: nothing"]


# ---------------------------------------------------------------------------------------------------- files


def files_by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Every file below `folder` with one of the suffixes (any case), by name, in path order.

    Raises ManifestError where the folder is missing or two files have the same name.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder; expected the files of the corpus, in any folders below it")
    found: dict[str, Path] = {}
    problems: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file() and found.setdefault(path.name, path) != path:
            problems.append(f"{path}: a file of that name is already at {found[path.name]}; keep one of them")
    if problems:
        raise manifest_error(problems)
    return found


def feature_width(path: Path) -> int | str:
    """The width of the vectors in a .npy that training could read, or what is wrong with the file."""
    try:
        (steps,) = read_features(path.parent, [path.name])
    except ManifestError as error:
        return str(error)
    return int(steps.shape[1])


def stream_name(folder: str) -> str:
    """A folder of features as the name of a stream: lower case, `_` for all that is no letter or digit."""
    return re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")


# ---------------------------------------------------------------------------------------------------- writing


def finish(
    manifest: manifests.Manifest,
    dropped: Dropped,
    dataset_folder: Path,
    *,
    files: Iterable[tuple[str, Contents]] = (),
) -> str:
    """Write the manifest's folder whole or not at all; return the report.

    Writes clips.csv, schema.yaml, a copy of `dataset_folder`'s dataset.yaml where there is one, `files` (name under the
    folder, contents: text, an array as .npy, arrays by key as .npz; a generator is fine) and clips.csv.sha256 over
    these and every feature file (`sha256sum -c`). Paths that lead elsewhere are written relative to the folder. What
    was written is read back, named files included. Raises ManifestError.
    """
    if not manifest.clips:
        raise ManifestError("\n".join([f"{manifest.path}: no clip is left; nothing was written", *dropped.lines()]))
    out = manifest.folder.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:  # beside OUT: `..` stays the same
        stage = Path(name)
        clips = tuple(_portable(clip, manifest.folder, out) for clip in manifest.clips)
        staged = replace(manifest, path=stage / "clips.csv", clips=clips)
        manifests.write(staged)
        if (dataset_folder / "dataset.yaml").is_file():
            shutil.copyfile(dataset_folder / "dataset.yaml", stage / "dataset.yaml")
        for file, contents in files:
            _write(stage / file, contents)
        try:
            manifests.read(staged.path)
        except ManifestError as error:
            raise ManifestError(str(error).replace(str(stage), str(manifest.folder))) from None
        (stage / CHECKSUMS).write_text(_checksums(stage, out, clips), encoding="utf-8")
        _publish(stage, out)
    return "\n".join([*_summary(manifest), *dropped.lines()])


def _portable(clip: Clip, folder: Path, out: Path) -> Clip:
    """The clip with paths relative to OUT: they outlive a move of corpus and manifest together."""
    paths: dict[str, Any] = {n: _relative(p, folder, out) for n in _PATHS if (p := getattr(clip, n)) is not None}
    features = {
        stream: reference if not Path(reference).is_absolute() else _relative(Path(reference), folder, out).as_posix()
        for stream, reference in clip.features.items()
    }
    return replace(clip, **paths, features=features)


def _relative(path: Path, folder: Path, out: Path) -> Path:
    if path.is_relative_to(folder):
        return path.relative_to(folder)
    try:
        return Path(os.path.relpath(path.resolve(), out))
    except ValueError:  # another drive
        return path.resolve()


def _write(path: Path, contents: Contents) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(contents, str):
        path.write_text(contents, encoding="utf-8", newline="\n")
    elif isinstance(contents, np.ndarray):
        np.save(path, contents, allow_pickle=False)
    else:
        np.savez_compressed(path, **contents)  # type: ignore[arg-type]  # the stub takes ** for its option


def _checksums(stage: Path, out: Path, clips: Sequence[Clip]) -> str:
    """`sha256sum`'s lines for what was staged and for feature files that lie elsewhere; all named files must exist."""
    staged = {path.relative_to(stage).as_posix(): path for path in stage.rglob("*") if path.is_file()}
    features = {feature_file(reference)[0] for clip in clips for reference in clip.features.values()}
    media = {path.as_posix() for clip in clips for name in _PATHS if (path := getattr(clip, name))}
    elsewhere = {name: Path(os.path.normpath(out / name)) for name in (features | media) - staged.keys()}
    if lost := sorted(str(path) for path in elsewhere.values() if not path.is_file()):
        raise manifest_error([f"{path}: no such file; the manifest would name it" for path in lost])
    covered = staged | {name: path for name, path in elsewhere.items() if name in features}
    return "".join(f"{_sha256(path)}  {name}\n" for name, path in sorted(covered.items()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(stage: Path, out: Path) -> None:
    """Move what was staged into OUT; the checksums last, so that they never vouch for an older file."""
    (out / CHECKSUMS).unlink(missing_ok=True)
    written = sorted(path for path in stage.rglob("*") if path.is_file())
    for path in sorted(written, key=lambda path: path.name == CHECKSUMS):
        target = out / path.relative_to(stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def _summary(manifest: manifests.Manifest) -> Iterator[str]:
    clips, traits = manifest.clips, manifest.schema.traits
    streams = Counter("+".join(_streams(clip)) for clip in clips)
    persons = {clip.person for clip in clips if clip.person}
    alone = sum(clip.person is None for clip in clips)
    yield f"{manifest.path}: {len(clips)} clips of {len(persons)} persons" + (f", {alone} of nobody" if alone else "")
    yield "splits: " + ", ".join(f"{name or 'none'} {n}" for name, n in sorted(_by_split(manifest).items()))
    known = (~np.isnan(manifest.labels)).sum(axis=0)
    yield "labels: " + ", ".join(f"{trait.name} {n}" for trait, n in zip(traits, known, strict=True))
    yield from (f"{n} clips with {names}" for names, n in sorted(streams.items(), key=lambda item: (-item[1], item[0])))


def _streams(clip: Clip) -> list[str]:
    return [name for name in (*_PATHS, "text") if getattr(clip, name)] + sorted(clip.features)


def _by_split(manifest: manifests.Manifest) -> Counter[str]:
    return Counter(split or "" for split in manifest.splits)
