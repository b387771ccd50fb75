import gzip
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest, read, read_clips, read_features, read_schema, write, write_schema
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = """
name: pair
construct: apparent
judged_by: observers
traits:
  - {name: openness, low: 0, high: 1}
  - {name: liked, kind: binary}
"""


def corpus(folder: Path, *lines: str, header: str = "id,text,openness,liked") -> Path:
    (folder / "schema.yaml").write_text(SCHEMA)
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def problems(path: Path, **options: bool) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(path, **options)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def test_reads_every_column(tmp_path: Path) -> None:
    header = ",".join((*manifests.COLUMNS, "openness,liked,attr_age,feature_face"))
    found = read(
        corpus(
            tmp_path,
            'a,v/a.mp4,a.wav,a.srt,"Yes, ""well""',
            'no.",1.5,3,p1,S1,q1,train,0.25,1,30-40,face.npz#a',
            "b,,,,hello,,,,,,,,,,",
            header=header,
        )
    )
    assert found.clips[0] == Clip(
        id="a",
        video=tmp_path / "v/a.mp4",
        audio=tmp_path / "a.wav",
        transcript=tmp_path / "a.srt",
        text='Yes, "well"\nno.',
        start_s=1.5,
        end_s=3.0,
        person="p1",
        speaker="S1",
        question="q1",
        attributes={"age": "30-40"},
        features={"face": "face.npz#a"},
    )
    assert found.clips[1] == Clip(id="b", text="hello")
    np.testing.assert_array_equal(found.labels, [[0.25, 1.0], [math.nan, math.nan]])
    assert found.splits == ("train", None)
    assert found.schema.trait_names == ("openness", "liked")


