"""A synthetic voice: pulses and breath through moving formants (the source-filter model of Fant 1960). NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_VOWELS_HZ = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])
_BANDWIDTHS_HZ = np.array([90.0, 120.0, 180.0])
_HOP, _FRAME = 256, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How one clip sounds.

    pitch_hz: mean fundamental; level_db: root mean square in dBFS; tilt: how fast the spectrum falls, as an exponent of
    frequency (0 bright, 2 dull); tract: length of the vocal tract relative to a man's.
    """

    pitch_hz: float
    level_db: float
    tilt: float
    tract: float


def syllables(seconds: float, rng: np.random.Generator) -> Floats:
    """Start and end (N, 2) in seconds of syllables with short gaps and now and then a pause."""
    starts, now = [], rng.uniform(0.05, 0.2)
    while now < seconds - 0.2:
        length = rng.uniform(0.14, 0.24)
        starts.append((now, now + length))
        now += length + (rng.uniform(0.2, 0.35) if rng.random() < 0.12 else rng.uniform(0.02, 0.06))
    return np.array(starts).reshape(-1, 2)


def loudness(spoken: Floats, times_s: Floats) -> Floats:
    """How far into a syllable each time (T,) is: 0 in gaps, up to 1 in the middle; the mouth follows it."""
    start, end = spoken[:, 0], spoken[:, 1]
    share = (times_s[:, None] - start) / (end - start)
    return np.asarray(np.where((share > 0) & (share < 1), np.sin(np.pi * np.clip(share, 0, 1)), 0).sum(axis=1))


def speak(
    voice: Voice, spoken: Floats, seconds: float, rng: np.random.Generator, *, sample_rate: int = 22050
) -> NDArray[np.float32]:
    """A wave (S,) float32 in [−1, 1] of the syllables, each with a vowel of its own."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    control_s = np.arange(0.0, seconds + 0.01, 0.01)
    envelope = np.interp(time_s, control_s, np.sqrt(loudness(spoken, control_s)))
    phase = np.cumsum(voice.pitch_hz * _intonation(time_s, rng) / sample_rate)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = envelope * (pulses * np.sqrt(sample_rate / voice.pitch_hz) + 0.1 * rng.normal(size=len(time_s)))
    wave = _filtered(source, _tract(voice, spoken, len(source), sample_rate, rng))
    wave *= 10 ** (voice.level_db / 20) / max(np.sqrt(np.mean(wave**2)), 1e-9)
    return np.tanh(wave).astype(np.float32)


def _intonation(time_s: Floats, rng: np.random.Generator) -> Floats:
    """Factor on the pitch: a slow melody that falls towards the end, and jitter."""
    melody = 0.08 * np.sin(2 * np.pi * (rng.uniform(0.4, 0.9) * time_s + rng.random()))
    return np.asarray(1.05 - 0.1 * time_s / max(time_s[-1], 1e-9) + melody)


def _tract(voice: Voice, spoken: Floats, samples: int, sample_rate: int, rng: np.random.Generator) -> Floats:
    """Gain (frames, bins) of the vocal tract over time: three resonances that glide between vowels, and the tilt."""
    frames = samples // _HOP + 2
    vowels = _VOWELS_HZ[rng.integers(len(_VOWELS_HZ), size=len(spoken))] / voice.tract
    middles, now_s = spoken.mean(axis=1), np.arange(frames) * _HOP / sample_rate
    formants = np.stack([np.interp(now_s, middles, vowels[:, k]) for k in range(3)], axis=1)
    hertz = np.fft.rfftfreq(_FRAME, 1 / sample_rate)
    peaks = 1 / (1 + ((hertz - formants[..., None]) / _BANDWIDTHS_HZ[:, None]) ** 2)
    gain = 0.03 + (peaks * np.array([1.0, 0.7, 0.4])[:, None]).sum(axis=1)
    return np.asarray(gain * (np.maximum(hertz, 100) / 500) ** -voice.tilt)


def _filtered(source: Floats, gain: Floats) -> Floats:
    """Overlap-add: each frame of the source times its gain (frames, bins)."""
    padded = np.pad(source, (_HOP, _FRAME + _HOP))
    window = np.hanning(_FRAME + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP][: len(gain)]
    parts = np.fft.irfft(np.fft.rfft(frames * window) * gain[: len(frames)], _FRAME)
    wave = np.zeros((len(parts) + 1) * _HOP)
    for half in (0, 1):
        wave[half * _HOP : (half + len(parts)) * _HOP] += parts[:, half * _HOP : (half + 1) * _HOP].reshape(-1)
    return wave[_HOP : _HOP + len(source)]
