import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tool_scripts import ROOT, checksums_hold, contents, lines
from tool_scripts import tool as load_tool

from mmtraits.data.manifest import read, read_schema
from mmtraits.errors import ManifestError
from mmtraits.media import transcript
from mmtraits.media.transcript import Utterance

tool = load_tool("prepare_recruitview")

TRAITS = (
    "openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism", "overall_personality",
    "interview_score", "answer_score", "speaking_skills", "confidence_score", "facial_expression",
    "overall_performance",
)  # fmt: skip


def record(identity: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": identity,
        "file_name": f"videos/vid_{identity}.mp4",
        "duration": "short",
        "question_id": "56",
        "question": "How do you deal with criticism?",
        "video_quality": "High",
        "user_no": "90",
        **{trait: -1.5 + k for k, trait in enumerate(TRAITS)},
        "transcript": "[00:00 - 00:03] Well, I listen.\n[00:03 - 00:12] And then I think.",
        "gemini_summary": "High Openness. Recommendation: hold.",
        **changes,
    }


RECORDS = (
    record("0082"),
    record("1575", user_no=91, transcript="", openness=6.35, question="Introduce  yourself"),
    record("1604", transcript="No stamps here.", neuroticism=None, split="validation"),
    record("1630", transcript=""),
)


def source(folder: Path, *records: dict[str, Any] | str, videos: tuple[str, ...] = ("0082", "1575")) -> Path:
    rows = [r if isinstance(r, str) else json.dumps(r) for r in records]
    lines(folder / "metadata.jsonl", [*rows, ""])
    (folder / "videos").mkdir(exist_ok=True)
    for name in videos:
        (folder / f"videos/vid_{name}.mp4").touch()
    return folder


def test_records_become_a_manifest(tmp_path: Path) -> None:
    report = tool.prepare(source(tmp_path / "in", *RECORDS), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.question, c.text) for c in found.clips] == [
        ("0082", "90", "How do you deal with criticism?", None),
        ("1575", "91", "Introduce yourself", None),
        ("1604", "90", "How do you deal with criticism?", "No stamps here."),
    ]
    assert [c.video and c.video.name for c in found.clips] == ["vid_0082.mp4", "vid_1575.mp4", None]
    assert dict(found.clips[0].attributes) == {"video_quality": "High", "duration": "short"}
    assert found.splits == (None, None, "val")
    assert found.schema.trait_names == tuple(t for t in TRAITS if t != "interview_score")
    assert found.schema.transform == "z_score" and found.schema.construct == "apparent"
    assert all(trait.low is trait.high is None for trait in found.schema.traits)
    assert found.labels[1, 0] == 6.35 and np.isnan(found.labels[2, 4])
    np.testing.assert_array_equal(found.labels[0], [v for k, v in enumerate(np.arange(-1.5, 10)) if k != 6])
    assert report.splitlines()[-2:] == [
        "left out: 1, video not found, its clip kept: 1604",
        "left out: 1, clip without video and words: 1630",
    ]


def test_transcripts_keep_their_times(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in", *RECORDS), tmp_path / "out")
    clip = read(tmp_path / "out").clips[0]
    assert clip.transcript and transcript.read(clip.transcript) == [
        Utterance(0.0, 3.0, None, "Well, I listen."),
        Utterance(3.0, 12.0, None, "And then I think."),
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("no stamp\n[00:01 - 00:02] late", []),
        ("[00:05 - 00:05] Yes.", [(5.0, 6.0, "Yes.")]),
        (
            "[01:02 - 01:10] one\n two \n\n[1:00:00 - 1:00:02] three",
            [(62.0, 70.0, "one two"), (3600.0, 3602.0, "three")],
        ),
        ("[00:00 - 00:04]\n[00:04 - 00:05] [laughs] ok", [(4.0, 5.0, "[laughs] ok")]),
    ],
)
def test_stamps(text: str, expected: list[tuple[float, float, str]]) -> None:
    assert [(u.start_s, u.end_s, u.text) for u in tool.timed(text)] == expected


def test_nothing_of_the_summary_reaches_the_manifest(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in", *RECORDS), tmp_path / "out", interview=True)
    assert not any(b"Recommendation" in data or b"gemini" in data for data in contents(tmp_path / "out").values())


def test_the_hiring_score_only_by_name(tmp_path: Path) -> None:
    arguments = [str(source(tmp_path / "in", *RECORDS)), str(tmp_path / "out"), "--interview"]
    assert tool.main(arguments) == 0
    found = read(tmp_path / "out")
    assert found.schema == read_schema(ROOT / "datasets/recruitview/schema.yaml")
    assert found.schema.trait_names == TRAITS and found.labels[0, 6] == 4.5


def test_again_gives_the_same_bytes_and_checksums(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", *RECORDS)
    tool.prepare(folder, tmp_path / "out")
    first = contents(tmp_path / "out")
    tool.prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == first
    names = {"clips.csv", "schema.yaml", "dataset.yaml", "transcripts/0082.vtt"}
    assert checksums_hold(tmp_path / "out") == names == set(first) - {"clips.csv.sha256"}


def test_media_elsewhere(tmp_path: Path) -> None:
    source(tmp_path / "media", videos=("1630",))
    tool.prepare(source(tmp_path / "in", *RECORDS), tmp_path / "out", media=tmp_path / "media")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.video is not None) for c in found.clips] == [("0082", False), ("1604", False), ("1630", True)]


@pytest.mark.parametrize(
    "records, message",
    [
        (("{not json",), r"metadata\.jsonl:1: not readable as JSON"),
        (([1],), r"metadata\.jsonl:1: keys are missing: id, file_name"),
        (({"id": "1"},), r"metadata\.jsonl:1: keys are missing: file_name, user_no, openness"),
        ((RECORDS[0], RECORDS[0]), r"metadata\.jsonl:2: id '0082' is already at .*metadata\.jsonl:1"),
        (
            (record("1", openness="high"), record("2", answer_score=float("inf")), record("3", split="later")),
            r"jsonl:1: openness 'high' is not a number\n.*jsonl:2: answer_score inf is.*\n.*jsonl:3: split 'later'",
        ),
        ((RECORDS[3],), r"clips\.csv: no clip is left; nothing was written\nleft out: 1, clip without video and words"),
    ],
)
def test_a_bad_source_is_one_message_and_nothing_written(tmp_path: Path, records, message: str) -> None:
    folder = source(tmp_path / "in", *(json.dumps(r) if isinstance(r, list) else r for r in records), videos=())
    with pytest.raises(ManifestError, match=message):
        tool.prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_metadata_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "metadata.jsonl" in capsys.readouterr().err
