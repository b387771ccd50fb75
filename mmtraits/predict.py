"""A folder of media, or a manifest, to one row of scores per clip: results.csv, results.jsonl and report.html.

Clips are decoded ahead in other processes, their windows scored in batches that go across clips, their rows committed
to job.sqlite in groups of neighbours. A group is the least that is done again: which windows share a batch follows from
the group alone, so a job that was interrupted anywhere ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

from mmtraits import __version__, report
from mmtraits.errors import ConfigError, JobError, MediaError
from mmtraits.heard import Heard
from mmtraits.jobs import transcripts
from mmtraits.jobs.batches import Batches, Waiting, group_size, passes_at_once
from mmtraits.jobs.inputs import Inputs, Vectors, wanted
from mmtraits.jobs.journal import Done, Journal, Stamp, paths_of, sealed, stamps_of
from mmtraits.jobs.kept import Kept
from mmtraits.media import speech
from mmtraits.media.clip_cache import ClipCache, recipe
from mmtraits.media.load import Ending
from mmtraits.media.probe import Limits
from mmtraits.runtime import Predictor, usable_cores
from mmtraits.schema import Clip
from mmtraits.workers import Job, decode

Progress = Callable[[int, int], None]  # clips done, clips in all
OUTPUTS = ("results.csv", "results.jsonl", "report.html")
CACHE_MB = 20_000
_GROUPS_AT_ONCE = 8  # that an actor of a cluster takes
_TUNED_FROM = 256  # clips; the search for a batch size costs 2 s of two cores, with the default bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished run left: its folder and how many clips have each status."""

    folder: Path
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Rows of results.csv."""
        return sum(self.counts.values())

    @property
    def records(self) -> tuple[report.Record, ...]:
        """The rows of results.jsonl, read again."""
        with (self.folder / "results.jsonl").open(encoding="utf-8") as file:
            return tuple(json.loads(line) for line in file)


def run(
    paths: Sequence[Path | str],
    out: Path | str,
    *,
    manifest: Path | str | None = None,
    features: Path | str | None = None,
    bundle: Path | str | None = None,
    workers: int = 0,
    batch: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    max_duration_s: float | None = None,
    min_decoded: float = 0.0,
    speech_to_text: str = "none",
    follow: bool = False,
    fresh: bool = False,
    cache: Path | str | None = None,
    cache_mb: int = CACHE_MB,
    engine: Literal["local", "ray"] = "local",
    progress: Progress | None = None,
) -> Outcome:
    """Score every media file under `paths`, or every row of `manifest`, and write the results into `out`.

    One clip, one row, in path order; what is wrong with a clip is in its row. A job that was interrupted in `out` goes
    on where it was, unless `fresh`. features: folder of vectors (`inputs.wanted`). workers: decoding processes, 0 =
    decode in this one. batch: windows per forward pass, None = the best, found once per job. max_duration_s: of a clip;
    of a longer one the beginning is scored (`too_long`). min_decoded: share of its length; a clip cut shorter fails.
    speech_to_text: for clips without a transcript, as `media.speech.chosen` takes it; what is heard is left in
    transcripts/. follow: links that lead out of a folder too. engine: `ray` scores on a Ray cluster (`ray_engine`).
    cache: a folder of at most `cache_mb` where decoded media, faces and voices among it, and rows are kept for later.
    Raises ConfigError, BundleError or ManifestError before anything is decoded, and JobError where `out` is full.
    """
    passes, threads = passes_at_once(device)
    predictor = Predictor(bundle, device=device, threads=threads, later=cache is not None)
    inputs = wanted(paths, manifest, features, predictor.specs, follow=follow)
    limits = Limits(max_duration_s=max_duration_s, min_decoded=min_decoded)
    decoding = Decoding(workers, limits, speech.chosen(speech_to_text))
    folder = _made(Path(out), "--out")
    identity = _identity(predictor, device, decoding)
    decoding = replace(decoding, cache=_cache(cache, cache_mb, predictor, decoding))
    kept = Kept(decoding.cache, inputs, {**identity, "threads": str(threads)})
    with Journal(folder, fresh=fresh) as journal, Batches(predictor, passes) as batches:
        journal.start(identity, inputs.clips)
        _sweep(folder)
        size = _batch_size(journal, batch, batches, len(inputs.clips), kept)
        todo = _unfinished(journal, inputs)
        finished = len(inputs.clips) - len(todo)

        def take(done: Sequence[Done]) -> None:
            nonlocal finished
            journal.commit(done)
            finished += len(done)
            if progress:
                progress(finished, len(inputs.clips))

        score = rows if engine == "local" else partial(_on_ray, device)
        for done in score(predictor, batches, inputs, kept.others(todo, journal.batch, take), size, decoding):
            take(done)
            kept.put(done, size())
        _write(folder, journal, inputs, predictor)
        return Outcome(folder=folder, counts=journal.counts())


# ---------------------------------------------------------------------------------------------------- clips to rows


@dataclass(frozen=True, slots=True)
class Decoding:
    """How clips are decoded: plain data."""

    workers: int
    limits: Limits
    speech_to_text: str = speech.NONE
    cache: ClipCache | None = None


@dataclass(slots=True)
class _Open:
    """A clip that is being decoded or scored."""

    place: int
    clip: Clip
    heard: Heard
    files: tuple[Path | None, ...]
    stamps: list[Stamp | None]
    wrong: MediaError | None  # with the vectors given for it


def rows(
    predictor: Predictor,
    batches: Batches,
    inputs: Inputs,
    todo: Iterable[int],
    batch: Callable[[], int],
    decoding: Decoding,
) -> Iterator[list[Done]]:
    """The rows of the clips `todo` (their numbers, ascending, whole groups), group by group, in order."""
    under_way: deque[_Open] = deque()
    scoring: deque[tuple[list[_Open], list[Future[None]]]] = deque()
    group: list[_Open] = []
    for _, item in decode(_jobs(predictor, inputs, todo, decoding, under_way), decoding.workers):
        one, size = under_way[0], batch()
        if not isinstance(item, Ending):
            if (at := one.heard.add(item, predictor.text_stream)) is not None:
                batches.add(Waiting(one.heard, at, item.streams), size)
            continue
        one.heard.end(item)
        group.append(under_way.popleft())
        if (one.place + 1) % group_size(size) == 0 or one.place + 1 == len(inputs.clips):
            scoring.append((group, batches.flush(size)))
            group = []
        while scoring and all(one_pass.done() for one_pass in scoring[0][1]):
            yield _finished(predictor, *scoring.popleft())
    while scoring:
        yield _finished(predictor, *scoring.popleft())


def _jobs(
    predictor: Predictor, inputs: Inputs, todo: Iterable[int], decoding: Decoding, under_way: deque[_Open]
) -> Iterator[Job]:
    """What is to be decoded; notes each clip in `under_way` as it is handed out."""
    vectors = Vectors(inputs, predictor.specs)
    for place in todo:
        predictor.open()  # a graph that cannot be opened is no clip's fault
        clip = inputs.clips[place]
        files = paths_of(clip, inputs.folder)
        given, wrong = vectors.of(clip)
        under_way.append(_Open(place, clip, Heard(predictor.streams), files, stamps_of(files), wrong))
        yield Job(
            clip, predictor.specs, predictor.windowing, predictor.root, given, decoding.limits,
            speech_to_text=decoding.speech_to_text, cache=decoding.cache,
        )  # fmt: skip


def _finished(predictor: Predictor, group: Sequence[_Open], passes: Sequence[Future[None]]) -> list[Done]:
    for one_pass in passes:
        one_pass.result()
    for one in group:
        if one.wrong is not None:
            one.heard.reasons.add(one.wrong.reason)
            one.heard.details["features_error"] = str(one.wrong)
    heard, clips = [one.heard for one in group], [one.clip for one in group]
    scores = predictor.verdict([clip.id for clip in clips], heard)
    details = [{"windows": len(one.spans), **one.details} for one in heard]
    records = report.records(scores, clips, [one.duration_s for one in heard], details, predictor.name)
    return [
        Done(place=one.place, record=record, files=sealed(one.files, one.stamps))
        for one, record in zip(group, records, strict=True)
    ]


# ---------------------------------------------------------------------------------------------------- on a cluster


class Scorer:
    """Scores stretches of neighbouring clips, whole groups each: what an engine runs in processes elsewhere."""

    def __init__(
        self, working: Path, bundle: Path, device: Literal["cpu", "cuda"], batch: int, folder: Path, decoding: Decoding
    ) -> None:
        os.chdir(working)  # paths may be relative
        self._predictor = Predictor(bundle, device=device, threads=passes_at_once(device)[1])
        self._batch, self._folder, self._decoding = batch, folder, decoding

    def __call__(self, stretch: tuple[int, Sequence[Clip]]) -> list[list[Done]]:
        """(number of the first clip, clips) -> their rows, group by group."""
        first, clips = stretch
        inputs = Inputs(clips=clips, folder=self._folder)
        with Batches(self._predictor, 1) as batches:
            found = rows(self._predictor, batches, inputs, range(len(clips)), lambda: self._batch, self._decoding)
            return [[replace(one, place=first + one.place) for one in group] for group in found]


def _on_ray(
    device: str,
    predictor: Predictor,
    _: Batches,
    inputs: Inputs,
    todo: Iterable[int],
    batch: Callable[[], int],
    decoding: Decoding,
) -> Iterator[list[Done]]:
    """As `rows`, in any order: each actor decodes in a process of its own, which may break."""
    from mmtraits.jobs import ray_engine

    one_each = replace(decoding, workers=min(decoding.workers, 1))
    given = (Path.cwd(), predictor.root, device, batch(), inputs.folder, one_each)
    stretches = list(_stretches(inputs, list(todo), group_size(batch())))
    for groups in ray_engine.spread(Scorer, given, stretches, cores=usable_cores(), gpus=int(device == "cuda")):
        yield from groups


def _stretches(inputs: Inputs, todo: Sequence[int], group: int) -> Iterator[tuple[int, list[Clip]]]:
    """Neighbouring clips, some groups at a time: enough that a start counts little, few enough to be shared out."""
    size = group * min(max(1, len(todo) // group // (4 * usable_cores())), _GROUPS_AT_ONCE)
    stretch: list[int] = []
    for place in todo:
        if stretch and (place != stretch[-1] + 1 or len(stretch) == size):
            yield stretch[0], [inputs.clips[n] for n in stretch]
            stretch = []
        stretch.append(place)
    if stretch:
        yield stretch[0], [inputs.clips[n] for n in stretch]


# ---------------------------------------------------------------------------------------------------- the job


def _identity(predictor: Predictor, device: str, decoding: Decoding) -> dict[str, str]:
    """What must be the same when a job goes on."""
    bundle = hashlib.sha256(json.dumps(predictor.info, sort_keys=True).encode()).hexdigest()
    longest_s = decoding.limits.max_duration_s
    return {
        "bundle": bundle[:16], "mmtraits": __version__, "device": device,
        "max_duration": "any" if longest_s is None else f"{longest_s:g} s",
        "min_decoded": f"{decoding.limits.min_decoded:g}",
        "speech_to_text": speech.described(decoding.speech_to_text),
    }  # fmt: skip


def _cache(folder: Path | str | None, size_mb: int, predictor: Predictor, decoding: Decoding) -> ClipCache | None:
    if folder is None:
        return None
    found = recipe(
        predictor.specs, predictor.windowing, predictor.root, speech_to_text=decoding.speech_to_text,
        limits=decoding.limits,
    )  # fmt: skip
    return ClipCache(_made(Path(folder), "--cache"), found, size_mb * 10**6, writers=decoding.workers + 1)


def _batch_size(journal: Journal, asked: int | None, batches: Batches, clips: int, kept: Kept) -> Callable[[], int]:
    """The job's batch size: that of its start, else what is asked for, else the best, once that is found."""
    known = journal.batch
    if known is not None and asked not in (None, known):
        raise ConfigError(f"{journal.path}: begun with --batch {known}, not {asked}; --fresh scores everything anew")
    if known is None and (chosen := asked or (1 if clips < _TUNED_FROM else kept.tuned())):
        journal.batch = chosen
    found = None if journal.batch else batches.tuned()

    @cache
    def size() -> int:
        if found is not None:
            journal.batch = found.result()
            kept.tune(found.result())
        return journal.batch or 1

    return size


