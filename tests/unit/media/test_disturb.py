"""Disturbed files are read back by the loader itself: what was asked for changed by so much, and nothing else did."""

from __future__ import annotations

import math
from difflib import SequenceMatcher
from pathlib import Path

import clock
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sound import read_wave

from mmtraits.errors import MediaError
from mmtraits.media import disturb, transcript
from mmtraits.media.disturb import DEFAULT, KINDS, Disturbance
from mmtraits.media.probe import opened, probe
from mmtraits.media.transcript import Utterance
from mmtraits.media.video import Health, Picture, read
from mmtraits.media.write import write_video

RATE = 16000
PICTURES = [d for d in DEFAULT if d.stream == "face"]
SOUNDS = [d for d in DEFAULT if d.stream == "voice"]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds that tell the time."""
    return clock.write(tmp_path_factory.mktemp("talk") / "talk.mp4", seconds=2.0, gop=10)


def made(source: Path, target: Path, name: str, amount: float, **options: float) -> Path:
    disturb.disturb(source, target, Disturbance(name=name, amount=amount), **options)  # type: ignore[arg-type]
    return target


def pictures(path: Path, times_s: list[float]) -> list[Picture]:
    with opened(path) as media:
        events = read(media, wanted=times_s, sizes=[lambda w, h: (w, h)], health=Health())
        return [event for event in events if isinstance(event, Picture)]


def image(path: Path, time_s: float = 0.5) -> np.ndarray:
    return pictures(path, [time_s])[0].images[0].astype(np.float64)


def voice(seconds: float = 2.0, pitch_hz: float = 150.0, rate: int = RATE) -> np.ndarray:
    """Harmonics that fall by 6 dB an octave, in syllables."""
    time_s = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * k * pitch_hz * time_s) / k for k in range(1, 20))
    return (0.1 * tone * (np.sin(2 * np.pi * 2 * time_s) > -0.5)).astype(np.float32)


def pitch_of(wave: np.ndarray, rate: int) -> float:
    """The strongest line of the spectrum, in Hz."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * len(wave)))
    return float(spectrum.argmax()) * rate / (8 * len(wave))


# ---------------------------------------------------------------------------------------------------- as data


def test_every_default_has_a_kind_and_says_its_strength() -> None:
    assert {d.name for d in DEFAULT} == set(KINDS)
    said = {(d.name, d.strength) for d in DEFAULT}
    assert len(said) == len(DEFAULT)
    assert {
        ("brightness", "x0.7"), ("crop", "80% of each side"), ("loudness", "+6 dB"), ("white_noise", "SNR 10 dB"),
        ("pitch", "-2 semitones"), ("word_errors", "30% of words"), ("blur", "sigma 2 px"), ("reencoding", "crf 35"),
    } <= said  # fmt: skip


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("disturbance", PICTURES, ids=lambda d: f"{d.name}{d.amount:g}")
def test_pictures_keep_their_times_and_the_sound_its_bytes(
    talk: Path, tmp_path: Path, disturbance: Disturbance
) -> None:
    target = tmp_path / "worse.mp4"
    disturb.disturb(talk, target, disturbance)
    times = [(n + 0.5) / 25 for n in range(50)]
    assert [clock.number(picture.images[0]) for picture in pictures(target, times)] == list(range(50))
    np.testing.assert_array_equal(read_wave(target, 44100), read_wave(talk, 44100))
    assert probe(target).duration_s == pytest.approx(probe(talk).duration_s, abs=1e-3)


def test_brightness_multiplies_grey_levels(tmp_path: Path) -> None:
    grey = np.full((48, 64, 3), 100, np.uint8)
    write_video(tmp_path / "grey.mp4", [grey] * 25, 25)
    for factor in (0.7, 1.3, 3.0):
        dark = made(tmp_path / "grey.mp4", tmp_path / "out.mp4", "brightness", factor)
        assert image(dark).mean() == pytest.approx(min(255, 100 * factor), abs=2)


