"""Down-mix, resampling and the place of sound on the time line."""

from __future__ import annotations

import math
import time
import wave as wave_file
from pathlib import Path

import av
import clock
import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from sound import read_wave

from mmtraits.errors import MediaError
from mmtraits.media.audio import Track, loudness_dbfs, mono, resample

RATES = [(44100, 22050), (48000, 22050), (16000, 22050), (8000, 22050), (22050, 16000), (48000, 16000), (96000, 16000)]


def tone(frequency_hz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize(("rate", "new_rate"), [*RATES, (11025, 22050), (192000, 22050), (44100, 48000)])
@pytest.mark.parametrize("frequency_hz", [50.0, 440.0, 3000.0])
def test_a_tone_stays_that_tone(rate: int, new_rate: int, frequency_hz: float) -> None:
    found = resample(tone(frequency_hz, rate), rate, new_rate)
    assert found.dtype == np.float32
    assert len(found) == math.ceil(rate * new_rate / rate)
    inner = slice(new_rate // 10, -new_rate // 10)
    np.testing.assert_allclose(found[inner], tone(frequency_hz, new_rate)[inner], atol=3e-4)


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_noise_is_resampled_as_soxr_does_it(rate: int, new_rate: int) -> None:
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32) * 0.1
    band = np.convolve(noise, np.hanning(9) / np.hanning(9).sum(), "same").astype(np.float32)  # like speech, mostly low
    ours, theirs = resample(band, rate, new_rate), soxr.resample(band, rate, new_rate, "HQ")
    inner = slice(new_rate // 10, min(len(ours), len(theirs)) - new_rate // 10)
    difference = ours[inner] - theirs[inner]
    assert np.sqrt(np.mean(difference**2)) < 0.12 * np.sqrt(np.mean(theirs[inner] ** 2))  # the two roll off differently
    spectrum = np.abs(np.fft.rfft(difference)) / np.abs(np.fft.rfft(theirs[inner])).max()
    passed_hz = 0.85 * min(rate, new_rate) / 2
    assert spectrum[: round(passed_hz * len(difference) / new_rate)].max() < 2e-3


def test_an_odd_rate_drifts_by_microseconds() -> None:
    found = resample(tone(300, 44056, 10), 44056, 22050)
    np.testing.assert_allclose(found[216000:218000], tone(300, 22050, 10)[216000:218000], atol=0.005)


def test_what_cannot_be_kept_is_removed_and_not_folded_back() -> None:
    assert np.abs(resample(tone(9000, 44100), 44100, 16000)[2000:-2000]).max() < 1e-4
    assert np.abs(resample(tone(15000, 48000), 48000, 22050)[2000:-2000]).max() < 1e-4


def test_edges_lengths_and_identity() -> None:
    ones = np.ones(10, np.float32)
    assert resample(ones, 16000, 16000) is ones
    assert len(resample(ones[:0], 16000, 8000)) == 0
    for length in [1, 2, 3, 100, 1023, 1024, 1025, 44100]:
        assert len(resample(np.ones(length, np.float32), 44100, 22050)) == math.ceil(length / 2)
    np.testing.assert_allclose(resample(np.ones(44100, np.float32), 44100, 22050)[500:-500], 1, atol=1e-4)


def test_blocks_meet_without_a_seam() -> None:
    """The matrix product works in rows; an impulse anywhere gives the same shape, shifted."""
    shapes = []
    for at in range(2000, 2600, 2):
        impulse = np.zeros(4000, np.float32)
        impulse[at] = 1
        found = resample(impulse, 44100, 22050)
        shapes.append(found[at // 2 - 150 : at // 2 + 150])
    np.testing.assert_allclose(shapes, np.tile(shapes[0], (len(shapes), 1)), atol=1e-7)


def test_fifteen_seconds_take_a_fraction_of_one() -> None:
    sound = np.zeros(15 * 48000, np.float32)
    resample(sound[:1000], 48000, 22050)
    start = time.process_time()
    resample(sound, 48000, 22050)
    assert time.process_time() - start < 0.5


@settings(deadline=None, max_examples=12)
@given(st.integers(4000, 192000), st.integers(8000, 48000), st.integers(0, 5000))
def test_any_rate_gives_the_right_length(rate: int, new_rate: int, length: int) -> None:
    found = resample(np.ones(length, np.float32), rate, new_rate)
    assert abs(len(found) - math.ceil(length * new_rate / rate)) <= 1
    assert np.isfinite(found).all()


# ---------------------------------------------------------------------------------------------------- down-mix


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
@pytest.mark.parametrize("kind", ["flt", "fltp", "s16", "s16p", "s32", "dblp", "u8"])
def test_channels_are_averaged_at_full_scale_one(layout: str, kind: str) -> None:
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    values = np.linspace(-0.9, 0.9, channels * 50).reshape(channels, 50)
    scale = {"s16": 2**15, "s32": 2**31, "u8": 2**7}.get(kind.rstrip("p") if kind[0] in "su" else kind, 1)
    dtype = {"f": np.float32, "d": np.float64, "u": np.uint8}.get(kind[0], np.int16 if "16" in kind else np.int32)
    samples = (values * scale + (128 if kind == "u8" else 0)).astype(dtype)
    packed = samples if kind.endswith("p") else samples.T.reshape(1, -1)
    found = mono(av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), kind, layout))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values.mean(axis=0), atol=0.01 if kind == "u8" else 1e-4)


def test_stereo_is_not_louder_than_mono(tmp_path: Path) -> None:
    """swresample's down-mix would add 3 dB to two equal channels."""
    path, samples = tmp_path / "a.wav", (tone(440, 16000) * 32767).astype("<i2")
    with wave_file.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.repeat(samples, 2).tobytes())
    np.testing.assert_allclose(read_wave(path, 16000), samples / 32768, atol=1e-4)


