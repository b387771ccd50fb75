"""Labels by a model: which clips get them, how sure it must be, and that nothing is judged by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from tiny_bundle import SCHEMA, write_tiny_bundle
from tool_scripts import checksums_hold, tool

from mmtraits import run
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.data.splits import assign
from mmtraits.schema import Clip, Trait
from mmtraits.unlike import Ranges

pseudo = tool("pseudo_labels")
BARE = np.arange(20, 40)  # rows without labels; the last one has words that no stream reads


@pytest.fixture
def corpus(tmp_path: Path) -> Manifest:
    """Forty clips, half of them without labels."""
    full = tiny_run.corpus(tmp_path / "corpus")
    labels = full.labels.copy()
    labels[BARE] = np.nan
    half = replace(full, labels=labels)
    manifests.write(half)
    return half


@pytest.fixture
def model(corpus: Manifest, tmp_path: Path) -> Path:
    return tiny_run.trained(tmp_path / "run", corpus)


def label(corpus: Manifest, model: Path, out: Path, *options: str) -> Manifest:
    assert pseudo.main([str(corpus.folder), str(model), str(out), *options]) == 0
    return manifests.read(out, check_files=True)


def made(found: Manifest) -> list[int]:
    return [row for row, clip in enumerate(found.clips) if clip.attributes.get("made") == "pseudo_label"]


def test_the_clips_that_members_agree_on_most_get_their_mean(corpus, model, tmp_path, capsys) -> None:
    found = label(corpus, model, tmp_path / "out", "--keep", "0.3")
    said = np.stack([run.predict(member, corpus, BARE[:-1]) for member in run.members_of(model)])
    for k in range(2):
        agreed = np.sort(BARE[said[..., k].std(axis=0).argsort()[:6]])  # of 19 that have a stream
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(found.labels[20:, k])) + 20, agreed)
        np.testing.assert_allclose(found.labels[agreed, k], said[:, agreed - 20, k].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.labels[:20], corpus.labels[:20])
    assert made(found) == [row for row in BARE if np.isfinite(found.labels[row]).any()]
    assert "calm: 6 (" in (report := capsys.readouterr().out) and "beside 19 (" in report
    checksums_hold(tmp_path / "out")


def test_they_are_only_trained_on(corpus, model, tmp_path) -> None:
    found = label(corpus, model, tmp_path / "out", "--keep", "1")
    assert made(found) == BARE[:-1].tolist()
    for member in range(4):
        parts = assign(found, split="kfold", folds=4, member=member)
        assert not set(made(found)) & {*parts["val"], *parts["test"]}
        assert set(made(found)) <= set(parts["train"])


def test_clips_of_val_and_test_stay_as_they_are(corpus, model, tmp_path) -> None:
    splits = tuple(("train", "val", "test", None)[row % 4] for row in range(40))
    manifests.write(replace(corpus, splits=splits))
    found = label(corpus, model, tmp_path / "out", "--keep", "1")
    assert made(found) == [row for row in BARE[:-1] if splits[row] in ("train", None)]
    assert {found.splits[row] for row in made(found)} == {"train"}


def test_a_binary_trait_is_answered_where_the_score_is_clear(corpus, tmp_path) -> None:
    schema = replace(corpus.schema, traits=(Trait(name="calm", kind="binary", low=0, high=1), corpus.schema.traits[1]))
    labels = corpus.labels.copy()
    labels[:20, 0] = np.arange(20) % 2
    binary = replace(corpus, schema=schema, labels=labels)
    manifests.write(binary)
    folder = tiny_run.trained(tmp_path / "binary", binary)
    said = np.mean([run.predict(member, binary, BARE[:-1]) for member in run.members_of(folder)], axis=0)[:, 0]
    middle = float(np.quantile(np.abs(said - 0.5), 0.5)) + 0.5
    found = label(binary, folder, tmp_path / "out", "--keep", "1", "--certain", f"{middle}")
    clear = np.abs(said - 0.5) >= middle - 0.5
    assert 0 < clear.sum() < len(clear)
    np.testing.assert_array_equal(np.isfinite(found.labels[20:39, 0]), clear)
    np.testing.assert_array_equal(found.labels[20:39, 0][clear], said[clear] >= 0.5)


def test_a_bundle_labels_what_is_like_its_training(tmp_path) -> None:
    ids = ["long", "short", "silent", "known"]
    texts = ["hello " * 5, "hello world", None, "hello"]
    files = {"audio": Path("none.wav")}  # named and not there: it cannot be read
    clips = tuple(Clip(id=i, person=i, text=t, **({} if t else files)) for i, t in zip(ids, texts, strict=True))
    labels = np.full((4, 2), np.nan)
    labels[3] = 0.5
    path = tmp_path / "corpus" / "clips.csv"
    corpus = Manifest(path=path, schema=SCHEMA, clips=clips, labels=labels, splits=(None,) * 4)
    path.parent.mkdir()
    (path.parent / "none.wav").touch()
    manifests.write(corpus)
    bundle = write_tiny_bundle(tmp_path / "bundle", ranges=Ranges(limits={"text_distance": (-np.inf, 3.0)}))
    found = label(corpus, bundle, tmp_path / "out")
    assert made(found) == [1]
    np.testing.assert_allclose(found.labels[1], 0.02, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--keep", "0"], "--keep 0.0 "), (["--certain", "0.4"], "--certain 0.4; expected above 0 up to 1, and 0.5 to 1")],
)
def test_wrong_options(corpus, model, tmp_path, capsys, options, message) -> None:
    assert pseudo.main([str(corpus.folder), str(model), str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_labelled_is_said(corpus, tmp_path, capsys) -> None:
    def refused(source: Path, model: Path) -> str:
        assert pseudo.main([str(source), str(model), str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    one = tiny_run.trained(tmp_path / "one", corpus, protocol={"split": "holdout"}, runs={"over": "none"})
    assert "fewer than two finished members say calm, open of the clips without labels" in refused(corpus.folder, one)
    bundle = write_tiny_bundle(tmp_path / "bundle")
    assert "traits calm, open with their scales" in refused(corpus.folder, bundle)
    other = replace(corpus, path=tmp_path / "other" / "clips.csv", schema=SCHEMA)
    clips = tuple(Clip(id=clip.id, text="hello") for clip in corpus.clips)
    manifests.write(replace(other, clips=clips))
    assert "it cannot tell clips unlike its training" in refused(other.folder, bundle)
    manifests.write(replace(corpus, labels=np.full((40, 2), 0.5)))
    assert "no clip outside val and test is without any label" in refused(corpus.folder, one)