def test_blur_spreads_an_edge_by_its_sigma() -> None:
    edge = np.zeros((40, 80, 3), np.uint8)
    edge[:, 40:] = 200
    spread = np.diff(disturb.blur(edge, 4.0)[20, :, 0].astype(float))
    place = np.arange(len(spread))
    mean = (place * spread).sum() / spread.sum()
    assert mean == pytest.approx(39, abs=0.1)
    assert math.sqrt(((place - mean) ** 2 * spread).sum() / spread.sum()) == pytest.approx(4.0, rel=0.05)


def test_crop_keeps_the_middle() -> None:
    rows, columns = np.mgrid[:100, :200].astype(np.uint8)
    found = disturb.crop(np.stack([rows, columns, rows], axis=2), 0.8)
    assert found.shape == (80, 160, 3)
    assert (found[0, 0, 0], found[-1, -1, 0]) == (10, 89)
    assert (found[0, 0, 1], found[-1, -1, 1]) == (20, 179)


def test_worse_codecs_lose_more(talk: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (13, 48, 64, 3), np.uint8)
    source = tmp_path / "noise.mp4"
    write_video(source, noise, 25, options={"crf": "1"})
    losses = [
        np.abs(image(made(source, tmp_path / "out.mp4", "reencoding", crf), 0.3) - image(source, 0.3)).mean()
        for crf in (10, 28, 35, 40)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.5 * losses[-1]


def test_rotated_clip_is_written_upright(tmp_path: Path) -> None:
    source = clock.write(tmp_path / "turned.mp4", seconds=1.0, rotation_deg=90)
    target = made(source, tmp_path / "out.mp4", "crop", 1.0)
    shown = probe(source)
    assert probe(target).rotation_deg == 0
    assert (probe(target).width_px, probe(target).height_px) == (shown.width_px, shown.height_px)
    assert np.abs(image(target) - image(source)).mean() < 4


def test_odd_sizes_and_variable_rates_are_taken(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.54, 1.3]
    source = clock.write(tmp_path / "odd.mp4", times_s=times, seconds=1.4, start_s=3.0)
    target = made(source, tmp_path / "out.mp4", "brightness", 0.9)
    assert [clock.number(p.images[0]) for p in pictures(target, [t + 0.03 for t in times])] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(read_wave(target, 44100), read_wave(source, 44100))
    assert disturb.crop(np.zeros((7, 9, 3), np.uint8), 0.5).shape == (4, 4, 3)


# ---------------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize("disturbance", SOUNDS, ids=lambda d: f"{d.name}{d.amount:g}")
def test_sound_keeps_its_length_and_pictures_their_bytes(talk: Path, tmp_path: Path, disturbance: Disturbance) -> None:
    target = tmp_path / "worse.mp4"
    disturb.disturb(talk, target, disturbance)
    before, after = read_wave(talk, 44100), read_wave(target, 44100)
    assert len(after) == len(before)
    assert np.abs(after - before).max() > 0.01
    times = [0.02, 0.5, 1.1, 1.98]
    for one, other in zip(pictures(talk, times), pictures(target, times), strict=True):
        np.testing.assert_array_equal(one.images[0], other.images[0])
        assert one.time_s == pytest.approx(other.time_s, abs=1e-4)


@pytest.mark.parametrize("gain_db", [-12, -6, 6])
def test_loudness_is_a_gain(gain_db: float) -> None:
    wave = voice()
    np.testing.assert_allclose(disturb.loudness(wave, gain_db), wave * 10 ** (gain_db / 20), rtol=1e-6)


def test_loudness_clips_at_full_scale() -> None:
    assert np.abs(disturb.loudness(voice(), 40)).max() == 1


@pytest.mark.parametrize("name", ["white_noise", "speech_noise"])
@pytest.mark.parametrize("snr_db", [20, 10, 5, 0])
def test_noise_lies_so_far_below_the_sound(name: str, snr_db: float, tmp_path: Path) -> None:
    wave = voice()
    source = tmp_path / "voice.mp4"
    write_video(source, [np.zeros((32, 32, 3), np.uint8)] * 50, 25, wave, RATE)
    clean, noisy = read_wave(source, RATE), read_wave(made(source, tmp_path / "out.wav", name, snr_db), RATE)
    noise = (noisy - clean).astype(np.float64)
    assert 10 * np.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.1)


