"""Recorded speech and sounds without any, for speech to text; the recordings lie in the recogniser's package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sound import read_wave

from mmtraits.media import recognise
from mmtraits.packages import located

Wave = NDArray[np.float32]
RATE = 16_000

needs_moonshine = pytest.mark.skipif(not recognise.installed(), reason="the extra asr has no model for this machine")

BECKETT = "ever tried ever failed no matter try again fail again fail better"  # 10 s
CITIES = (  # 44 s
    "it was the best of times it was the worst of times it was the age of wisdom it was the age of foolishness it was "
    "the epoch of belief it was the epoch of incredulity it was the season of light it was the season of darkness it "
    "was the spring of hope it was the winter of despair we had everything before us we had nothing before us we were "
    "all going direct to heaven we were all going direct the other way in short the period was so far like the present "
    "period that some of its noisiest authorities insisted on its being received for good or for evil in the "
    "superlative degree of comparison only"
)


def recording(name: str) -> Path:
    """A recording of someone who reads: `beckett` or `two_cities`."""
    return located(f"package:moonshine_voice/assets/{name}.wav")


def speech(name: str) -> Wave:
    """The samples of a recording at RATE."""
    return read_wave(recording(name), RATE)


def wrong_words(said: str, heard: str) -> int:
    """How many words must be left out, put in or replaced to make what was said of what was heard."""
    before, after = (re.sub(r"[^a-z' ]", " ", text.lower()).split() for text in (said, heard))
    row = list(range(len(after) + 1))
    for n, word in enumerate(before, 1):
        diagonal, row[0] = row[0], n
        for m, other in enumerate(after, 1):
            diagonal, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, diagonal + (word != other))
    return row[-1]


def no_speech(seconds: float = 6.0) -> dict[str, Wave]:
    """Sounds in which nobody says anything, as loud as speech is."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(seconds * RATE)) / RATE

    def tone(hz: float) -> NDArray[np.float64]:
        return np.sin(2 * np.pi * hz * time_s)

    def coloured(power: float) -> NDArray[np.float64]:
        spectrum = np.fft.rfft(rng.normal(size=len(time_s)))
        noise = np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** power, len(time_s))
        return noise / noise.std()

    decay = np.exp(-(time_s % 0.5) / 0.04)
    pitches = rng.choice([220.0, 247.0, 262.0, 294.0, 330.0, 392.0, 440.0], len(time_s) // 4000 + 1)
    melody = np.sin(2 * np.pi * np.cumsum(np.repeat(pitches, 4000)[: len(time_s)]) / RATE)
    sounds = {
        "silence": np.zeros(len(time_s)),
        "hiss": 0.01 * coloured(0),
        "white noise": 0.1 * coloured(0),
        "pink noise": 0.1 * coloured(0.5),
        "brown noise": 0.1 * coloured(1.0),
        "noise that comes and goes": 0.1 * coloured(0.5) * (1 + np.sin(2 * np.pi * 4 * time_s)),
        "tone of 150 Hz": 0.2 * tone(150),
        "tone of 440 Hz": 0.2 * tone(440),
        "tone that comes and goes": 0.1 * tone(300) * (1 + np.sin(2 * np.pi * 4 * time_s)),
        "buzz that comes and goes": sum((0.04 / k * tone(120.0 * k) for k in range(1, 20)), np.zeros(len(time_s)))
        * np.interp(time_s, np.arange(0, seconds, 0.1), rng.random(len(np.arange(0, seconds, 0.1)))),
        "chord": 0.1 * (tone(262) + tone(330) + tone(392)),
        "melody": 0.2 * melody,
        "hum of the mains": sum((0.1 / k * tone(50.0 * k) for k in range(1, 20)), np.zeros(len(time_s))),
        "drum": 0.2 * coloured(0) * decay,
        "keys of a telephone": 0.2 * (tone(697) + tone(1209)) * (time_s % 0.4 < 0.2),
        "siren": 0.2 * np.sin(2 * np.pi * 700 * time_s + 200 * np.sin(np.pi * time_s)),
        "clicks": 0.8 * (np.arange(len(time_s)) % 4000 == 0),
        "clipped": np.sign(coloured(0.5)),
        "constant": np.ones(len(time_s)),
    }
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}
