import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.manifest import read

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("prepare_table", ROOT / "tools" / "prepare_table.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

EXAMPLE = (ROOT / "datasets" / "mapped_table" / "example.yaml").read_text(encoding="utf-8")
TABLE = """subject;question;sex;age_group;fold;E;N;open_class;note
ann;q1;f;20s;training;2,5;1;high;café
ann;q2;f;20s;training;3;NA;low;
bob;q1;m;-99;valid;4;5;;x
cat;q1;NA;30s;;1;1;low;
""".replace("2,5", "2.5")
MINIMAL = """
name: x
construct: apparent
judged_by: us
id: name
text: said
traits: {warm: {column: W, low: 0, high: 10}}
"""


def media(folder: Path) -> None:
    for name in ("videos/ann/q1.mp4", "videos/bob/q1.mp4", "ann_q1.srt", "ann_q2.srt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")


def run(tmp_path: Path, table: str, mapping: str, *options: str, name: str = "table.csv") -> int:
    (tmp_path / name).write_text(table, encoding="latin-1" if "latin-1" in mapping else "utf-8")
    (tmp_path / "mapping.yaml").write_text(mapping, encoding="utf-8")
    return tool.main([str(tmp_path / name), str(tmp_path / "mapping.yaml"), str(tmp_path / "out"), *options])


def test_the_example_in_the_readme_s_folder(tmp_path: Path, capsys) -> None:
    media(tmp_path)
    assert run(tmp_path, TABLE, EXAMPLE) == 0
    report = capsys.readouterr().out
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.question) for c in found.clips] == [
        ("ann_q1", "ann", "q1"),
        ("ann_q2", "ann", "q2"),
        ("bob_q1", "bob", "q1"),
    ]
    assert [(c.video is not None, c.transcript is not None) for c in found.clips] == [
        (True, True), (False, True), (True, False),
    ]  # fmt: skip
    assert [dict(c.attributes) for c in found.clips] == [
        {"gender": "f", "age": "20s"}, {"gender": "f", "age": "20s"}, {"gender": "m"},
    ]  # fmt: skip
    assert found.splits == ("train", "train", "val")
    np.testing.assert_array_equal(found.labels, [[2.5, 5, 1], [3, np.nan, 0], [4, 1, np.nan]])
    binary = found.schema.traits[2]
    assert (binary.name, binary.kind, binary.low, binary.high) == ("openness", "binary", 0.0, 1.0)
    assert found.schema.traits[1].opposite_of == "neuroticism" and found.schema.transform == "z_score"
    assert "emotional_stability: reversed, label = 6 - N" in report
    assert "video files that are not there: ann_q2 (" in report
    assert "rows without video, audio, transcript and text: cat_q1" in report


def test_a_small_mapping_and_times(tmp_path: Path) -> None:
    mapping = MINIMAL + "start_s: from\nend_s: to\nsplit: part\n"
    assert run(tmp_path, "name,said,W,from,to,part\na,hello,3,1.5,2,test\nb,you,,,,\n", mapping) == 0
    first, second = read(tmp_path / "out").clips
    assert (first.start_s, first.end_s, first.text) == (1.5, 2.0, "hello")
    assert (second.start_s, second.end_s, read(tmp_path / "out").splits) == (0.0, None, ("test", None))


def test_json_lines_tabs_and_gzip_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"name": "a", "said": "hi,\nyou", "W": 3},
        {"name": "b", "said": "x", "W": None},
        {"name": "c", "said": "y"},
    ]
    assert run(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n", MINIMAL, name="t.jsonl") == 0
    first = (tmp_path / "out" / "clips.csv").read_bytes()
    tabs = 'name\tsaid\tW\na\t"hi,\nyou"\t3\nb\tx\t\nc\ty\t\n'
    assert run(tmp_path, tabs, MINIMAL, name="t.tsv") == 0
    assert (tmp_path / "out" / "clips.csv").read_bytes() == first
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(tabs.encode()))
    assert tool.main([str(tmp_path / name) for name in ("t.csv.gz", "mapping.yaml", "out")]) == 0
    assert (tmp_path / "out" / "clips.csv").read_bytes() == first
    np.testing.assert_array_equal(read(tmp_path / "out").labels, [[3], [np.nan], [np.nan]])


