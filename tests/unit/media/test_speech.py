"""What is heard in sound: words where someone speaks, nothing where nobody does."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoken import BECKETT, CITIES, RATE, Wave, needs_moonshine, no_speech, recording, speech, wrong_words

from mmtraits.errors import ConfigError
from mmtraits.media import recognise
from mmtraits.media import speech as module
from mmtraits.media.audio import resample
from mmtraits.media.probe import opened
from mmtraits.media.speech import Listener, Span, Spans, chosen
from mmtraits.media.transcript import Utterance
from mmtraits.media.video import Health, Sound, read

NO_SPEECH = no_speech()


def listen(wave: Wave, rate: int = RATE, block: int = 1024, turns: np.ndarray | None = None) -> list[Utterance]:
    listener = Listener("moonshine", 0.0, len(wave) / rate, turns)
    for begin in range(0, len(wave), block):
        listener.push(Sound(begin / rate, wave[begin : begin + block], rate))
    listener.finish()
    return listener.utterances


def text(utterances: list[Utterance]) -> str:
    return " ".join(utterance.text for utterance in utterances)


# ---------------------------------------------------------------------------------------------------- words


@needs_moonshine
def test_recorded_speech_becomes_its_words() -> None:
    """From the file's own rate, 48 kHz, at a fraction of the time that it takes to say it."""
    listener = Listener("moonshine", 0.0, 60.0)
    start_s = time.process_time()
    with opened(recording("two_cities")) as media:
        for event in read(media, sound_span_s=(0.0, 60.0), health=Health()):
            assert isinstance(event, Sound)
            listener.push(event)
    listener.finish()
    assert wrong_words(CITIES, text(listener.utterances)) <= 4  # of 119
    assert time.process_time() - start_s < 22  # half of what it lasts; alone on a core a thirtieth
    times_s = [time_s for u in listener.utterances for time_s in (u.start_s, u.end_s)]
    assert times_s == sorted(times_s)
    assert times_s[0] == pytest.approx(1.2, abs=0.3)
    assert times_s[-1] == pytest.approx(42.0, abs=0.5)
    assert all(end_s - begin_s <= 15.1 for begin_s, end_s in zip(times_s[::2], times_s[1::2], strict=True))


@needs_moonshine
def test_words_do_not_depend_on_how_the_sound_arrives() -> None:
    wave = speech("beckett")
    heard = listen(wave, block=160)
    assert wrong_words(BECKETT, text(heard)) == 0
    assert listen(wave, block=50_000) == heard


@needs_moonshine
@pytest.mark.parametrize("rate", [8000, 22254])
def test_sound_of_any_rate_that_begins_late(rate: int) -> None:
    wave = resample(speech("beckett"), RATE, rate)
    listener = Listener("moonshine", 0.0, 20.0)
    for begin in range(0, len(wave), 1024):
        listener.push(Sound(2.0 + begin / rate, wave[begin : begin + 1024], rate))
    listener.finish()
    assert wrong_words(BECKETT, text(listener.utterances)) <= 3
    assert listener.utterances[0].start_s == pytest.approx(2.3, abs=0.2)
    assert listener.utterances[-1].end_s == pytest.approx(10.85, abs=0.2)


@needs_moonshine
def test_speech_in_noise_is_still_heard() -> None:
    wave = speech("two_cities")[: 13 * RATE]
    noise = np.random.default_rng(0).normal(size=len(wave)).astype(np.float32)
    loud = wave + noise * np.sqrt(np.mean(wave**2) / 10)  # 10 dB below
    assert wrong_words(" ".join(CITIES.split()[:36]), text(listen(loud))) <= 7


@needs_moonshine
@pytest.mark.parametrize("name", NO_SPEECH)
def test_nothing_is_invented(name: str) -> None:
    assert listen(NO_SPEECH[name]) == []


@needs_moonshine
def test_the_recogniser_alone_invents_words_where_nobody_speaks() -> None:
    """So the tests above would see a gate that lets sound through."""
    say = recognise.opened("moonshine")
    assert sum(say(NO_SPEECH[name]) != "" for name in NO_SPEECH) >= 5


@needs_moonshine
def test_speech_too_quiet_to_count_as_sound_is_none() -> None:
    wave = speech("beckett")
    level = np.sqrt(np.mean(wave**2))
    assert listen(wave * np.float32(10 ** (-60 / 20) / level)) == []
    assert listen(wave * np.float32(10 ** (-40 / 20) / level)) != []


@needs_moonshine
def test_only_what_lies_in_the_turns_is_heard() -> None:
    wave = speech("beckett")
    assert wrong_words("try again fail again fail better", text(listen(wave, turns=np.array([[4.3, 20.0]])))) <= 1
    assert wrong_words("ever tried no matter", text(listen(wave, turns=np.array([[0.0, 1.6], [3.1, 4.5]])))) <= 1
    assert listen(wave, turns=np.zeros((0, 2))) == []