def test_white_noise_is_flat_and_speech_noise_has_the_spectrum_of_the_voice_without_its_harmonics() -> None:
    wave, rng = voice(8.0), np.random.default_rng(0)
    bands = [(0, 1000), (1000, 2000), (2000, 4000), (4000, 8000)]

    def shares(sound: np.ndarray) -> np.ndarray:
        power, hertz = np.abs(np.fft.rfft(sound)) ** 2, np.fft.rfftfreq(len(sound), 1 / RATE)
        return np.array([power[(hertz >= low) & (hertz < high)].sum() for low, high in bands]) / power.sum()

    white = disturb.white_noise(wave, 20, rng) - wave
    speech = disturb.speech_noise(wave, RATE, 20, rng) - wave
    np.testing.assert_allclose(shares(white), [0.125, 0.125, 0.25, 0.5], atol=0.01)
    np.testing.assert_allclose(shares(speech), shares(wave), atol=0.05)
    lines = np.abs(np.fft.rfft(speech)) ** 2
    near = [lines[round(k * 150 * 8) + np.arange(-40, 41)].mean() for k in (3, 4, 5)]
    between = [lines[round((k + 0.5) * 150 * 8) + np.arange(-40, 41)].mean() for k in (3, 4, 5)]
    assert np.sum(near) < 3 * np.sum(between)  # in the voice itself the lines hold nearly all


@pytest.mark.parametrize("semitones", [-2, 2])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_pitch_moves_by_semitones_and_events_stay_where_they_are(semitones: float, rate: int) -> None:
    time_s = np.arange(2 * rate) / rate
    tone = (0.3 * np.sin(2 * np.pi * 440 * time_s) * (time_s > 1)).astype(np.float32)
    found = disturb.pitch(tone, rate, semitones)
    assert len(found) == len(tone)
    assert pitch_of(found, rate) == pytest.approx(440 * 2 ** (semitones / 12), rel=2e-3)
    assert np.flatnonzero(np.abs(found) > 0.1)[0] / rate == pytest.approx(1.0, abs=0.05)
    assert found[rate + rate // 4 :].std() == pytest.approx(tone[rate + rate // 4 :].std(), rel=0.1)


def test_silence_stays_silent() -> None:
    silence = np.zeros(RATE, np.float32)
    rng = np.random.default_rng(0)
    for found in (disturb.white_noise(silence, 0, rng), disturb.speech_noise(silence, RATE, 0, rng)):
        np.testing.assert_array_equal(found, silence)


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".flac"])
def test_a_sound_file_is_enough(suffix: str, tmp_path: Path) -> None:
    codec = {".wav": "pcm_s16le", ".mp3": "mp3", ".flac": "flac"}[suffix]
    source = clock.write(tmp_path / f"talk{suffix}", times_s=[], seconds=2.0, codecs=("", codec))
    softer = made(source, tmp_path / "out.wav", "loudness", -6)
    before, after = read_wave(source, 22050), read_wave(softer, 22050)
    np.testing.assert_allclose(after, before * 10 ** (-6 / 20), atol=1e-5)


def test_sound_later_than_the_picture_stays_later(tmp_path: Path) -> None:
    source = clock.write(tmp_path / "late.mp4", seconds=3.0, sound_span_s=(1.0, 3.0))
    found = read_wave(made(source, tmp_path / "out.mp4", "loudness", -6), 44100)
    assert np.abs(found[: round(0.9 * 44100)]).max() < 1e-3
    assert clock.second(found[round(1.3 * 44100) : round(1.8 * 44100)], 44100) == 1
    assert clock.second(found[round(2.3 * 44100) : round(2.8 * 44100)], 44100) == 2