def test_the_folder_names_the_manifest_and_gzip_reads_alike(tmp_path: Path) -> None:
    path = corpus(tmp_path, "a,hi,0.5,0")
    plain = read(tmp_path)
    (tmp_path / "clips.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert read(tmp_path).clips == plain.clips
    assert read(tmp_path).path.name == "clips.csv.gz"


@pytest.mark.parametrize("mark, end", [("\ufeff", "\n"), ("", "\r\n"), ("\ufeff", "\r")])
def test_byte_order_mark_and_line_ends_of_spreadsheets(tmp_path: Path, mark: str, end: str) -> None:
    corpus(tmp_path)
    text = mark + end.join(["id,text,openness,liked", "é,hi,0.5,0", ",,,", "", "b,ho,1,1"]) + end
    (tmp_path / "clips.csv").write_bytes(text.encode())
    assert [clip.id for clip in read(tmp_path).clips] == ["é", "b"]


@pytest.mark.parametrize(
    "row, problem",
    [
        ("a,hi,1.2,1", "2: openness 1.2 is outside the scale [0, 1]"),
        ("a,hi,-0.1,1", "2: openness -0.1 is outside the scale [0, 1]"),
        ("a,hi,inf,1", "2: openness is infinite; expected a number on the trait's scale"),
        ("a,hi,high,1", "2: openness 'high' is not a number"),
        ("a,hi,NaN,1", "2: openness is NaN; leave the cell empty where the label is unknown"),
        ("a,hi,0.5,0.5", "2: liked 0.5; a binary trait is 0 or 1"),
        (",hi,0.5,1", "2: id is empty; every clip needs a unique one"),
        ("a, ,0.5,1", "2: clip 'a' has no modality; fill one of video, audio, transcript, text, feature_<stream>"),
        ("a,hi,0.5", "2: 3 cells; the header has 4 columns"),
        ("a,hi,0.5,1,2", "2: 5 cells; the header has 4 columns"),
        ("a,hi,0.5,1\nb,hi,0.5,1\na,hi,0.5,1", "4: id 'a' is already on line 2; ids are unique"),
        ('a,"one\ntwo",0.5,1\nb,hi,9,1', "4: openness 9 is outside the scale [0, 1]"),
        ('a,"open,0.5,1\nb,hi,0.5,1', "2: not readable as CSV (unexpected end of data); check the quotes from here on"),
    ],
)
def test_what_is_wrong_with_a_row(tmp_path: Path, row: str, problem: str) -> None:
    assert problems(corpus(tmp_path, row)) == [problem]


@pytest.mark.parametrize(
    "times, problem",
    [
        ("5.2,3.0", "2: end_s 3.0 is before start_s 5.2"),
        ("3,3", "2: end_s 3.0 is not after start_s 3.0"),
        (",0", "2: end_s 0.0 is not after start_s 0.0"),
        ("-1,", "2: start_s '-1'; expected seconds from the start of the file, 0 or more"),
        ("nan,", "2: start_s 'nan'; expected seconds from the start of the file, 0 or more"),
        (",1:30", "2: end_s '1:30' is not a number"),
    ],
)
def test_times(tmp_path: Path, times: str, problem: str) -> None:
    path = corpus(tmp_path, f"a,hi,{times},0.5,1", header="id,text,start_s,end_s,openness,liked")
    assert problems(path) == [problem]


def test_split_names(tmp_path: Path) -> None:
    path = corpus(tmp_path, "a,hi,dev,,", "b,hi,val,,", header="id,text,split,openness,liked")
    assert problems(path) == ["2: split 'dev'; expected train, val, test or an empty cell"]


def test_a_feature_is_a_modality(tmp_path: Path) -> None:
    path = corpus(tmp_path, "a,f.npz#a,0.5,1", header="id,feature_voice,openness,liked")
    assert read(path).clips[0].features == {"voice": "f.npz#a"}


@pytest.mark.parametrize(
    "header, expected",
    [
        ("id,txet,openness,liked", ["1: unknown column 'txet'; did you mean 'text'?"]),
        ("id,text,Openness,liked", ["1: unknown column 'Openness'; did you mean 'openness'?", "1: column 'openness'"]),
        ("id,text,openness,openness", ["1: column 'openness' is there twice", "1: column 'liked' is missing"]),
        ("clip,text,openness,liked", ["1: unknown column 'clip'; known are id, ", "1: column 'id' is missing"]),
        ("id,text,openness,", ["1: column 4 has no name", "1: column 'liked' is missing"]),
        ("id,attr_,openness,liked", ["1: unknown column 'attr_'", "2: clip 'a' has no modality"]),
        ("id;text;openness;liked", ["1: unknown column 'id;text;openness;liked'", "1: column 'id' is missing"]),
    ],
)  # fmt: skip
def test_headers(tmp_path: Path, header: str, expected: list[str]) -> None:
    found = problems(corpus(tmp_path, "a,hi,0.5,1", header=header))
    assert len(found) >= len(expected)
    for message, start in zip(found, expected, strict=False):
        assert message.startswith(start)


def test_every_problem_at_once_and_a_limit(tmp_path: Path) -> None:
    path = corpus(tmp_path, *(f"a{i},hi,{i + 2},1" for i in range(150)))
    found = problems(path)
    assert len(found) == 101
    assert found[0].startswith("2: ") and found[99].startswith("101: ") and found[100] == "... and 50 more"


def test_missing_files_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "there.mp4").touch()
    path = corpus(
        tmp_path,
        "a,there.mp4,f.npz#a,0.5,1",
        "b,gone.mp4,,0.5,1",
        header="id,video,feature_face,openness,liked",
    )
    read(path)
    assert problems(path, check_files=True) == [
        f"2: feature_face '{tmp_path / 'f.npz'}': no such file; paths are relative to the manifest's folder",
        f"3: video '{tmp_path / 'gone.mp4'}': no such file; paths are relative to the manifest's folder",
    ]


