"""The main job on real files: a folder of clips through the default bundle, every row as the folder's README says."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmtraits import predict
from mmtraits.media.probe import MEDIA_SUFFIXES
from mmtraits.runtime import default_bundle

NOTHING = "no_face;no_sound;no_transcript"
# As seen by eye: carphone, single_face, WolfgangLanger and noface_face show a face; nasa_13013 shows a person's back.
EDGE = {
    "nasa_13013.mp4": ("degraded", "no_face;no_transcript"),
    "single_face.mp4": ("degraded", "no_sound;no_transcript"),
    "WolfgangLanger_Pexels.mp4": ("degraded", "no_sound;no_transcript"),
    "noface_face.mov": ("degraded", "no_transcript"),
    "carphone_pristine.mp4": ("degraded", "no_sound;no_transcript"),
    "corrupted.mp4": ("failed", f"corrupt_packets;{NOTHING}"),
    "av1_video.mkv": ("failed", NOTHING),
    "bt2020_10bit.mp4": ("failed", NOTHING),
    "nasa_13013_hdr.mp4": ("failed", NOTHING),
    "nasa_13013_rotated.mp4": ("failed", NOTHING),
    "discard_first_keyframe.mp4": ("failed", NOTHING),
    "test_non_zero_start.mp4": ("failed", NOTHING),
    "testsrc2_odd_height_and_width_444.mp4": ("failed", NOTHING),
    "testsrc2_vp9.webm": ("failed", NOTHING),
    "unordered.mov": ("failed", NOTHING),
}
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
GRID = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {},
    {"z": "zero", **{str(n): word for n, word in enumerate(DIGITS)}},
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)


@pytest.fixture(scope="module")
def clips(real_data) -> Path:
    return real_data / "clips"


@pytest.fixture(scope="module")
def rows(clips, tmp_path_factory) -> dict[str, dict[str, str]]:
    return scored(clips, tmp_path_factory.mktemp("all"))


def scored(folder: Path, out: Path) -> dict[str, dict[str, str]]:
    predict.run([folder], out, bundle=default_bundle())
    with (out / "results.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len({row["clip"] for row in found}) == len(found)
    return {row["clip"]: row for row in found}


def values(row: dict[str, str]) -> np.ndarray:
    """The scores of a row: the cells of the traits that have an interval."""
    traits = [name.removesuffix("_lower") for name in row if name.endswith("_lower")]
    return np.array([float(row[name] or "nan") for name in traits])


def test_one_row_per_media_file(clips, rows):
    files = [path for path in clips.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES]
    assert list(rows) == sorted(path.relative_to(clips).as_posix() for path in files)
    assert len(rows) == 26


@pytest.mark.parametrize("name", EDGE)
def test_status_and_reason_of_an_odd_file(rows, name):
    row = rows[f"edge/{name}"]
    assert (row["status"], row["reason"]) == EDGE[name]


def test_people_who_speak_lack_only_a_transcript(rows):
    speaking = [row for clip, row in rows.items() if clip.startswith("speaking/")]
    assert len(speaking) == 11
    for row in speaking:
        assert (row["status"], row["reason"], row["duration_s"]) == ("degraded", "no_transcript", "2.980000")
        assert (row["face_present"], row["voice_present"], row["text_present"]) == ("true", "true", "false")


def test_a_failed_row_holds_no_number(rows):
    for row in rows.values():
        assert np.isfinite(values(row)).all() == (row["status"] != "failed")
        assert np.isnan(values(row)).all() == (row["status"] == "failed")


def test_scores_of_speakers_spread_inside_their_scale(rows):
    table = np.array([values(row) for clip, row in rows.items() if clip.startswith("speaking/")])
    print("standard deviation over eleven clips:", table.std(axis=0).round(4))
    assert (table > 0).all() and (table < 1).all()
    assert table.std(axis=0).min() > 0.005


def test_a_transcript_completes_the_row_and_moves_the_score_a_little(clips, rows, tmp_path):
    for path in (clips / "speaking").iterdir():
        shutil.copy(path, tmp_path)
        code = path.stem[-6:]
        (tmp_path / f"{path.stem}.txt").write_text(" ".join(map(dict.get, GRID, code, code)))
    whole = scored(tmp_path, tmp_path / "out")
    moved = np.array([np.abs(values(row) - values(rows[f"speaking/{clip}"])) for clip, row in whole.items()])
    print(
        "mean, largest shift by the third stream, per trait:", moved.mean(axis=0).round(4), moved.max(axis=0).round(4)
    )
    assert [row["status"] for row in whole.values()] == ["ok"] * 11
    assert moved.max() > 1e-4, "the transcript is not read"
    assert moved.max() < 0.2
