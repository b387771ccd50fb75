import pickle
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.imports import mmsa, openface, opensmile, pyfeat
from mmtraits.errors import ManifestError


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------- OpenFace

OPENFACE = "frame, face_id, timestamp, confidence, success, gaze_0_x, pose_Rx, x_0, AU01_r, AU01_c"


def test_openface_drops_frames_without_success(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv",
        OPENFACE,
        "1, 0, 0.000, 0.98, 1, 0.1, 0.2, 300, 1.5, 1",
        "2, 0, 0.033, 0.10, 0, 0.0, 0.0, 0, 0, 0",
        "3, 0, 0.067, 0.95, 1, 0.3, 0.4, 301, 2.5, 0",
    )
    found = openface(path)["a"]
    assert found.names == ("gaze_0_x", "pose_Rx", "AU01_r", "AU01_c")
    np.testing.assert_allclose(found.values, [[0.1, 0.2, 1.5, 1], [0.3, 0.4, 2.5, 0]])
    assert found.values.dtype == np.float32
    assert found.times_s is not None and found.times_s.tolist() == [0.0, 0.067]
    assert found.dropped == {"without success": 1}


def test_openface_1_has_no_face_id_and_columns_are_chosen_by_pattern(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv",
        "frame,timestamp,confidence,success,AU01_r,AU12_r,AU12_c",
        "1,0,0.9,1,1,2,1",
        "2,.1,.9,1,3,4,0",
    )
    found = openface(path, ["AU*_r"])["a"]
    assert found.names == ("AU01_r", "AU12_r") and found.values.tolist() == [[1, 2], [3, 4]]


def test_openface_takes_the_face_that_is_seen_longest(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv",
        "frame,face_id,timestamp,confidence,success,AU01_r",
        *(f"{frame},{face},{frame / 10},.9,{ok},{face * 10 + frame}" for frame, face, ok in
          [(1, 0, 1), (1, 1, 1), (2, 0, 0), (2, 1, 1), (3, 1, 1)]),
    )  # fmt: skip
    found = openface(path)["a"]
    assert found.values[:, 0].tolist() == [11, 12, 13]
    assert found.dropped == {"without success": 1, "of another face": 1}


def test_a_frame_with_a_hole_is_no_step(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv",
        "frame,timestamp,success,AU01_r,AU02_r",
        "1,0,1,1,",
        "2,.1,1,1,2",
        "3,.2,1,nan,2",
        "4,.3,1,-inf,2",
    )
    found = openface(path)["a"]
    assert found.values.tolist() == [[1, 2]] and found.times_s is not None and found.times_s.tolist() == [0.1]
    assert found.dropped == {"without AU02_r": 1, "without AU01_r": 2}


def test_no_frame_with_success_leaves_no_step(tmp_path: Path) -> None:
    found = openface(written(tmp_path / "a.csv", "frame,timestamp,success,AU01_r", "1,0,0,1"))["a"]
    assert found.values.shape == (0, 1) and found.dropped == {"without success": 1}


@pytest.mark.parametrize(
    "lines, columns, message",
    [
        (["frame,sucess,AU01_r", "1,1,1"], (), "a.csv: column 'success' is missing; did you mean 'sucess'"),
        (["frame,success,AU01_r"], (), "a.csv: no rows"),
        (["frame,success,AU01_r", "1,1"], (), "a.csv:2: 2 cells; the header has 3 columns"),
        (["frame,success,AU01_r", "1,1,x"], (), "a.csv:2: AU01_r 'x' is not a number"),
        (["frame,success,AU01_r", "1,yes,1"], (), "a.csv: column 'success' 'yes' is not a number"),
        (["frame,success,x_0", "1,1,1"], (), r"no column matches AU\*, gaze_\*, pose_\*; its features are x_0"),
        (["frame,success,AU01_r", "1,1,1"], ["AU9*"], r"no column matches AU9\*; its features are AU01_r"),
    ],
)
def test_bad_openface(tmp_path: Path, lines: list[str], columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        openface(written(tmp_path / "a.csv", *lines), columns)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="a.csv: .*expected a CSV in UTF-8"):
        openface(tmp_path / "a.csv")
    with pytest.raises(ManifestError, match="b.csv: .*No such file"):
        openface(tmp_path / "b.csv")


# ---------------------------------------------------------------------------------------------------- Py-Feat

PYFEAT = (
    ",FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore,x_0,y_0,Pitch,AU01,AU02,anger,Identity_1,input,frame"
)


def test_pyfeat_drops_frames_without_a_face(tmp_path: Path) -> None:
    path = written(
        tmp_path / "talk.csv", PYFEAT, "0,1,1,50,60,.99,7,8,.1,.2,.3,.4,.9,talk.mp4,0", "1,,,,,,,,,,,,,talk.mp4,10"
    )
    found = pyfeat(path)["talk"]
    assert found.names == ("Pitch", "AU01", "AU02", "anger")
    np.testing.assert_allclose(found.values, [[0.1, 0.2, 0.3, 0.4]], rtol=1e-6)
    assert found.dropped == {"without a face": 1} and found.times_s is None


def test_pyfeat_takes_the_largest_face_over_time_by_identity_or_by_frame(tmp_path: Path) -> None:
    rows = [(0, 10, "Person_0", 1), (0, 30, "Person_1", 2), (1, 40, "Person_0", 3), (1, 5, "Person_1", 4)]
    lines = [f"{size},{size},{frame},{who},{value}" for frame, size, who, value in rows]
    header = "FaceRectWidth,FaceRectHeight,frame,Identity,AU01"
    by_identity = pyfeat(written(tmp_path / "a.csv", header, *lines))["a"]
    assert by_identity.values[:, 0].tolist() == [1, 3] and by_identity.dropped == {"of another face": 2}
    by_frame = pyfeat(written(tmp_path / "b.csv", header.replace("Identity", "input"), *lines))["b"]
    assert by_frame.values[:, 0].tolist() == [2, 3]


