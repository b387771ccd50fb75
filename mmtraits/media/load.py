"""The one entry: a Clip -> the raw arrays that encoders asked for, window by window, whatever the file holds."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from mmtraits.errors import MediaError
from mmtraits.media import features, transcript
from mmtraits.media.assemble import Assembler, Window
from mmtraits.media.probe import AUDIO_SUFFIXES, LIMITS, Limits, Media, opened
from mmtraits.media.sampling import windows
from mmtraits.media.text import Tokenizer
from mmtraits.media.transcript import Utterance
from mmtraits.media.video import Backend, Health, Picture, Sound, read
from mmtraits.schema import Clip, FrameSpec, InputSpec, Raw, TextSpec, VectorSpec, WaveSpec, Windowing, join_reasons

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is known of a clip once it has been read.

    reasons: from `schema.REASONS`, in their order. duration_s: of the stretch that was asked for, NaN where no medium
    tells it. details: what the reasons leave out (counts, fractions, levels), for the logs of a job.
    """

    reasons: tuple[str, ...]
    duration_s: float
    details: Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedClip:
    """A clip, decoded. Every window holds every stream; an absent one is its spec's `empty()`.

    windows: in order, without those in which there is nothing at all; but there is always at least one. The rest is
    that of its `Ending`.
    """

    windows: tuple[Window, ...]
    reasons: tuple[str, ...]
    duration_s: float
    details: Mapping[str, float | int | str]


@dataclass
class _Report:
    """What is found out while a clip is read."""

    duration_s: float = math.nan
    reasons: set[str] = field(default_factory=set)
    details: dict[str, float | int | str] = field(default_factory=dict)
    heard: set[str] = field(default_factory=set)  # streams of which a window held something


def clip_from_file(path: Path, id: str | None = None) -> Clip:  # noqa: A002  (the field's own name)
    """The Clip of one media file and of the transcript beside it. The file is not opened; its name decides the kind.

    A file of any other suffix counts as video: where it holds no picture, its sound is still used.
    """
    audio = path.suffix.lower() in AUDIO_SUFFIXES
    return Clip(
        id=path.name if id is None else id,
        video=None if audio else path,
        audio=path if audio else None,
        transcript=transcript.sidecar(path),
    )


def load(
    clip: Clip,
    specs: Mapping[str, InputSpec],
    windowing: Windowing,
    *,
    backend: Backend = "pyav",
    root: Path | None = None,
    limits: Limits = LIMITS,
) -> LoadedClip:
    """Decode a clip as the streams of `specs` want it: what `stream` yields, collected.

    Where nothing is in any window, the first one is kept.
    """
    report = _Report()
    found = tuple(_windows(clip, specs, windowing, backend, root, limits, report))
    spoken = tuple(window for window in found if _says_something(window)) or found[:1]
    end = _ending(specs, report)
    return LoadedClip(windows=spoken, reasons=end.reasons, duration_s=end.duration_s, details=end.details)


def stream(
    clip: Clip,
    specs: Mapping[str, InputSpec],
    windowing: Windowing,
    *,
    backend: Backend = "pyav",
    root: Path | None = None,
    limits: Limits = LIMITS,
    tell_duration: Callable[[float], None] | None = None,
) -> Iterator[Window | Ending]:
    """Decode a clip as the streams of `specs` want it: its windows, each as soon as it is complete, then its Ending.

    Windows in which there is nothing at all are left out. Memory does not grow with the length of the clip. Never
    raises for what a file contains: the reasons say it, and what could be decoded is kept. Sound is taken from
    clip.audio, else from the video; text from clip.text, else from the transcript, cut to the window where it is timed.
    `root`: the folder in which relative tokenizer paths lie. `tell_duration`: called with the seconds of media up to
    the end of the stretch, once the files are open. clip.features is not read here. Raises BundleError or ConfigError
    for a tokenizer that is not there, ConfigError for a producer of vectors that is not.
    """
    report = _Report()
    yield from filter(_says_something, _windows(clip, specs, windowing, backend, root, limits, report, tell_duration))
    yield _ending(specs, report)


# ---------------------------------------------------------------------------------------------------- one pass


