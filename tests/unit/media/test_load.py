"""Clips to windows of raw arrays: what is decoded, what is absent and why."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import clock
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mmtraits.errors import ConfigError
from mmtraits.media import load as module
from mmtraits.media.load import Ending, LoadedClip, Window, clip_from_file, load, stream
from mmtraits.media.probe import LIMITS, Limits
from mmtraits.media.transcript import Utterance, render
from mmtraits.media.write import write_video
from mmtraits.schema import REASONS, Clip, FrameSpec, InputSpec, Raw, TextSpec, VectorSpec, WaveSpec, Windowing

SCENE = FrameSpec(frames=8, height_px=24, width_px=32, crop="full")
VOICE = WaveSpec(sample_rate=16000)
WORDS = ["one", "two", "three", "four", "five", "six"]


@pytest.fixture
def specs(tmp_path: Path) -> Mapping[str, InputSpec]:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, **{word: k + 1 for k, word in enumerate(WORDS)}}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return {"scene": SCENE, "voice": VOICE, "text": TextSpec(tokenizer=str(tmp_path / "tokenizer.json"), max_ids=4)}


def numbers(raw: Raw) -> list[int]:
    return [clock.number(image) for image, real in zip(raw.data, raw.mask, strict=True) if real]


def seconds(raw: Raw, at_s: list[float], rate: int = 16000) -> list[int]:
    return [clock.second(raw.data[round(rate * t) : round(rate * (t + 0.2))], rate) for t in at_s]


def check(loaded: LoadedClip, specs: Mapping[str, InputSpec]) -> None:
    """What holds for every clip."""
    assert loaded.windows
    assert set(loaded.reasons) <= set(REASONS)
    for window in loaded.windows:
        assert list(window.streams) == list(specs)
        assert window.end_s > window.start_s
        for name, raw in window.streams.items():
            empty = specs[name].empty()
            assert raw.data.dtype == empty.data.dtype
            assert raw.data.shape[1:] == empty.data.shape[1:]
            assert raw.mask.dtype == np.bool_
            assert raw.mask.shape == raw.data.shape[:1]
            assert raw.mask.any() or len(raw.mask) == 0


# ---------------------------------------------------------------------------------------------------- whole clips


def test_a_whole_clip(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=4)
    loaded = load(Clip(id="a", video=path, text="one two three"), specs, Windowing())
    check(loaded, specs)
    (window,) = loaded.windows
    assert loaded.reasons == ()
    assert loaded.duration_s == pytest.approx(4.0, abs=0.03)
    assert (window.start_s, window.end_s) == (0.0, loaded.duration_s)
    assert window.streams["scene"].data.shape == (8, 24, 32, 3)
    assert numbers(window.streams["scene"]) == [int(25 * (k + 0.5) * loaded.duration_s / 8) for k in range(8)]
    assert len(window.streams["voice"].data) == round(16000 * loaded.duration_s)
    assert seconds(window.streams["voice"], [0.1, 0.7, 1.1, 2.5, 3.7]) == [0, 0, 1, 2, 3]
    assert window.streams["text"].data.tolist() == [1, 2, 3]
    assert loaded.details["video_codec"] == "h264"
    assert loaded.details["packet_errors"] == 0
    assert loaded.details["decoded_fraction"] == 1.0
    assert loaded.details["loudness_dbfs"] == pytest.approx(-15.05, abs=0.3)


def test_windows_of_a_long_clip(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=10)
    loaded = load(Clip(id="a", video=path), specs, Windowing(length_s=4, hop_s=4))
    check(loaded, specs)
    assert [round(window.start_s, 2) for window in loaded.windows] == [0, 4, pytest.approx(6, abs=0.03)]
    for window in loaded.windows[:2]:
        start = round(window.start_s)
        assert numbers(window.streams["scene"]) == [25 * start + int(12.5 * k + 6.25) for k in range(8)]
        assert seconds(window.streams["voice"], [0.1, 1.1, 3.7]) == [start, start + 1, start + 3]
        assert len(window.streams["voice"].data) == 64000
    assert numbers(loaded.windows[2].streams["scene"])[-1] >= 243
    assert seconds(loaded.windows[2].streams["voice"], [3.5]) == [9]


def test_windows_come_one_by_one(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    """The first one is let go long before the clip is read to its end, and nothing of it is kept."""
    clip = Clip(id="a", video=clock.write(tmp_path / "a.mp4", seconds=20, fps=10))
    found = module._windows(clip, specs, Windowing(length_s=2, hop_s=2), "pyav", None, LIMITS, module._Report())
    first = next(found)
    assert (first.start_s, first.end_s) == (0.0, 2.0)
    frame = found.gi_frame
    assert frame is not None
    assert frame.f_locals["health"].frames < 40
    assembler = frame.f_locals["assembler"]
    assert sum(len(samples) for _, samples in assembler.track._parts) < 3 * 44100
    assert len(list(found)) == 9


def test_a_stream_is_the_windows_then_the_ending(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    clip, windowing = Clip(id="a", video=clock.write(tmp_path / "a.mp4", seconds=6, fps=5)), Windowing(length_s=2)
    told: list[float] = []
    *found, end = stream(clip, specs, windowing, tell_duration=told.append)
    loaded = load(clip, specs, windowing)
    assert isinstance(end, Ending)
    assert (end.reasons, end.duration_s, end.details) == (loaded.reasons, loaded.duration_s, loaded.details)
    assert told == [loaded.duration_s]
    for one, other in zip(found, loaded.windows, strict=True):
        assert isinstance(one, Window)
        assert (one.start_s, one.end_s) == (other.start_s, other.end_s)
        for name, raw in one.streams.items():
            np.testing.assert_array_equal(raw.data, other.streams[name].data)


def test_a_clip_in_which_nothing_is_has_no_window(specs: Mapping[str, InputSpec]) -> None:
    (end,) = stream(Clip(id="a"), specs, Windowing())
    assert isinstance(end, Ending)
    assert end.reasons == ("no_modality", "no_face", "no_sound", "no_transcript")


@pytest.mark.parametrize("ends", ["sound", "picture"])
def test_a_stream_that_ends_early_does_not_hold_the_other_back(tmp_path: Path, ends: str) -> None:
    """Windows do not wait for the end of the file for what is not coming; all of them are there."""
    last = {"sound_span_s": (0.0, 3.0)} if ends == "sound" else {"times_s": [k / 10 for k in range(30)]}
    path = clock.write(tmp_path / "a.mkv", seconds=150, fps=10, size=(64, 48), **last)
    clip, specs = Clip(id="a", video=path, end_s=148.0), {"scene": SCENE, "voice": VOICE}
    found = module._windows(clip, specs, Windowing(length_s=2, hop_s=2), "pyav", None, LIMITS, module._Report())
    waiting = 0
    windows = []
    for window in found:
        windows.append(window)
        frame = found.gi_frame
        assert frame is not None
        assembler = frame.f_locals["assembler"]
        waiting = max(waiting, sum(bool(streams) for streams in assembler._streams))
    assert waiting <= 33
    assert [window.start_s for window in windows] == [2.0 * k for k in range(74)]
    early, late = ("voice", "scene") if ends == "sound" else ("scene", "voice")
    assert [bool(window.streams[early].mask.any()) for window in windows] == [True] * 2 + [False] * 72
    assert all(window.streams[late].mask.all() for window in windows)


@pytest.mark.parametrize("start_s", [0.0, 3.0])
def test_a_clip_longer_than_the_limit_is_read_up_to_there(
    tmp_path: Path, specs: Mapping[str, InputSpec], start_s: float
) -> None:
    clip = Clip(id="a", video=clock.write(tmp_path / "a.mp4", seconds=10, fps=5), start_s=start_s)
    loaded = load(clip, specs, Windowing(length_s=2, hop_s=2), limits=Limits(max_duration_s=3.0))
    assert loaded.reasons == ("too_long", "no_transcript")
    assert loaded.duration_s == pytest.approx(10.0 - start_s, abs=0.1)
    assert [(w.start_s - start_s, w.end_s - start_s) for w in loaded.windows] == [(0.0, 2.0), (1.0, 3.0)]
    assert seconds(loaded.windows[1].streams["voice"], [0.1]) == [1 + start_s]
    assert loaded.details["frames_decoded"] < 5 * (start_s + 5)
    whole = load(clip, specs, Windowing(length_s=2, hop_s=2), limits=Limits(max_duration_s=11.0))
    assert "too_long" not in whole.reasons


def test_a_picture_over_the_limit_is_left_out(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    clip = Clip(id="a", video=clock.write(tmp_path / "a.mp4", seconds=1))
    loaded = load(clip, specs, Windowing(), limits=Limits(max_pixels=1000))
    assert loaded.reasons == ("too_large", "no_face", "no_transcript")
    assert loaded.windows[0].streams["voice"].mask.all()


def test_a_stretch_of_a_clip(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=10)
    loaded = load(Clip(id="a", video=path, start_s=3.0, end_s=7.0), specs, Windowing())
    (window,) = loaded.windows
    assert (window.start_s, window.end_s, loaded.duration_s) == (3.0, 7.0, 4.0)
    assert numbers(window.streams["scene"]) == [75 + int(12.5 * k + 6.25) for k in range(8)]
    assert seconds(window.streams["voice"], [0.1, 3.7]) == [3, 6]


def test_late_sound_stays_at_its_time(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    for name in ("a.mp4", "a.mkv"):
        path = clock.write(tmp_path / name, seconds=4, sound_span_s=(1.5, 4.0))
        voice = load(Clip(id="a", video=path), specs, Windowing()).windows[0].streams["voice"]
        assert np.abs(voice.data[: round(1.45 * 16000)]).max() < 0.02
        assert seconds(voice, [1.7, 2.1, 3.7]) == [1, 2, 3]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_sound_does_not_drift_from_the_picture(tmp_path: Path, suffix: str) -> None:
    """The pitch changes with the second to within a frame, from the start to the end."""
    path = clock.write(tmp_path / f"a{suffix}", seconds=41, fps=10, size=(64, 48), start_s=2.0, rate=44100)
    specs = {"scene": FrameSpec(frames=400, height_px=48, width_px=64, crop="full"), "voice": VOICE}
    (window,) = load(Clip(id="a", video=path, end_s=40.0), specs, Windowing(length_s=40, hop_s=40)).windows
    shown_s = np.array(numbers(window.streams["scene"])) / 10  # the time that each picture shows
    for wanted in (1, 20, 39):
        change_s = 0.1 * (int(np.argmax(shown_s >= wanted)) + 0.5)
        before, after = (round(16000 * (change_s + offset)) for offset in (-0.25, 0.15))
        voice = window.streams["voice"].data
        assert clock.second(voice[before : before + 1600], 16000) == (wanted - 1) % 20
        assert clock.second(voice[after : after + 1600], 16000) == wanted % 20


def test_only_the_wanted_part_of_a_window(tmp_path: Path) -> None:
    specs = {"voice": WaveSpec(sample_rate=22050, max_s=1.0), "other": WaveSpec(sample_rate=8000)}
    path = clock.write(tmp_path / "a.mp4", seconds=4)
    loaded = load(Clip(id="a", video=path), specs, Windowing(length_s=2, hop_s=2))
    assert [len(window.streams["voice"].data) for window in loaded.windows] == [22050] * len(loaded.windows)
    assert [len(window.streams["other"].data) for window in loaded.windows] == [16000] * len(loaded.windows)
    assert seconds(loaded.windows[1].streams["voice"], [0.1, 0.7], 22050) == [2, 2]


def test_several_visual_streams_share_one_pass(tmp_path: Path) -> None:
    specs = {
        "small": FrameSpec(frames=4, height_px=24, width_px=32, crop="full"),
        "large": FrameSpec(frames=16, height_px=48, width_px=64, crop="full"),
        "again": FrameSpec(frames=2, height_px=24, width_px=32, crop="full"),
    }
    loaded = load(Clip(id="a", video=clock.write(tmp_path / "a.mp4", sound_span_s=None)), specs, Windowing())
    check(loaded, specs)
    for name, spec in specs.items():
        raw = loaded.windows[0].streams[name]
        assert numbers(raw) == [int(25 * (k + 0.5) * 4 / spec.frames) for k in range(spec.frames)], name
    assert 95 <= loaded.details["frames_decoded"] <= 100


def test_picture_and_sound_from_two_files(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    video = clock.write(tmp_path / "a.mp4", seconds=4, sound_span_s=None)
    audio = clock.write(tmp_path / "b.flac", seconds=9, times_s=[], codecs=("", "flac"), rate=16000)
    loaded = load(Clip(id="a", video=video, audio=audio), specs, Windowing(length_s=2, hop_s=2))
    assert loaded.duration_s == pytest.approx(4.0)
    assert loaded.reasons == ("no_transcript",)
    assert [numbers(window.streams["scene"])[0] for window in loaded.windows] == [3, 53]
    assert [seconds(window.streams["voice"], [0.1, 1.7]) for window in loaded.windows] == [[0, 1], [2, 3]]


def test_a_named_sound_file_beats_the_sound_of_the_video(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    video = clock.write(tmp_path / "a.mp4", seconds=4)
    loaded = load(Clip(id="a", video=video, audio=tmp_path / "none.wav"), specs, Windowing())
    assert loaded.reasons == ("unreadable_container", "no_sound", "no_transcript")
    assert loaded.windows[0].streams["scene"].mask.all()


def test_sound_alone_and_text_alone(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    audio = clock.write(tmp_path / "b.flac", seconds=3, times_s=[], codecs=("", "flac"), rate=16000)
    loaded = load(Clip(id="a", audio=audio), specs, Windowing(length_s=2, hop_s=2))
    check(loaded, specs)
    assert loaded.reasons == ("no_face", "no_transcript")
    assert len(loaded.windows) == 2
    loaded = load(Clip(id="a", text="two six"), specs, Windowing())
    check(loaded, specs)
    assert loaded.reasons == ("no_face", "no_sound")
    assert np.isnan(loaded.duration_s)
    assert [window.streams["text"].data.tolist() for window in loaded.windows] == [[2, 6]]


def test_a_video_file_that_holds_only_sound(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=2, times_s=[])
    loaded = load(Clip(id="a", video=path), specs, Windowing())
    assert loaded.reasons == ("no_face", "no_transcript")
    assert loaded.windows[0].streams["voice"].mask.all()


def test_a_stream_from_elsewhere_is_left_empty(tmp_path: Path) -> None:
    specs = {"emotion": VectorSpec(width=7), "voice": VOICE}
    loaded = load(Clip(id="a", video=clock.write(tmp_path / "a.mp4", seconds=1)), specs, Windowing())
    check(loaded, specs)
    assert loaded.windows[0].streams["emotion"].data.shape == (0, 7)
    assert loaded.reasons == ()


# ---------------------------------------------------------------------------------------------------- what is absent


def test_nothing_at_all(specs: Mapping[str, InputSpec], tmp_path: Path) -> None:
    nothing = ("no_modality", "no_face", "no_sound", "no_transcript")
    for clip in (Clip(id="a"), Clip(id="a", text="  \n")):
        loaded = load(clip, specs, Windowing())
        check(loaded, specs)
        assert loaded.reasons == nothing
        assert np.isnan(loaded.duration_s)
    (tmp_path / "a.mp4").write_bytes(b"no media")
    loaded = load(Clip(id="a", video=tmp_path / "a.mp4"), specs, Windowing())
    check(loaded, specs)
    assert loaded.reasons == ("unreadable_container", "no_face", "no_sound", "no_transcript")
    assert "not readable as media" in str(loaded.details["error"])


def test_a_stretch_beyond_the_end(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=1)
    loaded = load(Clip(id="a", video=path, start_s=5.0), specs, Windowing())
    check(loaded, specs)
    assert loaded.reasons == ("no_face", "no_sound", "no_transcript")


@pytest.mark.parametrize(("level", "heard"), [(-48.0, True), (-52.0, False)])
def test_quieter_than_the_limit_is_no_sound(tmp_path: Path, level: float, heard: bool) -> None:
    samples = clock.wave(0, 2, 16000)
    samples *= 10 ** (level / 20) / np.sqrt(np.mean(samples**2))
    path = tmp_path / "a.mp4"
    write_video(path, [clock.picture(k) for k in range(20)], 10, samples, 16000)
    loaded = load(Clip(id="a", video=path), {"voice": VOICE}, Windowing())
    assert loaded.reasons == (() if heard else ("no_sound",))
    assert loaded.windows[0].streams["voice"].mask.any() == heard
    assert loaded.details["loudness_dbfs"] == pytest.approx(level, abs=0.5)


def test_the_limit_is_that_of_a_window(tmp_path: Path) -> None:
    """Over all eight windows the clip is below it; the first one is above and counts."""
    samples = np.zeros(16 * 16000, np.float32)
    samples[:16000] = clock.wave(0, 1, 16000) * 10 ** (-31 / 20)
    write_video(tmp_path / "a.mp4", [clock.picture(k) for k in range(32)], 2, samples, 16000)
    loaded = load(Clip(id="a", video=tmp_path / "a.mp4"), {"voice": VOICE}, Windowing(length_s=2, hop_s=2))
    assert loaded.details["loudness_dbfs"] == pytest.approx(-58, abs=0.5)
    assert loaded.reasons == ()
    assert [(window.start_s, bool(window.streams["voice"].mask.all())) for window in loaded.windows] == [(0.0, True)]


def test_a_silent_window_of_a_loud_clip_has_no_sound(tmp_path: Path) -> None:
    path = clock.write(tmp_path / "a.mkv", seconds=4, sound_span_s=(2.5, 4.0))
    loaded = load(Clip(id="a", video=path), {"voice": VOICE, "scene": SCENE}, Windowing(length_s=2, hop_s=2))
    assert loaded.reasons == ()
    assert [bool(window.streams["voice"].mask.any()) for window in loaded.windows][:2] == [False, True]


def test_windows_with_nothing_in_them_are_left_out(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    words = timed(tmp_path / "t.srt", (4.5, 5, None, "three"))
    path = clock.write(tmp_path / "a.mkv", seconds=1, sound_span_s=(0.0, 1.0))
    clip = Clip(id="a", video=path, transcript=words)
    loaded = load(clip, specs, Windowing(length_s=0.5, hop_s=0.5))
    assert [window.start_s for window in loaded.windows][:2] == [0.0, 0.5]
    loaded = load(clip, {"text": specs["text"]}, Windowing(length_s=0.5, hop_s=0.5))
    assert [window.start_s for window in loaded.windows] == [0.0]
    assert loaded.reasons == ("no_transcript",)


def test_a_truncated_clip_keeps_its_first_part(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    path = clock.write(tmp_path / "a.mp4", seconds=8, gop=25)
    data = path.read_bytes()
    media = data.index(b"mdat")
    path.write_bytes(data[: media + (len(data) - media) // 2])
    loaded = load(Clip(id="a", video=path, text="one"), specs, Windowing())
    check(loaded, specs)
    assert "truncated" in loaded.reasons
    assert 0.3 < loaded.details["decoded_fraction"] < 0.7
    scene = loaded.windows[0].streams["scene"]
    assert scene.mask.tolist() == sorted(scene.mask.tolist(), reverse=True)
    assert 2 <= scene.mask.sum() <= 6
    assert not scene.data[~scene.mask].any()
    voice = loaded.windows[0].streams["voice"]
    assert 2 * 16000 < len(voice.data) < 6 * 16000
    again = load(Clip(id="a", video=path, text="one"), specs, Windowing())
    assert again.reasons == loaded.reasons
    np.testing.assert_array_equal(again.windows[0].streams["scene"].data, scene.data)


# ---------------------------------------------------------------------------------------------------- text


def timed(path: Path, *utterances: tuple[float, float, str | None, str]) -> Path:
    path.write_text(render([Utterance(*utterance) for utterance in utterances], path.suffix))
    return path


def texts(clip: Clip, specs: Mapping[str, InputSpec], length_s: float = 2.0) -> list[list[int]]:
    loaded = load(clip, {"text": specs["text"]}, Windowing(length_s=length_s, hop_s=length_s))
    return [window.streams["text"].data.tolist() for window in loaded.windows]


def test_timed_words_go_to_their_window(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    words = timed(tmp_path / "t.srt", (0, 1, None, "one"), (1.5, 2.5, None, "two"), (4.2, 5, None, "three"))
    video = clock.write(tmp_path / "a.mp4", seconds=6, fps=5, sound_span_s=None)
    assert texts(Clip(id="a", video=video, transcript=words), specs) == [[1, 2], [2], [3]]
    assert texts(Clip(id="a", transcript=words), specs) == [[1, 2], [2], [3]]  # no medium: the transcript's own length
    assert texts(Clip(id="a", video=video, transcript=words, start_s=4.0), specs) == [[3]]


def test_words_without_times_go_to_every_window(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    (tmp_path / "t.txt").write_text("one two\nthree")
    video = clock.write(tmp_path / "a.mp4", seconds=4, fps=5, sound_span_s=None)
    assert texts(Clip(id="a", video=video, transcript=tmp_path / "t.txt"), specs) == [[1, 2, 3]] * 2


def test_text_beats_transcript(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    words = timed(tmp_path / "t.srt", (0, 1, None, "one"))
    assert texts(Clip(id="a", transcript=words, text="six"), specs) == [[6]]


def test_the_speaker_is_told_from_the_others(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    words = timed(tmp_path / "t.json", (0, 1, "A", "one"), (1, 2, "B", "two"), (1.5, 2, "A", "three"))
    assert texts(Clip(id="a", transcript=words, speaker="A"), specs) == [[1, 3]]
    assert texts(Clip(id="a", transcript=words, speaker="B"), specs) == [[2]]
    assert texts(Clip(id="a", transcript=words), specs) == [[1, 2, 3]]
    loaded = load(Clip(id="a", transcript=words, speaker="C"), specs, Windowing())
    assert "no_transcript" in loaded.reasons
    unnamed = timed(tmp_path / "u.srt", (0, 1, None, "four"))
    assert texts(Clip(id="a", transcript=unnamed, speaker="A"), specs) == [[4]]


def test_long_text_is_cut_and_told(specs: Mapping[str, InputSpec]) -> None:
    loaded = load(Clip(id="a", text="one two three four five six"), {"text": specs["text"]}, Windowing())
    assert loaded.reasons == ("text_truncated",)
    assert loaded.windows[0].streams["text"].data.tolist() == [1, 2, 3, 4]


def test_an_unreadable_transcript_is_none(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    (tmp_path / "t.json").write_text('{"not": "ours"}')
    loaded = load(Clip(id="a", transcript=tmp_path / "t.json"), {"text": specs["text"]}, Windowing())
    assert "no_transcript" in loaded.reasons
    assert "t.json" in str(loaded.details["transcript_error"])


def test_the_tokenizer_lies_in_the_bundle(tmp_path: Path, specs: Mapping[str, InputSpec]) -> None:
    (tmp_path / "bundle").mkdir()
    shutil.copy(tmp_path / "tokenizer.json", tmp_path / "bundle" / "words.json")
    relative = {"text": TextSpec(tokenizer="words.json")}
    loaded = load(Clip(id="a", text="five"), relative, Windowing(), root=tmp_path / "bundle")
    assert loaded.windows[0].streams["text"].data.tolist() == [5]
    with pytest.raises(ConfigError, match="words.json: there is nothing at"):
        load(Clip(id="a", text="five"), relative, Windowing(), root=tmp_path)


def test_face_crops_are_square() -> None:
    with pytest.raises(ConfigError, match="face: face crops of 32x24; expected a square"):
        load(Clip(id="a", text="x"), {"face": FrameSpec(height_px=24, width_px=32)}, Windowing())


# ---------------------------------------------------------------------------------------------------- files


def test_a_clip_from_a_file(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.WAV", "c.unknown", "a.srt", "b.txt"):
        (tmp_path / name).write_text("")
    clip = clip_from_file(tmp_path / "a.mp4")
    assert clip == Clip(id="a.mp4", video=tmp_path / "a.mp4", transcript=tmp_path / "a.srt")
    clip = clip_from_file(tmp_path / "b.WAV", "me")
    assert clip == Clip(id="me", audio=tmp_path / "b.WAV", transcript=tmp_path / "b.txt")
    assert clip_from_file(tmp_path / "c.unknown").video == tmp_path / "c.unknown"
