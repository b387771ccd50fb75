import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.manifest import read

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("prepare_folder", ROOT / "tools" / "prepare_folder.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

SCALE = ["--low", "1", "--high", "5", "--construct", "apparent", "--judged-by", "three students"]
TRAITS = ["--id", "file", "--traits", "Openness", "Emotional Stability", *SCALE]
FILES = ("a.mp4", "a.wav", "a.srt", "day 1/b.MOV", "c.wav", "c.txt", "notes.pdf", "d.mp4", "only.txt")
LABELS = """file,who,fold,sex,Openness,Emotional Stability
a,p1,train,f,1,5
day 1/b.MOV,p1,valid,,2.5,
c,p2,test,m,3,3
gone.mp4,p3,train,m,4,4
only,p4,,m,5,5
"""


def folder(path: Path, files: tuple[str, ...] = FILES) -> Path:
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("words" if name.endswith("txt") else "")
    return path


def arguments(tmp_path: Path, labels: str = LABELS, *options: str, files: tuple[str, ...] = FILES) -> list[str]:
    table = tmp_path / "labels.csv"
    table.write_text(labels, encoding="utf-8")
    return [str(folder(tmp_path / "media", files)), str(table), str(tmp_path / "out"), *options]


def test_rows_find_their_files(tmp_path: Path, capsys) -> None:
    columns = ["--person", "who", "--split", "fold", "--attributes", "sex"]
    assert tool.main(arguments(tmp_path, LABELS, *TRAITS, *columns)) == 0
    report = capsys.readouterr().out
    found = read(tmp_path / "out", check_files=True)

    def inside(path: Path | None) -> str | None:
        return None if path is None else path.resolve().relative_to(tmp_path / "media").as_posix()

    files = [tuple(map(inside, (c.video, c.audio, c.transcript))) for c in found.clips]
    assert dict(zip([c.id for c in found.clips], files, strict=True)) == {
        "a": ("a.mp4", "a.wav", "a.srt"),
        "day 1/b.MOV": ("day 1/b.MOV", None, None),
        "c": (None, "c.wav", "c.txt"),
        "only": (None, None, "only.txt"),
    }
    assert [c.person for c in found.clips] == ["p1", "p1", "p2", "p4"]
    assert found.splits == ("train", "val", "test", None)
    assert [dict(c.attributes) for c in found.clips] == [{"sex": "f"}, {}, {"sex": "m"}, {"sex": "m"}]
    assert found.schema.trait_names == ("openness", "emotional_stability")
    assert found.schema.judged_by == "three students" and found.schema.traits[0].high == 5
    np.testing.assert_array_equal(found.labels, [[1, 5], [2.5, np.nan], [3, 3], [5, 5]])
    assert "left out: 1, rows without a file of that name: gone.mp4" in report
    assert "left out: 1, files without a row: d.mp4" in report
    assert "../media/a.mp4" in (tmp_path / "out" / "clips.csv").read_text()


def test_names_with_a_suffix_and_names_without_a_folder(tmp_path: Path) -> None:
    labels = "file,Openness\na.wav,1\na.mp4,2\nb.MOV,3\n"
    assert tool.main(arguments(tmp_path, labels, "--id", "file", "--traits", "Openness", *SCALE)) == 0
    first, second, third = read(tmp_path / "out", check_files=True).clips
    assert first.video is None and first.audio is not None and first.transcript is not None
    assert second.video is not None and second.audio is None and second.transcript is not None
    assert third.id == "b.MOV" and third.video is not None


def test_a_schema_file_and_text_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: x\nconstruct: apparent\njudged_by: us\ntraits: [{name: emotional_stability, low: 0, high: 1}]\n"
    )
    labels = "file\tEmotional Stability\tsaid\na\t0.5\tHello, you\n"
    options = ["--id", "file", "--schema", str(tmp_path / "s.yaml"), "--text", "said"]
    assert tool.main(arguments(tmp_path, labels, *options)) == 0
    found = read(tmp_path / "out")
    assert found.clips[0].text == "Hello, you" and found.labels.tolist() == [[0.5]]


def test_running_it_again_gives_the_same_bytes_and_keeps_what_was_said_of_the_data(tmp_path: Path) -> None:
    given = arguments(tmp_path, LABELS, *TRAITS)
    assert tool.main(given) == 0
    (tmp_path / "out" / "dataset.yaml").write_text("about: mine\nlicence: mine\n")
    assert tool.main(given) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert tool.main(given) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert first["dataset.yaml"] == b"about: mine\nlicence: mine\n"


@pytest.mark.parametrize(
    "labels, options, message",
    [
        (LABELS, ["--id", "file"], "no schema: name --schema FILE, or all of --traits --low --high"),
        (LABELS, ["--id", "file", "--traits", "Openness", *SCALE[:4]], "no schema: "),
        (LABELS, [*TRAITS, "--low", "6"], "--low 6 is not below --high 5"),
        (LABELS, ["--id", "flie", *TRAITS[2:]], "columns are missing: flie; did you mean 'file'?"),
        (LABELS, ["--id", "file", "--traits", "Opennes", *SCALE], "no column for trait 'opennes'; did you mean 'Open"),
        (LABELS.replace("2.5", "25"), TRAITS, "labels.csv:3: Openness 25 is outside the scale [1, 5]"),
        (LABELS.replace("2.5", "high"), TRAITS, "labels.csv:3: Openness 'high' is not a number"),
        (LABELS.replace("c,p2", "a,p2"), TRAITS, "labels.csv:4: file 'a' is already at"),
        (LABELS.replace("c,p2", "a.mp4,p2"), TRAITS, "labels.csv:4: 'a.mp4' names a file of 'a'; one row per clip"),
        (LABELS, [*TRAITS, "--split", "who"], "labels.csv:2: split 'p1'; expected one of train"),
        ("file,Openness\nx,1\n", ["--id", "file", "--traits", "Openness", *SCALE], "no clip is left"),
    ],
)
def test_bad_input(tmp_path: Path, capsys, labels: str, options: list[str], message: str) -> None:
    assert tool.main(arguments(tmp_path, labels, *options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "files, code, message",
    [
        (("one/a.mp4", "two/a.mp4"), 2, "labels.csv:2: 'a' may be one/a or two/a; name the folder too"),
        (("a.mkv", "a.mp4"), 0, "left out: 1, a second video of one stem: a.mp4"),
    ],
)
def test_two_files_of_one_name(tmp_path: Path, capsys, files: tuple[str, ...], code: int, message: str) -> None:
    options = ["--id", "file", "--traits", "Openness", *SCALE]
    assert tool.main(arguments(tmp_path, "file,Openness\na,1\n", *options, files=files)) == code
    assert message in "".join(capsys.readouterr())


def test_no_such_folder(tmp_path: Path, capsys) -> None:
    given = arguments(tmp_path, LABELS, *TRAITS)
    assert tool.main([str(tmp_path / "nowhere"), *given[1:]]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
