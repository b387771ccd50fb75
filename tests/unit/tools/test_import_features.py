import hashlib
import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.manifest import read, read_features

ROOT = Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("import_features", ROOT / "tools" / "import_features.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

SCHEMA = "name: x\nconstruct: apparent\njudged_by: us\ntraits: [{name: warm, low: 0, high: 1}]\n"
CLIPS = """id,video,start_s,end_s,person,warm,text
one.mp4,media/one.mp4,,,p1,0.5,hello
two,media/two.mp4,,,p1,,
talk_1,media/talk.mp4,0,1,p2,0.25,
talk_2,media/talk.mp4,1,2,p2,0.75,
v_3,media/v_3.mp4,,,p3,1,
"""
OPENFACE = "frame,timestamp,confidence,success,AU01_r,AU01_c,x_0"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "media").mkdir(parents=True)
    (folder / "schema.yaml").write_text(SCHEMA)
    (folder / "clips.csv").write_text(CLIPS)
    (folder / "dataset.yaml").write_text("about: mine\nlicence: mine\n")
    for name in ("one", "two", "talk", "v_3"):
        (folder / "media" / f"{name}.mp4").write_bytes(b"")
    return folder


def openface(folder: Path, name: str, *values: float, header: str = OPENFACE) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f"{i + 1},{i / 2},.9,{int(value >= 0)},{value},1,7" for i, value in enumerate(values)]
    (folder / f"{name}.csv").write_text("\n".join([header, *rows, ""]))
    return folder


def add(corpus: Path, kind: str, *source: Path, stream: str = "aus", **options: str) -> int:
    named = [word for name, value in options.items() for word in (f"--{name}", *value.split())]
    return tool.main([kind, *map(str, source), str(corpus), "--stream", stream, *named])


def features(corpus: Path, stream: str = "aus") -> dict[str, list[float]]:
    """The first column of every clip that has the stream."""
    found = read(corpus, check_files=True)
    with_it = [clip for clip in found.clips if stream in clip.features]
    arrays = read_features(found.folder, [clip.features[stream] for clip in with_it])
    return {clip.id: array[:, 0].tolist() for clip, array in zip(with_it, arrays, strict=True)}


def test_openface_files_find_their_clips(corpus: Path, tmp_path: Path, capsys) -> None:
    source = openface(tmp_path / "of", "one", 1, -1, 3)
    openface(source, "talk", 10, 11, 12, 13, 14)
    openface(source, "v_3", -1)
    openface(source, "stranger", 1)
    assert add(corpus, "openface", source) == 0
    report = capsys.readouterr().out
    assert features(corpus) == {"one.mp4": [1, 3], "talk_1": [10, 11], "talk_2": [12, 13]}  # by stretch, by time stamp
    assert (corpus / "aus.columns.txt").read_text() == "AU01_r\nAU01_c\n"
    assert "features without a clip of that name: stranger" in report
    assert "features of which no row is left: v_3" in report
    assert "left out: 2, clips without aus features: two, v_3" in report
    assert "rows left out: 2 without success" in report
    assert report.endswith("streams:\n  aus: {use: precomputed, size: 2}\n")


def test_the_rest_of_the_manifest_stays_and_the_checksum_is_renewed(corpus: Path, tmp_path: Path) -> None:
    before = read(corpus)
    assert add(corpus, "openface", openface(tmp_path / "of", "one", 1)) == 0
    assert add(corpus, "openface", openface(tmp_path / "of 2", "two", 2), stream="more") == 0
    after = read(corpus, check_files=True)
    assert after.schema == before.schema and after.splits == before.splits
    np.testing.assert_array_equal(after.labels, before.labels)
    for old, new in zip(before.clips, after.clips, strict=True):
        assert (old.id, old.text, old.person, old.start_s, old.end_s) == (
            new.id, new.text, new.person, new.start_s, new.end_s,
        )  # fmt: skip
    assert [dict(clip.features) for clip in after.clips[:3]] == [
        {"aus": "aus.npz#one.mp4"},
        {"more": "more.npz#two"},
        {},
    ]
    lines = dict(reversed(line.split("  ")) for line in (corpus / "clips.csv.sha256").read_text().splitlines())
    assert {"clips.csv", "schema.yaml", "dataset.yaml", "aus.npz", "more.npz", "more.columns.txt"} <= set(lines)
    for name, digest in lines.items():
        assert hashlib.sha256((corpus / name).read_bytes()).hexdigest() == digest
    assert (corpus / "dataset.yaml").read_text() == "about: mine\nlicence: mine\n"


