from pathlib import Path

import pytest

from mmtraits.data.texts import said, transcripts
from mmtraits.schema import Clip

SRT = """1
00:00:00,000 --> 00:00:04,000
Host: Where are you from?

2
00:00:04,000 --> 00:00:09,000
Guest: From here.

3
00:00:20,000 --> 00:00:25,000
Guest: And you?
"""


@pytest.fixture
def subtitles(tmp_path: Path) -> Path:
    path = tmp_path / "a.srt"
    path.write_text(SRT)
    return path


def test_own_text_comes_before_the_file(subtitles: Path) -> None:
    assert said(Clip(id="a", text="Hello.", transcript=subtitles)) == "Hello."


def test_a_file_is_cut_to_the_speaker_and_to_the_stretch(subtitles: Path) -> None:
    assert said(Clip(id="a", transcript=subtitles)) == "Where are you from? From here. And you?"
    assert said(Clip(id="a", transcript=subtitles, speaker="Guest")) == "From here. And you?"
    assert said(Clip(id="a", transcript=subtitles, start_s=4.0, end_s=20.0)) == "From here."


def test_an_untimed_file_is_taken_whole_and_without_speakers_nobody_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    assert said(Clip(id="a", transcript=path, speaker="Guest", start_s=4.0, end_s=5.0)) == "one two"


def test_nothing_said_is_none_and_an_unreadable_file_is_logged(
    tmp_path: Path, subtitles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = [
        Clip(id="blank", text=" \n"),
        Clip(id="gone", transcript=tmp_path / "gone.srt"),
        Clip(id="foreign", transcript=tmp_path / "notes.docx"),
        Clip(id="silent", transcript=subtitles, speaker="Nobody"),
        Clip(id="bare"),
    ]
    assert transcripts(clips) == [None] * len(clips)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["clip gone", "clip foreign"]
