import argparse
import collections
import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tool_scripts import checksums_hold, contents

from mmtraits.data.manifest import Manifest, read
from mmtraits.data.prepare import (
    Dropped,
    checked,
    command_line,
    feature_width,
    files_by_name,
    finish,
    labels,
    load_pickle,
    run,
    split_name,
    stream_name,
    table,
)
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="s",
    traits=(Trait(name="calm", low=1.0, high=5.0), Trait(name="free")),
    construct="apparent",
    judged_by="somebody",
)
NOTHING = Path("no such folder")


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


# ---------------------------------------------------------------------------------------------------- pickles


PLAIN = {
    "dict": {"a": 1, 2: [1.5, None, True], "t": ("x", b"\x00\xff"), "set": {1, 2}},
    "ordered": collections.OrderedDict(b=1, a=2),
    "f4": np.arange(6, dtype=np.float32).reshape(2, 3),
    "big_endian": np.arange(4, dtype=">i8"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "texts": np.array(["a", "bcd"]),
    "objects": np.array(["a", 1, None], dtype=object),
    "empty": np.zeros((0, 5)),
    "scalars": [np.float64(0.1), np.int16(-3), np.bool_(True), np.str_("é")],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_out_of_a_pickle_as_it_went_in(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(PLAIN, protocol))
    found = load_pickle(tmp_path / "x.pkl")
    assert found["dict"] == PLAIN["dict"] and found["ordered"] == PLAIN["ordered"]
    for name in ("f4", "big_endian", "fortran", "texts", "objects", "empty"):
        assert found[name].dtype == PLAIN[name].dtype and found[name].shape == PLAIN[name].shape
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], PLAIN[name])
    assert found["scalars"] == PLAIN["scalars"]
    assert [type(v) for v in found["scalars"]] == [type(v) for v in PLAIN["scalars"]]


def test_a_pickle_of_python_2_with_its_names(tmp_path: Path) -> None:
    # {'a': numpy.float64(1.5), 'caf\xe9': [set(['x'])]} as Python 2 writes it with protocol 0
    data = (
        b"(dp0\nS'a'\ncnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\xf8?'\ntRs"
        b"S'caf\\xe9'\n(lc__builtin__\nset\n((lS'x'\natRas."
    )
    (tmp_path / "x.pkl").write_bytes(data)
    assert load_pickle(tmp_path / "x.pkl") == {"a": 1.5, "café": [{"x"}]}


class _Runs:
    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "evil, name",
    [
        (lambda f: _Runs(os.mkdir, str(f)), r"(posix|nt)\.mkdir"),
        (lambda f: _Runs(eval, f"__import__('os').mkdir({str(f)!r})"), r"(builtins|__builtin__)\.eval"),
        (lambda f: _Runs(getattr, {}, "keys"), r"(builtins|__builtin__)\.getattr"),
        (
            lambda f: _Runs(subprocess.Popen, [sys.executable, "-c", f"import os; os.mkdir({str(f)!r})"]),
            r"(subprocess|commands)",
        ),
        (lambda f: _Runs(np.load, str(f)), r"numpy\.load"),
        (lambda f: np.ma.masked_array([1.0]), r"numpy\.ma"),
        (lambda f: Path(f), r"pathlib"),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused_and_not_run(tmp_path: Path, evil, name: str, protocol: int) -> None:
    trace = tmp_path / "it ran"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"fine": 1, "then": evil(trace)}, protocol))
    with pytest.raises(ManifestError, match=rf"x\.pkl: refused: the pickle asks for {name}"):
        load_pickle(tmp_path / "x.pkl")
    assert not trace.exists()


def test_names_with_dots_reach_nothing_behind_the_list(tmp_path: Path) -> None:
    # protocol 4: STACK_GLOBAL builtins "dict.__class__", which a lookup by attributes would resolve to `type`
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04\x8c\x08builtins\x8c\x0edict.__class__\x93.")
    with pytest.raises(ManifestError, match=r"asks for builtins\.dict\.__class__"):
        load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "data",
    [b"", b"not a pickle", pickle.dumps([1, 2, 3])[:-4], b"cnumpy\nndarray\n(tR.", b"\x80\x04\x8c\x05nu", b"I1\nQ."],
)
def test_a_broken_pickle_is_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ManifestError, match=r"x\.pkl: not readable as a pickle"):
        load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("array", [np.zeros(2, dtype=[("a", "f4")]), np.zeros(2, dtype="M8[s]")])
def test_structured_arrays_and_dates_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(array))
    with pytest.raises(ManifestError, match="refused: an array of"):
        load_pickle(tmp_path / "x.pkl")


DTYPE = b"cnumpy\ndtype\n(S'%b'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI%d\ntb"