def _unfinished(journal: Journal, inputs: Inputs) -> list[int]:
    """Numbers of the clips still to be scored: all of a group where one is missing or its files have changed."""
    everything = range(len(inputs.clips))
    if journal.batch is None:
        return list(everything)
    size = group_size(journal.batch)
    kept = journal.places() - journal.changed(inputs.clips, inputs.folder)
    again = {place // size for place in everything if place not in kept}
    todo = [place for place in everything if place // size in again]
    journal.forget(todo)
    return todo


def _made(folder: Path, option: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {folder}: {error.strerror}; expected a folder that can be written") from None
    return folder


def _sweep(folder: Path) -> None:
    """Remove what a killed process left of its last step."""
    for name in OUTPUTS:
        for half in folder.glob(f".{name}.*"):
            half.unlink(missing_ok=True)


def _write(folder: Path, journal: Journal, inputs: Inputs, predictor: Predictor) -> None:
    """results.csv, results.jsonl, report.html and what was heard, each whole or not at all."""
    extra = [name for name in ("speaker", "question") if any(getattr(clip, name) for clip in inputs.clips)]
    names = report.columns(predictor.schema, predictor.streams, extra)
    try:
        report.write_csv(folder / "results.csv", journal.records(), names)
        report.write_jsonl(folder / "results.jsonl", transcripts.written(folder, journal.records()), names)
        report.write_page(
            folder / "report.html", journal.records(), journal.counts(), predictor.schema, predictor.streams,
            predictor.name,
        )  # fmt: skip
    except OSError as error:
        raise JobError(f"{folder}: {error.strerror}; all rows are kept: make room, then run the same command") from None
