"""The decoded frames of a file in its own order, with as little decoding as the wanted times allow.

Pictures are decoded late: the packets since a key frame are held back until one comes that lies after the next wanted
time; if another key frame comes before, they are never decoded. So a file of short groups of pictures costs what its
wanted frames cost, one of long groups what reading through costs, and the frames are the same. Where pictures alone are
read, a far wanted time is jumped to if the container's index names a key frame on the way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import av

from mmtraits.media.probe import Media

_SEEK_FROM_S = 20.0  # earlier stretches are reached by reading on
_LEAD_S = 2.0  # sound lies this much before its picture in some containers
_JUMP_FROM_S = 0.25  # within a pass, pictures alone: below it reading packets on is as fast
_REORDERED_S = 1.0  # a picture is shown at most this long after it is decoded
_SYNC_FORMATS = ("mov", "matroska")  # their key frames are ones that decoding can start at; others flag more
_MOST_HELD = 1024  # packets, and bytes, of pictures that wait; then they are decoded
_MOST_HELD_BYTES = 32 << 20
_log = logging.getLogger(__name__)


@dataclass
class Health:
    """What one pass met, filled while it runs. Times are seconds from the container's first time stamp."""

    frames: int = 0
    packet_errors: int = 0
    video_end_s: float = 0.0
    sound_end_s: float = 0.0
    decoded_fraction: float = 1.0
    reasons: set[str] = field(default_factory=set)

    def fail(self, error: Exception) -> None:
        """Count something that could not be decoded."""
        _log.debug("not decoded: %r", error)
        self.packet_errors += 1
        self.reasons.add("out_of_memory" if isinstance(error, MemoryError) else "corrupt_packets")