def test_until_ends_both_streams(talk: Path, tmp_path: Path) -> None:
    for name, amount in (("loudness", 6), ("blur", 1)):
        found = probe(made(talk, tmp_path / "out.mp4", name, amount, until_s=1.0))
        assert found.duration_s == pytest.approx(1.0, abs=0.2)  # pictures come in another order than shown


def test_streams_that_the_target_cannot_hold_are_written_anew(tmp_path: Path) -> None:
    source = clock.write(tmp_path / "talk.webm", seconds=1.0, codecs=("libvpx", "libopus"), rate=48000)
    louder = made(source, tmp_path / "out.mp4", "loudness", 6)
    assert probe(louder).video_codec == "h264"
    assert [clock.number(p.images[0]) for p in pictures(louder, [0.1, 0.5, 0.9])] == [2, 12, 22]
    source = clock.write(tmp_path / "talk.mov", seconds=1.0, codecs=("h264", "pcm_mulaw"))
    blurred = made(source, tmp_path / "blurred.mp4", "blur", 1)
    assert probe(blurred).audio_codec == "pcm_f32le"
    np.testing.assert_array_equal(read_wave(blurred, 44100), read_wave(source, 44100))


# ---------------------------------------------------------------------------------------------------- seeds, errors


def test_the_seed_decides_noise_and_nothing_else(talk: Path, tmp_path: Path) -> None:
    one, same, other = (
        read_wave(made(talk, tmp_path / f"{n}.wav", "white_noise", 10, seed=seed), 44100)
        for n, seed in enumerate((1, 1, 2))
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_lacking_streams_are_named(tmp_path: Path) -> None:
    mute = clock.write(tmp_path / "mute.mp4", seconds=1.0, sound_span_s=None)
    with pytest.raises(MediaError, match=r"mute\.mp4: holds no sound; expected some to apply loudness to") as caught:
        made(mute, tmp_path / "out.mp4", "loudness", 6)
    assert caught.value.reason == "no_modality"
    heard = clock.write(tmp_path / "heard.wav", times_s=[], seconds=1.0, codecs=("", "pcm_s16le"))
    with pytest.raises(MediaError, match=r"heard\.wav: holds no picture; expected some to apply blur to"):
        made(heard, tmp_path / "out.mp4", "blur", 2)
    assert not (tmp_path / "out.mp4").exists()


def test_unreadable_sources_and_bad_targets_leave_nothing_behind(talk: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no media at all")
    with pytest.raises(MediaError, match="bad.mp4: not readable as media"):
        made(tmp_path / "bad.mp4", tmp_path / "out.mp4", "blur", 2)
    (tmp_path / "out.mp3").write_bytes(b"of an earlier time")
    with pytest.raises(MediaError, match=r"could not be written again as .*out\.mp3"):
        made(talk, tmp_path / "out.mp3", "loudness", 2)
    assert not list(tmp_path.glob("out*"))
    with pytest.raises(ValueError, match="is the source itself"):
        made(talk, talk, "blur", 1)
    assert probe(talk).has_video


def test_cut_off_files_keep_what_is_readable(tmp_path: Path) -> None:
    whole = clock.write(tmp_path / "talk.ts", seconds=3.0, codecs=("h264", "mp2"), gop=5)
    (tmp_path / "cut.ts").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    for name in ("loudness", "brightness"):
        assert 1.0 < probe(made(tmp_path / "cut.ts", tmp_path / "out.mp4", name, 0.8)).duration_s < 3.0


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("edge/discard_first_keyframe.mp4", 25),
        ("edge/test_non_zero_start.mp4", None),
        ("edge/nasa_13013_rotated.mp4", 17),
        ("speaking/bbaf2n.mpg", 75),
    ],
)
def test_real_files_keep_their_frames(real_data: Path, tmp_path: Path, name: str, frames: int | None) -> None:
    source = real_data / "clips" / name
    target = made(source, tmp_path / "out.mp4", "crop", 1.0)
    times = np.arange(0, probe(source).duration_s, 0.005).tolist()
    own, written = ({round(p.time_s, 2): p.images[0] for p in pictures(path, times)} for path in (source, target))
    assert list(written) == pytest.approx(list(own), abs=0.011)
    with opened(target) as media:
        assert sum(1 for _ in media.container.decode(video=0)) == len(written) == (frames or len(own))
    for one, other in zip(own.values(), written.values(), strict=True):
        height, width = other.shape[:2]  # of an odd side one row or column is lost
        assert np.abs(one[:height, :width].astype(np.float64) - other).mean() < 6


