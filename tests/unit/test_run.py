import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SCHEMA, config, plant

from mmtraits import run
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError
from mmtraits.extract import extract
from mmtraits.train import fit


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    plant(folder)
    return folder


@pytest.fixture(scope="module")
def folds(corpus) -> Path:
    settings = config(
        corpus, name="folds", protocol={"split": "kfold", "folds": 3}, runs={"over": "fold"}, trainer__max_epochs=2
    )
    return fit(settings, root=corpus / "checkpoints")


@pytest.fixture(scope="module")
def manifest(corpus) -> Manifest:
    return manifests.read(corpus)


def test_members_are_folds_times_seeds_and_differ_in_rows_or_seed(corpus, manifest) -> None:
    settings = config(corpus, protocol={"split": "kfold", "folds": 3}, runs={"over": "fold", "seeds": 2}, seed=5)
    members = run.plan(settings, manifest)
    assert [member.name for member in members] == [f"fold{f}-seed{s}" for f in range(3) for s in range(2)]
    assert [member.seed for member in members] == [5, 6] * 3
    tested = [set(member.rows["test"].tolist()) for member in members]
    assert tested[0] == tested[1] != tested[2]
    assert set.union(*tested) == set(range(len(manifest.clips)))


def test_a_single_member_has_a_name_of_its_own(corpus, manifest) -> None:
    assert [member.name for member in run.plan(config(corpus), manifest)] == ["single"]


def test_folds_without_a_k_fold_protocol_are_refused(corpus, manifest) -> None:
    with pytest.raises(ConfigError, match="runs.over: found 'fold' with protocol.split 'holdout'; expected 'kfold'"):
        run.plan(config(corpus, runs={"over": "fold"}), manifest)


def test_every_clip_is_predicted_once_out_of_fold_by_each_set_of_its_streams(folds, manifest) -> None:
    found: list[tuple[str, str]] = []
    for member in run.members_of(folds):
        with (member / "predictions.csv").open() as file:
            found += [(row["clip"], row["streams"]) for row in csv.DictReader(file)]
    expected = []
    for clip in manifest.clips:
        expected += [(clip.id, s) for s in (["a+b", "a", "b"] if "a" in clip.features else ["b"])]
    assert sorted(found) == sorted(expected)


def test_predictions_are_those_of_the_reloaded_member(folds, manifest) -> None:
    member = folds / "fold1"
    with (member / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["streams"] == "b"]
    place = {clip.id: n for n, clip in enumerate(manifest.clips)}
    scores = run.predict(member, manifest, [place[row["clip"]] for row in rows], streams=["b"])
    told = np.array([[float(row[name]) for name in SCHEMA.trait_names] for row in rows])
    np.testing.assert_allclose(scores, told, atol=1e-6)


def test_a_clip_that_lacks_the_streams_asked_for_has_no_score(folds, manifest) -> None:
    scores = run.predict(folds / "fold0", manifest, [0, 1], streams=["a"])
    assert np.isnan(scores[0]).all()
    assert np.isfinite(scores[1]).all()


def test_run_json_tells_each_members_rows_by_clip_id(folds, manifest) -> None:
    about = run.read_run(folds)
    ids = {clip.id for clip in manifest.clips}
    for member in about["members"].values():
        parts = [set(part) for part in member["splits"].values()]
        assert set.union(*parts) == ids
        assert sum(map(len, parts)) == len(ids)
    assert about["schema"] == json.loads(json.dumps(SCHEMA.to_dict()))


def test_windows_are_averaged_by_the_time_they_stand_for() -> None:
    rows, means = run.by_clip(
        torch.tensor([7, 2, 7]), torch.tensor([15.0, 4.0, 5.0]), torch.tensor([[0.0], [0.5], [1.0]])
    )
    assert rows.tolist() == [2, 7]
    np.testing.assert_allclose(means, [[0.5], [0.25]])


def test_scores_do_not_depend_on_batch_mates_or_order(folds, corpus, manifest) -> None:
    model = run.load_member(folds / "fold0")
    windows = extract(config(corpus), manifest).windows[:30]
    _, together = run.score(model, windows, manifest, 30)
    _, apart = run.score(model, windows[::-1], manifest, 4)
    np.testing.assert_allclose(apart, together, atol=1e-6)


def test_no_windows_give_no_rows(folds, manifest) -> None:
    rows, scores = run.score(run.load_member(folds / "fold0"), [], manifest, 8)
    assert rows.shape == (0,)
    assert scores.shape == (0, 2)


# ---------------------------------------------------------------------------------------------------- bad input


def test_a_folder_that_is_no_run_says_so(tmp_path, folds) -> None:
    with pytest.raises(ConfigError, match="run.json: cannot be read .*; expected a folder written by `mmtraits train`"):
        run.read_run(tmp_path)
    with pytest.raises(ConfigError, match="fold9: no member of the run; there are fold0, fold1, fold2"):
        run.load_member(folds / "fold9")


def test_an_unfinished_member_says_so(corpus, tmp_path) -> None:
    folder = fit(config(corpus, trainer__max_epochs=1), root=tmp_path)
    (folder / "single" / "best.safetensors").write_bytes(b"half")
    with pytest.raises(ConfigError, match="best.safetensors: cannot be read .*; the member is not trained to its end"):
        run.load_member(folder / "single")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"head": {"use": "linear"}}, "head"),
        ({"data__batch_size": 8}, "batch_size"),
        ({"seed": 1, "name": "b"}, "name, seed"),
    ],
)
def test_resuming_another_config_is_refused(corpus, folds, change, named) -> None:
    settings = config(
        corpus, **{"name": "folds", "protocol": {"split": "kfold", "folds": 3}, "runs": {"over": "fold"}, **change}
    )
    with pytest.raises(
        ConfigError, match=f"config.yaml: {named} differ from the config given; resume with the run's own"
    ):
        run.check_folder(folds, settings, resume=True)