class Reader:
    """Decodes the streams in `waiting`, a list that who reads the frames may shorten, as it may move `next_s` on.

    next_s: the next wanted time in seconds from the container's first time stamp, inf for none. `on_skip` is called
    when pictures were left out.
    """

    def __init__(
        self, media: Media, video: Any | None, audio: Any | None, health: Health, on_skip: Callable[[], None]
    ) -> None:
        self._container, self._info, self._health = media.container, media.info, health
        self._video: Any = video
        self._base: Any = video.time_base if video is not None else None
        self._on_skip = on_skip
        self.waiting = [stream for stream in (video, audio) if stream is not None]
        self.next_s = -math.inf
        synced = media.info.format.split(",")[0] in _SYNC_FORMATS
        self._lazy = video is not None and synced
        self._index: Any = getattr(video, "index_entries", None) if synced and audio is None else None
        self._held: list[Any] = []
        self._held_bytes = 0
        self._fed = False  # the decoder holds pictures
        self._planned_s = -math.inf  # the wanted time for which a jump has been considered
        self._jump_lead_s: float | None = None  # of a jump that has not landed yet
        self._again = True

    def start(self, start_s: float) -> None:
        """Go to a key frame before `start_s` where that saves work and is safe; else stay at the beginning."""
        if start_s < _SEEK_FROM_S or self._key_s(start_s) > start_s - _SEEK_FROM_S:  # there a jump does it
            return
        target = round((start_s - _LEAD_S + self._info.start_s) * av.time_base)
        try:
            self._container.seek(target)
            landed = next((packet.pts for packet in self._container.demux(self._video)), None)
            if landed is not None and float(landed * self._video.time_base) <= start_s + self._info.start_s:
                self._container.seek(target)
                return
        except Exception as error:  # a container that cannot seek is read from its beginning
            _log.debug("no seek: %s", error)
        self._rewind()

    def frames(self) -> Iterator[Any]:
        """Decoded frames, to the end of the file or of what is readable."""
        while self._again:
            self._again = False
            yield from self._read()

    def _read(self) -> Iterator[Any]:
        streams = tuple(self.waiting)
        try:
            for packet in self._container.demux(streams) if streams else ():
                stream = packet.stream
                if stream not in self.waiting:
                    continue
                if self._lazy and stream == self._video:
                    yield from self._pictures(packet)
                else:
                    yield from self._decoded(packet.decode)
                if self._again or not self.waiting:
                    return
        except Exception as error:  # a reader may raise anything on damaged input; what was read is kept
            _log.debug("reading stopped: %s", error)
            self._health.reasons.add("truncated")
            yield from self._let_go()
            for stream in self.waiting:
                yield from self._decoded(partial(stream.decode, None))

    def _pictures(self, packet: Any) -> Iterator[Any]:
        stamp = packet.pts  # None for the last packet, which empties the decoder
        time_s = math.inf if stamp is None else seconds(stamp, self._base) - self._info.start_s
        if self._jump_lead_s is not None and not self._landed(packet, time_s):
            return
        if packet.is_keyframe and time_s <= self.next_s:
            self._drop()
        self._held.append(packet)
        self._held_bytes += packet.size
        if time_s > self.next_s or len(self._held) > _MOST_HELD or self._held_bytes > _MOST_HELD_BYTES:
            yield from self._let_go()
        if self._index is not None and self._planned_s < self.next_s < math.inf:
            self._planned_s = self.next_s
            self._jump(time_s, 0.0)

    def _drop(self) -> None:
        """What is held will not be shown: decoding begins again at a key frame.

        The emptied decoder itself passes over pictures that follow it in the file, are shown before it and need others.
        """
        if not self._held:
            return
        self._held, self._held_bytes = [], 0
        if self._fed:
            self._video.codec_context.flush_buffers()
        self._fed = False
        self._on_skip()

    def _let_go(self) -> Iterator[Any]:
        held, self._held, self._held_bytes = self._held, [], 0
        for packet in held:
            if self._video in self.waiting:
                self._fed = True
                yield from self._decoded(packet.decode)

    def _decoded(self, decode: Callable[[], list[Any]]) -> list[Any]:
        try:
            return decode()
        except Exception as error:  # not only FFmpegError: damaged headers raise AttributeError and others
            self._health.fail(error)
            return []

    # ------------------------------------------------------------------------------------------------ jumps

    def _jump(self, now_s: float, lead_s: float) -> None:
        """Go on at the last key frame before the next wanted time that the index names, where it is well ahead."""
        target_s = self.next_s - lead_s
        if (key_s := self._key_s(target_s)) == -math.inf or key_s < now_s + _JUMP_FROM_S:
            return
        self._jump_lead_s = lead_s
        self._held, self._held_bytes, self._fed = [], 0, False
        self._on_skip()
        try:
            self._container.seek(self._stamp(target_s), stream=self._video)  # empties the decoder
        except Exception as error:
            _log.debug("no jump: %s", error)
            self._read_through()

    def _key_s(self, time_s: float) -> float:
        """Of the last key frame that is decoded before a time, as far as the index tells; else -inf."""
        if self._index is None:
            return -math.inf
        key = self._index.search_timestamp(self._stamp(time_s), backward=True, any_frame=False)
        return -math.inf if key < 0 else seconds(self._index[key].timestamp, self._base) - self._info.start_s

    def _stamp(self, time_s: float) -> int:
        return int((time_s + self._info.start_s) * self._base.denominator // self._base.numerator)

    def _landed(self, packet: Any, time_s: float) -> bool:
        """Whether a jump came out where it should; else the next one leads more, or the file is read through.

        The index knows when a key frame is decoded, and that it is shown later only once it is read.
        """
        lead_s, self._jump_lead_s = self._jump_lead_s, None
        if time_s <= self.next_s and packet.is_keyframe:
            return True
        _log.debug("jumped to %s s, landed at %s s", self.next_s, time_s)
        if lead_s == 0.0 and time_s < math.inf:
            self._jump(-math.inf, _REORDERED_S)
        if self._jump_lead_s is None:
            self._read_through()
        return False

    def _read_through(self) -> None:
        """Begin again, without jumps; frames that were shown before are passed over."""
        self._index, self._jump_lead_s, self._again = None, None, True
        self._rewind()

    def _rewind(self) -> None:
        self._container.seek(round(self._info.start_s * av.time_base))


def seconds(stamp: int, base: Any) -> float:
    """A time stamp in seconds; `base`: a fraction. As exact as the quotient of two integers, and cheaper than its."""
    return float(stamp * base.numerator / base.denominator)