def test_an_object_posing_as_a_number_is_refused(tmp_path: Path) -> None:
    posing = b"cnumpy.core.multiarray\nscalar\n(" + DTYPE % (b"O8", 63) + b"S'12345678'\ntR."
    (tmp_path / "x.pkl").write_bytes(posing)
    with pytest.raises(ManifestError, match="refused: an object posing as a number"):
        load_pickle(tmp_path / "x.pkl")


def test_flags_that_call_numbers_pointers_are_not_believed(tmp_path: Path) -> None:
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
    (tmp_path / "x.pkl").write_bytes(array + DTYPE % (b"f8", 63) + b"I00\nS'12345678'\ntb.")
    found = load_pickle(tmp_path / "x.pkl")
    assert found.dtype == np.float64 and not found.dtype.hasobject
    np.testing.assert_array_equal(found, np.frombuffer(b"12345678"))


def test_arrays_within_arrays_and_containers(tmp_path: Path) -> None:
    inner = np.empty((1, 2), dtype=object)
    inner[0] = [np.arange(2), "a"]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([({"a": inner},)], 2))
    found = load_pickle(tmp_path / "x.pkl")[0][0]["a"]
    assert found.shape == (1, 2) and found[0, 1] == "a" and type(found[0, 0]) is np.ndarray
    np.testing.assert_array_equal(found[0, 0], [0, 1])


def test_a_missing_pickle(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"x\.pkl: No such file"):
        load_pickle(tmp_path / "x.pkl")


# ---------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_mark_blank_lines_and_quotes(tmp_path: Path, delimiter: str) -> None:
    text = '\r\nid,calm, note\r\n\r\na,1,"x\ny"\r\nb , 2 ,\r\n'.replace(",", delimiter)
    rows = table(written(tmp_path / "t.csv", text, "utf-8-sig"), ("id", "calm"))
    assert [(row.where.removeprefix(str(tmp_path)), dict(row.cells)) for row in rows] == [
        ("/t.csv:4", {"id": "a", "calm": "1", "note": "x\ny"}),
        ("/t.csv:6", {"id": "b", "calm": "2", "note": ""}),
    ]
    assert rows[0]["calm"] == "1" and rows[0].get("gone") == ""


def test_a_text_in_another_delimiter_does_not_mislead(tmp_path: Path) -> None:
    rows = table(written(tmp_path / "t.csv", "id;text, with, commas;calm\na;x;1\n"), ("id", "calm"))
    assert rows[0]["text, with, commas"] == "x"