# ---------------------------------------------------------------------------------------------------- words

SAID = "The happy dog and the gloomy engine went out to see what the lovely cat had brought home today"


def edits(before: str, after: str) -> int:
    """Word edit distance by dynamic programming."""
    a, b = before.split(), after.split()
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_word_error_rate_is_what_was_asked_for(share: float) -> None:
    texts = [SAID] * 100
    heard = disturb.word_errors(texts, share, np.random.default_rng(0))
    count = sum(edits(one, other) for one, other in zip(texts, heard, strict=True))
    assert count / (100 * len(SAID.split())) == pytest.approx(share, rel=0.06)
    words = [SequenceMatcher(None, SAID.split(), text.split(), autojunk=False).get_opcodes() for text in heard]
    kinds = [kind for ops in words for kind, *_ in ops]
    assert {"replace", "delete", "insert"} <= set(kinds)


def test_a_larger_share_holds_the_errors_of_the_smaller() -> None:
    few, many = (disturb.word_errors([SAID], share, np.random.default_rng(3))[0] for share in (0.1, 0.3))
    assert edits(SAID, few) == 2 and edits(SAID, many) > edits(SAID, few)
    assert edits(few, many) <= edits(SAID, many)


def test_other_words_come_from_a_given_list() -> None:
    heard = disturb.word_errors([SAID], 1.0, np.random.default_rng(0), ["umbrella"])[0]
    assert "umbrella" in heard.split()
    assert set(heard.split()) <= {"umbrella", *SAID.split()}


def test_signs_of_unspaced_scripts_are_words_and_get_no_spaces() -> None:
    said = "今天天气很好我们去公园玩"
    heard = disturb.word_errors([said], 0.5, np.random.default_rng(0))[0]
    assert heard != said
    assert " " not in heard
    assert set(heard) <= set(said)


@given(st.lists(st.text("ab c\n日", max_size=30), max_size=4), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_any_texts_survive(texts: list[str], share: float, seed: int) -> None:
    heard = disturb.word_errors(texts, share, np.random.default_rng(seed))
    assert len(heard) == len(texts)
    assert all(not new for old, new in zip(texts, heard, strict=True) if not old.strip())
    assert disturb.word_errors(texts, 0.0, np.random.default_rng(seed)) == [text.strip() for text in texts]


@pytest.mark.parametrize("suffix", transcript.SUFFIXES)
def test_transcripts_keep_their_format_times_and_speakers(suffix: str, tmp_path: Path) -> None:
    said = [Utterance(n + 0.25, n + 1.0, "Ann" if n % 2 else "Ben", SAID) for n in range(4)]
    source, target = tmp_path / f"talk{suffix}", tmp_path / f"heard{suffix}"
    source.write_text(transcript.render(said, suffix), encoding="utf-8")
    made(source, target, "word_errors", 0.3)
    found = transcript.read(target)
    known = transcript.read(source)
    assert [(u.start_s, u.end_s, u.speaker) for u in found] == [(u.start_s, u.end_s, u.speaker) for u in known]
    assert all(u.text != SAID for u in found)
    assert sum(edits(SAID, u.text) for u in found) == pytest.approx(0.3 * 4 * len(SAID.split()), abs=4)


def test_no_transcript_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"talk\.txt"):
        made(tmp_path / "talk.txt", tmp_path / "out.txt", "word_errors", 0.1)