def test_pyfeat_tells_times_where_it_is_told_the_rate(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "frame,AU01,valence,Happy", "0,1,2,3", "15,4,5,6")
    found = pyfeat(path, fps=30)["a"]
    assert found.names == ("AU01", "valence", "Happy")
    assert found.times_s is not None and found.times_s.tolist() == [0.0, 0.5]


# ---------------------------------------------------------------------------------------------------- openSMILE


def test_opensmile_frames(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv", "name;frameTime;F0_sma;Loudness_sma3", "'unknown';0.00;1;2", "'unknown';0.01;3;4"
    )
    found = opensmile(path)["a"]
    assert found.names == ("F0_sma", "Loudness_sma3") and found.values.tolist() == [[1, 2], [3, 4]]
    assert found.times_s is not None and found.times_s.tolist() == [0.0, 0.01]


def test_opensmile_functionals_appended_to_one_file(tmp_path: Path) -> None:
    path = written(tmp_path / "all.csv", "name;F0_mean;F0_sd", "'wav/a.wav';1;2", "'b.003';3;4")
    found = opensmile(path, ["*_mean"])
    assert {key: features.values.tolist() for key, features in found.items()} == {"a": [[1]], "b.003": [[3]]}
    assert found["a"].names == ("F0_mean",) and found["a"].times_s is None


def test_opensmile_of_the_python_package(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv",
        "file,start,end,F0",
        "a.wav,0 days 00:00:00,0 days 00:00:01,1",
        "a.wav,0 days 00:01:02.500000,0 days 00:01:03,2",
        "b.wav,00:01:03.5,4,3",
        "b.wav,3.5,4,4",
    )
    found = opensmile(path)
    assert found["a"].values.tolist() == [[1], [2]] and found["b"].values.tolist() == [[3], [4]]
    assert found["a"].times_s is not None and found["a"].times_s.tolist() == [0.0, 62.5]
    assert found["b"].times_s is not None and found["b"].times_s.tolist() == [63.5, 3.5]


# ---------------------------------------------------------------------------------------------------- MMSA


def pickled(path: Path, **splits: object) -> Path:
    path.write_bytes(pickle.dumps(splits))
    return path


def test_mmsa_lengths_cut_the_padding_at_either_end(tmp_path: Path) -> None:
    back = [[1, 1], [0, 0], [2, 2], [0, 0], [0, 0]]
    front = [[0, 0], [0, 0], [3, 3], [0, 0], [4, 4]]
    audio = np.array([back, front], dtype=np.float32)
    split = {"id": ["v$_$1", "v$_$2"], "audio": audio, "audio_lengths": [3, 3], "raw_text": ["a", "b"]}
    found = mmsa(pickled(tmp_path / "f.pkl", train=split), "audio")
    assert found["v$_$1"].values.tolist() == back[:3] and found["v$_$2"].values.tolist() == front[2:]
    assert found["v$_$1"].names == ("audio_0", "audio_1") and found["v$_$1"].times_s is None


def test_mmsa_without_lengths_all_zero_ends_are_padding(tmp_path: Path) -> None:
    vision = np.array([[[0.0], [1.0], [0.0], [2.0], [0.0]], [[0.0]] * 5])
    split = {"id": np.array([["v1"], ["v2"]]), "vision": vision}
    found = mmsa(pickled(tmp_path / "f.pkl", test=split), "vision")
    assert found["v1"].values.tolist() == [[1], [0], [2]] and found["v2"].values.shape == (0, 1)


def test_mmsa_text_takes_its_length_from_the_mask_of_the_word_ids(tmp_path: Path) -> None:
    bert = np.zeros((1, 3, 4))
    bert[0, 1, :3] = 1
    split = {"id": ["a"], "text": np.arange(8.0).reshape(1, 4, 2), "text_bert": bert}
    assert mmsa(pickled(tmp_path / "f.pkl", valid=split), "text")["a"].values.shape == (3, 2)


def test_mmsa_steps_that_are_not_finite_are_no_steps(tmp_path: Path) -> None:
    split = {"id": ["a"], "audio": [np.array([[1.0, -np.inf], [1.0, 2.0]])]}
    found = mmsa(pickled(tmp_path / "f.pkl", train=split), "audio")["a"]
    assert found.values.tolist() == [[1, 2]] and found.dropped == {"without audio_1": 1}


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit",))


@pytest.mark.parametrize(
    "splits, message",
    [
        ({"train": _Evil()}, "f.pkl: refused: the pickle asks for builtins.exec"),
        ({"train": [1]}, "f.pkl: no splits with ids"),
        ({"train": {"id": ["a"], "vision": [[1]]}}, "train: no 'audio'; it has id, vision"),
        ({"train": {"id": ["a", "b"], "audio": [[1]]}}, "train: 2 ids and 1 audio; expected as many"),
        ({"train": {"id": ["a"], "audio": [[1]], "audio_lengths": []}}, "train: 1 ids and 0 audio_lengths"),
        ({"train": {"id": ["a"], "audio": [[[[1]]]]}}, r"audio of 'a' is \(1, 1, 1\); expected \(steps, width\)"),
        (
            {"train": {"id": ["a"], "audio": [[1]]}, "test": {"id": ["a"], "audio": [[1]]}},
            "test: id 'a' is there twice",
        ),
    ],
)
def test_bad_mmsa(tmp_path: Path, splits: dict[str, object], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        mmsa(pickled(tmp_path / "f.pkl", **splits), "audio")
