import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.manifest import read, read_features

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("prepare_youtube", ROOT / "tools" / "prepare_youtube_personality.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

SCORES = "YouTube-Personality-Personality_impression_scores.csv"
FEATURES = "YouTube-Personality-audiovisual_features.csv"
GENDER = "YouTube-Personality-gender.csv"
FILES = {
    SCORES: '"vlogId" Extr Agr Cons Emot Open\n'
    "VLOG1 4.9 3.7 3.6 3.2 5.5\nVLOG3 5 5 4.6 5.3 4.4\nVLOG5 1 7 2 3 4\nVLOG7 1 1 1 1 1\n",
    FEATURES: "vlogId mean.pitch sd.pitch num.turns\n"
    "VLOG1 255.37 79.95 0.5\nVLOG3 209.03 NA 1\nVLOG5 1 2 3\nVLOG9 4 5 6\n",
    GENDER: "vlogId gender\nVLOG1 Female\nVLOG3 Male\nVLOG5 NA\n",
    "transcripts/VLOG1.txt": "You might want to turn the volume up. XXXX\n",
    "transcripts/VLOG3.txt": "Hi “you”",
    "transcripts/VLOG7.txt": " \n",
    "transcripts/VLOG8.txt": "nobody",
}  # fmt: skip


def corpus(folder: Path, **changed: str | None) -> Path:
    for name, text in {**FILES, **{k: v for k, v in changed.items() if v is not None}}.items():
        if changed.get(name, text) is not None:
            path = folder / "youtube-personality" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder


def test_three_tables_and_transcripts_become_a_manifest(tmp_path: Path) -> None:
    report = tool.prepare(corpus(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.text, dict(c.attributes), dict(c.features)) for c in found.clips] == [
        ("VLOG1", "VLOG1", "You might want to turn the volume up. XXXX", {"gender": "Female"},
         {"vlog": "vlog.npz#VLOG1"}),
        ("VLOG3", "VLOG3", "Hi “you”", {"gender": "Male"}, {}),
        ("VLOG5", "VLOG5", None, {}, {"vlog": "vlog.npz#VLOG5"}),
    ]  # fmt: skip
    names = ("extraversion", "agreeableness", "conscientiousness", "emotional_stability", "openness")
    assert found.schema.trait_names == names and found.schema.construct == "apparent"
    assert {(t.low, t.high) for t in found.schema.traits} == {(1.0, 7.0)}
    np.testing.assert_array_equal(found.labels, [[4.9, 3.7, 3.6, 3.2, 5.5], [5, 5, 4.6, 5.3, 4.4], [1, 7, 2, 3, 4]])
    (first, second) = read_features(found.folder, ["vlog.npz#VLOG1", "vlog.npz#VLOG5"])
    np.testing.assert_allclose(first, [[255.37, 79.95, 0.5]])
    np.testing.assert_allclose(second, [[1, 2, 3]])
    assert (tmp_path / "out" / "vlog.columns.txt").read_text() == "mean.pitch\nsd.pitch\nnum.turns\n"
    assert "left out: 1, features of vlogs that lack one of them: VLOG3" in report
    assert "left out: 1, without impression scores: VLOG9" in report
    assert "left out: 1, text files of no vlog: VLOG8.txt" in report
    assert "left out: 1, without transcript and features: VLOG7" in report
    assert "{use: precomputed, size: 3}" in report


def test_without_any_usable_features_there_is_no_stream(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "in", **{FEATURES: "vlogId mean.pitch\nVLOG1 NA\n"})
    tool.prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "vlog.npz").exists()
    assert [c.id for c in read(tmp_path / "out").clips] == ["VLOG1", "VLOG3"]


def test_a_transcript_in_latin_1(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "in")
    (folder / "youtube-personality/transcripts/VLOG1.txt").write_bytes("café".encode("latin-1"))
    tool.prepare(folder, tmp_path / "out")
    assert read(tmp_path / "out").clips[0].text == "café"


def test_running_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    tool.prepare(corpus(tmp_path / "in"), tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    tool.prepare(tmp_path / "in", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


@pytest.mark.parametrize(
    "name, text, message",
    [
        (SCORES, None, "0 files *impression_scores*.csv; expected one"),
        (SCORES.replace(".csv", "_train.csv"), FILES[SCORES], "2 files *impression_scores*.csv; expected one"),
        (SCORES, FILES[SCORES].replace("4.9", "7.5"), "scores.csv:2: Extr 7.5 is outside the scale [1, 7]"),
        (SCORES, FILES[SCORES].replace("VLOG3", "VLOG1"), "vlogId 'VLOG1' is already at"),
        (SCORES, FILES[SCORES].replace("Emot", "Emo"), "columns are missing: Emot; did you mean 'Emo'?"),
        (FEATURES, FILES[FEATURES].replace("79.95", "high"), "features.csv:2: sd.pitch 'high' is not a number"),
        (FEATURES, FILES[FEATURES].replace(" 79.95", ""), "features.csv:2: 3 cells; the header has 4 columns"),
    ],
)
def test_bad_input(tmp_path: Path, capsys, name: str, text: str | None, message: str) -> None:
    folder = corpus(tmp_path / "in", **{name: text})
    assert tool.main([str(folder), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert tool.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err
