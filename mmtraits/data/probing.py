"""The media files of a corpus or folder, looked at without decoding them: unreadable, unnamed, twice there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mmtraits.data.faults import Fault, line_of
from mmtraits.data.manifest import Manifest
from mmtraits.errors import MediaError, MMTraitsError
from mmtraits.media.cache import file_digest
from mmtraits.media.probe import MEDIA_SUFFIXES, MediaInfo, probe

LIMIT_S = 20  # for one file
_ROUNDING_S = 0.1
Progress = Callable[[int, int], None]
Probed = Mapping[Path, MediaInfo | str]  # what a file declares, or what is wrong with it


def probe_all(files: Sequence[Path], workers: int = 0, progress: Progress | None = None) -> dict[Path, MediaInfo | str]:
    """Probe every file; one that takes its process down or longer than `LIMIT_S` is no more than its own fault.

    `workers`: processes; 0 = this one, without that protection.
    """
    found: dict[Path, MediaInfo | str] = {}

    def add(file: Path, answer: MediaInfo | str) -> None:
        found[file] = answer
        if progress:
            progress(len(found), len(files))

    while waiting := [file for file in files if file not in found]:
        for file, answer in _in_order(waiting, workers):
            add(file, answer)
        for file in [file for file in waiting if file not in found][: 2 * workers]:  # a worker died over one of them
            for _, answer in _in_order([file], 1):
                add(file, answer)
            if file not in found:
                add(file, f"decoder_crash: {file}: ends the program that opens it, or takes more than {LIMIT_S} s")
    return found


def _in_order(files: Sequence[Path], workers: int) -> Iterator[tuple[Path, MediaInfo | str]]:
    """Ends early where a worker dies."""
    if not workers:
        yield from ((file, _probed(file)) for file in files)
        return
    with ProcessPoolExecutor(min(workers, len(files)), get_context("spawn")) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise MMTraitsError(
                "workers: no process can be started; a script needs `if __name__ == '__main__':`"
            ) from None
        try:
            yield from zip(files, pool.map(_limited, files), strict=True)
        except BrokenProcessPool:
            return


def _limited(file: Path) -> MediaInfo | str:
    """The alarm ends this process wherever it is, also in a decoder that never comes back."""
    if not hasattr(signal, "SIGALRM"):
        return _probed(file)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT_S)
    try:
        return _probed(file)
    finally:
        signal.alarm(0)


def _probed(file: Path) -> MediaInfo | str:
    try:
        return probe(file)
    except MediaError as error:
        return f"{error.reason}: {error}"
    except Exception as error:  # whatever a file does to the reader is said of the file
        return f"decoder_crash: {file}: {type(error).__name__}: {error}"


def summary(probed: Probed) -> list[dict[str, Any]]:
    """One row: files, how many lack something, and how long they are."""
    infos = [info for info in probed.values() if isinstance(info, MediaInfo)]
    seconds = [info.duration_s for info in infos]
    row: dict[str, Any] = {"files": len(probed), "unreadable": len(probed) - len(infos)}
    row |= {"without picture": sum(not info.has_video for info in infos)}
    row |= {"without sound": sum(not info.has_audio for info in infos)}
    row |= {"shortest s": min(seconds, default=None), "longest s": max(seconds, default=None)}
    return [row | {"hours": sum(seconds) / 3600}]


# ---------------------------------------------------------------------------------------------------- of a manifest


def named(manifest: Manifest) -> dict[Path, list[int]]:
    """The media files that there are and rows name, and those rows."""
    found: dict[Path, list[int]] = {}
    for row, clip in enumerate(manifest.clips):
        for file in (clip.video, clip.audio):
            if file is not None:
                found.setdefault(file, []).append(row)
    return {file: rows for file, rows in found.items() if file.is_file()}


def find(manifest: Manifest, files: Mapping[Path, Sequence[int]], probed: Probed) -> Iterator[Fault]:
    """Every fault of the files that a manifest names: unreadable, too short, twice there; and files that none names."""
    for file, info in probed.items():
        if isinstance(info, str):
            yield Fault(True, f"{line_of(manifest, files[file][0])}: {info}")
        else:
            yield from _too_short(manifest, file, files[file], info)
    yield from _same_content(manifest, files)
    yield from _unnamed(files)


def _too_short(manifest: Manifest, file: Path, rows: Sequence[int], info: MediaInfo) -> Iterator[Fault]:
    for row in rows:
        clip, length_s = manifest.clips[row], info.duration_s + _ROUNDING_S
        if clip.start_s >= length_s:
            told = f"start_s {clip.start_s:g} is after the end of {str(file)!r}, {info.duration_s:.1f} s"
            yield Fault(True, f"{line_of(manifest, row)}: {told}")
        elif clip.end_s is not None and clip.end_s > length_s:
            told = f"end_s {clip.end_s:g} is after the end of {str(file)!r}, {info.duration_s:.1f} s"
            yield Fault(False, f"{line_of(manifest, row)}: {told}; the clip ends there")


def _same_content(manifest: Manifest, files: Mapping[Path, Sequence[int]]) -> Iterator[Fault]:
    """Files of the same bytes under two names."""
    for first, *others in same_content(list(files)):
        for file in others:
            splits = {manifest.splits[row] for row in (*files[first], *files[file])}
            where = ", and their rows are in several splits" if len(splits) > 1 else ""
            told = f"{str(file)!r} holds the same bytes as {str(first)!r}{where}"
            yield Fault(len(splits) > 1, f"{line_of(manifest, files[file][0])}: {told}; keep one of them")


def same_content(files: Sequence[Path]) -> list[list[Path]]:
    """Groups of files of the same bytes; only files of equal size are read."""
    sizes: dict[int, list[Path]] = {}
    for file in files:
        sizes.setdefault(file.stat().st_size, []).append(file)
    digests: dict[str, list[Path]] = {}
    for file in (file for group in sizes.values() if len(group) > 1 for file in group):
        digests.setdefault(file_digest(file), []).append(file)
    return [group for digest, group in digests.items() if len(group) > 1 and digest != "unreadable"]


def _unnamed(files: Mapping[Path, Sequence[int]]) -> Iterator[Fault]:
    """Media in the folders of the named files; the sound beside a picture of the same name belongs to that."""
    known = {file.resolve().with_suffix("") for file in files}
    for folder in sorted({file.parent for file in files}):
        media = sorted(file for file in folder.iterdir() if file.suffix.lower() in MEDIA_SUFFIXES and file.is_file())
        names = [file.name for file in media if file.resolve().with_suffix("") not in known]
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            yield Fault(False, f"{folder}: {len(names):,} media files that no row names: {', '.join(names[:3])}{more}")
