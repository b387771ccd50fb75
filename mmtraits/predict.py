"""A folder of media, or a manifest, to one row of scores per clip: results.csv, results.jsonl and report.html."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits import report
from mmtraits.data.manifest import read_clips, read_features
from mmtraits.errors import ConfigError, MediaError, MMTraitsError
from mmtraits.media.assemble import Window
from mmtraits.media.load import LoadedClip, clip_from_file, load
from mmtraits.media.probe import MEDIA_SUFFIXES
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip, InputSpec, Raw, VectorSpec, Windowing

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # clips done, clips in all
Features = Mapping[str, NDArray[np.float32]]  # stream -> (T, D)


class Job(NamedTuple):
    """What a worker needs to decode one clip."""

    clip: Clip
    specs: Mapping[str, InputSpec]
    windowing: Windowing
    root: Path
    features: Features


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished run left: its folder, the rows of results.csv in order, and how many have each status."""

    folder: Path
    records: tuple[report.Record, ...]
    counts: Mapping[str, int]


def run(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    manifest: Path | str | None = None,
    bundle: Path | str | None = None,
    workers: int = 0,
    batch: int = 8,
    device: Literal["cpu", "cuda"] = "cpu",
    follow: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Score every media file under `paths`, or every row of `manifest`, and write the results into `out`.

    One clip, one row, in path order; what is wrong with a clip is in its row. `workers`: decoding processes, 0 = decode
    in this one. `batch`: clips per group and windows per forward pass. `follow`: symbolic links too.
    Raises ConfigError for a path that does not exist and BundleError or ManifestError before anything is decoded.
    """
    predictor = Predictor(bundle, device=device)
    clips, features = _wanted(paths, manifest, predictor.specs, follow=follow)
    folder = _made(Path(out))
    jobs = [
        Job(clip, predictor.specs, predictor.windowing, predictor.root, given)
        for clip, given in zip(clips, features, strict=True)
    ]
    records: list[report.Record] = []
    with_decoded = zip(clips, load_all(jobs, workers), strict=True)
    while group := list(itertools.islice(with_decoded, batch)):
        records += _score(predictor, [clip for clip, _ in group], [loaded for _, loaded in group], batch)
        if progress:
            progress(len(records), len(jobs))
    write(folder, records, predictor)
    return Outcome(folder=folder, records=tuple(records), counts=Counter(row["status"] for row in records))


def find(paths: Sequence[Path | str], *, follow: bool = False) -> list[Clip]:
    """One clip per media file, in path order below each argument; its id is the path relative to that argument.

    Where two arguments give the same id, both ids start with their argument. A file is listed once. A file that is
    named itself is taken whatever its suffix. Raises ConfigError for a path that does not exist.
    """
    found: dict[Path, tuple[Path, str]] = {}  # the real file -> (argument, relative path)
    for argument in map(Path, paths):
        for relative in _media_below(argument, follow=follow):
            found.setdefault((argument / relative).resolve(), (argument, relative))
    times = Counter(_named(argument, relative) for argument, relative in found.values())
    clips = []
    for argument, relative in found.values():
        short, path = _named(argument, relative), argument / relative
        clips.append(clip_from_file(path, short if times[short] == 1 else path.as_posix()))
    return clips


def write(folder: Path, records: Sequence[report.Record], predictor: Predictor) -> None:
    """results.csv, results.jsonl and report.html, each whole or not at all."""
    extra = [name for name in ("speaker", "question") if any(row[name] is not None for row in records)]
    names = report.columns(predictor.schema, predictor.streams, extra)
    report.write_csv(folder / "results.csv", records, names)
    report.write_jsonl(folder / "results.jsonl", records, names)
    report.write_page(folder / "report.html", records, predictor.schema, predictor.streams, predictor.name)


# ---------------------------------------------------------------------------------------------------- what to score


def _wanted(
    paths: Sequence[Path | str], manifest: Path | str | None, specs: Mapping[str, InputSpec], *, follow: bool
) -> tuple[list[Clip], list[Features]]:
    if (manifest is None) == (not paths):
        raise ConfigError("predict: expected either media files and folders, or --manifest, and not both")
    if manifest is None:
        clips = find(paths, follow=follow)
        return clips, [{} for _ in clips]
    clips = list(read_clips(manifest))
    return clips, _given_features(Path(manifest), clips, specs)


def _given_features(manifest: Path, clips: Sequence[Clip], specs: Mapping[str, InputSpec]) -> list[Features]:
    """The vectors that a manifest's `feature_<stream>` columns name; other streams are made by the graph itself."""
    folder = manifest if manifest.is_dir() else manifest.parent
    found: list[dict[str, NDArray[np.float32]]] = [{} for _ in clips]
    for stream in (name for name, spec in specs.items() if isinstance(spec, VectorSpec)):
        rows = [n for n, clip in enumerate(clips) if stream in clip.features]
        arrays = read_features(folder, [clips[n].features[stream] for n in rows])
        for n, array in zip(rows, arrays, strict=True):
            found[n][stream] = array
    return list(found)


def _media_below(argument: Path, *, follow: bool) -> list[str]:
    """Relative posix paths of the media files of one argument; of a file, ''."""
    if argument.is_file():
        return [""]
    if not argument.is_dir():
        raise ConfigError(f"{argument}: no such file or folder; name media files or folders of them")
    found = []
    for folder, _, names in os.walk(argument, followlinks=follow):
        paths = (Path(folder) / name for name in names if Path(name).suffix.lower() in MEDIA_SUFFIXES)
        found += [p.relative_to(argument).as_posix() for p in paths if p.is_file() and (follow or not p.is_symlink())]
    return sorted(found)


def _named(argument: Path, relative: str) -> str:
    return relative or argument.name


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}; expected a folder that can be written") from None
    return folder


