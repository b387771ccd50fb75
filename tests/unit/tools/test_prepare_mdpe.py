from pathlib import Path

import numpy as np
import pytest
from tool_scripts import ROOT, checksums_hold, contents, lines
from tool_scripts import tool as load_tool

from mmtraits.data.manifest import read, read_features, read_schema
from mmtraits.errors import ManifestError

tool = load_tool("prepare_mdpe")

HEADER = "id,Extraversion,Agreeableness,Conscientiousnes,Neuroticism,Open Mindedness"
LABELS = "label_personality_normalized3.csv"


def array(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(values))


def source(folder: Path) -> Path:
    """Three persons: two recordings of the first in two sets, one of the second as .csv, one of 7 without labels."""
    lines(folder / LABELS, [HEADER, "1,.1,.2,.3,.4,.5", "2,.6,.7,.8,,1", "3,.5,.5,.5,.5,.5"])
    lines(folder / "partition3.csv", ["id,partition", "1,train", "2,val", "3,train", "7,val"])
    hubert, clip = "deception/features/chinese-hubert-large", "deception/features/CLIP_B16"
    array(folder / hubert / "001/001-1-2.npy", np.full((5, 3), 1.0, np.float32))
    array(folder / hubert / "001/001-2-1.npy", np.full(3, 2.0, np.float64))
    array(folder / clip / "001/001-1-2.npy", np.full((1, 2), 3.0, np.float16))
    lines(folder / hubert / "002/002-1-1.csv", ["1,2,3", "4,5,6"])
    array(folder / "emotion/features/chinese-hubert-large/007/007-16-1.npy", np.zeros((2, 3)))
    return folder


