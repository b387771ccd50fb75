"""What a run says of rows: of its own by the members that did not learn from them, of other clips by all members."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_run import SCHEMA, corpus, saying, trained

from mmtraits import run
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, ManifestError
from mmtraits.evaluation import scored_run
from mmtraits.evaluation.scored import training_mean, training_median
from mmtraits.schema import Trait

ROWS = 40
A, B, BOTH = frozenset("a"), frozenset("b"), frozenset("ab")


@pytest.fixture(scope="module")
def kfold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("kfold")
    manifest = corpus(folder / "corpus")
    return trained(folder / "run", manifest), manifest


def rows_of(folder: Path, manifest: Manifest, split: str) -> dict[str, list[int]]:
    """Rows of the manifest by member."""
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    members = run.read_run(folder)["members"]
    return {n: [row_of[c] for c in one["splits"][split] if c in row_of] for n, one in members.items()}


def part(manifest: Manifest, rows: list[int]) -> Manifest:
    return replace(
        manifest,
        clips=tuple(manifest.clips[row] for row in rows),
        labels=manifest.labels[rows],
        splits=(None,) * len(rows),
    )


def test_every_row_is_scored_by_the_member_that_did_not_see_it(kfold: tuple[Path, Manifest]) -> None:
    folder, manifest = kfold
    found = scored_run.score(folder, manifest, "test")
    assert found.rows.tolist() == list(range(ROWS)) and found.streams == ("a", "b")
    learned = {name: rows_of(folder, manifest, "train")[name] for name in rows_of(folder, manifest, "test")}
    for name, rows in rows_of(folder, manifest, "test").items():
        np.testing.assert_allclose(found.scores[rows], run.predict(folder / name, manifest, rows), atol=1e-5)
        alone = run.predict(folder / name, manifest, rows, streams="b")
        np.testing.assert_allclose(found.by_streams[B][rows], alone, atol=1e-5)
        assert not set(rows) & set(learned[name])
    assert set(found.by_streams) == {A, B, BOTH} and np.isnan(found.by_streams[BOTH][::2]).all()
    assert found.present[:, 0].tolist() == [True] * 39 + [False]
    assert found.present[:, 1].tolist() == [bool(row % 2) for row in range(39)] + [False]
    assert found.status == ("degraded", "ok") * 19 + ("degraded", "failed")
    assert found.protocol == "Out of fold: 4 folds of 40 clips, no person in two of them."
    assert found.notes == [] and found.seeds == {} and found.calibration is None


def test_constants_are_those_of_training_and_of_the_rows_carved_out_of_it(kfold: tuple[Path, Manifest]) -> None:
    """Floors select nothing, so that a member's validation rows are theirs to learn from."""
    folder, manifest = kfold
    found = scored_run.score(folder, manifest, "test")
    train, val = (rows_of(folder, manifest, split) for split in ("train", "val"))
    assert len(found.folds) == 4 and found.floor_of == "each member's training rows"
    for fold, (name, rows) in zip(found.folds, rows_of(folder, manifest, "test").items(), strict=True):
        learned = train[name] + val[name]
        assert val[name] and fold.test.tolist() == rows and sorted(fold.train) == sorted(learned)
        wanted = training_mean(manifest.labels[learned]), training_median(manifest.labels[learned])
        np.testing.assert_allclose(found.mean[rows], np.tile(wanted[0], (len(rows), 1)))
        np.testing.assert_allclose(found.median[rows], np.tile(wanted[1], (len(rows), 1)))


def test_val_rows_are_no_training_rows_of_val(kfold: tuple[Path, Manifest]) -> None:
    """A row in val of some members is scored by these, computed anew."""
    folder, manifest = kfold
    found = scored_run.score(folder, manifest, "val")
    own = rows_of(folder, manifest, "val")
    total, count = np.zeros((ROWS, 2)), np.zeros((ROWS, 1))
    for name, rows in own.items():
        total[rows] += run.predict(folder / name, manifest, rows)
        count[rows] += 1
    rows = np.flatnonzero(count[:, 0])
    assert found.rows.tolist() == rows.tolist() and 0 < len(rows) < ROWS
    np.testing.assert_allclose(found.scores, total[rows] / count[rows], atol=1e-5)
    train = rows_of(folder, manifest, "train")
    assert [sorted(fold.train) for fold in found.folds] == [sorted(rows) for rows in train.values()]
    assert found.protocol == "Rows `val` of a split that divides no person, of 40 clips in all."


@pytest.mark.parametrize("val", [True, False])
def test_the_corpuss_own_val_rows_are_nobodys_training(tmp_path: Path, val: bool) -> None:
    manifest = corpus(tmp_path / "corpus")
    own = ("train",) * 20 + (("val",) if val else ("train",)) * 10 + ("test",) * 8 + (None,) * 2
    manifest = replace(manifest, splits=own)
    folder = saying(tmp_path / "run", manifest, np.full((ROWS, 2), 0.5), protocol={"split": "official"}, runs={})
    found = scored_run.score(folder, manifest, "test")
    assert found.rows.tolist() == list(range(30, 38))
    assert sorted(found.folds[0].train) == list(range(20 if val else 30))  # carved rows are training's
    assert found.protocol == "Rows `test` of the corpus's own split, of 40 clips in all."
    assert found.notes == ["2 clips of the manifest are in no split of the run: left out"]


