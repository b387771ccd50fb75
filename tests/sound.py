"""Reading the sound of a file as a whole, as no part of the package needs to."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from mmtraits.media.audio import Track, Wave, resample
from mmtraits.media.probe import opened
from mmtraits.media.video import Health, Sound, read


def read_wave(path: Path, sample_rate: int) -> Wave:
    """The whole sound of a media file: (S,) float32 in [-1, 1] at `sample_rate` Hz; empty where it has none.

    Raises MediaError where the file cannot be opened.
    """
    track = Track(0.0, math.inf)
    with opened(path) as media:
        for event in read(media, sound_span_s=(0.0, math.inf), health=Health()):
            if isinstance(event, Sound):
                track.add(event.time_s, event.samples, event.rate)
    wave = track.cut(0.0, track.reached_s)
    return np.clip(resample(wave, track.rate, sample_rate), -1, 1) if track.rate else wave