@needs_moonshine
def test_memory_does_not_grow_and_words_are_settled_soon() -> None:
    wave = np.concatenate([speech("beckett"), np.zeros(2 * RATE, np.float32), speech("two_cities")])
    listener = Listener("moonshine", 5.0, 5.0 + len(wave) / RATE)
    for begin in range(0, len(wave), 1600):
        time_s = 5.0 + begin / RATE
        listener.push(Sound(time_s, wave[begin : begin + 1600], RATE))
        assert len(listener._wave) < 21 * RATE
        assert sum(len(samples) for _, samples in listener._track._parts) < 6 * RATE
        assert listener.reached_s - listener.settled_s < 15 + 5
    assert listener.utterances[0].start_s == pytest.approx(5.2, abs=0.3)
    listener.finish()
    assert listener.settled_s == np.inf
    assert wrong_words(f"{BECKETT} {CITIES}", text(listener.utterances)) <= 6


# ---------------------------------------------------------------------------------------------------- voice activity


def spans(*runs: tuple[float, float]) -> list[Span]:
    """Spans of runs of (seconds, probability)."""
    found, made = Spans(), []
    for seconds, probability in runs:
        for _ in range(round(seconds * RATE / 512)):
            made += found.push(probability)
    return [*made, *found.finish()]


def test_pauses_part_utterances() -> None:
    assert spans((3, 0.0)) == []
    assert spans((1, 0.0), (2, 0.9), (3, 0.0)) == [Span(31, 31 + 62, 31)]
    assert spans((1, 0.0), (2, 0.9)) == [Span(31, 31 + 62, 0)]
    assert [span[:2] for span in spans((1, 0.9), (0.5, 0.1), (1, 0.9), (2, 0.0))] == [(0, 31 + 16 + 31)]
    assert [span[:2] for span in spans((1, 0.9), (1.5, 0.1), (1, 0.9), (2, 0.0))] == [(0, 31), (78, 109)]


def test_a_cough_is_no_utterance_and_a_murmur_does_not_begin_one() -> None:
    assert spans((0.2, 0.9), (3, 0.0)) == []
    assert spans((5, 0.45)) == []
    assert [span[:2] for span in spans((1, 0.9), (2, 0.45), (2, 0.0))] == [(0, 93)]


def test_a_long_utterance_is_cut_where_it_is_least_like_speech() -> None:
    first, second = spans((12, 0.9), (0.2, 0.4), (7, 0.9))
    assert first.end == second.start
    assert 375 <= first.end <= 381
    assert second.end == 375 + 6 + 219


@given(st.lists(st.floats(0, 1), max_size=1500))
def test_utterances_are_in_order_and_no_sure_speech_is_lost(probabilities: list[float]) -> None:
    found = Spans()
    made = [span for probability in probabilities for span in found.push(probability)] + list(found.finish())
    edges = [edge for span in made for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    assert all(0 < span.end - span.start <= module._LONGEST for span in made)
    covered = {at for span in made for at in range(span.start, span.end)}
    lost = [at for at, probability in enumerate(probabilities) if probability >= 0.5 and at not in covered]
    for at in lost:  # only in stretches with less than a quarter of a second of it
        assert sum(other in range(at - 7, at + 8) for other in lost) <= 15
    if probabilities and min(probabilities) >= 0.5 and len(probabilities) >= 8:
        assert len(covered) >= len(probabilities) - 7


# ---------------------------------------------------------------------------------------------------- choices


@needs_moonshine
def test_choices_that_can_be_had() -> None:
    assert chosen("none") == "none"
    assert chosen("auto") == chosen("moonshine") == "moonshine"
    folder = str(recording("beckett").parent / "tiny-en")
    assert chosen(folder) == folder  # Moonshine's files in any folder


def test_what_is_not_there_is_said(tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such model; expected moonshine, or a folder that holds"):
        chosen(str(tmp_path / "nowhere"))
    monkeypatch.setattr(recognise, "_MOONSHINE", "package:not_installed/model")
    recognise.opened.cache_clear()
    assert chosen("auto") == "none"
    with pytest.raises(ConfigError, match=r"Moonshine is not installed; pip install 'mmtraits\[asr\]'"):
        chosen("moonshine")


@needs_moonshine
def test_without_a_voice_detector_nothing_is_recognised(monkeypatch) -> None:
    monkeypatch.setattr(module, "_VAD", "package:not_installed/model.onnx")
    assert chosen("auto") == "none"
    with pytest.raises(ConfigError, match="no voice detector is installed"):
        chosen("moonshine")
