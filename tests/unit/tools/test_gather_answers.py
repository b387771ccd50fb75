"""Several answers of a person as one row: their order, what is missing, and that the system reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tool_scripts import checksums_hold, lines, tool

from mmtraits import config, parts
from mmtraits.data.manifest import read, read_features
from mmtraits.extract import extract

gather = tool("gather_answers")
SYSTEM = Path(__file__).resolve().parents[3] / "configs" / "systems" / "aspects_365.yaml"
SCHEMA = "name: x\nconstruct: apparent\njudged_by: us\nrated: person\ntraits: [{name: warm, low: 0, high: 1}]\n"
HEAD = "id,person,question,split,warm,text,attr_gender,attr_mood,feature_text,feature_voice"
CLIPS = [
    "b2,b,q2,train,0.4,later,2,calm,text.npz#b2,voice.npz#b2",
    "b1,b,q1,train,0.4,first,2,glad,text.npz#b1,",
    "b1_again,b,q1,train,0.4,again,2,glad,text.npz#b1,voice.npz#b2",
    "a1,a,q1,test,0.2,,1,,,voice.npz#a1",
    "a3,a,q3,test,,silence,1,,,",
    "c2,,q2,test,0.9,,1,,text.npz#b1,",
    "d1,d,,train,0.9,,1,,text.npz#b1,",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    lines(folder / "clips.csv", [HEAD, *CLIPS])
    (folder / "schema.yaml").write_text(SCHEMA)
    np.savez(folder / "text.npz", b1=np.full((3, 4), 1.0), b2=np.array([[1.0] * 4, [3.0] * 4]))
    np.savez(folder / "voice.npz", b2=np.full(2, 5.0), a1=np.full((1, 2), 6.0))
    return folder


def steps(out: Path, person: str, stream: str) -> list[list[float]]:
    clip = next(clip for clip in read(out).clips if clip.id == person)
    return read_features(out, [clip.features[stream]])[0].tolist()


def test_a_row_per_person_with_an_answer_per_question(corpus: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert gather.main([str(corpus), str(out)]) == 0
    found = read(out, check_files=True)
    assert [(clip.id, clip.person, split) for clip, split in zip(found.clips, found.splits, strict=True)] == [
        ("b", "b", "train"), ("a", "a", "test"),
    ]  # fmt: skip
    assert steps(out, "b", "text") == [[1.0] * 4, [2.0] * 4]  # q1, q2: steps of an answer are averaged
    assert steps(out, "b", "voice") == [[0.0] * 2, [5.0] * 2]  # q1 was not heard
    assert steps(out, "a", "voice") == [[6.0] * 2] and set(found.clips[1].features) == {"voice"}
    assert found.clips[0].text == "first\nlater" and found.clips[0].attributes == {"gender": "2"}
    np.testing.assert_allclose(found.labels[:, 0], [0.4, 0.2])
    assert found.schema.rated == "person"
    report = capsys.readouterr().out
    for reason in (
        "1, clips of nobody: c2", "1, further answers to the same question: b1_again",
        "1, clips that answer no such question: d1", "1, answers without any of the streams: a3",
    ):  # fmt: skip
        assert f"left out: {reason}" in report
    assert "up to 2 answers of a person; 1 that lacked a stream have zeros there" in report
    assert report.endswith("  voice: {use: precomputed, size: 2, width: null}\n")
    assert {"text.npz", "voice.npz", "clips.csv"} <= checksums_hold(out)


def test_questions_and_streams_can_be_chosen(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gather.main([str(corpus), str(out), "--streams", "text", "--questions", "q2", "q1"]) == 0
    assert steps(out, "b", "text") == [[2.0] * 4, [1.0] * 4]
    assert [clip.id for clip in read(out).clips] == ["b"] and not (out / "voice.npz").exists()


def test_without_questions_answers_stand_in_the_order_of_ids(corpus: Path, tmp_path: Path) -> None:
    rows = [HEAD, *CLIPS[:3]]
    lines(corpus / "clips.csv", [",".join(row.split(",")[:2] + row.split(",")[3:]) for row in rows])
    assert gather.main([str(corpus), str(tmp_path / "out")]) == 0
    assert [row[0] for row in steps(tmp_path / "out", "b", "text")] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (CLIPS, ["--streams", "face"], "for face; its feature columns: feature_text, feature_voice"),
        (CLIPS, ["--questions", "q9"], "no clip answers q9; its questions: q1, q2, q3"),
        (["x,x,q1,train,0.5,hello,,,,"], [], "no column of features for any; its feature columns: none"),
        ([CLIPS[0], CLIPS[1].replace("train", "test")], [], "answers of person b are in the splits test, train"),
        ([*CLIPS[5:6], "e,,q1,test,0.9,,1,,,voice.npz#a1"], [], "no clip is left; nothing was written"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_nothing_is_written(corpus, tmp_path, capsys, rows, options, message) -> None:
    lines(corpus / "clips.csv", [HEAD, *rows])
    assert gather.main([str(corpus), str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_365_aspects_reads_the_answers_in_step(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gather.main([str(corpus), str(out)]) == 0
    sizes = ["streams.face=null", "streams.text.size=4", "streams.voice.size=2", f"data.cache={tmp_path / 'cache'}"]
    settings = config.load(SYSTEM, sizes)
    fusion = settings.fusion.model_copy(update={"sizes": {"text": 4, "voice": 2}})
    settings = settings.model_copy(update={"fusion": fusion})
    assert parts.problems(settings) == []
    found = extract(settings, read(out))
    assert [{s: raw.read().mask.sum() for s, raw in window.streams.items()} for window in found.windows] == [
        {"text": 2, "voice": 2}, {"text": 0, "voice": 1},
    ]  # fmt: skip