def test_media_may_lie_elsewhere(tmp_path: Path) -> None:
    media(tmp_path / "far")
    assert run(tmp_path, TABLE, EXAMPLE, "--media", str(tmp_path / "far")) == 0
    video = read(tmp_path / "out", check_files=True).clips[0].video
    assert video is not None and video.resolve() == tmp_path / "far/videos/ann/q1.mp4"


def test_running_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    media(tmp_path)
    assert run(tmp_path, TABLE, EXAMPLE) == 0
    (tmp_path / "out" / "dataset.yaml").write_text("about: mine\nlicence: mine\n")
    assert run(tmp_path, TABLE, EXAMPLE) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run(tmp_path, TABLE, EXAMPLE) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert first["dataset.yaml"].startswith(b"about: mine")


def test_all_problems_of_a_mapping_at_once(tmp_path: Path, capsys) -> None:
    mapping = """
name: x
contruct: apparent
judged_by: us
id: name
split: {column: part, vals: {a: train}}
traits:
  Warm: {column: W}
  cold: {colum: C, low: 0}
  odd: {column: O, reverse: true}
  yes: {column: Y, kind: binary, low: 1, high: 5}
"""
    assert run(tmp_path, "name\n", mapping) == 2
    error = capsys.readouterr().err
    for message in (
        "contruct: unknown key; did you mean 'construct'?",
        "mapping.yaml: construct: missing",
        "split.vals: unknown key; did you mean 'values'?",
        "traits.Warm.[key]: 'Warm': String should match pattern",
        "traits.cold.column: missing",
        "traits.cold.colum: unknown key; did you mean 'column'?",
        "traits.odd: ",
        "reverse needs low and high",
        "a binary trait is 0 or 1; leave low and high out",
    ):
        assert message in error
    assert not (tmp_path / "out").exists()


def test_all_problems_of_the_rows_at_once(tmp_path: Path, capsys) -> None:
    mapping = MINIMAL.replace("traits: {", "split: part\ntraits: {b: {column: B, kind: binary, values: {y: 1}}, ")
    table = "name,said,W,part,B\na,x,11,train,y\na,x,hot,fold 7,y\n,x,1,,z\n"
    assert run(tmp_path, table, mapping) == 2
    error = capsys.readouterr().err
    for message in (
        "table.csv:2: W 11 is outside the scale [0, 10] of warm",
        "table.csv:3: id 'a' is already at",
        "table.csv:3: W 'hot' is not a number",
        "table.csv:3: split 'fold 7'; expected one of train",
        "table.csv:4: no id from 'name'",
        "table.csv:4: B 'z'; expected one of y (traits.b.values), or a word in missing",
    ):
        assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, table, mapping, message",
    [
        ("t.csv", "nam,said,W\na,x,1\n", MINIMAL, "t.csv:1: columns are missing: name; did you mean 'nam'?"),
        ("t.csv", "name,said,W\na,,1\n", MINIMAL, "no clip is left; nothing was written"),
        ("t.csv", "name,said,W\na,x,2\n", MINIMAL.replace("low: 0, high: 10", "kind: binary"), "W '2'; a binary trait"),
        ("t.csv", "name,said,W\na,x,1\n", MINIMAL + "encoding: klingon\n", "encoding 'klingon': "),
        ("t.csv", "name,said,W\na,x,1\n", MINIMAL + "name: y\n", "not readable as YAML: "),
        ("t.csv", "name,said,W\na,x,1\n", "- a\n", "no mapping; expected the keys name, construct, judged_by"),
        ("t.jsonl", '{"nam": "a", "said": "x", "W": 1}\n', MINIMAL, "no object has 'name'; did you mean 'nam'?"),
        ("t.jsonl", '{"name": "a"\n[1]\n', MINIMAL, "t.jsonl:1: not readable as JSON"),
        ("t.jsonl", '{"name": "a"\n[1]\n', MINIMAL, "t.jsonl:2: list; expected one object a line"),
    ],
)
def test_bad_input(tmp_path: Path, capsys, name: str, table: str, mapping: str, message: str) -> None:
    assert run(tmp_path, table, mapping, name=name) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there(tmp_path: Path, capsys) -> None:
    paths = [str(tmp_path / name) for name in ("t.csv", "m.yaml", "out")]
    assert tool.main(paths) == 2
    assert "m.yaml: not readable as YAML" in capsys.readouterr().err
    (tmp_path / "m.yaml").write_text(MINIMAL)
    assert tool.main(paths) == 2
    assert "t.csv: No such file" in capsys.readouterr().err
