"""What a bundle says of labelled rows; its scores can be worked out by hand (tests/tiny_bundle.py)."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import clock
import numpy as np
import pytest
from tiny_bundle import SCHEMA, write_tiny_bundle

from mmtraits.data import splits
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ManifestError
from mmtraits.evaluation import scored_bundle
from mmtraits.evaluation.scored import digest
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip, Trait, Windowing

VOICE, TEXT, FACE = (frozenset([stream]) for stream in ("voice", "text", "face"))
LABELS = np.array([[0.02, 0.0], [0.02, np.nan], [0.02, 0.3]])


def texts(folder: Path, *splits_: str | None) -> Manifest:
    """The tiny bundle scores .01 for each word of a text."""
    clips = tuple(Clip(id=str(n), person=f"p{n}", text=" ".join(["hello"] * n)) for n in (1, 2, 3))
    return Manifest(path=folder / "clips.csv", schema=SCHEMA, clips=clips, labels=LABELS, splits=splits_ or (None,) * 3)


def test_every_set_of_streams_speaks_of_the_rows_that_have_it(tmp_path: Path) -> None:
    sound = clock.write(tmp_path / "a.wav", seconds=2.0, times_s=(), codecs=("h264", "pcm_s16le"), rate=8000)
    manifest = texts(tmp_path)
    both, silent = replace(manifest.clips[0], audio=sound), manifest.clips[1]
    mute = Clip(id="mute", audio=sound)
    found = scored_bundle.score(
        write_tiny_bundle(tmp_path / "bundle"), replace(manifest, clips=(both, silent, mute)), "test"
    )
    assert found.streams == ("face", "voice", "text") and found.rows.tolist() == [0, 1, 2]
    assert found.present.tolist() == [[False, True, True], [False, False, True], [False, True, False]]
    assert found.status == ("degraded",) * 3 and len(found.by_streams) == 7
    loudness = 0.25 * 2 / np.pi  # of a sine of a quarter of full scale
    nothing = [np.nan, np.nan]
    wanted = {
        TEXT: [[0.01, 0.01], [0.02, 0.02], nothing],
        VOICE: [[0.0, loudness], nothing, [0.0, loudness]],
        TEXT | VOICE: [[0.01, 0.01 + loudness], nothing, nothing],
    }
    for some, scores in found.by_streams.items():
        np.testing.assert_allclose(scores, wanted.get(some, [nothing] * 3), atol=2e-3)
    np.testing.assert_allclose(found.scores, [wanted[TEXT | VOICE][0], wanted[TEXT][1], wanted[VOICE][2]], atol=2e-3)
    np.testing.assert_array_equal([found.low, found.high], [[0, 0], [1, 1]])
    alone = replace(manifest, clips=(mute,), labels=LABELS[:1], splits=(None,))
    assert scored_bundle.score(tmp_path / "bundle", alone, "test").present.tolist() == [[False, True, False]]
    assert found.calibration is None and found.notes == [] and found.seeds == {}
    assert found.protocol == "all rows of the manifest, 3 clips in all."


def test_clips_are_read_in_groups_without_mixing_them(tmp_path: Path) -> None:
    manifest = texts(tmp_path)
    clips = [replace(manifest.clips[n % 3], id=f"c{n}") for n in range(7)]
    predictor = Predictor(write_tiny_bundle(tmp_path / "bundle"))
    whole, said = scored_bundle._by_masks(predictor, clips, group=3)
    np.testing.assert_allclose(said[TEXT][:, 0], [0.01, 0.02, 0.03, 0.01, 0.02, 0.03, 0.01], atol=1e-6)
    assert whole.clip_ids == tuple(f"c{n}" for n in range(7)) and np.isnan(said[VOICE]).all()


def test_constants_are_of_the_best_rows_that_are_known(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "a")
    found = scored_bundle.score(bundle, texts(tmp_path), "test")
    np.testing.assert_allclose(found.mean, [[0.02, 0.15]] * 3)
    assert found.floor_of == "the evaluated rows themselves (a harder floor)" and found.folds == ()
    found = scored_bundle.score(bundle, texts(tmp_path, "train", "test", "train"), "test")
    np.testing.assert_allclose((found.mean[0], found.median[0]), [[0.02, 0.15]] * 2)
    assert found.floor_of == "the manifest's split train" and found.rows.tolist() == [1]
    assert found.protocol == "the manifest's split `test`, 3 clips in all."
    (fold,) = found.folds
    assert fold.train.tolist() == [0, 2] and fold.test.tolist() == [1]
    found = scored_bundle.score(bundle, texts(tmp_path, "train", "test", "train"), "train")
    assert found.folds == () and found.rows.tolist() == [0, 2]


def test_a_bundle_may_know_its_training_labels(tmp_path: Path) -> None:
    known = {"training_labels": {"mean": [0.5, None], "median": [0.4, None]}}  # null: no label of it in training
    bundle = write_tiny_bundle(tmp_path / "bundle", provenance=known)
    found = scored_bundle.score(bundle, texts(tmp_path, "train", "test", "test"), "test")
    np.testing.assert_array_equal(found.mean, [[0.5, np.nan]] * 2)
    np.testing.assert_array_equal(found.median, [[0.4, np.nan]] * 2)
    assert found.floor_of == "the bundle's training rows" and found.median.dtype == np.float64


def test_ends_of_the_scale_are_those_of_all_members(tmp_path: Path) -> None:
    member = {"shift": [0, 0], "scale": [1, 1], "low": [0, 0.1], "high": [0.8, 1]}
    bundle = write_tiny_bundle(tmp_path / "bundle", transform=[member, member | {"low": [0.2, 0]}])
    found = scored_bundle.score(bundle, texts(tmp_path), "test")
    np.testing.assert_array_equal([found.low, found.high], [[0, 0], [0.8, 1]])


def test_failed_clips_and_features_that_are_not_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    manifest = texts(tmp_path)
    given = replace(manifest.clips[0], features={"voice": "voice.npz#1"})
    clips = (given, Clip(id="broken", video=tmp_path / "broken.mp4"), manifest.clips[2])
    found = scored_bundle.score(write_tiny_bundle(tmp_path / "bundle"), replace(manifest, clips=clips), "test")
    assert found.notes == [
        "1 clips failed",
        "feature_<stream> of 1 clips was not read: a bundle starts from media and text",
    ]
    assert found.status[1] == "failed" and np.isnan(found.scores[1]).all() and not np.isnan(found.scores[0]).any()


def test_what_a_bundle_cannot_score_is_refused(tmp_path: Path) -> None:
    bundle, manifest = write_tiny_bundle(tmp_path / "bundle"), texts(tmp_path)
    only = tuple(Clip(id=clip.id, features={"voice": "voice.npz#1"}) for clip in manifest.clips)
    with pytest.raises(ManifestError, match="no media or text; a bundle starts from media: evaluate the run"):
        scored_bundle.score(bundle, replace(manifest, clips=only), "test")
    other = replace(SCHEMA, traits=(Trait(name="warm", low=0.0, high=1.0),))
    with pytest.raises(ManifestError, match="scores brightness, loudness and needs the same traits"):
        scored_bundle.score(bundle, replace(manifest, schema=other), "test")


# ---------------------------------------------------------------------------------------------------- training rows


OPTIONS: dict[str, Any] = {"folds": 3, "by": "person", "seed": 4, "stratify": []}


def learned(tmp_path: Path, manifest: Manifest, split: Any = "test", **known: Any) -> list[tuple[list[int], list[int]]]:
    bundle = write_tiny_bundle(tmp_path / "bundle", provenance=known)
    found = scored_bundle.learned_from(scored_bundle.score(bundle, manifest, split), manifest)
    return [(fold.train.tolist(), fold.test.tolist()) for fold in found]


def test_of_another_table_nothing_is_known(tmp_path: Path) -> None:
    manifest = texts(tmp_path)
    changed = replace(manifest, labels=np.where(LABELS == 0.3, 0.31, LABELS))
    assert learned(tmp_path, manifest) == [] == learned(tmp_path, changed, data_sha256=digest(manifest))


def test_a_bundle_knows_the_table_that_it_was_made_from(tmp_path: Path) -> None:
    manifest = texts(tmp_path, "train", "test", "test")
    known = {"data_sha256": digest(manifest)}
    assert learned(tmp_path, manifest, **known) == [([0, 1, 2], [1, 2])]  # how it was divided is not known: all
    official = {"by": OPTIONS | {"split": "official"}, "members": 1}
    assert learned(tmp_path, manifest, **known, divided=official) == [([0], [1, 2])]
    assert learned(tmp_path, manifest, "train", **known, divided=official) == [([0], [0])]


def test_rows_of_all_folds_or_of_one(tmp_path: Path) -> None:
    manifest = texts(tmp_path)
    by = OPTIONS | {"split": "kfold"}
    parts = [splits.assign(manifest, member=n, **by)["train"].tolist() for n in range(3)]
    for members, wanted in ((3, sorted(set().union(*parts))), (1, parts[0])):
        found = learned(tmp_path, manifest, data_sha256=digest(manifest), divided={"by": by, "members": members})
        assert found == [(wanted, [0, 1, 2])]
    assert len(parts[0]) < 3


# ---------------------------------------------------------------------------------------------------- other windows


def test_windows_of_other_lengths_and_back(tmp_path: Path) -> None:
    """One second of sound and three of nearly none; windows follow each other, the last one ends with the clip."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.repeat(np.array([8192, 328, 328, 328], np.int16), 8000).tobytes())
    predictor = Predictor(write_tiny_bundle(tmp_path / "bundle"))
    clips = [Clip(id="a", audio=tmp_path / "a.wav"), Clip(id="words", text="hello world")]
    found = scored_bundle.by_window_length(predictor, clips, (1.0, 2.0, 3.0))
    for (length_s, scores), loudness in zip(found.items(), (0.07, 0.07, 0.05), strict=True):
        np.testing.assert_allclose(scores, [[0.0, loudness], [0.02, 0.02]], atol=1e-3, err_msg=f"{length_s} s")
    assert predictor.windowing == Windowing(length_s=2.0, hop_s=2.0)
    with pytest.raises(TypeError):
        scored_bundle.by_window_length(predictor, None, (1.0,))  # type: ignore[arg-type]
    assert predictor.windowing == Windowing(length_s=2.0, hop_s=2.0)


def test_a_folder_without_a_table(tmp_path: Path) -> None:
    clock.write(tmp_path / "b.wav", seconds=1.0, times_s=(), codecs=("h264", "pcm_s16le"), rate=8000)
    (tmp_path / "a.txt").write_text("hello")
    found = scored_bundle.unlabelled(tmp_path, SCHEMA)
    assert [clip.id for clip in found.clips] == ["b.wav"] and found.splits == (None,)
    assert np.isnan(found.labels).all() and found.labels.shape == (1, 2) and found.schema == SCHEMA
    (tmp_path / "none").mkdir()
    with pytest.raises(ManifestError, match=r"none: neither a clips\.csv nor media files in it"):
        scored_bundle.unlabelled(tmp_path / "none", SCHEMA)