def test_importing_again_replaces_the_stream_and_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    source = openface(tmp_path / "of", "one", 1)
    openface(source, "two", 2)
    assert add(corpus, "openface", source) == 0
    (source / "two.csv").unlink()
    assert add(corpus, "openface", source) == 0
    first = {path.name: path.read_bytes() for path in corpus.iterdir() if path.is_file()}
    assert features(corpus) == {"one.mp4": [1]}
    assert add(corpus, "openface", source) == 0
    assert {path.name: path.read_bytes() for path in corpus.iterdir() if path.is_file()} == first


@pytest.mark.parametrize("pool, width, value", [("mean", 2, [[2, 1]]), ("mean_std", 4, [[2, 1, 1, 0]])])
def test_pooled_to_one_vector_a_clip(corpus: Path, tmp_path: Path, capsys, pool: str, width: int, value: list) -> None:
    source = openface(tmp_path / "of", "one", 1, 3)
    openface(source, "two", 5)
    assert add(corpus, "openface", source, pool=pool) == 0
    assert f"size: {width}}}" in capsys.readouterr().out
    found = read(corpus)
    assert found.clips[0].features["aus"] == "aus.npz#one.mp4"
    assert read_features(corpus, ["aus.npz#one.mp4"])[0].tolist() == value
    assert len((corpus / "aus.columns.txt").read_text().split()) == width


def test_columns_of_choice(corpus: Path, tmp_path: Path) -> None:
    assert add(corpus, "openface", openface(tmp_path / "of", "one", 1), columns="x_* AU01_c") == 0
    assert read_features(corpus, ["aus.npz#one.mp4"])[0].tolist() == [[1, 7]]


def test_pyfeat_by_the_rate(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "talk.csv").write_text("frame,FaceRectWidth,FaceRectHeight,AU01\n0,9,9,1\n25,9,9,2\n49,9,9,3\n")
    assert add(corpus, "pyfeat", tmp_path / "talk.csv", fps="25") == 0
    assert features(corpus) == {"talk_1": [1], "talk_2": [2, 3]}


def test_clips_cut_from_media_need_times(corpus: Path, tmp_path: Path, capsys) -> None:
    for name in ("talk", "one"):
        (tmp_path / f"{name}.csv").write_text("frame,AU01\n0,1\n")
    assert add(corpus, "pyfeat", tmp_path / "talk.csv", tmp_path / "one.csv") == 0
    assert features(corpus) == {"one.mp4": [1]}
    assert (
        "its features tell no times, so that its stretch cannot be cut out: talk_1, talk_2" in capsys.readouterr().out
    )