def test_resuming_nothing_is_refused(corpus, tmp_path) -> None:
    with pytest.raises(ConfigError, match="toy: no run to resume; expected a config.yaml in it"):
        run.check_folder(tmp_path / "toy", config(corpus), resume=True)


def test_resuming_on_other_labels_is_refused(corpus, tmp_path) -> None:
    folder = tmp_path / "own"
    plant(folder)
    settings = config(folder, trainer__max_epochs=1)
    fit(settings, root=tmp_path)
    plant(folder, clips=190)
    with pytest.raises(ConfigError, match="run.json: other rows or labels than in .*clips.csv; start a new run"):
        fit(settings, root=tmp_path, resume=True)


# ---------------------------------------------------------------------------------------------------- leakage


def leaking(manifest: Manifest, owners: list[str | None]) -> Manifest:
    """The same clips of other persons; every third clip is a test, every tenth of the rest validates."""
    clips = tuple(replace(clip, person=owner) for clip, owner in zip(manifest.clips, owners, strict=True))
    own = tuple("test" if n % 3 == 0 else "val" if n % 10 == 1 else "train" for n in range(len(clips)))
    return replace(manifest, clips=clips, splits=own)


def test_a_split_that_shares_persons_is_refused_with_its_extent_and_the_way_out(corpus, manifest) -> None:
    shared = leaking(manifest, [f"p{n // 2}" for n in range(200)])  # 36 of its pairs are divided by `test` alone
    settings = config(corpus, protocol={"split": "official"})
    plan = run.plan(settings, shared)
    rows = plan[0].rows
    trained = {shared.clips[row].person for row in rows["train"]}
    outside = [shared.clips[row].person for split in ("val", "test") for row in rows[split]]
    persons, clips = len(trained & set(outside)), sum(person in trained for person in outside)
    assert 60 < persons <= clips
    message = (
        rf"protocol.split 'official': {persons} persons of .*clips.csv both in training and in validation or test, "
        rf"with {clips} clips there: .* Use protocol.split=kfold or holdout with protocol.by=person; .*leakage=true"
    )
    with pytest.raises(ConfigError, match=message):
        run.leakage(settings, shared, plan)
    allowed = config(corpus, protocol={"split": "official", "allow_leakage": True})
    found = run.leakage(allowed, shared, run.plan(allowed, shared))
    assert found == {"persons_shared": persons, "clips_shared": clips, "allowed": True}


def test_folds_by_clip_share_persons_too(corpus, manifest) -> None:
    settings = config(corpus, protocol={"split": "kfold", "folds": 3, "by": "id"}, runs={"over": "fold"})
    with pytest.raises(ConfigError, match="protocol.split 'kfold': [0-9]+ persons"):
        run.leakage(settings, manifest, run.plan(settings, manifest))


def test_validation_counts_as_much_as_test(corpus, manifest) -> None:
    owners: list[str | None] = [f"p{n}" for n in range(200)]
    owners[1] = owners[2] = "both"  # val and train
    settings = config(corpus, protocol={"split": "official"})
    shared = leaking(manifest, owners)
    with pytest.raises(ConfigError, match="1 person of .* with 1 clip there"):
        run.leakage(settings, shared, run.plan(settings, shared))


def test_without_persons_leakage_is_unknown_and_not_none(corpus, manifest) -> None:
    unnamed = leaking(manifest, [None] * 200)
    settings = config(corpus, protocol={"split": "official"})
    found = run.leakage(settings, unnamed, run.plan(settings, unnamed))
    assert found == {"persons_shared": None, "clips_shared": None, "allowed": False}


def test_run_json_records_it_and_a_run_of_before_is_read_without(folds, corpus, manifest, tmp_path) -> None:
    assert run.read_run(folds)["leakage"] == {"persons_shared": 0, "clips_shared": 0, "allowed": False}
    old = tmp_path / "old"
    shutil.copytree(folds, old)
    about = json.loads((old / "run.json").read_text())
    del about["leakage"]
    (old / "run.json").write_text(json.dumps(about))
    new = ("  stratify:", "  allow_leakage:", "  balance:", "objective:", "  use: supervised", "  mixup:", "  clips_")
    lines = (old / "config.yaml").read_text().splitlines()
    (old / "config.yaml").write_text("\n".join(line for line in lines if not line.startswith(new)))
    np.testing.assert_array_equal(
        run.predict(old / "fold0", manifest, [0]), run.predict(folds / "fold0", manifest, [0])
    )
    settings = config(
        corpus, name="folds", protocol={"split": "kfold", "folds": 3}, runs={"over": "fold"}, trainer__max_epochs=2
    )
    run.check_folder(old, settings, resume=True)


def test_stratified_members_are_planned(corpus, manifest) -> None:
    by_label = {"split": "kfold", "folds": 3, "stratify": ["label"]}
    plain, stratified = (
        run.plan(config(corpus, protocol=protocol, runs={"over": "fold"}), manifest)
        for protocol in ({"split": "kfold", "folds": 3}, by_label)
    )
    means = [
        np.std([np.nanmean(manifest.labels[member.rows["test"]], axis=0) for member in plan], axis=0).mean()
        for plan in (plain, stratified)
    ]
    assert means[1] < means[0]


def test_a_resumed_run_may_not_change_its_balance(corpus, folds) -> None:
    settings = config(
        corpus, name="folds", protocol={"split": "kfold", "folds": 3}, runs={"over": "fold"}, data__balance="person"
    )
    with pytest.raises(ConfigError, match="balance differ from the config given"):
        run.check_folder(folds, settings, resume=True)
