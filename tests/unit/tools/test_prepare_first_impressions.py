import csv
import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tool_scripts import ROOT, checksums_hold, contents, lines
from tool_scripts import tool as load_tool

from mmtraits.data.manifest import read, read_features
from mmtraits.errors import ManifestError

tool = load_tool("prepare_first_impressions")

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
    assert report.splitlines()[-2:] == [
        "left out: 1, face of a clip that has no row: gone",
        "left out: 1, clip without transcript, voice and face: d",
    ]


def test_running_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", *ROWS)
    tool.prepare(folder, tmp_path / "out")
    first = contents(tmp_path / "out")
    tool.prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == first
    assert checksums_hold(tmp_path / "out") == set(first) - {"clips.csv.sha256"}
    assert checksums_hold(tmp_path / "out") == {"clips.csv", "schema.yaml", "dataset.yaml", "voice.npz", "face.npz"}


def test_the_schema_that_is_written_is_the_documented_one(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in", *ROWS), tmp_path / "out")
    assert read(tmp_path / "out").schema == tool.manifests.read_schema(ROOT / "datasets/first_impressions/schema.yaml")


def test_interview_only_by_name(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in", *ROWS), tmp_path / "out", interview=True)
    assert read(tmp_path / "out").schema.trait_names == TRAITS


def test_no_stream_at_all_of_one_kind(tmp_path: Path) -> None:
    tool.prepare(source(tmp_path / "in", ROWS[2], faces=()), tmp_path / "out")
    assert read(tmp_path / "out").clips[0].features == {}
    assert checksums_hold(tmp_path / "out") == {"clips.csv", "dataset.yaml", "schema.yaml"}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "clips.csv.gz").unlink(), "no labels; expected clips.csv.gz, or annotation_training.pkl"),
        (lambda f: (f / "clips.csv.gz").write_bytes(b"clip,person\n"), "clips.csv.gz: Not a gzipped file"),
        (
            lambda f: (f / "clips.csv.gz").write_bytes(gzip.compress(b"clip,person\na,b\n")),
            "columns are missing: split, openness",
        ),
        (lambda f: (f / "faces.npz").unlink(), "faces.npz: "),
        (lambda f: source(f, (*ROWS[0][:11], *VOICE[:-1], "")), "clips.csv.gz:2: its voice statistics are incomplete"),
        (
            lambda f: source(f, ("a", "p", "train", "x", *LABELS[1:], "1", "t", *VOICE)),
            "clips.csv.gz:2: openness 'x' is not a number",
        ),
        (
            lambda f: source(f, ("a", "p", "train", "-0.2", *LABELS[1:], "1", "t", *VOICE)),
            "clips.csv.gz:2: openness -0.2 is outside the scale [0, 1] of openness",
        ),
        (lambda f: source(f, ROWS[0], ROWS[0]), "clips.csv.gz:4: clip 'a' is already at"),
        (lambda f: source(f, ("a", "p", "later", *LABELS, "1", "t", *VOICE)), "clips.csv.gz:2: split 'later'"),
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


# ---------------------------------------------------------------------------------------------------- as published

CLIPS = ("J4GQm9j0JZ0.003.mp4", "J4GQm9j0JZ0.000.mp4", "-zI_8z-2d6b.005.mp4")
NAMES = ("extraversion", "neuroticism", "agreeableness", "conscientiousness", "interview", "openness")


def annotation(*clips: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """Trait -> clip -> number: .1 more for each clip and .01 more for each trait."""
    data = {trait: {c: 0.1 + 0.1 * i + 0.01 * k for i, c in enumerate(clips)} for k, trait in enumerate(NAMES)}
    return {**data, **changes}


def dump(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(data, protocol=2))
    return path


def published(folder: Path) -> Path:
    """The corpus as it comes: two clips in train, one in val, folders per archive, gender tables."""
    dump(folder / "train-annotation/annotation_training.pkl", annotation(*CLIPS[:2]))
    dump(folder / "train-transcription/transcription_training.pkl", {CLIPS[0]: " He said:\n hi. ", CLIPS[1]: "Words."})
    dump(folder / "val/annotation_validation.pkl", annotation(CLIPS[2], interview={CLIPS[2]: np.float64(0.7)}))
    dump(folder / "val/transcription_validation.pkl", {CLIPS[2]: "", "gone.001.mp4": "Lost."})
    for name in (f"train/training80_01/{CLIPS[0]}", f"val/{CLIPS[2]}", "val/other.000.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    lines(
        folder / "eth_gender_annotations_dev.csv",
        ["VideoName;YouTubeID;Ethnicity;Gender", f"{CLIPS[0]};J4GQm9j0JZ0;2;1", f"{CLIPS[2]};-zI_8z-2d6b;3;2"],
    )
    return folder


def test_the_published_layout_becomes_a_manifest(tmp_path: Path) -> None:
    report = tool.prepare(published(tmp_path / "in"), tmp_path / "out")
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.person, c.text, dict(c.attributes)) for c in found.clips] == [
        ("J4GQm9j0JZ0.000", "J4GQm9j0JZ0", "Words.", {}),
        ("J4GQm9j0JZ0.003", "J4GQm9j0JZ0", "He said: hi.", {"gender": "1", "ethnicity": "2"}),
        ("-zI_8z-2d6b.005", "-zI_8z-2d6b", None, {"gender": "2", "ethnicity": "3"}),
    ]
    assert [c.video and c.video.name for c in found.clips] == [None, CLIPS[0], CLIPS[2]]
    assert found.splits == ("train", "train", "val")
    assert found.schema.trait_names == TRAITS[:5]
    np.testing.assert_allclose(found.labels[1], [0.15, 0.13, 0.10, 0.12, 0.11])  # neuroticism is not flipped
    assert report.splitlines()[-5:] == [
        f"left out: 1, video not found, its clip kept: {CLIPS[1]}",
        f"left out: 1, transcript not found, its clip kept: {CLIPS[2]}",
        "left out: 1, transcript of a clip without labels: gone.001.mp4",
        "left out: 1, split without labels: annotation_test.pkl",
        "left out: 1, video without labels: other.000.mp4",
    ]