def test_wrong_encoding_names_the_line(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    path.write_bytes("id,text,openness,liked\na,hi,1,1\nb,é,1,1\n".encode("latin-1"))
    assert problems(path) == ["3: byte 0xe9 is not UTF-8; save the file as UTF-8"]
    path.write_bytes("id,text\n".encode("utf-16"))
    assert problems(path) == ["1: byte 0xff is not UTF-8; save the file as UTF-8"]


def test_broken_gzip(tmp_path: Path) -> None:
    corpus(tmp_path).unlink()
    path = tmp_path / "clips.csv.gz"
    for data in (b"id,text\n", gzip.compress(b"id,text,openness,liked\na,hi,1,1\n" * 50)[:40]):
        path.write_bytes(data)
        assert problems(path)[0].startswith("1: not a whole gzip file (")


def test_empty_manifests(tmp_path: Path) -> None:
    assert problems(corpus(tmp_path)) == ["2: a header and no rows; expected one row per clip"]
    (tmp_path / "clips.csv").write_text("")
    assert problems(tmp_path / "clips.csv") == ["1: the file is empty; expected a header row"]


def test_missing_manifest_and_schema(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"clips\.csv: no such file; expected a clips\.csv"):
        read(tmp_path)
    path = corpus(tmp_path, "a,hi,0.5,1", "a,hi,0.5,1")
    (tmp_path / "schema.yaml").unlink()
    with pytest.raises(ManifestError) as caught:
        read(path)
    schema, row = str(caught.value).splitlines()  # trait columns are unknown now, and are not complained about
    assert schema.startswith(f"{tmp_path / 'schema.yaml'}: no such file; it names the traits")
    assert row.endswith(":3: id 'a' is already on line 2; ids are unique")


def test_clips_without_labels(tmp_path: Path) -> None:
    path = corpus(tmp_path, "a,hi", header="id,text")
    assert read_clips(path) == (Clip(id="a", text="hi"),)
    path = corpus(tmp_path, "a,hi,not read", header="id,text,openness")
    assert read_clips(path) == (Clip(id="a", text="hi"),)
    (tmp_path / "schema.yaml").unlink()
    with pytest.raises(ManifestError, match=r":1: unknown column 'openness'"):
        read_clips(path)


def test_write_then_read_is_the_same(tmp_path: Path) -> None:
    schema = TraitSchema(
        name="x",
        traits=(Trait(name="calm", low=1.0, high=7.0, opposite_of="neuroticism"), Trait(name="utility")),
        construct="self_reported",
        judged_by="the speakers: themselves # all",
        transform="z_score",
    )
    clips = (
        Clip(id="1", video=tmp_path / "m" / "1.mp4", start_s=0.1, end_s=2.5, person="p", attributes={"g": "2"}),
        Clip(id="2", audio=Path("/elsewhere/2.wav"), text='He said: "a,b"\nand left', features={"voice": "v.npz#2"}),
    )
    labels = np.array([[1 / 3 + 1, -12.0], [math.nan, 1e-17]])
    written = Manifest(path=tmp_path / "clips.csv", schema=schema, clips=clips, labels=labels, splits=("test", None))
    write(written)
    found = read(tmp_path)
    assert (found.schema, found.clips, found.splits) == (schema, clips, written.splits)
    np.testing.assert_array_equal(found.labels, labels)
    data = written.path.read_bytes()
    write(found)
    assert written.path.read_bytes() == data


def test_the_same_rows_give_the_same_packed_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(read(corpus(tmp_path, "a,hi,0.5,1")), path=tmp_path / "clips.csv.gz")
    write(found)
    data = found.path.read_bytes()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    write(found)
    assert found.path.read_bytes() == data
    assert read(found.path).clips == found.clips


def test_an_unbounded_trait_is_still_finite(tmp_path: Path) -> None:
    path = corpus(tmp_path, "a,hi,inf,1", "b,hi,-1e9,1")
    (tmp_path / "schema.yaml").write_text(SCHEMA.replace(", low: 0, high: 1", ""))
    assert problems(path) == ["2: openness is infinite; expected a number on the trait's scale"]


def test_a_long_text_is_one_cell(tmp_path: Path) -> None:
    text = "word " * 100_000
    assert read(corpus(tmp_path, f"a,{text},0.5,1")).clips[0].text == text.strip()


def test_a_hundred_thousand_rows_take_seconds(tmp_path: Path) -> None:
    path = corpus(
        tmp_path,
        *(f"clip{i},some text,p{i // 5},0.5,1" for i in range(100_000)),
        header="id,text,person,openness,liked",
    )
    start_s = time.process_time()
    assert len(read(path).clips) == 100_000
    assert time.process_time() - start_s < 20


# ---------------------------------------------------------------------------------------------------- schema.yaml


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("name: pair", "nam: pair", r"schema\.yaml: nam: unknown key; did you mean 'name'\?"),
        ("name: pair\n", "", r"schema\.yaml: name: missing"),
        ("apparent", "hired", r"schema\.yaml: construct: 'hired': Input should be 'apparent' or 'self_reported'"),
        ("low: 0", "lo: 0", r"schema\.yaml: traits\[0\]\.lo: unknown key; did you mean 'low'\?"),
        ("low: 0", "low: 2", r"schema\.yaml: traits\[0\]: low 2 is not below high 1"),
        ("low: 0", "low: .nan", r"schema\.yaml: traits\[0\]\.low: nan: Input should be a finite number"),
        ("openness", "Openness", r"schema\.yaml: traits\[0\]\.name: 'Openness': String should match"),
        ("openness", "text", r"schema\.yaml: traits\[0\]: 'text' is the name of another column of clips\.csv"),
        ("openness", "attr_open", r"schema\.yaml: traits\[0\]: 'attr_open' is the name of another column"),
        ("name: liked", "name: openness", r"schema\.yaml: traits\[1\]: 'openness' is there twice"),
        ("name: pair", "name: pair\nname: other", r"schema\.yaml: not readable as YAML: .*duplicate key"),
        ("name: pair", "name: [", r"schema\.yaml: not readable as YAML: "),
        (SCHEMA, "- a", r"schema\.yaml: no mapping; expected the keys name, construct, judged_by, transform, rated, "),
    ],
)
def test_what_is_wrong_with_a_schema(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(SCHEMA.replace(old, new))
    with pytest.raises(ManifestError, match=message):
        read_schema(path)


def test_schema_problems_come_together(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(SCHEMA.replace("apparent", "hired").replace("low: 0", "lo: 0"))
    with pytest.raises(ManifestError) as caught:
        read_schema(path)
    assert len(str(caught.value).splitlines()) == 2


def test_schema_is_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(SCHEMA.replace("judged_by: observers", "judged_by: no").replace("low: 0", "low: 1e-3"))
    found = read_schema(path)
    assert found.judged_by == "no" and found.traits[0].low == 1e-3
    write_schema(path, found)
    assert read_schema(path) == found


# ---------------------------------------------------------------------------------------------------- features


def test_features_of_every_layout(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float16).reshape(3, 2)
    np.savez(tmp_path / "table.npz", clip=np.array(["a", "b", "c#1"]), features=rows)
    np.savez(tmp_path / "steps.npz", clip=np.array(["a"]), features=np.ones((1, 4, 2)))
    np.savez(tmp_path / "named.npz", **{"a": rows, "b": rows[0]})
    np.save(tmp_path / "one.npy", rows)
    references = ["table.npz#c#1", "table.npz#a", "steps.npz#a", "named.npz#a", "named.npz#b", "one.npy"]
    found = read_features(tmp_path, references)
    assert [array.shape for array in found] == [(1, 2), (1, 2), (4, 2), (3, 2), (1, 2), (3, 2)]
    assert {array.dtype for array in found} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found[0], [[4, 5]])


def test_a_feature_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "t.npz", clip=np.array(["a", "b"]), features=np.ones((2, 3)))
    opened = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda file, **options: opened.append(file.name) or load(file, **options))
    read_features(tmp_path, ["t.npz#a", "t.npz#b"] * 50)
    assert opened == [str(tmp_path / "t.npz")]