def test_opensmile_functionals_of_all_clips_in_one_file(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("name;F0_mean;F0_sd\n'w/one.wav';1;2\n'w/two.wav';3;4\n")
    assert add(corpus, "opensmile", tmp_path / "all.csv", stream="egemaps") == 0
    assert features(corpus, "egemaps") == {"one.mp4": [1], "two": [3]}


def test_mmsa_ids(corpus: Path, tmp_path: Path) -> None:
    split = {"id": ["v$_$3", "two"], "audio": np.array([[[1.0], [2.0]], [[3.0], [0.0]]]), "audio_lengths": [2, 1]}
    (tmp_path / "f.pkl").write_bytes(pickle.dumps({"train": split}))
    assert add(corpus, "mmsa", tmp_path / "f.pkl", modality="audio", stream="covarep") == 0
    assert features(corpus, "covarep") == {"two": [3], "v_3": [1, 2]}


def test_clips_of_the_names_that_numpy_takes_for_itself(corpus: Path, tmp_path: Path) -> None:
    (corpus / "clips.csv").write_text("id,text,warm\nfile,a,1\nclip,b,0\nfeatures,c,1\n")
    source = openface(tmp_path / "of", "file", 1)
    for name, values in (("clip", (2, 3)), ("features", (4,))):
        openface(source, name, *values)
    assert add(corpus, "openface", source) == 0
    assert features(corpus) == {"file": [1], "clip": [2, 3], "features": [4]}


def test_a_clip_called_like_the_longer_medium_gets_its_stretch_alone(corpus: Path, tmp_path: Path) -> None:
    (corpus / "clips.csv").write_text(CLIPS.replace("talk_1,", "talk,"))
    assert add(corpus, "openface", openface(tmp_path / "of", "talk", 10, 11, 12, 13, 14)) == 0
    assert features(corpus) == {"talk": [10, 11], "talk_2": [12, 13]}


def test_a_number_after_a_dot_is_no_suffix(corpus: Path, tmp_path: Path, capsys) -> None:
    (corpus / "clips.csv").write_text("id,text,warm\nx.001.mp4,a,1\nx.002,b,0\n")
    source = openface(tmp_path / "of", "x.001", 1)
    openface(source, "x.002.mp4", 2)
    openface(source, "x", 3)
    assert add(corpus, "openface", source) == 0
    assert features(corpus) == {"x.001.mp4": [1], "x.002": [2]}
    assert "features without a clip of that name: x\n" in capsys.readouterr().out


def test_two_clips_of_one_name_get_nothing(corpus: Path, tmp_path: Path, capsys) -> None:
    (corpus / "clips.csv").write_text("id,text,warm\na/x.mp4,a,1\nb/x.mp4,b,0\nc,b,0\n")
    source = openface(tmp_path / "of", "x", 1)
    openface(source, "c", 2)
    assert add(corpus, "openface", source) == 0
    assert features(corpus) == {"c": [2]}
    assert "features for several clips of one name: x" in capsys.readouterr().out


def test_bad_input_leaves_the_manifest_alone(corpus: Path, tmp_path: Path, capsys) -> None:
    before = {path.name: path.read_bytes() for path in corpus.iterdir() if path.is_file()}
    source = openface(tmp_path / "of", "one", 1)
    openface(tmp_path / "odd", "two", 1, header=OPENFACE.replace("AU01_c", "AU02_c"))
    openface(tmp_path / "twice", "one", 1)
    openface(tmp_path / "lost", "stranger", 1)
    (tmp_path / "empty").mkdir()
    cases = {
        "--stream 'A b'; expected lower-case": ("openface", source, {"stream": "A b"}),
        "mmsa needs one of text, audio, vision": ("mmsa", source, {}),
        "--modality audio": ("openface", source, {"modality": "audio"}),
        "no file with suffix .csv": ("openface", tmp_path / "empty", {}),
        "no column matches AU9*; its features are AU01_r": ("openface", source, {"columns": "AU9*"}),
        "no clip got features; nothing was written": ("openface", tmp_path / "lost", {}),
    }
    for message, (kind, folder, options) in cases.items():
        options = {"stream": "aus", **options}
        named = [word for name, value in options.items() for word in (f"--{name}", value)]
        assert tool.main([kind, str(folder), str(corpus), *named]) == 2
        assert message in capsys.readouterr().err
    assert add(corpus, "openface", source, tmp_path / "odd") == 2
    assert "other columns than" in capsys.readouterr().err
    assert add(corpus, "openface", source, tmp_path / "twice") == 2
    assert "features of 'one' are already in" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in corpus.iterdir() if path.is_file()} == before


def test_a_manifest_of_another_name(corpus: Path, tmp_path: Path, capsys) -> None:
    (corpus / "clips.csv").rename(corpus / "mine.csv")
    source = openface(tmp_path / "of", "one", 1)
    assert tool.main(["openface", str(source), str(corpus / "mine.csv"), "--stream", "aus"]) == 2
    assert "mine.csv: expected clips.csv" in capsys.readouterr().err


def test_behaviour_of_openface_series(corpus: Path, tmp_path: Path, capsys) -> None:
    values = (2 + np.sin(np.arange(40) * np.pi / 2)).tolist()  # 0.5 Hz: the file has two frames a second
    source = openface(tmp_path / "of", "one", *values)
    openface(source, "two", 1, 1, 1)
    assert add(corpus, "openface", source, pool="behaviour", columns="AU*_r") == 0
    names = (corpus / "aus.columns.txt").read_text().split()
    found = read(corpus)
    (clip,) = [clip for clip in found.clips if "aus" in clip.features]
    assert clip.id == "one.mp4"
    (vector,) = read_features(found.folder, [clip.features["aus"]])
    named = dict(zip(names, vector[0].tolist(), strict=True))
    assert named["AU01_r_range"] == pytest.approx(2)
    assert named["AU01_r_peak_frequency_2s"] == pytest.approx(30, abs=2)
    assert "1, fewer than 8 steps, too few for statistics of motion: two" in capsys.readouterr().out


def test_behaviour_needs_times(corpus: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "pf").mkdir()
    rows = [f"{n},9,9,{n % 2}" for n in range(20)]
    (tmp_path / "pf" / "one.csv").write_text("\n".join(["frame,FaceRectWidth,FaceRectHeight,AU01", *rows, ""]))
    assert add(corpus, "pyfeat", tmp_path / "pf", pool="behaviour") == 2
    assert "its features tell no times; give --fps" in capsys.readouterr().err
    assert add(corpus, "pyfeat", tmp_path / "pf", pool="behaviour", fps="10") == 0
