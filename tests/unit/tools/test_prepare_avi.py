from pathlib import Path

import numpy as np
import pytest
from tool_scripts import ROOT, checksums_hold, contents, lines
from tool_scripts import tool as load_tool

from mmtraits.data.manifest import read, read_features, read_schema
from mmtraits.errors import ManifestError

tool = load_tool("prepare_avi")

ABOUT = "id,gender,age,education,work_experience"
COMPETENCIES = "Integrity,Collegiality,Social_versatility,Development_orientation,Hireability"
HEADER_2025 = f"{ABOUT},Honesty-Humility,Extraversion,Agreeableness,Conscientiousness,{COMPETENCIES}"
HEADER_2026 = f"{ABOUT},H_self,E_self,A_self,C_self,g_level"


def media(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def edition_2025(folder: Path) -> Path:
    """Tables and names of 2025, the unnamed last column of val included."""
    lines(folder / "train_data.csv", [HEADER_2025, "aa11,1,35,4,18,3.275,3.1875,3.36875,3.8375,3.6,3.3,3.6,3.6,3.5"])
    lines(folder / "val_data.csv", [f"{HEADER_2025},", "bb22,2,41,5,21,3.475,2.44375,3.875,,3.5,3,3.2,3.5,3,21"])
    lines(folder / "test_data_basic_information.csv", [ABOUT, "cc33,3,62,4,35", "dd44,1,29,4,3"])
    media(folder, *(f"train_data/aa11_q{i}_{'generic' if i < 3 else 'personality'}.mp4" for i in range(1, 7)))
    media(
        folder, "val_data/bb22_q4_personality.mp4", "test_data/cc33_q3_personality.mp4", "test_data/zz_q1_generic.mp4"
    )
    return folder


def edition_2026(folder: Path) -> Path:
    lines(folder / "train_data.csv", [HEADER_2026, "aa11,1,34.6,4,18.0,4.25,2.0625,3.375,4.375,3"])
    lines(folder / "test_data.csv", [f"{ABOUT},H_self,E_self,A_self,C_self", "cc33,2,62.0,4,1.0,,,,"])
    media(
        folder, "train/aa11_q3.mp4", "train/aa11_q4.mp4", "audio/aa11_q3.wav", "audio/aa11_q5.wav", "text/cc33_q6.txt"
    )
    return folder


def test_six_answers_of_a_person_in_2025(tmp_path: Path) -> None:
    report = tool.prepare(edition_2025(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.question) for c in found.clips] == [
        *((f"aa11_q{i}", "aa11", f"q{i}") for i in range(1, 7)),
        ("bb22_q4", "bb22", "q4"),
        ("cc33_q3", "cc33", "q3"),
    ]
    assert found.splits == ("train",) * 6 + ("val", "test")
    np.testing.assert_array_equal(found.labels[:6], [[3.275, 3.1875, 3.36875, 3.8375]] * 6)
    np.testing.assert_array_equal(found.labels[6:], [[3.475, 2.44375, 3.875, np.nan], [np.nan] * 4])
    assert dict(found.clips[0].attributes) == {"gender": "1", "education": "4", "age": "30 to 44"}
    assert [c.attributes["age"] for c in found.clips[6:]] == ["30 to 44", "60 and over"]
    assert found.clips[0].video and found.clips[0].video.name == "aa11_q1_generic.mp4"
    assert found.schema == read_schema(ROOT / "datasets/avi/schema.yaml")
    assert (found.schema.construct, found.schema.rated) == ("apparent", "person")
    assert report.splitlines()[1:3] == [
        "splits: test 1, train 6, val 1",
        "labels: honesty_humility 7, extraversion 7, agreeableness 7, conscientiousness 6",
    ]
    assert report.splitlines()[-2:] == [
        "left out: 16, answer without video, sound, transcript and features: "
        "bb22_q1, bb22_q2, bb22_q3, bb22_q5, bb22_q6, ...",
        "left out: 1, video of a person who is in no table: zz_q1_generic.mp4",
    ]


def test_the_edition_of_2026_is_self_reported(tmp_path: Path) -> None:
    tool.prepare(edition_2026(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert found.schema == read_schema(ROOT / "datasets/avi/schema_2026.yaml")
    assert found.schema.construct == "self_reported" and found.schema.trait_names[1] == "emotionality"
    np.testing.assert_array_equal(found.labels[0], [4.25, 2.0625, 3.375, 4.375])
    named = [(c.id, *(p and p.name for p in (c.video, c.audio, c.transcript))) for c in found.clips]
    assert named == [
        ("aa11_q3", "aa11_q3.mp4", None, None),
        ("aa11_q4", "aa11_q4.mp4", None, None),
        ("aa11_q5", None, "aa11_q5.wav", None),
        ("cc33_q6", None, None, "cc33_q6.txt"),
    ]


def test_an_answer_to_its_own_question(tmp_path: Path) -> None:
    arguments = [str(edition_2025(tmp_path / "in")), str(tmp_path / "out"), "--own-question"]
    assert tool.main(arguments) == 0
    found = read(tmp_path / "out")
    assert [c.id for c in found.clips] == ["aa11_q3", "aa11_q4", "aa11_q5", "aa11_q6", "bb22_q4", "cc33_q3"]
    own = np.diag([3.275, 3.1875, 3.36875, 3.8375])
    np.testing.assert_array_equal(found.labels[:4], np.where(own, own, np.nan))
    np.testing.assert_array_equal(found.labels[4], [np.nan, 2.44375, np.nan, np.nan])


def test_features_by_answer(tmp_path: Path) -> None:
    folder = edition_2026(tmp_path / "in")
    for stream, answer, value in (
        ("SFR-text", "aa11_q3", 1.0),
        ("SFR-text", "aa11_q1", np.nan),
        ("face", "aa11_q1", 2.0),
    ):
        (tmp_path / "features" / stream).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "features" / stream / f"{answer}.npy", np.full(4, value))
    report = tool.prepare(folder, tmp_path / "out", features=tmp_path / "features")
    found = read(tmp_path / "out", check_files=True)
    streams = {c.id: dict(c.features) for c in found.clips}
    assert streams["aa11_q3"] == {"sfr_text": "../features/SFR-text/aa11_q3.npy"}
    assert streams["aa11_q1"] == {"face": "../features/face/aa11_q1.npy"} and streams["aa11_q4"] == {}
    np.testing.assert_array_equal(read_features(found.folder, [streams["aa11_q1"]["face"]])[0], [[2.0] * 4])
    assert "left out: 1, unusable features in SFR-text: aa11_q1" in report
    assert "../features/face/aa11_q1.npy" in checksums_hold(tmp_path / "out")


def test_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = edition_2025(tmp_path / "in")
    tool.prepare(folder, tmp_path / "out")
    first = contents(tmp_path / "out")
    tool.prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == first
    assert checksums_hold(tmp_path / "out") == {"clips.csv", "schema.yaml", "dataset.yaml"}


TRAIN_ROW = "aa11,1,35,4,18,{},3.1875,3.36875,3.8375,3.6,3.3,3.6,3.6,3.5"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: [(f / n).unlink() for n in ("train_data.csv", "val_data.csv")], "neither train_data.csv nor"),
        (
            lambda f: lines(f / "train_data.csv", [HEADER_2025, TRAIN_ROW.format("0.275")]),
            r"train_data\.csv:2: Honesty-Humility 0\.275 is outside the scale \[1, 5\] of honesty_humility",
        ),
        (
            lambda f: lines(f / "train_data.csv", [HEADER_2025, TRAIN_ROW.format("-3.2")]),
            r"Honesty-Humility -3\.2 is outside the scale",
        ),
        (
            lambda f: lines(f / "train_data.csv", [HEADER_2025, TRAIN_ROW.format("3"), TRAIN_ROW.format("4")]),
            r"train_data\.csv:3: id 'aa11' is already at .*train_data\.csv:2",
        ),
        (
            lambda f: lines(f / "train_data.csv", [HEADER_2025, TRAIN_ROW.format("3").replace("aa11", "bb22")]),
            r"val_data\.csv:2: person 'bb22' is already at .*train_data\.csv:2; expected each person in one split",
        ),
        (
            lambda f: lines(f / "val_data.csv", [f"{ABOUT},Extraversion", "bb22,1,1,1,1,3"]),
            r"val_data\.csv:1: columns are missing: Honesty-Humility, Agreeableness, Conscientiousness",
        ),
        (
            lambda f: lines(f / "val_data.csv", [HEADER_2026, "bb22,1,34.6,4,18.0,4.25,2.0625,3.375,4.375,3"]),
            "columns of 2 editions in the tables",
        ),
        (lambda f: media(f, "train_data/aa11_q1.mp4"), r"aa11_q1_generic\.mp4: the same answer as .*aa11_q1\.mp4"),
    ],
)
def test_a_bad_source_is_one_message_and_nothing_written(tmp_path: Path, spoil, message: str) -> None:
    folder = edition_2025(tmp_path / "in")
    spoil(folder)
    with pytest.raises(ManifestError, match=message):
        tool.prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "age, band",
    [
        ("29.9", "under 30"),
        ("30", "30 to 44"),
        ("44.6", "30 to 44"),
        ("59", "45 to 59"),
        ("60", "60 and over"),
        ("", ""),
    ],
)
def test_age_bands(age: str, band: str) -> None:
    assert tool._age_band(age) == band