def _windows(
    clip: Clip,
    specs: Mapping[str, InputSpec],
    windowing: Windowing,
    backend: Backend,
    root: Path | None,
    limits: Limits,
    report: _Report,
    tell_duration: Callable[[float], None] | None = None,
) -> Iterator[Window]:
    """Yield the windows in order, each when it is complete; fills the report on the way."""
    turns = _turns(clip, report)
    utterances = _own(clip, turns)
    with ExitStack() as stack:
        video, audio = (_open(path, stack, limits, report) for path in (clip.video, clip.audio))
        if video is None and audio is None and not utterances:
            report.reasons |= set() if report.reasons else {"no_modality"}
        spans = _spans(clip, windowing, video or audio, utterances, limits, report)
        if tell_duration is not None:
            tell_duration(spans[-1][1])
        sources = [
            features.Source(clip=clip, turns=turns, said=_said_in(utterances, span), span_s=span) for span in spans
        ]
        ready = [_text(specs, source, root, report) | _produced(specs, source) for source in sources]
        sound = audio or (video if clip.audio is None else None)
        _fill_absent(ready, specs, has_video=_has_video(video), has_sound=sound is not None and sound.info.has_audio)
        assembler = Assembler(specs, spans, ready)
        health = Health()
        for window in _assembled(assembler, _events(video, sound, assembler, backend, health)):
            report.heard |= {name for name, raw in window.streams.items() if raw.mask.any()}
            yield window
    _tell(report, video or audio, assembler, health)


def _assembled(assembler: Assembler, events: Iterable[Picture | Sound]) -> Iterator[Window]:
    for event in events:
        yield from assembler.push(event)
    yield from assembler.finish()


def _open(path: Path | None, stack: ExitStack, limits: Limits, report: _Report) -> Media | None:
    if path is None:
        return None
    try:
        return stack.enter_context(opened(path, limits.max_pixels))
    except MediaError as error:
        report.reasons.add(error.reason)
        report.details["error"] = str(error)
        return None


def _has_video(media: Media | None) -> bool:
    return media is not None and media.info.has_video


def _spans(
    clip: Clip,
    windowing: Windowing,
    media: Media | None,
    utterances: list[Utterance],
    limits: Limits,
    report: _Report,
) -> tuple[tuple[float, float], ...]:
    """The windows of the clip. Where nothing tells a length there is one, as long as a window is."""
    duration_s = media.info.duration_s if media else max((u.end_s or 0.0 for u in utterances), default=0.0)
    begin_s = max(0.0, clip.start_s)
    stretch_s = (duration_s if clip.end_s is None else min(clip.end_s, duration_s)) - begin_s
    if stretch_s <= 0:
        return ((clip.start_s, clip.start_s + windowing.length_s),)
    report.duration_s = stretch_s
    if limits.max_duration_s is not None and stretch_s > limits.max_duration_s:
        report.reasons.add("too_long")
        duration_s = begin_s + limits.max_duration_s
    return windows(duration_s, windowing, clip.start_s, clip.end_s)


def _events(
    video: Media | None, sound: Media | None, assembler: Assembler, backend: Backend, health: Health
) -> Iterator[Picture | Sound]:
    """What the files hold, in the order of time; one pass where picture and sound lie in one file."""
    wanted, sizes = assembler.wanted, assembler.sizes
    span_s = (assembler.track.start_s, assembler.track.end_s) if assembler.wants_sound else None
    passes = []
    if video is not None and video is sound:
        passes.append(read(video, wanted=wanted, sizes=sizes, sound_span_s=span_s, health=health, backend=backend))
    else:
        if video is not None:
            passes.append(read(video, wanted=wanted, sizes=sizes, health=health, backend=backend))
        if sound is not None:
            passes.append(read(sound, sound_span_s=span_s, health=health))
    return heapq.merge(*passes, key=lambda event: event.time_s)


def _fill_absent(
    ready: list[dict[str, Raw]], specs: Mapping[str, InputSpec], *, has_video: bool, has_sound: bool
) -> None:
    """Give every window the empty form of the streams that no pass will deliver."""
    for name, spec in specs.items():
        comes = (isinstance(spec, FrameSpec) and has_video) or (isinstance(spec, WaveSpec) and has_sound)
        if not comes:
            for known in ready:
                known.setdefault(name, spec.empty())


# ---------------------------------------------------------------------------------------------------- text


def _turns(clip: Clip, report: _Report) -> list[Utterance]:
    """What everybody says in the clip."""
    if clip.text is not None:
        return [Utterance(None, None, None, clip.text)] if clip.text.strip() else []
    if clip.transcript is None:
        return []
    try:
        return transcript.read(clip.transcript)
    except MediaError as error:
        report.reasons.add(error.reason)
        report.details["transcript_error"] = str(error)
        return []


