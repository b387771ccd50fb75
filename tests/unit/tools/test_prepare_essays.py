import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.manifest import read

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("prepare_essays", ROOT / "tools" / "prepare_essays.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

HEADER = "#AUTHID,TEXT,cEXT,cNEU,cAGR,cCON,cOPN"


def essays(path: Path, *rows: str, encoding: str = "utf-8") -> Path:
    path.write_bytes("\r\n".join([HEADER, *rows, ""]).encode(encoding))
    return path


ROWS = (
    '1997_504851.txt,"Well, right now I just ""woke up"".\r\nSo.",n,y,y,n,y',
    "1997_605191.txt,Well here we go,Y,n,y,,n",
    "1997_605191.txt,Again me,y,y,y,y,y",
    "1997_687252.txt,,y,y,y,y,y",
)


def test_the_table_becomes_a_manifest(tmp_path: Path) -> None:
    report = tool.prepare(essays(tmp_path / "essays.csv", *ROWS), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.text) for c in found.clips] == [
        ("1997_504851.txt", "1997_504851.txt", 'Well, right now I just "woke up".\r\nSo.'),
        ("1997_605191.txt", "1997_605191.txt", "Well here we go"),
    ]
    assert found.schema.trait_names == (
        "extraversion", "neuroticism", "agreeableness", "conscientiousness", "openness",
    )  # fmt: skip
    np.testing.assert_array_equal(found.labels, [[0, 1, 1, 0, 1], [1, 0, 1, np.nan, 0]])
    assert (found.schema.construct, found.schema.rated) == ("self_reported", "person")
    assert {trait.kind for trait in found.schema.traits} == {"binary"}
    assert found.schema.traits[1].opposite_of == "emotional_stability"
    assert "2 clips of 2 persons" in report and "conscientiousness 1" in report and "read as utf-8-sig" in report
    assert "left out: 1, without author or text: 1997_687252.txt" in report
    assert "left out: 1, another text of an author who is already in" in report


@pytest.mark.parametrize("encoding, text", [("cp1252", "I’m café"), ("latin-1", "caf\x81é"), ("utf-8", "I’m café")])
def test_copies_in_other_encodings(tmp_path: Path, encoding: str, text: str) -> None:
    path = essays(tmp_path / "essays.csv", f"a,{text},n,y,y,n,y", encoding=encoding)
    report = tool.prepare(path, tmp_path / "out")
    assert read(tmp_path / "out").clips[0].text == text
    assert report.endswith(f"read as {encoding}".replace("utf-8", "utf-8-sig"))


def test_running_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    path = essays(tmp_path / "essays.csv", *ROWS)
    tool.prepare(path, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    tool.prepare(path, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert set(first) == {"clips.csv", "schema.yaml", "dataset.yaml", "clips.csv.sha256"}


@pytest.mark.parametrize(
    "rows, arguments, message",
    [
        (["a,text,n,x,y,n,maybe"], [], "essays.csv:2: cNEU 'x'; expected y, n or an empty cell"),
        (["a,text,n,x,y,n,maybe"], [], "essays.csv:2: cOPN 'maybe'; expected y, n"),
        (["a,text,n"], [], "essays.csv:2: 3 cells; the header has 7 columns"),
        (["a,,n,y,y,n,y"], [], "no clip is left; nothing was written"),
        (["a,café,n,y,y,n,y"], ["--encoding", "ascii"], "essays.csv:2: byte 0xc3 is not ASCII"),
        (["a,text,n,y,y,n,y"], ["--encoding", "klingon"], "--encoding 'klingon'"),
    ],
)
def test_bad_input(tmp_path: Path, capsys, rows: list[str], arguments: list[str], message: str) -> None:
    path = essays(tmp_path / "essays.csv", *rows)
    assert tool.main([str(path), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_columns_are_named(tmp_path: Path, capsys) -> None:
    (tmp_path / "essays.csv").write_text("#AUTHID,TEXT,cEXT,cNEU,cAGR,cCON,OPN\n")
    assert tool.main([str(tmp_path / "essays.csv"), str(tmp_path / "out")]) == 2
    assert "columns are missing: cOPN; did you mean 'OPN'?" in capsys.readouterr().err