def test_feature_files_become_clips(tmp_path: Path) -> None:
    report = tool.prepare(source(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    hubert = "../in/deception/features/chinese-hubert-large"
    assert [(c.id, c.person, c.question, dict(c.features)) for c in found.clips] == [
        (
            "deception/001/001-1-2",
            "001",
            "deception 1",
            {
                "clip_b16": "../in/deception/features/CLIP_B16/001/001-1-2.npy",
                "chinese_hubert_large": f"{hubert}/001/001-1-2.npy",
            },
        ),
        ("deception/001/001-2-1", "001", "deception 2", {"chinese_hubert_large": f"{hubert}/001/001-2-1.npy"}),
        (
            "deception/002/002-1-1",
            "002",
            "deception 1",
            {"chinese_hubert_large": "arrays/chinese_hubert_large/deception/002/002-1-1.npy"},
        ),
        (
            "emotion/007/007-16-1",
            "007",
            "emotion 16",
            {"chinese_hubert_large": "../in/emotion/features/chinese-hubert-large/007/007-16-1.npy"},
        ),
    ]
    assert found.splits == ("train", "train", "val", "val")
    np.testing.assert_array_equal(
        found.labels, [[0.1, 0.2, 0.3, 0.4, 0.5]] * 2 + [[0.6, 0.7, 0.8, np.nan, 1.0], [np.nan] * 5]
    )
    assert found.schema == read_schema(ROOT / "datasets/mdpe/schema.yaml")
    assert (found.schema.construct, found.schema.rated) == ("self_reported", "person")
    vectors = read_features(found.folder, [c.features["chinese_hubert_large"] for c in found.clips])
    assert [v.shape for v in vectors] == [(5, 3), (1, 3), (2, 3), (2, 3)]
    np.testing.assert_array_equal(vectors[2], [[1, 2, 3], [4, 5, 6]])
    assert report.splitlines()[-1] == "left out: 1, labels of a person without recordings: 003"


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    base = folder / "deception/features/chinese-hubert-large"
    array(base / "001/001-2-1.npy", [[1.0, np.nan, 2.0]])
    lines(base / "002/002-1-1.csv", ["1,2,word"])
    lines(base / "002/002-2-1.csv", [])
    array(base / "009/009-1-1.npy", np.zeros(3))
    (base / "notes").mkdir()
    report = tool.prepare(folder, tmp_path / "out")
    assert [c.id for c in read(tmp_path / "out").clips] == ["deception/001/001-1-2", "emotion/007/007-16-1"]
    told = {line.split(", ")[1].partition(":")[0]: line for line in report.splitlines() if line.startswith("left out")}
    assert told["folder that is no person's number"].startswith("left out: 1")
    assert told["unusable features in chinese_hubert_large"].startswith("left out: 3")
    assert "deception/001/001-2-1" in report and told["recording without usable features"].startswith("left out: 3")
    assert "left out: 1, recording of a person with neither labels nor split: deception/009/009-1-1" in report


def test_media_and_chosen_sets(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    for name in (
        "deception/raw_video/001/001-1-2.mp4",
        "deception/raw_audio/001/001-1-2.wav",
        "emotion/raw_video/2/2-1-1.mp4",
    ):
        (tmp_path / "media" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "media" / name).touch()
    arguments = [str(folder), str(tmp_path / "out"), "--features", "CLIP_B16", "--media", str(tmp_path / "media")]
    assert tool.main(arguments) == 0
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, *(p and p.name for p in (c.video, c.audio)), list(c.features)) for c in found.clips] == [
        ("deception/001/001-1-2", "001-1-2.mp4", "001-1-2.wav", ["clip_b16"]),
        ("emotion/002/2-1-1", "2-1-1.mp4", None, []),
    ]


def test_labels_on_another_scale(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    lines(folder / "all_label_personality.csv", [HEADER, "1,1,2,3,4,5", "2,2.5,2.5,2.5,2.5,2.5"])
    arguments = {"labels": folder / "all_label_personality.csv", "scale": (1.0, 5.0)}
    tool.prepare(folder, tmp_path / "out", **arguments)
    found = read(tmp_path / "out")
    np.testing.assert_array_equal(found.labels[0], [1, 2, 3, 4, 5])
    assert {(trait.low, trait.high) for trait in found.schema.traits} == {(1.0, 5.0)}


def test_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    tool.prepare(folder, tmp_path / "out")
    first = contents(tmp_path / "out")
    tool.prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == first
    assert checksums_hold(tmp_path / "out") >= {
        "arrays/chinese_hubert_large/deception/002/002-1-1.npy",
        "../in/deception/features/CLIP_B16/001/001-1-2.npy",
    }


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / LABELS).unlink(), r"\*label_personality\*\.csv: found none; expected one"),
        (lambda f: (f / "partition4.csv").touch(), r"partition\*\.csv: found partition3\.csv, partition4\.csv"),
        (
            lambda f: lines(f / LABELS, [HEADER.replace("Neuroticism", "N"), "1,.1,.2,.3,.4,.5"]),
            r"normalized3\.csv:1: 0 columns for neuroticism",
        ),
        (
            lambda f: lines(f / LABELS, [HEADER, "1,.1,.2,.3,.4,5", "2,-.1,.2,.3,.4,.5"]),
            r"csv:2: Open Mindedness 5 is outside the scale \[0, 1\].*\n.*csv:3: Extraversion -0\.1 .*\n.*give --scale",
        ),
        (lambda f: lines(f / LABELS, [HEADER, *["1,.1,.2,.3,.4,.5"] * 2]), r"csv:3: id '1' is already at .*csv:2"),
        (
            lambda f: lines(f / LABELS, [HEADER, "1,.1,.2,.3,.4,.5", "001,.1,.2,.3,.4,.5"]),
            r"csv:3: person 001 is already at .*csv:2",
        ),
        (lambda f: lines(f / LABELS, [HEADER, "P1,.1,.2,.3,.4,.5"]), r"csv:2: id 'P1' is no person's number"),
        (lambda f: lines(f / "partition3.csv", ["id,p", "1,later"]), r"partition3\.csv:2: split 'later'"),
        (lambda f: lines(f / "partition3.csv", ["id"]), r"partition3\.csv: expected a header and rows"),
        (
            lambda f: array(f / "deception/features/CLIP_B16/001/001-2-1.npy", np.zeros((1, 5))),
            r"clip_b16: vectors of 2 widths: 2 in .*001-1-2\.npy, 5 in .*001-2-1\.npy",
        ),
    ],
)
def test_a_bad_source_is_one_message_and_nothing_written(tmp_path: Path, spoil, message: str) -> None:
    folder = source(tmp_path / "in")
    spoil(folder)
    with pytest.raises(ManifestError, match=message):
        tool.prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sets_and_scales_that_are_not_there(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    with pytest.raises(ManifestError, match=r"no feature set sbert; found CLIP_B16, chinese-hubert-large"):
        tool.prepare(folder, tmp_path / "out", features=["sbert"])
    with pytest.raises(ManifestError, match=r"--scale 5 1; expected two finite numbers"):
        tool.prepare(folder, tmp_path / "out", scale=(5.0, 1.0))
    empty = tmp_path / "empty"
    lines(empty / LABELS, [HEADER, "1,.1,.2,.3,.4,.5"])
    lines(empty / "partition3.csv", ["id,partition", "1,train"])
    with pytest.raises(ManifestError, match=r"empty: no recordings; expected deception/features/SET/PERSON"):
        tool.prepare(empty, tmp_path / "out")


def test_a_pickled_array_is_not_run(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    path = folder / "deception/features/CLIP_B16/001/001-1-2.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "unusable features in clip_b16" in tool.prepare(folder, tmp_path / "out")