def _own(clip: Clip, turns: list[Utterance]) -> list[Utterance]:
    """What the scored speaker says, where speakers are told apart."""
    if clip.speaker is not None and any(utterance.speaker for utterance in turns):
        return [utterance for utterance in turns if utterance.speaker == clip.speaker]
    return turns


def _text(
    specs: Mapping[str, InputSpec], source: features.Source, root: Path | None, report: _Report
) -> dict[str, Raw]:
    """The token ids of one window, for every text stream."""
    found = {}
    for name, spec in specs.items():
        if isinstance(spec, TextSpec):
            text = source.text if spec.turns == "own" else _dialogue(source)
            ids, truncated = _token_ids(spec, root, text)
            found[name] = Raw(ids, np.ones(len(ids), np.bool_))
            report.reasons |= {"text_truncated"} if truncated else set()
    return found


def _dialogue(source: features.Source) -> str:
    """What everybody says in the window, with who says it in front where it is not who spoke before."""
    turns = _said_in(list(source.turns), source.span_s)
    if source.clip.speaker is None or not any(turn.speaker for turn in turns):
        return " ".join(turn.text for turn in turns)
    said = []
    for own, some in groupby(turns, key=lambda turn: turn.speaker == source.clip.speaker):
        said.append(" ".join(["Speaker:" if own else "Others:", *(turn.text for turn in some)]))
    return " ".join(said)


def _produced(specs: Mapping[str, InputSpec], source: features.Source) -> dict[str, Raw]:
    """The vectors of one window, for every stream that names a producer."""
    return {name: features.produce(spec, source) for name, spec in specs.items() if _has_producer(spec)}


def _has_producer(spec: InputSpec) -> TypeGuard[VectorSpec]:
    return isinstance(spec, VectorSpec) and spec.producer != features.EXTERNAL


def _said_in(utterances: list[Utterance], span: tuple[float, float]) -> list[Utterance]:
    """Those that overlap a window, where all are timed; else all."""
    timed = [(u.start_s, u.end_s, u) for u in utterances if u.start_s is not None and u.end_s is not None]
    if len(timed) < len(utterances):
        return utterances
    start_s, end_s = span
    return [utterance for begin_s, until_s, utterance in timed if begin_s < end_s and until_s > start_s]


@lru_cache(maxsize=4)
def _tokenizer(spec: TextSpec, root: Path | None) -> Tokenizer:
    return Tokenizer(spec, root)


@lru_cache(maxsize=4)
def _token_ids(spec: TextSpec, root: Path | None, text: str) -> tuple[NDArray[np.int64], bool]:
    """Kept for the next windows, which have the same text where it is not timed."""
    return _tokenizer(spec, root).encode(text)


# ---------------------------------------------------------------------------------------------------- report


def _says_something(window: Window) -> bool:
    return any(raw.mask.any() for raw in window.streams.values())


def _ending(specs: Mapping[str, InputSpec], report: _Report) -> Ending:
    reasons = report.reasons | _absences([spec for name, spec in specs.items() if name not in report.heard])
    told = tuple(join_reasons(reasons).split(";")) if reasons else ()
    return Ending(reasons=told, duration_s=report.duration_s, details=report.details)


def _absences(absent: Sequence[InputSpec]) -> set[str]:
    """The reasons for streams of which no window holds anything."""
    reasons = {FrameSpec: "no_face", WaveSpec: "no_sound", TextSpec: "no_transcript"}
    kinds = {reasons[type(spec)] for spec in absent if type(spec) in reasons}
    return kinds | {str(features.producer(spec).REASON) for spec in absent if _has_producer(spec)}


def _tell(report: _Report, media: Media | None, assembler: Assembler, health: Health) -> None:
    report.reasons |= health.reasons
    if media is None:
        return
    info, details = media.info, report.details
    details |= {"format": info.format, "video_codec": info.video_codec, "audio_codec": info.audio_codec}
    details |= {"width_px": info.width_px, "height_px": info.height_px, "fps": round(info.fps, 3)}
    details |= {"frames_decoded": health.frames, "packet_errors": health.packet_errors}
    details["decoded_fraction"] = round(health.decoded_fraction, 4)
    if assembler.frames_searched:
        details["face_coverage"] = round(assembler.faces_found / assembler.frames_searched, 4)
    if assembler.track.samples:
        details["loudness_dbfs"] = round(max(assembler.track.loudness_dbfs, -200.0), 2)  # -inf is no JSON
