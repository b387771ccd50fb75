"""Jobs over clips that nobody has transcribed, and over dialogues: from the files to the rows, in worker processes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import clock
import numpy as np
import pytest
from spoken import BECKETT, RATE, needs_moonshine, no_speech, speech, wrong_words
from tiny_bundle import write_tiny_bundle

from mmtraits import predict
from mmtraits.errors import ConfigError
from mmtraits.media import transcript
from mmtraits.media.write import write_video

CITIES = "it was the best of times it was the worst of times it was the age of wisdom"  # the first 6 s
READ = "no_face;text_truncated"  # the tiny bundle reads six words

pytestmark = needs_moonshine


@pytest.fixture
def interview(tmp_path: Path) -> Path:
    """Six seconds of one person and ten of another."""
    wave = np.concatenate([speech("two_cities")[: 6 * RATE], speech("beckett")])
    write_video(tmp_path / "talk.mp4", (clock.picture(k) for k in range(80)), 5, wave, RATE)
    return tmp_path / "talk.mp4"


def score(source: Path, out: Path, speech_to_text: str = "moonshine", **options: Any) -> list[dict[str, str]]:
    bundle = write_tiny_bundle(out.parent / "bundle")
    given = {"paths": (), "manifest": source} if source.suffix == ".csv" else {"paths": [source]}
    predict.run(out=out, bundle=bundle, speech_to_text=speech_to_text, **given, **options)
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def heard(out: Path, clip: str) -> str:
    return " ".join(utterance.text for utterance in transcript.read(out / f"transcripts/{clip}.json"))


def manifest(folder: Path, *rows: str) -> Path:
    (folder / "clips.csv").write_text("\n".join(["id,video,start_s,end_s,speaker,question", *rows]) + "\n")
    return folder / "clips.csv"


@pytest.mark.slow
def test_a_folder_that_nobody_transcribed(interview: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    interview.rename(clips / "talk.mp4")
    write_video(clips / "quiet.mp4", (clock.picture(k) for k in range(20)), 5, no_speech(4.0)["pink noise"], RATE)
    rows = score(clips, tmp_path / "out", workers=2)
    assert [(row["clip"], row["reason"], row["text_present"]) for row in rows] == [
        ("quiet.mp4", "no_face;no_speech", "false"), ("talk.mp4", READ, "true"),
    ]  # fmt: skip
    assert wrong_words(f"{CITIES} {BECKETT}", heard(tmp_path / "out", "talk.mp4")) <= 3
    assert [path.name for path in (tmp_path / "out/transcripts").iterdir()] == ["talk.mp4.json"]
    last = json.loads((tmp_path / "out/results.jsonl").read_text().splitlines()[1])
    assert last["details"]["transcript"] == "transcripts/talk.mp4.json"
    assert last["details"]["speech_to_text"] == "moonshine"


def test_one_row_per_question(interview: Path, tmp_path: Path) -> None:
    listed = manifest(tmp_path, "q1,talk.mp4,0,6,,Which times?", "q2,talk.mp4,6,,,What then?")
    rows = score(listed, tmp_path / "out", workers=1)
    assert [(row["clip"], row["question"], row["reason"]) for row in rows] == [
        ("q1", "Which times?", READ), ("q2", "What then?", READ),
    ]  # fmt: skip
    assert [float(row["duration_s"]) for row in rows] == [6.0, pytest.approx(10.0, abs=0.2)]
    assert wrong_words(CITIES, heard(tmp_path / "out", "q1")) <= 2
    assert wrong_words(BECKETT, heard(tmp_path / "out", "q2")) <= 2


def test_one_row_per_speaker_and_turns_that_change(interview: Path, tmp_path: Path) -> None:
    turns = interview.with_suffix(".rttm")
    line = "SPEAKER talk 1 {} {} <NA> <NA> {} <NA> <NA>\n"
    turns.write_text(line.format(0, 6, "B") + line.format(6, 10, "A"))
    rows = ("talk/A,talk.mp4,,,A,", "talk/B,talk.mp4,,,B,", "talk/C,talk.mp4,,,C,")
    listed = manifest(tmp_path, *rows)
    found = score(listed, tmp_path / "out")
    assert [(row["clip"], row["speaker"], row["status"]) for row in found] == [
        ("talk/A", "A", "degraded"), ("talk/B", "B", "degraded"), ("talk/C", "C", "failed"),
    ]  # fmt: skip
    assert found[2]["reason"] == "no_face;no_sound;no_speech"
    assert found[2]["loudness"] == ""
    assert wrong_words(BECKETT, heard(tmp_path / "out", "talk/A")) <= 2
    assert wrong_words(CITIES, heard(tmp_path / "out", "talk/B")) <= 2
    assert found[0]["loudness"] != found[1]["loudness"]
    turns.write_text(line.format(0, 6, "A") + line.format(6, 10, "B"))  # they were mixed up: the same job, again
    again = score(listed, tmp_path / "out")
    assert wrong_words(CITIES, heard(tmp_path / "out", "talk/A")) <= 2
    assert again[0]["loudness"] == found[1]["loudness"]


@pytest.mark.slow
def test_a_job_goes_on_with_the_recogniser_that_it_was_begun_with(interview: Path, tmp_path: Path) -> None:
    score(interview, tmp_path / "out", "none")
    with pytest.raises(ConfigError, match="speech_to_text"):
        score(interview, tmp_path / "out")
    assert not (tmp_path / "out/transcripts").exists()
    (row,) = score(interview, tmp_path / "out", fresh=True)
    assert row["reason"] == READ