# ---------------------------------------------------------------------------------------------------- time line


def test_a_track_puts_samples_where_their_time_says() -> None:
    track = Track(1.0, 3.0)
    track.add(0.5, np.full(100, 0.1, np.float32), 100)  # half of it lies before the stretch
    track.add(2.0, np.full(50, 0.2, np.float32), 100)  # after a gap of half a second
    assert track.reached_s == 2.5
    expected = np.concatenate([np.full(50, 0.1), np.zeros(50), np.full(50, 0.2)])
    np.testing.assert_allclose(track.cut(1.0, 3.0), expected, atol=1e-7)
    np.testing.assert_allclose(track.cut(1.4, 2.1), expected[40:110], atol=1e-7)
    assert track.loudness_dbfs == pytest.approx(10 * math.log10((0.01 + 0.04) / 2))


def test_small_errors_of_time_stamps_do_not_tear_the_sound() -> None:
    track = Track(0.0, math.inf)
    sound = tone(5, 1000, 1.0)
    for k in range(10):
        track.add(0.1 * k + 0.001 * (k % 3 - 1) * (k > 0), sound[k * 100 : k * 100 + 100], 1000)
    np.testing.assert_array_equal(track.cut(0, 2), sound)


def test_overlaps_are_cut_and_what_is_repeated_is_dropped() -> None:
    track = Track(0.0, math.inf)
    track.add(0.0, np.full(100, 0.1, np.float32), 100)
    track.add(0.5, np.full(100, 0.2, np.float32), 100)
    track.add(0.2, np.full(10, 0.9, np.float32), 100)
    np.testing.assert_allclose(track.cut(0, 9), np.repeat([0.1, 0.2], [100, 50]).astype(np.float32))


