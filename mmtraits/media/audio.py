"""Sound: channels averaged, placed on the clip's time line, resampled; mono float32."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]

QUIET_DBFS = -50.0
_ZEROS, _BETA, _ROLL_OFF = 48, 9.0, 0.95
_LARGEST_TERM = 2000  # of the ratio of two rates: exact for common ones, off by under 1e-6 for any other
_BLOCK = 256  # samples per row of the product, at least; short rows waste it, long ones the cache
_POINTERS = 8  # PyAV (18) looks for a null pointer after a frame's planes; with so many there is none, and it crashes
LEAP_S = 5.0  # one time stamp this far ahead of the one before is taken for damaged, two are a gap
_JITTER_S = 0.05  # time stamps are rounded to 1 ms or worse; only a larger gap is one


def mono(frame: Any) -> Wave:
    """A PyAV AudioFrame as its channels' mean: (S,) float32, full scale = 1.

    The mean, because swresample's own down-mix makes stereo louder by the square root of two.
    """
    if frame.format.is_planar and frame.layout.nb_channels >= _POINTERS:
        packed = av.AudioResampler(format=frame.format.packed.name, layout=frame.layout, rate=frame.sample_rate)
        (frame,) = packed.resample(frame)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    mean = samples.mean(axis=0, dtype=np.float32)
    if samples.dtype == np.uint8:
        return np.asarray((mean - 128) / 128, np.float32)
    if samples.dtype.kind == "i":
        return np.asarray(mean / -float(np.iinfo(samples.dtype).min), np.float32)
    return np.asarray(mean, np.float32)


def resample(wave: Wave, rate: int, new_rate: int) -> Wave:
    """(S,) samples at `rate` Hz -> (ceil(S * new_rate / rate),) at `new_rate`; silence is assumed around them.

    Band-limited interpolation (J. O. Smith, https://ccrma.stanford.edu/~jos/resample/) by a sinc of 48 zero crossings
    a side under a Kaiser window of beta 9, cut off at .95 of the lower Nyquist frequency, as polyphase matrix products.
    """
    if rate == new_rate or not len(wave):
        return wave
    ratio = _ratio(rate, new_rate)
    kernel, advance, reach = _kernel(ratio.numerator, ratio.denominator)
    made = kernel.shape[1]
    length = math.ceil(len(wave) * ratio)
    rows = -(-length // made)
    padded = np.zeros((rows - 1) * advance + len(kernel), np.float32)
    padded[reach : reach + len(wave)] = wave[: len(padded) - reach]
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel))[::advance]
    return np.asarray(np.ascontiguousarray(windows) @ kernel, np.float32).reshape(-1)[:length]


def loudness_dbfs(square_sum: float, samples: int) -> float:
    """Root mean square level of samples with this sum of squares, in dB below full scale; -inf for silence."""
    return 10 * math.log10(square_sum / samples) if square_sum > 0 and samples else -math.inf


@dataclass
class Track:
    """Sound of one stretch in the order of its arrival, kept at its own rate until a window takes it.

    Gaps become silence, overlaps are cut, so sample k lies at `start_s + k / rate` whatever the container did.
    """

    start_s: float
    end_s: float
    rate: int = 0
    square_sum: float = 0.0
    samples: int = 0  # heard, without filled gaps
    _first: int = 0  # index of the first sample still kept
    _next: int = 0  # index of the next sample to come
    _parts: list[tuple[int, Wave]] = field(default_factory=list)
    _leapt: bool = False

    @property
    def reached_s(self) -> float:
        """Up to where sound has arrived."""
        return self.start_s + self._next / self.rate if self.rate else self.start_s

    @property
    def loudness_dbfs(self) -> float:
        """Of all that arrived."""
        return loudness_dbfs(self.square_sum, self.samples)

    def add(self, time_s: float, samples: Wave, rate: int) -> None:
        """Append samples that start at `time_s`."""
        self.rate = self.rate or rate
        samples = resample(samples, rate, self.rate)
        begin = round((time_s - self.start_s) * self.rate)
        if self.samples and abs(begin - self._next) <= _JITTER_S * self.rate:
            begin = self._next
        leaps = self.samples > 0 and begin - self._next > LEAP_S * self.rate
        if leaps and not self._leapt:
            self._leapt = True
            return
        self._leapt = leaps
        cut = max(0, self._next - begin)
        samples, begin = samples[cut:], begin + cut
        if math.isfinite(self.end_s):
            samples = samples[: max(0, round((self.end_s - self.start_s) * self.rate) - begin)]
        if not len(samples):
            return
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        self._parts.append((begin, samples))
        self._next = begin + len(samples)
        self.samples += len(samples)
        self.square_sum += float(np.dot(samples.astype(np.float64), samples))

    def cut(self, start_s: float, end_s: float) -> Wave:
        """The samples between two times at the track's own rate; gaps are silent, the end is where the sound ended."""
        first, last = round((start_s - self.start_s) * self.rate), round((end_s - self.start_s) * self.rate)
        last = min(last, self._next)
        wave = np.zeros(max(0, last - first), np.float32)
        for begin, samples in self._parts:
            low, high = max(begin, first), min(begin + len(samples), last)
            if low < high:
                wave[low - first : high - first] = samples[low - begin : high - begin]
        return wave

    def forget(self, before_s: float) -> None:
        """Drop what lies before a time; no later `cut` may ask for it."""
        keep = round((before_s - self.start_s) * self.rate)
        self._parts = [(begin, samples) for begin, samples in self._parts if begin + len(samples) > keep]


def _ratio(rate: int, new_rate: int) -> Fraction:
    exact = Fraction(new_rate, rate)
    return exact.limit_denominator(_LARGEST_TERM) if exact < 1 else 1 / (1 / exact).limit_denominator(_LARGEST_TERM)


@lru_cache(maxsize=8)
def _kernel(up: int, down: int) -> tuple[Wave, int, int]:
    """(taps, made) matrix that turns a row of samples into `made` new ones, the samples to advance, the reach back."""
    repeats = max(1, _BLOCK // max(up, down))
    made, advance = up * repeats, down * repeats
    cutoff = _ROLL_OFF * min(1.0, up / down)  # in units of the old Nyquist frequency
    half_width = _ZEROS / cutoff
    reach = math.ceil(half_width)
    at = np.arange(made) * (down / up)  # where the new samples lie among the old
    offset = np.arange(math.floor(at[-1]) + 2 * reach + 1)[:, None] - reach - at[None, :]
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (offset / half_width) ** 2, 0, None))) / np.i0(_BETA)
    kernel = np.where(np.abs(offset) <= half_width, cutoff * np.sinc(cutoff * offset) * window, 0.0)
    return kernel.astype(np.float32), advance, reach