def test_a_foreign_manifest_is_scored_by_all_members(kfold: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, _ = kfold
    other = corpus(tmp_path / "other", name="new", seed=1)
    found = scored_run.score(folder, other, "test")
    members = run.members_of(folder)
    np.testing.assert_allclose(
        found.scores, np.mean([run.predict(member, other) for member in members], axis=0), atol=1e-5
    )
    # What the models remember: constants that know nothing of these labels.
    models = [run.load_member(member) for member in members]
    centre = np.mean([model.to_scale(model.centre).numpy() for model in models], axis=0)
    np.testing.assert_allclose(found.mean, np.tile(centre, (ROWS, 1)), atol=1e-6)
    assert found.median is None and found.folds == () and found.notes == []
    assert found.protocol == "Clips that training did not see: all rows of the manifest, 40 clips in all."
    divided = replace(other, splits=("test",) * 10 + ("train",) * 30)
    found = scored_run.score(folder, divided, "test")
    assert found.rows.tolist() == list(range(10))
    assert found.protocol == "Clips that training did not see: the manifest's split `test`, 40 clips in all."
    with pytest.raises(ManifestError, match=r"clips\.csv: no row has split 'val'; fill the column"):
        scored_run.score(folder, divided, "val")


def test_a_part_of_the_runs_own_rows_is_still_scored_out_of_fold(kfold: tuple[Path, Manifest]) -> None:
    """Here the training rows are not known: no floors are fitted, and the constant is what the models remember."""
    folder, manifest = kfold
    rows = rows_of(folder, manifest, "test")["fold1"]
    found = scored_run.score(folder, part(manifest, rows), "test")
    np.testing.assert_allclose(found.scores, run.predict(folder / "fold1", manifest, rows), atol=1e-5)
    assert found.median is None and found.folds == ()
    model = run.load_member(folder / "fold1")
    np.testing.assert_allclose(found.mean[0], model.to_scale(model.centre).numpy(), atol=1e-6)
    with pytest.raises(ManifestError, match="none of its clips is in split 'val' of "):
        scored_run.score(folder, part(manifest, [39]), "val")


def test_seeds_are_averaged_and_each_stands_for_itself(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    folder = trained(tmp_path / "run", manifest, runs={"over": "fold", "seeds": 2})
    found = scored_run.score(folder, manifest, "test")
    seeds = [np.full((ROWS, 2), np.nan) for _ in range(2)]
    for name, rows in rows_of(folder, manifest, "test").items():
        seeds[int(name[-1])][rows] = run.predict(folder / name, manifest, rows)
    assert not np.allclose(*seeds, equal_nan=True)
    np.testing.assert_allclose(found.scores, np.mean(seeds, axis=0), atol=1e-5)
    assert list(found.seeds) == ["seed 0", "seed 1"] and len(found.folds) == 4  # a fold is fitted on once
    for scores, wanted in zip(found.seeds.values(), seeds, strict=True):
        np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_unfinished_members_are_said(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    folder = saying(tmp_path / "run", manifest, np.full((ROWS, 2), 0.5))
    (folder / "fold2" / "metrics.json").unlink()
    found = scored_run.score(folder, manifest, "test")
    assert found.notes == ["1 of 4 members are not trained to their end"]
    assert not set(found.rows) & set(rows_of(folder, manifest, "test")["fold2"]) and len(found.folds) == 3
    for member in run.members_of(folder):
        (member / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="no member is trained to its end; finish it with `mmtraits train --resume`"):
        scored_run.score(folder, manifest, "test")


def test_other_traits_are_refused(kfold: tuple[Path, Manifest]) -> None:
    folder, manifest = kfold
    wide = replace(SCHEMA, traits=(SCHEMA.traits[0], Trait(name="open", low=1.0, high=7.0)))
    with pytest.raises(ManifestError, match="needs the same traits, scales and order"):
        scored_run.score(folder, replace(manifest, schema=wide), "test")


def test_what_was_recorded_is_read_of_clips_that_are_there(tmp_path: Path) -> None:
    """A manifest that has lost a clip since: that one is left out, the rest keeps its scores."""
    manifest = corpus(tmp_path / "corpus")
    said = np.random.default_rng(5).uniform(size=(ROWS, 2)).round(6)
    folder = saying(tmp_path / "run", manifest, lambda some: said + 0.01 * len(some))
    fewer = part(manifest, list(range(10, ROWS)))
    found = scored_run.score(folder, fewer, "test")
    np.testing.assert_allclose(found.by_streams[A][:-1], said[10:-1] + 0.01)
    np.testing.assert_allclose(found.scores[1::2][:-1], said[11::2][:-1] + 0.02)
    assert found.median is None and "allowed" in json.dumps(found.about["leakage"])


def test_features_are_the_mean_over_a_clips_time(kfold: tuple[Path, Manifest]) -> None:
    folder, manifest = kfold
    found = scored_run.features(folder, manifest)
    stored = np.load(manifest.folder / "a.npz")["features"]
    np.testing.assert_allclose(found["a"][:-1], stored[:-1], rtol=1e-5)
    assert np.isnan(found["a"][-1]).all() and np.isnan(found["b"][::2]).all() and np.isfinite(found["b"][1:-1:2]).all()
