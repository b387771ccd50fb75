"""A folder of media, or a manifest, to one row of scores per clip: results.csv, results.jsonl and report.html.

Clips are decoded ahead in other processes, their windows scored in batches that go across clips, their rows committed
to job.sqlite in groups of neighbours. A group is the least that is done again: which windows share a batch follows from
the group alone, so a job that was interrupted anywhere ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from mmtraits import __version__, report, transcripts
from mmtraits.batches import Batches, Waiting, passes_at_once
from mmtraits.errors import ConfigError, JobError, MediaError
from mmtraits.heard import Heard
from mmtraits.inputs import Inputs, Vectors, wanted
from mmtraits.journal import Done, Journal, Stamp, paths_of, sealed, stamps_of
from mmtraits.media import speech
from mmtraits.media.load import Ending
from mmtraits.media.probe import Limits
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip
from mmtraits.workers import Job, decode

Progress = Callable[[int, int], None]  # clips done, clips in all
OUTPUTS = ("results.csv", "results.jsonl", "report.html")
_TUNED_FROM = 32  # clips; fewer are done before a larger batch pays


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
    speech_to_text: str = "none",
    follow: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Score every media file under `paths`, or every row of `manifest`, and write the results into `out`.

    One clip, one row, in path order; what is wrong with a clip is in its row. A job that was interrupted in `out` goes
    on where it was, unless `fresh`. features: folder of vectors (`inputs.wanted`). workers: decoding processes, 0 =
    decode in this one. batch: windows per forward pass, None = the best, found once per job. max_duration_s: of a clip;
    of a longer one the beginning is scored (`too_long`). speech_to_text: for clips without a transcript, as
    `media.speech.chosen` takes it; what is heard is left in transcripts/. follow: links that lead out of a folder too.
    Raises ConfigError, BundleError or ManifestError before anything is decoded, and JobError where `out` is full.
    """
    passes, threads = passes_at_once(device)
    predictor = Predictor(bundle, device=device, threads=threads)
    inputs = wanted(paths, manifest, features, predictor.specs, follow=follow)
    limits, speech_to_text = Limits(max_duration_s=max_duration_s), speech.chosen(speech_to_text)
    folder = _made(Path(out))
    with Journal(folder, fresh=fresh) as journal, Batches(predictor, passes) as batches:
        journal.start(_identity(predictor, device, limits, speech_to_text), inputs.clips)
        _sweep(folder)
        size = _batch_size(journal, batch, batches, len(inputs.clips))
        todo = _unfinished(journal, inputs)
        finished = len(inputs.clips) - len(todo)
        for done in rows(predictor, batches, inputs, todo, size, limits, workers, speech_to_text):
            journal.commit(done)
            finished += len(done)
            if progress:
                progress(finished, len(inputs.clips))
        _write(folder, journal, inputs, predictor)
        return Outcome(folder=folder, counts=journal.counts())


# ---------------------------------------------------------------------------------------------------- clips to rows


@dataclass(slots=True)
class _Open:
    """A clip that is being decoded or scored."""

    place: int
    clip: Clip
    heard: Heard
    files: tuple[Path | None, ...]
    stamps: list[Stamp | None]
    wrong: MediaError | None  # with the vectors given for it


def group_size(batch: int) -> int:
    """Neighbouring clips that are committed together: windows of two batches' worth of clips are sorted by size."""
    return 1 if batch == 1 else 2 * batch


def rows(
    predictor: Predictor,
    batches: Batches,
    inputs: Inputs,
    todo: Sequence[int],
    batch: Callable[[], int],
    limits: Limits,
    workers: int,
    speech_to_text: str = speech.NONE,
) -> Iterator[list[Done]]:
    """The rows of the clips `todo` (their numbers, ascending, whole groups), group by group, in order."""
    under_way: dict[int, _Open] = {}
    scoring: deque[tuple[list[_Open], list[Future[None]]]] = deque()
    group: list[_Open] = []
    for number, item in decode(_jobs(predictor, inputs, todo, limits, speech_to_text, under_way), workers):
        place, size = todo[number], batch()
        one = under_way[place]
        if not isinstance(item, Ending):
            if (at := one.heard.add(item, predictor.text_stream)) is not None:
                batches.add(Waiting(one.heard, at, item.streams), size)
            continue
        one.heard.end(item)
        group.append(under_way.pop(place))
        of_next = todo[number + 1] // group_size(size) if number + 1 < len(todo) else None
        if of_next != place // group_size(size):
            scoring.append((group, batches.flush(size)))
            group = []
        while scoring and all(one_pass.done() for one_pass in scoring[0][1]):
            yield _finished(predictor, *scoring.popleft())
    while scoring:
        yield _finished(predictor, *scoring.popleft())


def _jobs(
    predictor: Predictor,
    inputs: Inputs,
    todo: Sequence[int],
    limits: Limits,
    speech_to_text: str,
    under_way: dict[int, _Open],
) -> Iterator[Job]:
    """What is to be decoded; notes each clip in `under_way` as it is handed out."""
    vectors = Vectors(inputs, predictor.specs)
    for place in todo:
        clip = inputs.clips[place]
        files = paths_of(clip, inputs.folder)
        given, wrong = vectors.of(clip)
        under_way[place] = _Open(place, clip, Heard(predictor.streams), files, stamps_of(files), wrong)
        yield Job(
            clip, predictor.specs, predictor.windowing, predictor.root, given, limits, speech_to_text=speech_to_text
        )


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


# ---------------------------------------------------------------------------------------------------- the job


def _identity(predictor: Predictor, device: str, limits: Limits, speech_to_text: str) -> dict[str, str]:
    """What must be the same when a job goes on."""
    bundle = hashlib.sha256(json.dumps(predictor.info, sort_keys=True).encode()).hexdigest()
    longest = "any" if limits.max_duration_s is None else f"{limits.max_duration_s:g} s"
    return {
        "bundle": bundle[:16], "mmtraits": __version__, "device": device, "max_duration": longest,
        "speech_to_text": speech.described(speech_to_text),
    }  # fmt: skip


def _batch_size(journal: Journal, asked: int | None, batches: Batches, clips: int) -> Callable[[], int]:
    """The job's batch size: that of its start, else what is asked for, else the best, once that is found."""
    known = journal.batch
    if known is not None and asked not in (None, known):
        raise ConfigError(f"{journal.path}: begun with --batch {known}, not {asked}; --fresh scores everything anew")
    if known is None and (asked or clips < _TUNED_FROM):
        journal.batch = asked or 1
    found = None if journal.batch else batches.tuned()

    @cache
    def size() -> int:
        if found is not None:
            journal.batch = found.result()
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


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}; expected a folder that can be written") from None
    return folder


def _sweep(folder: Path) -> None:
    """Remove what a killed process left of its last step."""
    for name in OUTPUTS:
        for partial in folder.glob(f".{name}.*"):
            partial.unlink(missing_ok=True)


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
