from pathlib import Path

import numpy as np
import pytest
from tool_scripts import ROOT, checksums_hold, contents, lines
from tool_scripts import tool as load_tool

from mmtraits.data.manifest import read, read_schema
from mmtraits.errors import ManifestError
from mmtraits.media import transcript

tool = load_tool("prepare_cped")

HEADER = (
    "TV_ID,Dialogue_ID,Utterance_ID,Speaker,Gender,Age,Neuroticism,Extraversion,Openness,Agreeableness,"
    "Conscientiousness,Scene,FacePosition_LU,FacePosition_RD,Sentiment,Emotion,DA,Utterance"
)
WAN = "林宛瑜,female,young,low,high,high,high,high"
LU = "陆展博,male,young,high,low,unknown,high,high"
OTHER = "其他,unknown,unknown,unknown,unknown,unknown,unknown,unknown"


def row(dialogue: str, number: int, who: str, words: str) -> str:
    show = dialogue.partition("_")[0]
    return f"{show},{dialogue},{dialogue}_{number:03d},{who},car,488_14,654_204,neutral,neutral,question,{words}"


def split(folder: Path, name: str, *rows: str) -> None:
    lines(folder / f"{name}_split.csv", [HEADER, *rows], encoding="utf-8-sig")


TRAIN = (
    row("27_000", 0, WAN, "好了没事了"),
    row("27_000", 1, LU, "没关系"),
    row("27_000", 2, WAN, '"喂, 你好"'),
    row("27_000", 3, OTHER, "先生您好"),
    row("27_001", 0, LU, "计算机"),
)


def source(folder: Path) -> Path:
    split(folder, "train", *TRAIN)
    split(folder, "valid", row("31_000", 0, "小白,male,young,low,low,low,low,low", "谁"))
    split(folder, "test", row("09_000", 0, "小白,female,unknown,high,unknown,low,low,low", "你们"))
    return folder


def test_a_clip_per_speaker_of_a_dialogue(tmp_path: Path) -> None:
    report = tool.prepare(source(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.speaker, dict(c.attributes)) for c in found.clips] == [
        ("27_000_林宛瑜", "林宛瑜", "林宛瑜", {"gender": "female", "age": "young", "show": "27"}),
        ("27_000_陆展博", "陆展博", "陆展博", {"gender": "male", "age": "young", "show": "27"}),
        ("27_001_陆展博", "陆展博", "陆展博", {"gender": "male", "age": "young", "show": "27"}),
        ("31_000_小白", "小白 (31)", "小白", {"gender": "male", "age": "young", "show": "31"}),
        ("09_000_小白", "小白 (09)", "小白", {"gender": "female", "show": "09"}),
    ]
    assert found.splits == ("train", "train", "train", "val", "test")
    np.testing.assert_array_equal(found.labels[:2], [[0, 1, 1, 1, 1], [1, 0, np.nan, 1, 1]])
    np.testing.assert_array_equal(found.labels[4], [1, np.nan, 0, 0, 0])
    assert found.schema == read_schema(ROOT / "datasets/cped/schema.yaml")
    assert {trait.kind for trait in found.schema.traits} == {"binary"} and found.schema.rated == "person"
    assert report.splitlines()[-1] == "left out: 1, speaker of whom no trait is known: 27_000_其他"


def test_the_transcript_holds_the_dialogue_with_its_speakers(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in"), tmp_path / "out")
    first, second = read(tmp_path / "out").clips[:2]
    assert first.transcript and first.transcript == second.transcript
    assert [(u.speaker, u.text, u.start_s) for u in transcript.read(first.transcript)] == [
        ("林宛瑜", "好了没事了", None),
        ("陆展博", "没关系", None),
        ("林宛瑜", "喂, 你好", None),
        ("其他", "先生您好", None),
    ]


def test_one_profile_in_several_shows_of_a_split_is_one_person(tmp_path: Path) -> None:
    split(tmp_path / "in", "train", row("1_000", 0, WAN, "a"), row("2_000", 0, WAN, "b"), row("2_001", 0, LU, "c"))
    split(tmp_path / "in", "test", row("3_000", 0, WAN, "d"), row("3_001", 0, LU, "e"))
    tool.prepare(tmp_path / "in", tmp_path / "out")
    persons = [clip.person for clip in read(tmp_path / "out").clips]
    assert persons == ["林宛瑜 (1)", "林宛瑜 (2)", "陆展博 (2)", "林宛瑜 (3)", "陆展博 (3)"]
    (tmp_path / "in" / "test_split.csv").unlink()
    report = tool.prepare(tmp_path / "in", tmp_path / "out2")
    assert [clip.person for clip in read(tmp_path / "out2").clips] == ["林宛瑜", "林宛瑜", "陆展博"]
    assert report.splitlines()[-1] == "left out: 2, table of a split not found: valid_split.csv, test_split.csv"


def test_labels_that_disagree_are_unknown(tmp_path: Path) -> None:
    other = WAN.replace("low", "high", 1)
    split(tmp_path / "in", "train", row("1_000", 0, WAN, "a"), row("1_000", 1, other, "b"), row("1_000", 2, LU, ""))
    report = tool.prepare(tmp_path / "in", tmp_path / "out")
    found = read(tmp_path / "out")
    np.testing.assert_array_equal(found.labels, [[np.nan, 1, 1, 1, 1]])
    assert "left out: 1, Neuroticism both high and low in one dialogue: 1_000_林宛瑜" in report
    assert "left out: 1, speaker who says nothing: 1_000_陆展博" in report


def test_videos_of_dialogues(tmp_path: Path) -> None:
    (tmp_path / "media/27").mkdir(parents=True)
    (tmp_path / "media/27/27_000.mp4").touch()
    arguments = [str(source(tmp_path / "in")), str(tmp_path / "out"), "--media", str(tmp_path / "media")]
    assert tool.main(arguments) == 0
    videos = [clip.video and clip.video.name for clip in read(tmp_path / "out", check_files=True).clips]
    assert videos == ["27_000.mp4", "27_000.mp4", None, None, None]


def test_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    tool.prepare(folder, tmp_path / "out")
    first = contents(tmp_path / "out")
    tool.prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == first
    assert "transcripts/27_001.json" in checksums_hold(tmp_path / "out")


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            (row("1_000", 0, WAN.replace("low", "medium"), "a"),),
            r"train_split\.csv:2: Neuroticism 'medium'; expected high",
        ),
        ((row("1_000", 0, WAN, "a"),) * 2, r"train_split\.csv:3: Utterance_ID '1_000_000' is already at"),
        ((row("1_000", 0, WAN[3:], "a"),), r"train_split\.csv:2: Dialogue_ID or Speaker is empty"),
        ((row("31_000", 7, WAN, "a"),), r"valid_split\.csv:2: dialogue 31_000 is also in train"),
        ((row("1_000", 0, WAN, "a, b"),), r"train_split\.csv:2: 19 cells; the header has 18 columns"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    folder = source(tmp_path / "in")
    split(folder, "train", *rows)
    with pytest.raises(ManifestError, match=message):
        tool.prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_column_and_missing_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = source(tmp_path / "in")
    lines(folder / "test_split.csv", [HEADER.replace(",Openness", "")])
    assert tool.main([str(folder), str(tmp_path / "out")]) == 2
    assert "test_split.csv:1: columns are missing: Openness" in capsys.readouterr().err
    assert tool.main([str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    assert "none of train_split.csv, valid_split.csv, test_split.csv is there" in capsys.readouterr().err