def test_gzip_spaces_and_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"id,calm\na,1\n"))
    assert table(tmp_path / "t.csv.gz", ("id",))[0]["calm"] == "1"
    spaced = table(written(tmp_path / "t.txt", "id  calm\nVLOG1   2\n"), ("id", "calm"), delimiter=" ")
    assert dict(spaced[0].cells) == {"id": "VLOG1", "calm": "2"}
    latin = table(written(tmp_path / "l.csv", "id,calm\nné,1\n", "latin1"), ("id",), encoding="latin1")
    assert latin[0]["id"] == "né"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"t\.csv: the file is empty; expected a header with id, calm"),
        ("id,Calm\na,1\n", r"t\.csv:1: columns are missing: calm; did you mean 'Calm'\?; found are id, Calm"),
        ("key,calmer\n", r"t\.csv:1: columns are missing: id, calm; did you mean 'calmer'\?"),
        ("id,calm,id\na,1,b\n", r"t\.csv:1: column 'id' is there twice"),
        ("id,calm\na,1\nb\n\nc,1,2\n", r"t\.csv:3: 1 cells; the header has 2 columns\n.*t\.csv:5: 3 cells"),
        ("id,calm\na,1\na,2\n,3\n", r"t\.csv:3: id 'a' is already at .*t\.csv:2; .*\n.*t\.csv:4: id '' is empty"),
    ],
)
def test_problems_of_a_table_come_at_once_with_their_lines(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        table(written(tmp_path / "t.csv", text), ("id", "calm"), key=("id",))


def test_unreadable_tables(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"gone\.csv: No such file"):
        table(tmp_path / "gone.csv", ("id",))
    with pytest.raises(ManifestError, match=r"t\.csv:2: byte 0xe9 is not UTF-8"):
        table(written(tmp_path / "t.csv", "id\né\n", "latin1"), ("id",))
    with pytest.raises(ManifestError, match=r"t\.csv\.gz: Not a gzipped file"):
        table(written(tmp_path / "t.csv.gz", "id\n"), ("id",))


def test_labels_by_column_with_unknown_ones(tmp_path: Path) -> None:
    rows = table(written(tmp_path / "t.csv", "id,Calm,free\na,1,-7.5\nb,,\nc,5,1e3\n"), ("Calm",))
    np.testing.assert_array_equal(labels(rows, {"calm": "Calm"}, SCHEMA), [[1, -7.5], [np.nan, np.nan], [5, 1000]])
    assert labels([], {}, SCHEMA).shape == (0, 2)


def test_labels_off_the_scale_come_at_once(tmp_path: Path) -> None:
    rows = table(written(tmp_path / "t.csv", "calm,free\n0.9,1\n-3,x\n2,inf\n"), ("calm",))
    with pytest.raises(ManifestError) as caught:
        labels(rows, {}, SCHEMA)
    assert [line.partition("t.csv:")[2] for line in str(caught.value).splitlines()] == [
        "2: calm 0.9 is outside the scale [1, 5] of calm",
        "3: calm -3 is outside the scale [1, 5] of calm",
        "3: free 'x' is not a number",
        "4: free inf is outside the scale [-inf, inf] of free",
    ]


def test_checked_lets_unknown_pass() -> None:
    problems: list[str] = []
    assert np.isnan(checked(float("nan"), SCHEMA.traits[0], "here", problems)) and not problems


def test_names_of_splits() -> None:
    problems: list[str] = []
    cells = ("train", "Training", "dev", "valid", "validation", "val", "TEST", "")
    found = [split_name(cell, "here", problems) for cell in cells]
    assert found == ["train", "train", "val", "val", "val", "val", "test", None] and not problems
    assert split_name("holdout", "t.csv:4", problems) is None and "t.csv:4: split 'holdout'" in problems[0]


# ---------------------------------------------------------------------------------------------------- files


def test_files_by_name_look_everywhere_and_refuse_two_of_a_name(tmp_path: Path) -> None:
    for name in ("b/x.mp4", "a/deep/y.MP4", "a/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(files_by_name(tmp_path, (".mp4",)).items()) == [
        ("y.MP4", tmp_path / "a/deep/y.MP4"),
        ("x.mp4", tmp_path / "b/x.mp4"),
    ]
    (tmp_path / "a/x.mp4").touch()
    with pytest.raises(ManifestError, match=r"b/x\.mp4: a file of that name is already at .*a/x\.mp4"):
        files_by_name(tmp_path, (".mp4",))
    with pytest.raises(ManifestError, match=r"gone: no such folder"):
        files_by_name(tmp_path / "gone", (".mp4",))


def test_feature_width_and_stream_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 7), np.float64))
    np.save(tmp_path / "b.npy", np.full(4, np.nan))
    assert feature_width(tmp_path / "a.npy") == 7
    assert "NaN or infinity" in str(feature_width(tmp_path / "b.npy"))
    assert stream_name("chinese-wav2vec2-large_UTT") == "chinese_wav2vec2_large_utt"


def test_dropped_names_the_first_few() -> None:
    dropped = Dropped()
    assert dropped.lines() == ["left out: nothing"]
    for i in range(7):
        dropped.add(f"c{i}", "no words")
    dropped.add("x", "no row")
    assert dropped.count("no words") == 7 and dropped.count("else") == 0
    assert dropped.lines() == ["left out: 7, no words: c0, c1, c2, c3, c4, ...", "left out: 1, no row: x"]


# ---------------------------------------------------------------------------------------------------- writing


def manifest(out: Path, *clips: Clip) -> Manifest:
    return Manifest(
        path=out / "clips.csv",
        schema=SCHEMA,
        clips=clips,
        labels=np.array([[2.0, np.nan]] * len(clips)),
        splits=tuple(["train", None, "test"][i % 3] for i in range(len(clips))),
    )


def test_finish_writes_a_manifest_that_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media, out = tmp_path / "corpus" / "a.mp4", tmp_path / "out"
    media.parent.mkdir()
    media.touch()
    np.save(tmp_path / "corpus" / "f.npy", np.ones((1, 3)))
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "dataset.yaml").write_text("about: x\n")
    monkeypatch.chdir(tmp_path)
    clips = (
        Clip(id="a", video=Path("corpus/a.mp4"), person="p", features={"face": str(tmp_path / "corpus/f.npy")}),
        Clip(id="b", transcript=out / "texts/b.txt", person="p"),
        Clip(id="c", features={"face": "t.npz#c", "voice": "v/c.npy"}),
    )
    files = [
        ("texts/b.txt", "words\n"),
        ("t.npz", {"clip": np.array(["c"]), "features": np.ones((1, 3), np.float32)}),
        ("v/c.npy", np.ones(2)),
    ]
    dropped = Dropped()
    dropped.add("d", "no words")
    report = finish(manifest(out, *clips), dropped, dataset, files=iter(files))

    moved = tmp_path / "elsewhere"
    (tmp_path / "corpus").rename(tmp_path / "old")
    out.rename(moved)
    (tmp_path / "old").rename(tmp_path / "corpus")
    found = read(moved, check_files=True)
    assert [c.features for c in found.clips] == [
        {"face": "../corpus/f.npy"}, {}, {"face": "t.npz#c", "voice": "v/c.npy"},
    ]  # fmt: skip
    assert found.clips[0].video == moved / "../corpus/a.mp4" and found.clips[1].transcript == moved / "texts/b.txt"
    assert found.schema == SCHEMA
    assert checksums_hold(moved) == {
        "clips.csv", "schema.yaml", "dataset.yaml", "texts/b.txt", "t.npz", "v/c.npy", "../corpus/f.npy",
    }  # fmt: skip
    assert report.splitlines() == [
        f"{out / 'clips.csv'}: 3 clips of 1 persons, 1 of nobody",
        "splits: none 1, test 1, train 1",
        "labels: calm 3, free 0",
        "1 clips with face+voice",
        "1 clips with transcript",
        "1 clips with video+face",
        "left out: 1, no words: d",
    ]


