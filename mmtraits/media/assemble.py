"""Pictures and sound as they arrive -> windows, each let go as soon as it is complete."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.errors import ConfigError
from mmtraits.media.audio import QUIET_DBFS, Track, loudness_dbfs, resample
from mmtraits.media.faces import FaceFinder, align, track
from mmtraits.media.sampling import frame_times
from mmtraits.media.turns import Intervals, within
from mmtraits.media.video import Image, Picture, Size, Sound, exactly, fit
from mmtraits.schema import FrameSpec, InputSpec, Raw, WaveSpec

PATIENCE_S = 60.0
_FACE_LONG_SIDE_PX = 640  # faces are sought and cut at this size: a face of a tenth of it still fills the crop


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of a clip, in seconds of its medium, with every stream's raw arrays."""

    start_s: float
    end_s: float
    streams: Mapping[str, Raw]


class _Slots(NamedTuple):
    """The wanted frames in the order of time, and where each goes: (F,) arrays, for an hour has thousands of them."""

    time_s: NDArray[np.float64]
    window: NDArray[np.int32]
    stream: NDArray[np.int32]
    place: NDArray[np.int32]


class Assembler:
    """Sorts what a pass over a clip yields into its windows.

    `wanted` and `sizes` are what the pass must be asked for. `ready` holds, per window, the streams known beforehand
    (text, and the empty ones of absent media). A window that picture or sound has left a minute behind waits for the
    other no longer, so that a stream which ends early does not make the rest of the clip pile up. `own_turns`: (n, 2)
    seconds outside which frames are masked and sound is left out; None = all counts.
    """

    def __init__(
        self,
        specs: Mapping[str, InputSpec],
        spans: Sequence[tuple[float, float]],
        ready: Sequence[Mapping[str, Raw]],
        own_turns: Intervals | None = None,
    ) -> None:
        _check_faces(specs)
        self.specs, self.spans, self._own_turns = specs, spans, own_turns
        self._streams: list[dict[str, Raw]] = [dict(known) for known in ready]
        open_ = {name: spec for name, spec in specs.items() if name not in ready[0]}
        self._frame_specs = {name: spec for name, spec in open_.items() if isinstance(spec, FrameSpec)}
        self._wave_specs = {name: spec for name, spec in open_.items() if isinstance(spec, WaveSpec)}
        self._slots = _slots(self._frame_specs, spans, own_turns)
        self._images: dict[tuple[int, str], list[Image | None]] = {}
        kinds = {name: _size_key(spec) for name, spec in self._frame_specs.items()}
        self._size_index = {name: sorted(set(kinds.values())).index(kind) for name, kind in kinds.items()}
        self.wanted: list[float] = self._slots.time_s.tolist()
        self.sizes: list[Size] = [_size(kind) for kind in sorted(set(kinds.values()))]
        self.track = Track(spans[0][0], spans[-1][1])
        self.wants_sound = bool(self._wave_specs)
        self._next_wave = self._next_window = 0
        self.frames_searched = self.faces_found = self.most_faces = 0
        self._missing = {(n, name): 0 for n in range(len(spans)) for name in self._frame_specs}
        names = list(self._frame_specs)
        for window, number in zip(self._slots.window.tolist(), self._slots.stream.tolist(), strict=True):
            self._missing[window, names[number]] += 1
        for window, name in [key for key, frames in self._missing.items() if not frames]:
            self._close_frames(window, name)

    def push(self, event: Picture | Sound) -> Iterator[Window]:
        """Take one event; yields the windows that it completes."""
        if isinstance(event, Picture):
            self._place(event)
            reached_s = self.wanted[event.wanted]
        else:
            self.track.add(event.time_s, event.samples, event.rate)
            reached_s = self.track.reached_s
            while self._next_wave < len(self.spans) and reached_s >= self.spans[self._next_wave][1]:
                self._cut_waves()
        yield from self._complete()
        while self._next_window < len(self.spans) and reached_s > self.spans[self._next_window][1] + PATIENCE_S:
            self._close(self._next_window)
            yield from self._complete()

    def finish(self) -> Iterator[Window]:
        """Nothing more comes: yields the remaining windows with what there is."""
        while self._next_window < len(self.spans):
            self._close(self._next_window)
            yield from self._complete()

    def _close(self, window: int) -> None:
        """Let a window be complete with what there is."""
        for stream in self._frame_specs:
            if (window, stream) in self._missing:
                self._close_frames(window, stream)
        while self._next_wave <= window:
            self._cut_waves()

    def _place(self, picture: Picture) -> None:
        window, place = int(self._slots.window[picture.wanted]), int(self._slots.place[picture.wanted])
        stream = list(self._frame_specs)[self._slots.stream[picture.wanted]]
        key = (window, stream)
        if key not in self._missing:
            return  # its window has been let go
        images = self._images.setdefault(key, [None] * self._frame_specs[stream].frames)
        images[place] = picture.images[self._size_index[stream]]
        self._missing[key] -= 1
        if not self._missing[key]:
            self._close_frames(*key)

    def _close_frames(self, window: int, stream: str) -> None:
        del self._missing[window, stream]
        spec = self._frame_specs[stream]
        images = self._images.pop((window, stream), [None] * spec.frames)
        if spec.crop == "face":
            times = frame_times(*self.spans[window], spec.frames)
            images = self._faces(images, times.tolist(), spec.height_px)
        self._streams[window][stream] = _raw_frames(images, spec)

    def _faces(self, images: Sequence[Image | None], times_s: Sequence[float], side_px: int) -> list[Image | None]:
        """The scored person's aligned face in each image; None where there is none."""
        given = [(place, image) for place, image in enumerate(images) if image is not None]
        faces: list[Image | None] = [None] * len(images)
        if not given:
            return faces
        seen = track(_finder(), [image for _, image in given], [times_s[place] for place, _ in given])
        for (place, image), landmarks in zip(given, seen.landmarks, strict=True):
            if landmarks is not None:
                faces[place] = align(image, landmarks, side_px)
        self.frames_searched += len(given)
        self.faces_found += sum(face is not None for face in faces)
        self.most_faces = max(self.most_faces, seen.faces)
        return faces

    def _cut_waves(self) -> None:
        start_s, end_s = self.spans[self._next_wave]
        for stream, spec in self._wave_specs.items():
            self._streams[self._next_wave][stream] = self._wave(start_s, end_s, spec)
        self._next_wave += 1
        if self._next_wave < len(self.spans):
            self.track.forget(self.spans[self._next_wave][0])

    def _wave(self, start_s: float, end_s: float, spec: WaveSpec) -> Raw:
        most_s = math.inf if spec.max_s is None else spec.max_s
        if self._own_turns is None:
            own = self.track.cut(start_s, min(end_s, start_s + most_s))
        else:
            here = self._own_turns[(self._own_turns[:, 0] < end_s) & (self._own_turns[:, 1] > start_s)]
            turns = np.clip(here, start_s, end_s).tolist()
            own = np.concatenate([np.zeros(0, np.float32), *(self.track.cut(*turn) for turn in turns)])
            own = own[: round(min(most_s, end_s - start_s) * self.track.rate)]
        if loudness_dbfs(float(np.dot(own, own)), len(own)) < QUIET_DBFS:
            return spec.empty()
        wave = np.clip(resample(own, self.track.rate, spec.sample_rate), -1, 1)
        return Raw(wave, np.ones(len(wave), np.bool_))

    def _complete(self) -> Iterator[Window]:
        while self._next_window < len(self.spans) and len(self._streams[self._next_window]) == len(self.specs):
            streams = self._streams[self._next_window]
            start_s, end_s = self.spans[self._next_window]
            yield Window(start_s=start_s, end_s=end_s, streams={name: streams[name] for name in self.specs})
            self._streams[self._next_window] = {}
            self._next_window += 1


