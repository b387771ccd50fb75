"""Transcript files in, utterances out, and back."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtraits.errors import MediaError
from mmtraits.media import transcript
from mmtraits.media.transcript import Utterance, read, render, sidecar

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello <i>there</i>,
{\\an8}second line

2
01:02:03,04 --> 01:02:04,999
INTERVIEWER: Why?
3
00:00:05.5 --> 00:00:06.5 X1:1 X2:2
42

"""
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE 00:00 is not a cue

intro
00:01.000 --> 00:02.500 align:start
<v.loud Ann Lee>Fish &amp; <c.yellow>chips</c></v>

00:00:03.000 --> 00:00:04.000
Speaker 2: <00:00:03.500>yes

NOTE after
"""


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_srt(tmp_path):
    assert read(written(tmp_path, "a.srt", SRT)) == [
        Utterance(1.0, 2.5, None, "Hello there, second line"),
        Utterance(3723.04, 3724.999, "INTERVIEWER", "Why?"),
        Utterance(5.5, 6.5, None, "42"),
    ]


def test_vtt(tmp_path):
    assert read(written(tmp_path, "a.VTT", VTT)) == [
        Utterance(1.0, 2.5, "Ann Lee", "Fish & chips"),
        Utterance(3.0, 4.0, "Speaker 2", "yes"),
    ]


def test_txt(tmp_path):
    content = "I think so.\n\n  Ann: really  good\n[SPEAKER_00]: no\nand so on: more\nat 12:30 we left\n"
    assert [(u.speaker, u.text, u.start_s) for u in read(written(tmp_path, "a.txt", content))] == [
        (None, "I think so.", None),
        ("Ann", "really good", None),
        ("SPEAKER_00", "no", None),
        (None, "and so on: more", None),
        (None, "at 12:30 we left", None),
    ]


def test_json(tmp_path):
    segments = [
        {"id": 0, "start": 0, "end": 1.5, "text": " Hi\nyou ", "words": [{"word": "Hi"}], "speaker": "A"},
        {"start": "0", "end": float("nan"), "text": "x", "speaker": 3},
        {"start": True, "end": 10**400, "text": "y"},
        {"start": 2.0, "end": 3.0, "text": "  "},
    ]
    path = written(tmp_path, "a.json", json.dumps({"text": "…", "segments": segments}))
    assert read(path) == [
        Utterance(0.0, 1.5, "A", "Hi you"),
        Utterance(None, None, None, "x"),
        Utterance(None, None, None, "y"),
    ]


@pytest.mark.parametrize("suffix", transcript.SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b" \r\n\r\n"])
def test_empty_is_no_utterances(tmp_path, suffix, content):
    assert read(written(tmp_path, f"a{suffix}", content)) == []


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfone\r\ntwo\r\n",
        b"one\rtwo",
        "\ufeffone\ntwo".encode("utf-16-le"),
        "\ufeffone\r\ntwo".encode("utf-16-be"),
    ],
)
def test_marks_and_line_ends(tmp_path, content):
    assert [u.text for u in read(written(tmp_path, "a.txt", content))] == ["one", "two"]


def test_invalid_bytes_are_replaced(tmp_path):
    assert read(written(tmp_path, "a.txt", b"caf\xe9 au lait"))[0].text == "caf\ufffd au lait"
    assert [u.text for u in read(written(tmp_path, "b.srt", b"1\r\n00:01,0 --> 00:02,0\r\n\xff\xfe\xfa\r\n"))] == [
        "\ufffd" * 3
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "Expecting property name"),
        ("[]", "no list `segments`"),
        ('{"segments": 3}', "no list `segments`"),
        ('{"segments": [{"text": "a"}, {"txt": "b"}]}', "segment 1 has no `text`"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_json_in_another_layout(tmp_path, content, found):
    with pytest.raises(MediaError, match=f"a.json: .*{found}.*expected whisper's layout") as caught:
        read(written(tmp_path, "a.json", content))
    assert caught.value.reason == "no_transcript"


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(MediaError, match="a.txt: No such file or directory; expected a readable file"):
        read(tmp_path / "a.txt")
    with pytest.raises(MediaError, match=r"a.docx: no transcript format; expected one of .json, .vtt, .srt, .txt"):
        read(tmp_path / "a.docx")
    with pytest.raises(MediaError, match="b.json: larger than 3 bytes") as caught:
        read(written(tmp_path, "b.json", '{"segments": []}'), 3)
    assert caught.value.reason == "too_large"


def test_a_long_file_is_read_up_to_its_last_whole_line(tmp_path):
    path = written(tmp_path, "b.txt", "one\ntwo\nthree")
    assert [said.text for said in read(path, 100)] == ["one", "two", "three"]
    assert [said.text for said in read(path, 10)] == ["one", "two"]
    assert [said.text for said in read(path, 2)] == ["on"]
    assert (transcript.is_longer(path, 13), transcript.is_longer(path, 12)) == (False, True)
    assert not transcript.is_longer(tmp_path / "none.txt", 0)


@pytest.mark.parametrize(
    "piece", ["<v ", "<v.", "<a", "{\\", "&", "\n \n", "1", " ", "00:00.000 --> 00:01.000\n", "A. "]
)
def test_reading_takes_time_in_proportion_to_the_length(tmp_path, piece):
    """A quadratic pattern would take minutes."""
    body = "WEBVTT\n\n00:00.000 --> 00:01.000\n<v" + piece * (300_000 // len(piece)) + "x"
    start = time.process_time()
    for name in ("a.vtt", "a.srt", "a.txt"):
        read(written(tmp_path, name, body))
    assert time.process_time() - start < 5


def test_sidecar_order(tmp_path, caplog):
    clip = tmp_path / "a.mp4"
    assert sidecar(clip) is None
    for suffix in (".txt", ".srt", ".vtt"):
        beside = written(tmp_path, f"a{suffix}", "")
        assert sidecar(clip) == beside
    other = written(tmp_path, "a.json", '{"fps": 25}')
    with caplog.at_level(logging.WARNING):
        assert sidecar(clip) == tmp_path / "a.vtt"
    assert f"left alone: {other}: no list `segments`" in caplog.text
    written(tmp_path, "a.json", '{"segments": []}')
    assert sidecar(clip) == other
    assert sidecar(tmp_path / "b.mp4") is None


def test_a_folder_is_no_sidecar(tmp_path):
    (tmp_path / "a.txt").mkdir()
    assert sidecar(tmp_path / "a.mp4") is None


# Subtitles and plain text cannot hold markup or a colon after a name, so those stay out of the round trip.
characters = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=":{}<>[]&\ufeff")
words = st.text(characters, min_size=1).map(lambda text: " ".join(text.split())).filter(bool)
times = st.integers(0, 360_000_000).map(lambda milliseconds: milliseconds / 1000)
names = st.none() | st.sampled_from(["Ann", "SPEAKER_01", "Mary Ann Lee", "Dr. Who"])
utterances = st.builds(Utterance, start_s=times, end_s=times, speaker=names, text=words)


@pytest.mark.parametrize("suffix", [".json", ".vtt", ".srt"])
@settings(max_examples=60, deadline=None)
@given(spoken=st.lists(utterances, max_size=4))
def test_parse_inverts_render(tmp_path_factory, suffix, spoken):
    path = written(tmp_path_factory.getbasetemp(), f"round{suffix}", render(spoken, suffix))
    assert read(path) == spoken


@settings(max_examples=60, deadline=None)
@given(spoken=st.lists(st.builds(Utterance, start_s=st.none(), end_s=st.none(), speaker=names, text=words), max_size=4))
def test_parse_inverts_render_of_plain_text(tmp_path_factory, spoken):
    path = written(tmp_path_factory.getbasetemp(), "round.txt", render(spoken, ".txt"))
    assert read(path) == spoken


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300) | st.text(alphabet='0123456789:,.-> \n<v>{}[]"', max_size=300).map(str.encode))
@pytest.mark.parametrize("suffix", transcript.SUFFIXES)
def test_any_bytes_are_read_or_refused(tmp_path_factory, suffix, content):
    path = written(tmp_path_factory.getbasetemp(), f"any{suffix}", content)
    try:
        found = read(path)
    except MediaError as error:
        assert suffix == ".json" and error.reason == "no_transcript"
    else:
        assert all(u.text == " ".join(u.text.split()) and u.text for u in found)


def test_markup_and_voices_survive_vtt(tmp_path):
    words = "1 < 2 --> & <i>so</i>: on"
    spoken = [Utterance(0.0, 1.0, "A & B", words), Utterance(1.0, 2.0, None, words)]
    assert read(written(tmp_path, "a.vtt", render(spoken, ".vtt"))) == spoken


def test_render_refuses():
    with pytest.raises(ValueError, match="'hi' has no times; expected start_s and end_s in a subtitle file"):
        render([Utterance(None, None, None, "hi")], ".srt")
    with pytest.raises(ValueError, match=".doc: no transcript format; expected one of .json, .vtt, .srt, .txt"):
        render([], ".doc")
