import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.manifest import read

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("prepare_pandora", ROOT / "tools" / "prepare_pandora.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

PROFILES = """author,mbti,gender,age,country,agreeableness,openness,conscientiousness,extraversion,neuroticism
ann,infp,f,27.0,Norway,10,99,30,40,50.5
bob,entj,m,,nan,,0,100,5,95
cat,intj,,x,,,,,,
dan,intj,,,,1,2,3,4,5
"""
COMMENTS = """author,body,created_utc,subreddit
ann,"First, ""quoted""
in two lines",1,a
bob,hello,2,b
ann,[deleted],3,a
nobody,unlabelled author,4,a
ann,second,5,a
ann,third,6,a
cat,no labels here,7,a
ann,,8,a
"""


def corpus(folder: Path, profiles: str = PROFILES, comments: str = COMMENTS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / tool.PROFILES).write_text(profiles, encoding="utf-8")
    (folder / tool.COMMENTS).write_text(comments, encoding="utf-8")
    return folder


def test_two_files_become_a_manifest(tmp_path: Path) -> None:
    report = tool.prepare(corpus(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.text) for c in found.clips] == [
        ("ann#1", "ann", 'First, "quoted"\nin two lines'),
        ("ann#2", "ann", "second"),
        ("ann#3", "ann", "third"),
        ("bob", "bob", "hello"),
    ]
    names = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
    assert found.schema.trait_names == names
    np.testing.assert_array_equal(found.labels, [[99, 30, 40, 10, 50.5]] * 3 + [[0, 100, 5, np.nan, 95]])
    assert (found.schema.construct, found.schema.rated) == ("self_reported", "person")
    assert found.schema.traits[4].opposite_of == "emotional_stability"
    assert dict(found.clips[0].attributes) == {"gender": "f", "age": "20s", "country": "Norway"}
    assert dict(found.clips[3].attributes) == {"gender": "m"}
    assert found.splits == (None,) * 4
    assert "4 clips of 2 persons" in report
    assert "left out: 1, authors without any label: cat" in report
    assert "left out: 1, authors with labels and no text: dan" in report
    assert "left out: 2 texts that are empty or deleted" in report


def test_joined_texts_are_one_clip_an_author(tmp_path: Path) -> None:
    tool.prepare(corpus(tmp_path / "in"), tmp_path / "out", join=True)
    found = read(tmp_path / "out")
    assert [(c.id, c.text) for c in found.clips] == [
        ("ann", 'First, "quoted"\nin two lines\nsecond\nthird'),
        ("bob", "hello"),
    ]
    assert found.labels.shape == (2, 5)


def test_a_cap_draws_the_same_texts_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    texts = [f"ann,text {i},{i},a" for i in range(30)]
    header = COMMENTS.splitlines()[0]
    drawn = []
    for name, rows in (("one", texts), ("two", texts[::-1])):
        folder = corpus(tmp_path / name, comments="\n".join([header, *rows]))
        report = tool.prepare(folder, tmp_path / f"{name}_out", cap=4)
        drawn.append([c.text for c in read(tmp_path / f"{name}_out").clips])
        assert "left out: 26 texts beyond the cap of 4" in report
    assert drawn[0] == drawn[1][::-1] and len(drawn[0]) == 4  # in the order of the file
    assert drawn[0] != [f"text {i}" for i in range(4)]


def test_one_joined_table(tmp_path: Path) -> None:
    path = tmp_path / "joined.csv"
    traits = "openness,conscientiousness,extraversion,agreeableness,neuroticism"
    path.write_text(f"author,text,{traits}\nann,one,1,2,3,4,5\nbob,two,,,,,\nann,three,1,2,3,4,5\n")
    report = tool.prepare(path, tmp_path / "out")
    found = read(tmp_path / "out")
    assert [(c.id, c.text) for c in found.clips] == [("ann#1", "one"), ("ann#2", "three")]
    np.testing.assert_array_equal(found.labels, [[1, 2, 3, 4, 5]] * 2)
    assert "left out: 1, rows without any label" in report


def test_running_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    tool.prepare(corpus(tmp_path / "in"), tmp_path / "out", cap=2)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    tool.prepare(corpus(tmp_path / "in"), tmp_path / "out", cap=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / tool.PROFILES).unlink(), "author_profiles.csv: No such file"),
        (lambda f: (f / tool.COMMENTS).unlink(), "all_comments_since_2015.csv: "),
        (lambda f: corpus(f, comments="user,body\na,b\n"), "comments_since_2015.csv:1: no column author"),
        (lambda f: corpus(f, comments="author,txt\na,b\n"), "no column body or text"),
        (lambda f: corpus(f, comments="author,body\nann,one,two\n"), "2015.csv:2: 3 cells; the header has 2"),
        (lambda f: corpus(f, profiles=PROFILES.replace("99", "101")), "openness 101 is outside the scale [0, 100]"),
        (lambda f: corpus(f, profiles=PROFILES.replace("bob", "ann")), "author 'ann' is already at"),
        (lambda f: corpus(f, comments="author,body\n"), "no clip is left; nothing was written"),
    ],
)
def test_bad_input(tmp_path: Path, capsys, spoil, message: str) -> None:
    folder = corpus(tmp_path / "in")
    spoil(folder)
    assert tool.main([str(folder), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_joined_table_that_contradicts_itself_or_hides_its_authors(tmp_path: Path, capsys) -> None:
    path = tmp_path / "joined.csv"
    traits = "openness,conscientiousness,extraversion,agreeableness,neuroticism"
    path.write_text(f"author,text,{traits}\nann,one,1,2,3,4,5\nann,two,1,2,3,4,6\n,three,1,2,3,4,5\n")
    assert tool.main([str(path), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "joined.csv:3: other labels of 'ann' than at" in error and "joined.csv:4: no author" in error
    path.write_text(f"text,{traits}\none,1,2,3,4,5\n")
    assert tool.main([str(path), str(tmp_path / "out")]) == 2
    assert "columns are missing: author" in capsys.readouterr().err
    assert tool.main([str(path), str(tmp_path / "out"), "--cap", "0"]) == 2
    assert "--cap 0; expected 1 or more" in capsys.readouterr().err