def test_what_is_wrong_with_features(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", clip=np.array(["a", "bad"]), features=np.array([[1.0, 2.0], [np.nan, 1.0]]))
    np.savez(tmp_path / "uneven.npz", clip=np.array(["a"]), features=np.ones((2, 2)))
    np.savez(tmp_path / "deep.npz", a=np.ones((1, 2, 3)), none=np.ones((0, 2)), words=np.array(["x"]))
    np.savez(tmp_path / "pickled.npz", a=np.array([{"x": 1}], dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    references = [
        "t.npz#z", "t.npz#bad", "uneven.npz#a", "deep.npz#a", "deep.npz#none", "deep.npz#words", "pickled.npz#a",
        "broken.npz#a", "gone.npz#a", "gone.npz#b",
    ]  # fmt: skip
    with pytest.raises(ManifestError) as caught:
        read_features(tmp_path, references)
    found = [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]
    expected = [
        "t.npz: no features under the key 'z'; a reference reads `file.npz#key` or `file.npy`",
        "t.npz: 'bad' holds NaN or infinity",
        "uneven.npz: `clip` (1,) and `features` (2, 2); expected one id per row",
        "deep.npz: 'a' is float64 (1, 2, 3); expected numbers (T, D) or (D,)",
        "deep.npz: 'none' is float64 (0, 2); expected numbers (T, D) or (D,)",
        "deep.npz: 'words' is <U1 (1,); expected numbers (T, D) or (D,)",
        "pickled.npz: not readable as .npz or .npy without pickle (",
        "broken.npz: not readable as .npz or .npy without pickle (",
        "gone.npz: no such file; feature references are relative to the manifest's folder",
    ]
    assert len(found) == len(expected)
    for message, start in zip(found, expected, strict=True):
        assert message.startswith(start)


def test_one_width_per_stream(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", a=np.ones(2), b=np.ones(3))
    with pytest.raises(ManifestError, match=r"widths \[2, 3\]; expected one width"):
        read_features(tmp_path, ["t.npz#a", "t.npz#b"])


def test_every_known_column_is_documented() -> None:
    assert all(name in (manifests.__doc__ or "") for name in manifests.COLUMNS)