def _slots(specs: Mapping[str, FrameSpec], spans: Sequence[tuple[float, float]], own_turns: Intervals | None) -> _Slots:
    """Sorted by time, then window, stream (by its number) and place; only those in the speaker's own turns."""
    times, where = [np.zeros(0)], [np.zeros((3, 0), np.int32)]
    for number, spec in enumerate(specs.values()):
        for window, span in enumerate(spans):
            times.append(frame_times(*span, spec.frames))
            where.append(np.array([(window, number, place) for place in range(spec.frames)], np.int32).T)
    time_s, (window_of, stream_of, place_of) = np.concatenate(times), np.concatenate(where, axis=1)
    order = np.lexsort((place_of, stream_of, window_of, time_s))
    if own_turns is not None:
        order = order[within(own_turns, time_s[order])]
    return _Slots(time_s[order], window_of[order], stream_of[order], place_of[order])


def _check_faces(specs: Mapping[str, InputSpec]) -> None:
    for stream, spec in specs.items():
        if isinstance(spec, FrameSpec) and spec.crop == "face" and spec.width_px != spec.height_px:
            raise ConfigError(f"{stream}: face crops of {spec.width_px}x{spec.height_px}; expected a square")


def _size_key(spec: FrameSpec) -> tuple[int, int]:
    """(0, 0) for faces, which are cut from one common picture, else the width and height."""
    return (spec.width_px, spec.height_px) if spec.crop == "full" else (0, 0)


def _size(key: tuple[int, int]) -> Size:
    return exactly(*key) if any(key) else fit(_FACE_LONG_SIDE_PX)


def _raw_frames(images: Sequence[Image | None], spec: FrameSpec) -> Raw:
    """A missing frame stays on the time axis under a False mask; without any frame the stream is empty."""
    mask = np.array([image is not None for image in images], np.bool_)
    if not mask.any():
        return spec.empty()
    data = np.zeros((len(images), spec.height_px, spec.width_px, 3), np.uint8)
    for place, image in enumerate(images):
        if image is not None:
            data[place] = image
    return Raw(data, mask)


@lru_cache(maxsize=1)
def _finder() -> FaceFinder:
    return FaceFinder()