def test_the_published_layout_again_and_with_the_sixth_label(tmp_path: Path) -> None:
    folder = published(tmp_path / "in")
    tool.prepare(folder, tmp_path / "out", interview=True)
    first = contents(tmp_path / "out")
    assert read(tmp_path / "out").labels[2, 5] == 0.7
    tool.prepare(folder, tmp_path / "out", interview=True)
    assert contents(tmp_path / "out") == first


def test_media_elsewhere_and_clips_with_nothing(tmp_path: Path) -> None:
    folder, media = published(tmp_path / "in"), tmp_path / "videos"
    media.mkdir()
    (media / CLIPS[1]).touch()
    report = tool.prepare(folder, tmp_path / "out", media=media)
    found = read(tmp_path / "out", check_files=True)
    assert [(c.id, c.video and c.video.name) for c in found.clips] == [
        ("J4GQm9j0JZ0.000", CLIPS[1]), ("J4GQm9j0JZ0.003", None),
    ]  # fmt: skip
    assert f"left out: 1, clip with neither transcript nor video: {CLIPS[2]}" in report


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.mkdir, (self.path,)


TRAIN = "train-annotation/annotation_training.pkl"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: dump(f / TRAIN, {"extraversion": _Evil(f / "it ran")}), r"annotation_training\.pkl: refused"),
        (
            lambda f: dump(f / "val/transcription_validation.pkl", _Evil(f / "it ran")),
            r"transcription_validation\.pkl: refused",
        ),
        (lambda f: (f / TRAIN).write_bytes(b"\x80\x02}q"), r"annotation_training\.pkl: not readable as a pickle"),
        (
            lambda f: dump(f / TRAIN, {k: v for k, v in annotation(*CLIPS[:2]).items() if k != "neuroticism"}),
            r"annotation_training\.pkl: no dict under 'neuroticism'",
        ),
        (lambda f: dump(f / TRAIN, [1]), r"no dict under 'openness'"),
        (
            lambda f: dump(f / TRAIN, annotation(*CLIPS[:2], openness={CLIPS[0]: 3.5, CLIPS[1]: "high"})),
            rf"clip {CLIPS[1]}: openness 'high' is not a number\n.*clip {CLIPS[0]}: openness 3\.5 is outside the scale",
        ),
        (lambda f: dump(f / TRAIN, annotation(CLIPS[2])), rf"clip '{CLIPS[2]}' is also in train"),
        (lambda f: dump(f / TRAIN, annotation("a.mp4")), r"clip 'a\.mp4'; expected .*VIDEO\.NNN\.mp4"),
        (lambda f: dump(f / "val/transcription_validation.pkl", {"a": 1}), r"expected a dict of clip name -> text"),
        (lambda f: (f / f"train/{CLIPS[0]}").touch(), rf"{CLIPS[0]}: a file of that name is already at"),
        (
            lambda f: lines(f / "eth_gender_annotations_dev.csv", ["VideoName;Sex", "a;1"]),
            r"eth_gender_annotations_dev\.csv:1: columns are missing: Gender",
        ),
    ],
)
def test_a_bad_published_source(tmp_path: Path, spoil, message: str) -> None:
    spoil(published(tmp_path / "in"))
    with pytest.raises(ManifestError, match=message):
        tool.prepare(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "in" / "it ran").exists()


def test_flipped_stability_is_noticed(tmp_path: Path) -> None:
    clips = [f"v{i}.000.mp4" for i in range(60)]
    values = {clip: i / 60 for i, clip in enumerate(clips)}
    fine = annotation(*clips, **dict.fromkeys(NAMES, values))
    dump(tmp_path / "in/transcription_training.pkl", dict.fromkeys(clips, "words"))
    dump(tmp_path / "in/annotation_training.pkl", fine)
    assert "60 clips of 60 persons" in tool.prepare(tmp_path / "in", tmp_path / "out")
    flipped = {**fine, "neuroticism": {clip: 1 - value for clip, value in values.items()}}
    dump(tmp_path / "in/annotation_training.pkl", flipped)
    with pytest.raises(ManifestError, match=r"emotional_stability and extraversion correlate at -1\.00; .*flipped"):
        tool.prepare(tmp_path / "in", tmp_path / "out")


def test_media_beside_the_table_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="leave --media out"):
        tool.prepare(source(tmp_path / "in", *ROWS), tmp_path / "out", media=tmp_path)