def test_finish_again_gives_the_same_bytes_and_changes_nothing_else(tmp_path: Path) -> None:
    files = {"v.npz": {"clip": np.array(["a"]), "features": np.ones((1, 2))}}
    made = manifest(tmp_path / "out", Clip(id="a", features={"voice": "v.npz#a"}))
    finish(made, Dropped(), NOTHING, files=files.items())
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "out")
    finish(made, Dropped(), NOTHING, files=files.items())
    assert contents(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    "clips, message",
    [
        ((), r"clips\.csv: no clip is left; nothing was written\nleft out: 1, no words: d"),
        ((Clip(id="a", text="x"), Clip(id="a", text="y")), r"out/clips\.csv:3: id 'a' is already on line 2"),
        ((Clip(id="a", video=Path("/gone/a.mp4")),), r"gone/a\.mp4: no such file"),
        ((Clip(id="a", features={"voice": "v.npz#a"}),), r"out/v\.npz: no such file"),
        ((Clip(id="a"),), r"out/clips\.csv:2: clip 'a' has no modality"),
    ],
)
def test_finish_writes_all_or_nothing(tmp_path: Path, clips: tuple[Clip, ...], message: str) -> None:
    dropped = Dropped()
    dropped.add("d", "no words")
    with pytest.raises(ManifestError, match=message):
        finish(manifest(tmp_path / "out", *clips), dropped, NOTHING)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_an_earlier_manifest_as_it_was(tmp_path: Path) -> None:
    finish(manifest(tmp_path / "out", Clip(id="a", text="x")), Dropped(), NOTHING)
    before = contents(tmp_path / "out")
    with pytest.raises(ManifestError):
        finish(manifest(tmp_path / "out", Clip(id="a")), Dropped(), NOTHING, files=[("clips.csv", "junk")])
    assert contents(tmp_path / "out") == before


def test_an_interruption_leaves_no_checksums_of_other_files(tmp_path: Path) -> None:
    finish(manifest(tmp_path / "out", Clip(id="a", text="x")), Dropped(), NOTHING)
    (tmp_path / "out" / "zz.npy").mkdir()  # the last of the files cannot take its place
    files = [("clips.csv.part/a.npy", np.ones(2)), ("zz.npy", np.ones(2))]
    with pytest.raises(OSError, match=r"zz\.npy"):
        finish(manifest(tmp_path / "out", Clip(id="a", text="x")), Dropped(), NOTHING, files=files)
    assert (tmp_path / "out/clips.csv").is_file() and not (tmp_path / "out/clips.csv.sha256").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


# ---------------------------------------------------------------------------------------------------- command line


def options(source: Path, out: Path, *more: str) -> argparse.Namespace:
    parser = command_line("Some corpus -> a manifest.\n\nMore.", source="a folder", media="a folder")
    assert parser.description == "Some corpus -> a manifest."
    return parser.parse_args([str(source), str(out), *more])


def test_run_prints_the_report_or_the_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fine(*, source: Path, out: Path, media: Path | None) -> str:
        return f"{source.name} {out.name} {media}"

    def full(**_: object) -> str:
        raise OSError(28, "No space left on device", "b/clips.csv")

    def wrong(**_: object) -> str:
        raise ManifestError("a.csv:3: wrong\na.csv:4: wrong too")

    assert run(fine, options(tmp_path / "a", tmp_path / "b", "--media", "m")) == 0
    assert capsys.readouterr() == ("a b m\n", "")
    assert run(wrong, options(tmp_path / "a", tmp_path / "b")) == 2
    assert capsys.readouterr() == ("", "a.csv:3: wrong\na.csv:4: wrong too\n")
    assert run(full, options(tmp_path / "a", tmp_path / "b")) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert run(fine, options(tmp_path / "a", tmp_path / "b" / ".." / "a")) == 2
    assert "OUT is SOURCE" in capsys.readouterr().err


def test_no_media_option_where_a_corpus_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command_line("x", source="s").parse_args(["a", "b", "--media", "m"])
    assert "--media" in capsys.readouterr().err
