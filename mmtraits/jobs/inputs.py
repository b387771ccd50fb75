"""What is to be scored: the media files of folders, or the rows of a manifest, and the vectors given for them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.features import Tables
from mmtraits.data.manifest import read_clips
from mmtraits.errors import ConfigError, MediaError
from mmtraits.media.load import clip_from_file
from mmtraits.media.probe import MEDIA_SUFFIXES
from mmtraits.schema import Clip, InputSpec, VectorSpec

log = logging.getLogger(__name__)
Features = Mapping[str, NDArray[np.float32]]  # stream -> (T, D)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The clips of a job in the order of their rows. folder: where relative references to vectors lie."""

    clips: Sequence[Clip]
    folder: Path


def wanted(
    paths: Sequence[Path | str],
    manifest: Path | str | None,
    features: Path | str | None,
    specs: Mapping[str, InputSpec],
    *,
    follow: bool = False,
) -> Inputs:
    """The clips of `paths` or of `manifest`, and for those that name no vectors the ones in the folder `features`.

    In it lie, for each stream that takes vectors, `<stream>/<clip id>.npy` or one `<stream>.npz` with the arrays `clip`
    and `features`; see `data.features.read_features`. Raises ConfigError and ManifestError.
    """
    if (manifest is None) == (not paths):
        raise ConfigError("predict: expected either media files and folders, or --manifest, and not both")
    if manifest is None:
        found = Inputs(clips=find(paths, follow=follow), folder=Path())
    else:
        path = Path(manifest)
        found = Inputs(clips=read_clips(path), folder=path if path.is_dir() else path.parent)
    if features is None:
        return found
    if not (folder := Path(features)).is_dir():
        raise ConfigError(f"--features {folder}: no such folder; expected <stream>/<clip id>.npy or <stream>.npz in it")
    streams = {name: _ids(folder / f"{name}.npz") for name, spec in specs.items() if isinstance(spec, VectorSpec)}
    return replace(found, clips=[_with_vectors(clip, streams, folder.absolute()) for clip in found.clips])


def find(paths: Sequence[Path | str], *, follow: bool = False) -> list[Clip]:
    """One clip per media file, in path order below each argument; its id is the path relative to that argument.

    Where two arguments give the same id, both ids start with their argument. A file is listed once. A file that is
    named itself is taken whatever its suffix; one in a folder if it is a regular file, or a link to one below that
    folder. `follow`: links to anywhere. Raises ConfigError for a path that does not exist.
    """
    found: dict[Path, tuple[int, str, Path]] = {}  # the real file -> number of its argument, relative path, argument
    for number, argument in enumerate(map(Path, paths)):
        for _, relative, real in sorted(_media_below(argument, follow=follow)):
            found.setdefault(real, (number, relative, argument))
    named = sorted((number, relative, argument) for number, relative, argument in found.values())
    times = Counter(relative or argument.name for _, relative, argument in named)
    clips = []
    for _, relative, argument in named:
        short, path = relative or argument.name, argument / relative
        clips.append(clip_from_file(path, short if times[short] == 1 else path.as_posix()))
    return clips


class Vectors:
    """Reads the vectors of clips when their turn comes; a table that many clips name is read once."""

    def __init__(self, inputs: Inputs, specs: Mapping[str, InputSpec]) -> None:
        self._folder, self._tables = inputs.folder, Tables()
        self._widths = {stream: spec.width for stream, spec in specs.items() if isinstance(spec, VectorSpec)}

    def of(self, clip: Clip) -> tuple[Features, MediaError | None]:
        """The vectors of one clip; and what is wrong with those that are left out."""
        found: dict[str, NDArray[np.float32]] = {}
        wrong = None
        for stream, width in self._widths.items():
            if stream not in clip.features:
                continue
            try:
                found[stream] = self._read(clip.features[stream], width)
            except MediaError as error:
                wrong = error
        return found, wrong

    def _read(self, reference: str, width: int) -> NDArray[np.float32]:
        steps = self._tables.steps(self._folder, reference)
        if isinstance(steps, str):
            raise MediaError("unreadable_container", f"{self._folder / reference}: {steps}")
        if steps.shape[1] != width:
            told = f"vectors of width {steps.shape[1]}; the model takes {width}"
            raise MediaError("unreadable_container", f"{self._folder / reference}: {told}")
        if not np.isfinite(steps).all():
            raise MediaError("non_finite", f"{self._folder / reference}: holds NaN or infinity")
        return steps


def _media_below(argument: Path, *, follow: bool) -> Iterator[tuple[bool, str, Path]]:
    """Whether a link leads to it, relative posix path and real path of each media file of one argument.

    The relative path of an argument that is a file itself is ''.
    """
    if argument.is_file():
        yield False, "", argument.resolve()
        return
    if not argument.is_dir():
        found = "is no regular file and no folder" if os.path.lexists(argument) else "no such file or folder"
        raise ConfigError(f"{argument}: {found}; name media files or folders of them")
    root, left_out = argument.resolve(), 0
    for folder, real_folder, files in _folders(argument, follow=follow):
        for path in (folder / file for file in files if Path(file).suffix.lower() in MEDIA_SUFFIXES):
            if not path.is_file():
                continue
            real = path.resolve() if path.is_symlink() else real_folder / path.name
            relative = path.relative_to(argument)
            if follow or real.is_relative_to(root):
                yield real != root / relative, relative.as_posix(), real
            else:
                left_out += 1
    if left_out:
        log.warning("%s: %d links lead out of it and are left out; --follow takes them", argument, left_out)


def _folders(argument: Path, *, follow: bool) -> Iterator[tuple[Path, Path, Sequence[str]]]:
    """Every folder below, once: its path, its real path and the names of its files; links may go round."""
    seen: set[Path] = set()
    for name, below, files in os.walk(argument, followlinks=follow):
        folder = Path(name)
        real = folder.resolve()
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort(key=lambda child: ((folder / child).is_symlink(), child))
        yield folder, real, files


def _ids(table: Path) -> frozenset[str] | None:
    """The clips of a table of vectors; None where there is no such file."""
    found = Tables().keys(table) if table.is_file() else None
    if isinstance(found, str):
        raise ConfigError(f"{table}: {found}")
    return found


def _with_vectors(clip: Clip, streams: Mapping[str, frozenset[str] | None], folder: Path) -> Clip:
    """The clip with references to the vectors in `folder` for those of the streams that it names none for."""
    found = {stream: name for stream, ids in streams.items() if (name := _reference(clip.id, stream, ids, folder))}
    return replace(clip, features={**found, **clip.features}) if found else clip


def _reference(clip_id: str, stream: str, ids: frozenset[str] | None, folder: Path) -> str | None:
    if ids is not None:
        return f"{folder / stream}.npz#{clip_id}" if clip_id in ids else None
    inside = PurePosixPath(clip_id.lstrip("/"))
    own = folder / stream / f"{inside}.npy"
    return None if ".." in inside.parts or not own.is_file() else str(own)
