import csv
import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.manifest import read, read_features

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("prepare", ROOT / "tools" / "prepare_first_impressions.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "emotional_stability", "interview")
HEADER = ("clip", "person", "split", *TRAITS, "gender", "transcript", *tool.VOICE)
LABELS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6")
VOICE = tuple(str(i + 0.5) for i in range(26))
ABSENT = ("",) * 26


def source(folder: Path, *rows: tuple[str, ...], faces: tuple[str, ...] = ("c",)) -> Path:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / "clips.csv.gz", "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    np.savez(folder / "faces.npz", clip=np.array(faces), features=np.ones((len(faces), 1280), np.float16))
    return folder


ROWS = (
    ("a", "p1", "train", *LABELS, "1", 'He said "hi", and\nleft.', *VOICE),
    ("b", "p1", "val", *LABELS, "2", "", *VOICE),
    ("c", "p2", "test", *LABELS, "2", " words ", *ABSENT),
    ("d", "p3", "test", *LABELS, "1", "", *ABSENT),
)


def test_the_table_becomes_a_manifest(tmp_path: Path) -> None:
    report = tool.prepare(source(tmp_path / "in", *ROWS, faces=("c", "gone")), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.text, dict(c.features), dict(c.attributes)) for c in found.clips] == [
        ("a", "p1", 'He said "hi", and\nleft.', {"voice": "voice.npz#a"}, {"gender": "1"}),
        ("b", "p1", None, {"voice": "voice.npz#b"}, {"gender": "2"}),
        ("c", "p2", "words", {"face": "face.npz#c"}, {"gender": "2"}),
    ]
    assert found.splits == ("train", "val", "test")
    assert found.schema.trait_names == TRAITS[:5] and found.schema.transform == "z_score"
    np.testing.assert_array_equal(found.labels, [[0.1, 0.2, 0.3, 0.4, 0.5]] * 3)
    np.testing.assert_array_equal(read_features(found.folder, ["voice.npz#b"])[0], [np.arange(26) + 0.5])
    assert read_features(found.folder, ["face.npz#c"])[0].shape == (1, 1280)
    assert "3 clips of 2 persons" in report and "1 clips with text+face" in report
    assert "dropped: 1 clips without transcript, voice and face; 1 faces of clips that have no row" in report


def test_running_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", *ROWS)
    tool.prepare(folder, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    tool.prepare(folder, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert set(first) == {"clips.csv", "schema.yaml", "dataset.yaml", "voice.npz", "face.npz"}


def test_the_schema_that_is_written_is_the_documented_one(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in", *ROWS), tmp_path / "out")
    assert read(tmp_path / "out").schema == tool.manifests.read_schema(ROOT / "datasets/first_impressions/schema.yaml")


def test_interview_only_by_name(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in", *ROWS), tmp_path / "out", interview=True)
    assert read(tmp_path / "out").schema.trait_names == TRAITS


def test_no_stream_at_all_of_one_kind(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in", ROWS[2], faces=()), tmp_path / "out")
    assert read(tmp_path / "out").clips[0].features == {}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clips.csv", "dataset.yaml", "schema.yaml"]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "clips.csv.gz").unlink(), "clips.csv.gz: "),
        (lambda f: (f / "clips.csv.gz").write_bytes(b"clip,person\n"), "clips.csv.gz: Not a gzipped file"),
        (lambda f: (f / "clips.csv.gz").write_bytes(gzip.compress(b"clip,person\na,b\n")), "columns split, openness"),
        (lambda f: (f / "faces.npz").unlink(), "faces.npz: "),
        (lambda f: source(f, (*ROWS[0][:11], *VOICE[:-1], "")), "clip a: its voice statistics are incomplete"),
        (
            lambda f: source(f, ("a", "p", "train", "x", *LABELS[1:], "1", "t", *VOICE)),
            "clip a: openness 'x' is not a number",
        ),
    ],
)
def test_a_bad_source_is_one_message_and_nothing_written(tmp_path: Path, capsys, spoil, message: str) -> None:
    folder = source(tmp_path / "in", *ROWS)
    spoil(folder)
    assert tool.main([str(folder), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_reports(tmp_path: Path, capsys) -> None:
    assert tool.main([str(source(tmp_path / "in", *ROWS)), str(tmp_path / "out")]) == 0
    assert "3 clips of 2 persons" in capsys.readouterr().out


def test_the_real_table(tmp_path: Path, real_data: Path) -> None:
    tool.prepare(real_data / "data" / "first_impressions", tmp_path)
    found = read(tmp_path)
    voice, face = (["voice" in c.features for c in found.clips], ["face" in c.features for c in found.clips])
    assert (len(found.clips), sum(voice), sum(face)) == (9781, 7998, 1781)
    assert not any(v and f for v, f in zip(voice, face, strict=True))
    assert len({clip.person for clip in found.clips}) == 2886
    assert sum(clip.text is None for clip in found.clips) == 11