# ---------------------------------------------------------------------------------------------------- decoding


def load_all(jobs: Sequence[Job], workers: int) -> Iterator[LoadedClip]:
    """Decode jobs in order. A job that kills its worker twice is a `decoder_crash`; its neighbours are not touched."""
    if workers == 0:
        yield from map(load_one, jobs)
        return
    waiting = deque(jobs)
    while waiting:
        done = 0
        try:
            for loaded in _pooled(list(waiting), workers):
                yield loaded
                done += 1
            return
        except BrokenProcessPool:
            log.warning("a decoding worker died; the clips it may have held are tried one by one")
            for _ in range(done):
                waiting.popleft()
            for job in [waiting.popleft() for _ in range(min(len(waiting), 2 * workers))]:
                yield _alone(job)


def load_one(job: Job) -> LoadedClip:
    """Decode one clip; any exception becomes a clip without streams and with a reason."""
    try:
        loaded = load(job.clip, job.specs, job.windowing, root=job.root)
    except MediaError as error:
        return _nothing(job.specs, error.reason, error)
    except MemoryError as error:
        return _nothing(job.specs, "out_of_memory", error)
    except MMTraitsError:
        raise  # the bundle's fault, not the clip's
    except Exception as error:  # the edge where a clip's fault must not become the job's
        log.warning("%s: %s", job.clip.id, error, exc_info=True)
        return _nothing(job.specs, "decoder_crash", error)
    given = {stream: Raw(data, np.ones(len(data), np.bool_)) for stream, data in job.features.items()}
    windows = tuple(replace(window, streams={**window.streams, **given}) for window in loaded.windows)
    return replace(loaded, windows=windows)


def _pooled(jobs: Sequence[Job], workers: int) -> Iterator[LoadedClip]:
    """In order, at most two jobs per worker ahead of the reader."""
    pending: deque[Future[LoadedClip]] = deque()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        _check_starts(pool)
        try:
            for job in jobs:
                pending.append(pool.submit(load_one, job))
                if len(pending) == 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _check_starts(pool: ProcessPoolExecutor) -> None:
    """A pool that cannot start at all is the calling script's fault and must not look like clips that crash."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise MMTraitsError(
            "workers: a decoding process cannot start; a script needs `if __name__ == '__main__':`, or workers=0"
        ) from None


def _alone(job: Job) -> LoadedClip:
    try:
        return next(_pooled([job], 1))
    except BrokenProcessPool as error:
        return _nothing(job.specs, "decoder_crash", error)


def _nothing(specs: Mapping[str, InputSpec], reason: str, error: BaseException) -> LoadedClip:
    window = Window(start_s=0.0, end_s=0.0, streams={stream: spec.empty() for stream, spec in specs.items()})
    details = {"error": f"{type(error).__name__}: {error}"}
    return LoadedClip(windows=(window,), reasons=(reason,), duration_s=float("nan"), details=details)


# ---------------------------------------------------------------------------------------------------- scoring


def _score(
    predictor: Predictor, clips: Sequence[Clip], loaded: Sequence[LoadedClip], batch: int
) -> list[report.Record]:
    """Score a group; if the pass fails, each of its clips alone, so that one clip's fault stays its own."""
    try:
        scores = predictor.assess([clip.id for clip in clips], loaded, batch)
    except Exception as error:  # onnxruntime's exceptions share no public base
        if len(clips) > 1:
            return [_score(predictor, [clip], [one], 1)[0] for clip, one in zip(clips, loaded, strict=True)]
        log.warning("%s: scoring failed: %s", clips[0].id, error)
        loaded = [_nothing(predictor.specs, "out_of_memory", error)]
        scores = predictor.assess([clips[0].id], loaded, 1)
    details = [{"windows": len(clip.windows), **clip.details} for clip in loaded]
    return report.records(scores, clips, [clip.duration_s for clip in loaded], details, predictor.name)
