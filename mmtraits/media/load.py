"""The one entry: a Clip -> the raw arrays that encoders asked for, window by window, whatever the file holds."""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmtraits.errors import MediaError
from mmtraits.media import features, transcript
from mmtraits.media.assemble import PATIENCE_S, Assembler, Window
from mmtraits.media.probe import AUDIO_SUFFIXES, LIMITS, Limits, Media, opened
from mmtraits.media.sampling import windows
from mmtraits.media.speech import NONE, Listener
from mmtraits.media.transcript import Utterance
from mmtraits.media.video import Backend, Health, Picture, Sound, read
from mmtraits.media.words import Words, has_producer, made_of_words, nobody, words_of
from mmtraits.schema import Clip, FrameSpec, InputSpec, Raw, TextSpec, WaveSpec, Windowing, join_reasons

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
    listened: bool = False  # to find out what is said


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
    speech_to_text: str = NONE,
) -> LoadedClip:
    """Decode a clip as the streams of `specs` want it: what `stream` yields, collected.

    Where nothing is in any window, the first one is kept.
    """
    report = _Report()
    found = tuple(_windows(clip, specs, windowing, backend, root, limits, report, speech_to_text))
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
    speech_to_text: str = NONE,
    tell_duration: Callable[[float], None] | None = None,
) -> Iterator[Window | Ending]:
    """Decode a clip as the streams of `specs` want it: its windows, each as soon as it is complete, then its Ending.

    Windows in which there is nothing at all are left out. Memory does not grow with the length of the clip. Never
    raises for what a file contains: the reasons say it, and what could be decoded is kept. Sound is taken from
    clip.audio, else from the video; text from clip.text, else from the transcript, cut to the window where it is timed.
    Where clip.speaker is asked for and an RTTM file or the transcript tells the turns, only what lies in its own turns
    counts: words, sound (own turns joined, so that the others leave no pauses) and frames (the rest is masked).
    `root`: the folder in which relative tokenizer paths lie. `speech_to_text`: as `speech.chosen` gives it, for clips
    with neither text nor transcript; what was heard is whisper's .json in details["transcript"]. `tell_duration`:
    called with the seconds of media up to the end of the stretch, once the files are open. clip.features is not read
    here. Raises BundleError or ConfigError for a tokenizer that is not there, ConfigError for a producer of vectors or
    a recogniser that is not.
    """
    report = _Report()
    found = _windows(clip, specs, windowing, backend, root, limits, report, speech_to_text, tell_duration)
    yield from filter(_says_something, found)
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
    speech_to_text: str = NONE,
    tell_duration: Callable[[float], None] | None = None,
) -> Iterator[Window]:
    """Yield the windows in order, each when it is complete; fills the report on the way."""
    words = _words(clip, limits, report)
    with ExitStack() as stack:
        video, audio = (_open(path, stack, limits, report) for path in (clip.video, clip.audio))
        if video is None and audio is None and not words.own:
            report.reasons |= set() if report.reasons else {"no_modality"}
        spans = _spans(clip, windowing, video or audio, words.own, limits, report)
        if tell_duration is not None:
            tell_duration(spans[-1][1])
        sound = audio or (video if clip.audio is None else None)
        has_sound = sound is not None and sound.info.has_audio
        absent = _absent(specs, has_video=_has_video(video), has_sound=has_sound)
        assembler = Assembler(specs, spans, [absent] * len(spans), words.own_turns)
        listener = _listener(clip, specs, speech_to_text, words, (spans[0][0], spans[-1][1])) if has_sound else None
        health = Health()
        events = _events(video, sound, assembler, backend, health, listens=listener is not None)
        done = _assembled(assembler, events) if listener is None else _listened(assembler, events, listener)
        for window in done:
            known = words if listener is None else replace(words, said=listener.utterances, own=listener.utterances)
            made, truncated = known.streams(specs, (window.start_s, window.end_s), root)
            report.reasons |= {"text_truncated"} if truncated else set()
            window = replace(window, streams={**window.streams, **made})
            report.heard |= {name for name, raw in window.streams.items() if raw.mask.any()}
            yield window
    _tell(report, video or audio, assembler, health)
    if health.decoded_fraction < limits.min_decoded:
        report.details["too_little_decoded"] = True
    _tell_heard(report, listener, speech_to_text)


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
    utterances: Sequence[Utterance],
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
    video: Media | None,
    sound: Media | None,
    assembler: Assembler,
    backend: Backend,
    health: Health,
    *,
    listens: bool,
) -> Iterator[Picture | Sound]:
    """What the files hold, in the order of time; one pass where picture and sound lie in one file."""
    wanted, sizes = assembler.wanted, assembler.sizes
    span_s = (assembler.track.start_s, assembler.track.end_s) if assembler.wants_sound or listens else None
    passes = []
    if video is not None and video is sound:
        passes.append(read(video, wanted=wanted, sizes=sizes, sound_span_s=span_s, health=health, backend=backend))
    else:
        if video is not None:
            passes.append(read(video, wanted=wanted, sizes=sizes, health=health, backend=backend))
        if sound is not None:
            passes.append(read(sound, sound_span_s=span_s, health=health))
    return heapq.merge(*passes, key=lambda event: event.time_s)


