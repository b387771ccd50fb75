"""Turns from every format they come in, and what is said about files that hold none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmtraits.errors import MediaError
from mmtraits.media import turns
from mmtraits.schema import Clip

RTTM = """;; a comment
SPKR-INFO talk 1 <NA> <NA> <NA> unknown ann <NA> <NA>
SPEAKER talk 1 0.00 2.50 <NA> <NA> ann <NA> <NA>
SPEAKER talk 1 2.00 1.00 <NA> <NA> ben <NA> <NA>
SPEAKER talk 1 2.25 1.75 <NA> <NA> ann <NA> <NA>
"""
ANN, BEN = [[0.0, 4.0]], [[2.0, 3.0]]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def as_lists(found: turns.Turns) -> dict[str, list[list[float]]]:
    return {name: own.tolist() for name, own in found.speakers.items()}


def test_rttm_merges_the_turns_of_one_speaker_that_overlap(tmp_path):
    found = turns.read(write(tmp_path / "a.rttm", RTTM))
    assert as_lists(found) == {"ann": ANN, "ben": BEN}
    assert found.duration_s == 4.0


SEGMENTS = [
    {"start": 0, "end": 4, "speaker": "ann", "text": "so"},
    {"start": 2, "end": 3, "speaker": "ben", "text": "yes"},
    {"start": 5, "end": 6, "text": "nobody's"},
]


@pytest.mark.parametrize("data", [SEGMENTS, {"segments": SEGMENTS}, {"turns": SEGMENTS}])
def test_json_layouts(tmp_path, data):
    assert as_lists(turns.read(write(tmp_path / "a.json", json.dumps(data)))) == {"ann": ANN, "ben": BEN}


def test_timed_transcript_with_speakers(tmp_path):
    vtt = "WEBVTT\n\n00:00.000 --> 00:04.000\n<v Ann>so\n\n00:02.000 --> 00:03.000\n<v Ben>yes\n"
    assert as_lists(turns.read(write(tmp_path / "a.vtt", vtt))) == {"Ann": ANN, "Ben": BEN}
    srt = "1\n00:00:00,000 --> 00:00:04,000\nAnn: so\n\n2\n00:00:02,000 --> 00:00:03,000\nBen: yes\n"
    assert as_lists(turns.read(write(tmp_path / "a.srt", srt))) == {"Ann": ANN, "Ben": BEN}


def test_a_stretch_cuts_turns_and_leaves_out_who_is_silent_in_it(tmp_path):
    path = write(tmp_path / "a.rttm", RTTM)
    assert as_lists(turns.read(path, start_s=2.5, end_s=9.0)) == {"ann": [[2.5, 4.0]], "ben": [[2.5, 3.0]]}
    later = turns.read(path, start_s=3.0, end_s=9.0)
    assert as_lists(later) == {"ann": [[3.0, 4.0]]}
    assert later.duration_s == 6.0


def test_a_clip_takes_the_rttm_beside_its_medium_before_its_transcript(tmp_path):
    srt = write(tmp_path / "a.srt", "1\n00:00:00,000 --> 00:00:04,000\nAnn: so\n")
    clip = Clip(id="a", video=tmp_path / "a.mp4", transcript=srt)
    found = turns.of_clip(clip)
    assert found is not None
    assert set(found.speakers) == {"Ann"}
    write(tmp_path / "a.rttm", RTTM)
    found = turns.of_clip(clip)
    assert found is not None
    assert set(found.speakers) == {"ann", "ben"}


def test_without_speakers_there_are_no_turns(tmp_path):
    srt = write(tmp_path / "a.srt", "1\n00:00:00,000 --> 00:00:04,000\nso\n")
    assert turns.of_clip(Clip(id="a", transcript=srt)) is None
    assert turns.of_clip(Clip(id="a", transcript=write(tmp_path / "b.txt", "Ann: so"))) is None
    assert turns.of_clip(Clip(id="a", text="so")) is None
    assert turns.of_clip(Clip(id="a", video=tmp_path / "c.mp4", transcript=write(tmp_path / "c.rttm", ""))) is None


def test_one_recording_of_several_is_the_one_named_like_the_file(tmp_path):
    both = RTTM + "SPEAKER other 1 0 1 <NA> <NA> eve <NA> <NA>\n"
    assert set(turns.read(write(tmp_path / "talk.rttm", both)).speakers) == {"ann", "ben"}
    with pytest.raises(MediaError, match=r"b\.rttm: turns of other, talk; expected one recording, or b among them"):
        turns.read(write(tmp_path / "b.rttm", both))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.rttm", "SPEAKER talk 1 0.0 1.0\n", "a.rttm:1: 5 fields; expected at least 8"),
        ("a.rttm", "SPEAKER talk 1 x 1.0 <NA> <NA> ann", "a.rttm:1: start is 'x'; expected seconds"),
        ("a.rttm", "SPEAKER talk 1 0 nan <NA> <NA> ann", "a.rttm:1: duration is 'nan'; expected seconds"),
        ("a.json", "{", "expected a list of {start, end, speaker}"),
        ("a.json", '{"other": 1}', "another layout; expected a list of"),
        ("a.json", '[{"start": -1, "end": 2, "speaker": "x"}]', "turn 0: start is -1; expected seconds"),
        ("a.txt", "so", "no file of turns; expected one of .rttm"),
    ],
)
def test_files_that_hold_no_turns_are_named(tmp_path, name, text, message):
    with pytest.raises(MediaError) as caught:
        turns.read(write(tmp_path / name, text))
    assert message in str(caught.value)
    assert caught.value.reason == "no_transcript"


def test_a_missing_and_an_oversized_file(tmp_path):
    with pytest.raises(MediaError, match="No such file"):
        turns.read(tmp_path / "a.rttm")
    with (tmp_path / "b.rttm").open("wb") as file:
        file.truncate(9_000_000)
    with pytest.raises(MediaError, match="larger than 8 MB"):
        turns.read(tmp_path / "b.rttm")


def test_turns_that_touch_are_one():
    found = turns.turns_of([(1.0, 2.0, "a"), (2.0, 3.0, "a"), (3.5, 4.0, "a"), (9.0, 9.0, "b")])
    np.testing.assert_array_equal(found.speakers["a"], [[1.0, 3.0], [3.5, 4.0]])
    assert "b" not in found.speakers
