"""Frames at wanted times and the sound beside them, in one sequential pass over a file.

Seeking to each frame is 5 to 10 times slower than reading on, and converting frames that nobody wants costs two thirds
of decoding them; so every packet is decoded at most once (`packets`) and only wanted frames are converted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from mmtraits.errors import MMTraitsError
from mmtraits.media.audio import LEAP_S, Wave, mono
from mmtraits.media.packets import Health as Health
from mmtraits.media.packets import Reader, seconds
from mmtraits.media.probe import (
    Media,
    MediaInfo,
    audio_stream,
    display_size,
    limit,
    quarter_turns,
    stream_end_s,
    video_stream,
)

Backend = Literal["pyav", "decord"]
Image = NDArray[np.uint8]
Size = Callable[[int, int], tuple[int, int]]  # width and height as shown -> width and height to deliver

_TIE_S = 1e-6  # times are sums of floats: a frame this little after a wanted time is at it
_HOLD_S = 0.5  # how long the last frame stands for times after it, beyond its own duration
_BLOCK_S = 0.5  # sound is handed on in blocks of about this length: one frame of a codec is a fiftieth of a second
_SHORT_S = 1.0  # a stream may end this much, or 5 %, before its declared end
_DECORD_FORMATS = ("mov", "matroska")  # from MPEG program streams it gives frames of the next group of pictures
_log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """The frame for the wanted time number `wanted`, uint8 RGB (H, W, 3), one image per asked size; its own time."""

    time_s: float
    wanted: int
    images: tuple[Image, ...]


class Sound(NamedTuple):
    """Consecutive mono samples (S,) at `rate` Hz, from `time_s` on."""

    time_s: float
    samples: Wave
    rate: int


def fit(long_side_px: int) -> Size:
    """Shrink to a long side of at most `long_side_px`, keeping the proportions; never enlarge."""

    def size(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, long_side_px / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    return size


def exactly(width_px: int, height_px: int) -> Size:
    """Deliver this width and height whatever the proportions."""
    return lambda width, height: (width_px, height_px)


def read(
    media: Media,
    *,
    wanted: Sequence[float] = (),
    sizes: Sequence[Size] = (),
    sound_span_s: tuple[float, float] | None = None,
    health: Health,
    backend: Backend = "pyav",
) -> Iterator[Picture | Sound]:
    """Yield the frames shown at the ascending times `wanted`, and the sound around `sound_span_s` (None: no sound).

    The frame shown at a time is the last one whose time stamp is at or before it (the first one, before the first). A
    time after the last frame has ended gets none, so wanted times may stay without a Picture. Times count from the
    container's first time stamp. Never raises for what the file holds: `health` tells what was met; pictures and sound
    from before a damage are kept. Memory does not grow with the length of the file.

    The backend decord reads the pictures of MP4, QuickTime and Matroska files that it can open, to the same frames; it
    knows no edit lists, and loses what follows a damaged packet. All else is read by PyAV.
    """
    try:
        if backend == "decord" and len(wanted) and (reader := _decord_reader(media)) is not None:
            yield from _read_decord(reader, media, wanted, sizes, health)
            wanted = ()
        yield from _read_pyav(media, wanted, sizes, sound_span_s, health)
    except MMTraitsError:
        raise
    except Exception as error:  # the last net under what damaged files make of decoders
        _log.warning("%s: reading stopped", media.path, exc_info=error)
        health.fail(error)


class _Chooser:
    """Picks, out of frames in order, the one shown at each wanted time; works for any kind of frame."""

    def __init__(
        self, wanted: Sequence[float], convert: Callable[[Any], tuple[Image, ...]], health: Health, fps: float
    ) -> None:
        self.wanted, self.convert, self.health = wanted, convert, health
        self.leap_s = max(LEAP_S, 3 / fps if fps else 0.0)
        self.next = 0
        self.held: tuple[Any, float] | None = None
        self.leapt = False

    @property
    def done(self) -> bool:
        return self.next >= len(self.wanted)

    @property
    def next_s(self) -> float:
        return math.inf if self.done else self.wanted[self.next] + _TIE_S / 2

    def skip(self) -> None:
        """Frames that nobody wants were left out: the next one is far ahead without being damaged."""
        self.leapt = True

    def push(self, frame: Any, time_s: float) -> Iterator[Picture]:
        """A further frame: yields what the one before it was wanted for."""
        if self.held is not None and time_s <= self.held[1]:
            return  # a time stamp that runs backwards is never shown
        leaps = self.held is not None and time_s - self.held[1] > self.leap_s
        if leaps and not self.leapt:  # one damaged stamp must not end the choice; a real gap has more frames after it
            self.leapt = True
            return
        self.leapt = leaps
        yield from self._give(time_s)
        self.held = (frame, time_s)

    def finish(self, shown_until_s: float) -> Iterator[Picture]:
        """No more frames: yields what the last one was wanted for."""
        yield from self._give(shown_until_s)

    def _give(self, before_s: float) -> Iterator[Picture]:
        if self.held is None:
            return
        frame, time_s = self.held
        first = self.next
        while not self.done and self.wanted[self.next] < before_s - _TIE_S:
            self.next += 1
        if first == self.next:
            return
        try:
            images = self.convert(frame)
        except Exception as error:
            self.health.fail(error)
            return
        for wanted in range(first, self.next):
            yield Picture(time_s, wanted, images)


# ---------------------------------------------------------------------------------------------------- PyAV


class _Painter:
    """Turns decoded frames into upright RGB images of the asked sizes, with square pixels."""

    def __init__(self, sizes: Sequence[Size], aspect: Any, health: Health) -> None:
        self.sizes = sizes
        self.aspect = aspect
        self.health = health
        self.fixed: list[tuple[int, int]] = []  # of the first frame: a stream that changes its size keeps the first
        self.scalers = [VideoReformatter() for _ in sizes]

    def __call__(self, frame: Any) -> tuple[Image, ...]:
        if frame.is_corrupt:  # the decoder filled what is damaged with what was shown before
            self.health.packet_errors += 1
            self.health.reasons.add("corrupt_packets")
        turns = quarter_turns(frame.rotation)
        if not self.fixed:
            shown = display_size(frame.width, frame.height, self.aspect, 90 * turns)
            self.fixed = [size(*shown) for size in self.sizes]
        return tuple(
            _turned(_scaled(scaler, frame, size[::-1] if turns % 2 else size), turns)
            for scaler, size in zip(self.scalers, self.fixed, strict=True)
        )


def _scaled(scaler: VideoReformatter, frame: Any, size: tuple[int, int]) -> Image:
    return np.asarray(scaler.reformat(frame, *size, "rgb24", threads=1).to_ndarray(), np.uint8)


def _turned(image: Image, turns: int) -> Image:
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _read_pyav(
    media: Media,
    wanted: Sequence[float],
    sizes: Sequence[Size],
    sound_span_s: tuple[float, float] | None,
    health: Health,
) -> Iterator[Picture | Sound]:
    container, info = media.container, media.info
    video = _usable(video_stream(container), media, health) if wanted else None
    audio = _usable(audio_stream(container), media, health) if sound_span_s else None
    sound_start_s, sound_end_s = sound_span_s or (0.0, 0.0)
    chooser = _Chooser(wanted, _Painter(sizes, video.sample_aspect_ratio if video else None, health), health, info.fps)
    reader = Reader(media, video, audio, health, chooser.skip)
    sound = _Joined()
    if video is not None:
        reader.start(min(wanted[0], sound_start_s) if audio else wanted[0])
        reader.next_s = chooser.next_s
    for frame in reader.frames():
        if isinstance(frame, av.VideoFrame):
            time_s, end_s = _times_s(frame, info, health.video_end_s)
            health.frames += 1
            health.video_end_s = max(health.video_end_s, end_s)
            yield from chooser.push(frame, time_s)
            reader.next_s = chooser.next_s
            if chooser.done and video in reader.waiting:
                reader.waiting.remove(video)
        else:
            time_s, _ = _times_s(frame, info, health.sound_end_s)
            health.sound_end_s = time_s + frame.samples / frame.sample_rate
            if health.sound_end_s > sound_start_s:
                yield from sound.push(Sound(time_s, mono(frame), frame.sample_rate))
            if health.sound_end_s >= sound_end_s and audio in reader.waiting:
                reader.waiting.remove(audio)
                yield from sound.finish()
    yield from sound.finish()
    yield from chooser.finish(health.video_end_s + _HOLD_S)
    ends_s = [(video, health.video_end_s), (audio, health.sound_end_s)]
    _note_missing(health, ends_s, reader.waiting, info, sound_end_s)


class _Joined:
    """Joins the short blocks that decoders give to longer ones, where each starts at the end of the one before."""

    def __init__(self) -> None:
        self._parts: list[Sound] = []
        self._end_s = 0.0

    def push(self, sound: Sound) -> Iterator[Sound]:
        """A further block; yields those before it once they are long enough or do not go on with it."""
        parts = self._parts
        if parts and (abs(sound.time_s - self._end_s) > _TIE_S or sound.rate != parts[0].rate):
            yield from self.finish()
        start_s = self._parts[0].time_s if self._parts else sound.time_s
        self._parts.append(sound)
        self._end_s = sound.time_s + len(sound.samples) / sound.rate
        if self._end_s - start_s > _BLOCK_S:
            yield from self.finish()

    def finish(self) -> Iterator[Sound]:
        """What is left."""
        parts, self._parts = self._parts, []
        if parts:
            yield Sound(parts[0].time_s, np.concatenate([part.samples for part in parts]), parts[0].rate)


def _usable(stream: Any | None, media: Media, health: Health) -> Any | None:
    """The stream, its decoder opened within limits; None, with a reason, where that cannot be."""
    if stream is None:
        return None
    context = stream.codec_context
    if context is None:
        health.reasons.add("codec_unsupported")
        return None
    if stream.type == "video":
        pixels = context.width * context.height or media.info.width_px * media.info.height_px
        if pixels > media.max_pixels:
            health.reasons.add("too_large")
            return None
    limit(stream, media.max_pixels)
    try:
        context.open(strict=False)
    except Exception as error:
        _log.debug("decoder not opened: %s", error)
        health.reasons.add("corrupt_packets" if isinstance(error, av.error.InvalidDataError) else "codec_unsupported")
        return None
    return stream


def _times_s(frame: Any, info: MediaInfo, expected_s: float) -> tuple[float, float]:
    """When a frame is shown, from the container's first time stamp, and until when; without a stamp from `expected_s`.

    The end is a guess from the frame rate where a picture has no duration.
    """
    base, duration = frame.time_base, frame.duration
    stamp = frame.pts if frame.pts is not None else frame.dts
    time_s = expected_s if stamp is None or not base else seconds(stamp, base) - info.start_s
    if duration and base:
        return time_s, time_s + seconds(duration, base)
    return time_s, time_s + (1 / info.fps if info.fps else 0.0)


def _note_missing(
    health: Health, ends_s: list[tuple[Any, float]], unfinished: list[Any], info: MediaInfo, sound_end_s: float
) -> None:
    """Compare where the streams that were read to the end of the file stopped with where they should have."""
    for stream, end_s in ends_s:
        if stream is None or stream not in unfinished:
            continue
        declared_s = stream_end_s(stream, info.start_s)
        if declared_s <= 0:
            continue
        if declared_s - end_s > max(_SHORT_S, 0.05 * declared_s):
            health.reasons.add("truncated")
        health.decoded_fraction = min(health.decoded_fraction, max(0.0, end_s / declared_s))


# ---------------------------------------------------------------------------------------------------- decord


def _decord_reader(media: Media) -> Any | None:
    """A reader, or None for a file that is better read by PyAV; raises MMTraitsError where decord is not installed."""
    try:
        import decord
    except ImportError as error:
        raise MMTraitsError("backend decord: not installed; pip install decord, or choose the backend pyav") from error
    if not media.info.has_video or media.info.format.split(",")[0] not in _DECORD_FORMATS:
        return None
    if media.info.width_px * media.info.height_px > media.max_pixels:
        return None
    try:
        return decord.VideoReader(str(media.path), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        _log.warning("%s: decord cannot open it (%s); read by PyAV", media.path, str(error).partition("\n")[0])
        return None


def _read_decord(
    reader: Any, media: Media, wanted: Sequence[float], sizes: Sequence[Size], health: Health
) -> Iterator[Picture]:
    video: Any = video_stream(media.container)
    stored = (video.codec_context.width, video.codec_context.height)
    scalers = [VideoReformatter() for _ in sizes]

    def convert(index: int) -> tuple[Image, ...]:
        rgb = reader[index].asnumpy()
        size = (rgb.shape[1], rgb.shape[0])  # decord has turned it already
        turned = size != stored
        shown = display_size(*(size[::-1] if turned else size), video.sample_aspect_ratio, 90 if turned else 0)
        frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
        return tuple(_scaled(scaler, frame, size(*shown)) for scaler, size in zip(scalers, sizes, strict=True))

    chooser = _Chooser(wanted, convert, health, media.info.fps)
    first_s = float((video.start_time or 0) * video.time_base) - media.info.start_s  # decord counts from there
    try:
        spans = reader.get_frame_timestamp(np.arange(len(reader))).astype(np.float64) + first_s
        for index, (begin_s, end_s) in enumerate(spans.tolist()):
            yield from chooser.push(index, begin_s)
            if chooser.done:
                return
            health.frames += 1
            health.video_end_s = end_s
        yield from chooser.finish(health.video_end_s + _HOLD_S)
    except Exception as error:  # whatever decord raises
        health.fail(error)