def _absent(specs: Mapping[str, InputSpec], *, has_video: bool, has_sound: bool) -> dict[str, Raw]:
    """The empty form of the streams that no pass will deliver."""
    kinds = tuple(kind for kind, comes in ((FrameSpec, has_video), (WaveSpec, has_sound)) if comes)
    return {name: spec.empty() for name, spec in specs.items() if not isinstance(spec, kinds)}


# ---------------------------------------------------------------------------------------------------- words


def _words(clip: Clip, limits: Limits, report: _Report) -> Words:
    if clip.text is None and clip.transcript is not None:
        longer = transcript.is_longer(clip.transcript, limits.max_transcript_bytes)
        report.reasons |= {"text_truncated"} if longer else set()
    try:
        words = words_of(clip, limits.max_transcript_bytes)
    except MediaError as error:
        report.reasons.add(error.reason)
        report.details["transcript_error"] = str(error)
        return nobody(clip)
    if words.own_turns is not None and not len(words.own_turns):
        report.reasons.add("no_speech")
        report.details["speaker_error"] = f"speaker {clip.speaker!r}: no turn in this clip; expected one who speaks"
    return words


def _listener(
    clip: Clip, specs: Mapping[str, InputSpec], speech_to_text: str, words: Words, span_s: tuple[float, float]
) -> Listener | None:
    """Who finds out what is said, where nothing tells it and something wants to know."""
    given = clip.text is not None or clip.transcript is not None
    if speech_to_text == NONE or given or not any(made_of_words(spec) for spec in specs.values()):
        return None
    return Listener(speech_to_text, *span_s, words.own_turns)


def _listened(assembler: Assembler, events: Iterable[Picture | Sound], listener: Listener) -> Iterator[Window]:
    """The windows, each when it is complete and what is said in it is known; sound that has ended is not waited for."""
    waiting: deque[Window] = deque()
    for event in events:
        if isinstance(event, Sound):
            listener.push(event)
        elif event.time_s > listener.reached_s + PATIENCE_S:
            listener.finish()
        waiting.extend(assembler.push(event))
        while waiting and waiting[0].end_s <= listener.settled_s:
            yield waiting.popleft()
    waiting.extend(assembler.finish())
    listener.finish()
    yield from waiting


# ---------------------------------------------------------------------------------------------------- report


def _says_something(window: Window) -> bool:
    return any(raw.mask.any() for raw in window.streams.values())


def _ending(specs: Mapping[str, InputSpec], report: _Report) -> Ending:
    absences = _absences([spec for name, spec in specs.items() if name not in report.heard])
    if report.listened and "no_transcript" in absences:
        absences = absences - {"no_transcript"} | {"no_speech"}
    reasons = report.reasons | absences
    told = tuple(join_reasons(reasons).split(";")) if reasons else ()
    return Ending(reasons=told, duration_s=report.duration_s, details=report.details)


def _absences(absent: Sequence[InputSpec]) -> set[str]:
    """The reasons for streams of which no window holds anything."""
    reasons = {FrameSpec: "no_face", WaveSpec: "no_sound", TextSpec: "no_transcript"}
    kinds = {reasons[type(spec)] for spec in absent if type(spec) in reasons}
    return kinds | {str(features.producer(spec).REASON) for spec in absent if has_producer(spec)}


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
        details["n_faces"] = assembler.most_faces
    if assembler.track.samples:
        details["loudness_dbfs"] = round(max(assembler.track.loudness_dbfs, -200.0), 2)  # -inf is no JSON


def _tell_heard(report: _Report, listener: Listener | None, speech_to_text: str) -> None:
    if listener is None:
        return
    report.listened = True
    report.details["speech_to_text"] = Path(speech_to_text).name
    if listener.utterances:
        report.details["transcript"] = transcript.render(listener.utterances, ".json")