def test_one_damaged_time_stamp_does_not_silence_the_rest() -> None:
    track = Track(0.0, math.inf)
    for k in range(10):
        track.add(900.0 if k == 4 else k / 10, np.full(10, k, np.float32), 100)
    expected = np.repeat(np.arange(10), 10)
    expected[40:50] = 0
    np.testing.assert_array_equal(track.cut(0, 9), expected)
    for k in range(3):
        track.add(20 + k / 10, np.ones(10, np.float32), 100)  # two in a row are a gap
    assert track.reached_s == pytest.approx(20.3)


@pytest.mark.parametrize(
    ("name", "layout"), [("a.flac", "7.1"), ("a.wav", "7.1"), ("a.wav", "hexadecagonal"), ("a.mkv", "7.1")]
)
def test_many_channels(tmp_path: Path, name: str, layout: str) -> None:
    """From eight planes on, PyAV reads beyond the list of them."""
    codec = {"a.flac": "flac", "a.wav": "pcm_s16le", "a.mkv": "libopus"}[name]
    path = clock.write(tmp_path / name, seconds=1, times_s=[], codecs=("", codec), layout=layout, rate=48000)
    np.testing.assert_allclose(read_wave(path, 48000)[:48000], clock.wave(0, 1, 48000) / 4, atol=0.02)


def test_a_track_ends_with_its_stretch_and_forgets() -> None:
    track = Track(0.0, 1.0)
    for k in range(20):
        track.add(k / 10, np.full(10, k, np.float32), 100)
    assert track.reached_s == 1.0
    track.forget(0.55)
    np.testing.assert_array_equal(track.cut(0.5, 1.0), np.repeat(np.arange(5, 10), 10))
    assert not track.cut(0.0, 0.3).any()


def test_no_number_becomes_silence_and_another_rate_is_adapted() -> None:
    track = Track(0.0, math.inf)
    track.add(0.0, np.array([np.nan, np.inf, -np.inf, 0.5], np.float32), 4)
    np.testing.assert_array_equal(track.cut(0, 1), [0, 0, 0, 0.5])
    track = Track(0.0, math.inf)
    track.add(0.0, tone(100, 8000), 8000)
    track.add(1.0, tone(100, 16000), 16000)
    assert track.rate == 8000
    assert track.reached_s == 2.0


def test_loudness() -> None:
    assert loudness_dbfs(0.0, 100) == -math.inf
    assert loudness_dbfs(0.0, 0) == -math.inf
    assert loudness_dbfs(50.0, 100) == pytest.approx(-3.01, abs=0.01)


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.flac", "flac", 44100), ("a.mp3", "libmp3lame", 44100), ("a.m4a", "aac", 48000), ("a.opus", "libopus", 48000),
     ("a.wav", "pcm_s16le", 8000)],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_the_sound_of_a_file(tmp_path: Path, name: str, codec: str, rate: int, layout: str) -> None:
    path = clock.write(tmp_path / name, seconds=3, times_s=[], codecs=("", codec), rate=rate, layout=layout)
    found = read_wave(path, 16000)
    assert found.dtype == np.float32
    assert len(found) == pytest.approx(3 * 16000, abs=0.06 * 16000)
    for k in range(3):
        assert clock.second(found[int((k + 0.1) * 16000) : int((k + 0.9) * 16000)], 16000) == k
    expected = 0.25 / math.sqrt(2) / (1 if layout == "mono" else 4)
    assert found[16000:32000].std() == pytest.approx(expected, rel=0.06 if codec == "libmp3lame" else 0.03)


def test_a_lossless_file_is_read_to_the_sample(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.flac", seconds=2, times_s=[], codecs=("", "flac"), rate=22050)
    np.testing.assert_allclose(read_wave(path, 22050), clock.wave(0, 2, 22050), atol=1e-4)


def test_a_file_without_sound_is_empty(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=0.4, sound_span_s=None)
    assert read_wave(path, 16000).shape == (0,)
    with pytest.raises(MediaError, match="no such file"):
        read_wave(tmp_path / "none.wav", 16000)
