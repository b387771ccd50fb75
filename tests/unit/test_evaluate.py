import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import SCHEMA as TINY
from tiny_bundle import write_tiny_bundle

from mmtraits import config, extract, metrics, run
from mmtraits.baselines import training_mean
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, ManifestError
from mmtraits.evaluate import evaluate as evaluated
from mmtraits.model import build
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="pair",
    traits=(Trait(name="calm", low=0.0, high=1.0), Trait(name="open", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="us",
    transform="z_score",
)
ROWS = 40


def corpus(folder: Path, name: str = "clip", seed: int = 0) -> Manifest:
    """Forty clips of twenty persons; every clip has the stream a, every second one b, the last one nothing."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"{name}{i:02d}" for i in range(ROWS)]
    np.savez(folder / "a.npz", clip=np.array(ids), features=draw.normal(size=(ROWS, 3)))
    np.savez(folder / "b.npz", clip=np.array(ids), features=draw.normal(size=(ROWS, 2)))
    clips = tuple(
        Clip(
            id=clip,
            person=f"{name}p{i // 2}",
            features={"a": f"a.npz#{clip}"} | ({"b": f"b.npz#{clip}"} if i % 2 else {}),
        )
        for i, clip in enumerate(ids[:-1])
    )
    clips = (*clips, Clip(id=ids[-1], person="alone", text="words that no stream reads"))
    labels = draw.uniform(size=(ROWS, 2))
    labels[3, 0] = np.nan
    manifest = Manifest(path=folder / "clips.csv", schema=SCHEMA, clips=clips, labels=labels, splits=(None,) * ROWS)
    manifests.write(manifest)
    return manifest


def trained(folder: Path, manifest: Manifest, **protocol: object) -> Path:
    """A run folder whose members hold their first, untrained weights; each member's differ."""
    settings = config.from_data(
        {
            "name": "tiny",
            "data": {"manifest": str(manifest.path), "cache": str(folder.parent / "cache")},
            "streams": {s: {"use": "precomputed", "size": n, "width": 4} for s, n in (("a", 3), ("b", 2))},
            "fusion": {"use": "mean_pool", "width": 4},
            "head": {"use": "linear"},
            "loss": {"mse": 1.0},
            "protocol": {"split": "kfold", "folds": 4},
            "runs": {"over": "fold"},
            **protocol,
        }
    )
    members = run.plan(settings, manifest)
    found = extract.extract(settings, manifest)
    run.create(folder, settings, manifest, members, found)
    for member in members:
        model = build(settings, SCHEMA, member.transform)
        run.save_member(folder / member.name, model)
        lines = run.score_by_streams(model.eval(), found.of(member.rows["test"]), manifest, 8)
        run.write_csv(folder / member.name / "predictions.csv", lines)
        run.write_text(folder / member.name / "metrics.json", "{}")
    return folder


@pytest.fixture(scope="module")
def kfold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("kfold")
    manifest = corpus(folder / "corpus")
    return trained(folder / "run", manifest), manifest


def test_every_row_is_scored_by_the_member_that_did_not_see_it(kfold: tuple[Path, Manifest]) -> None:
    folder, manifest = kfold
    expected, floor = np.full((ROWS, 2), np.nan), np.full((ROWS, 2), np.nan)
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    for name, member in run.read_run(folder)["members"].items():
        rows = [row_of[clip] for clip in member["splits"]["test"]]
        expected[rows] = run.predict(folder / name, manifest, rows)
        floor[rows] = np.nanmean(manifest.labels[[row_of[clip] for clip in member["splits"]["train"]]], axis=0)
    found = evaluated(folder, manifest)
    ids = [clip.id for clip in manifest.clips]
    wanted = metrics.table(manifest.labels, expected, ids, SCHEMA)
    for trait, row in wanted["traits"].items():
        assert found.groups["all"].model["traits"][trait] == pytest.approx(row, abs=1e-5)
    assert found.groups["all"].training_mean == metrics.table(manifest.labels, floor, ids, SCHEMA)
    assert found.groups["all"].model["traits"]["calm"]["n"] == ROWS - 2  # an unknown label, a clip without a stream
    assert found.groups["all"].model["traits"]["open"]["unscored"] == 1
    assert found.groups["all"].persons == 21


def test_groups_of_rows_that_have_a_stream(kfold: tuple[Path, Manifest]) -> None:
    groups = evaluated(*kfold).groups
    assert {name: group.clips for name, group in groups.items()} == {"all": 40, "with a": 39, "with b": 19}


def test_the_order_of_the_manifest_changes_no_byte(kfold: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = kfold
    order = np.random.default_rng(3).permutation(ROWS)
    moved = replace(manifest, clips=tuple(manifest.clips[i] for i in order), labels=manifest.labels[order])
    evaluated(folder, manifest, out=tmp_path / "one")
    evaluated(folder, moved, out=tmp_path / "two")
    assert (tmp_path / "one/evaluation.json").read_bytes() == (tmp_path / "two/evaluation.json").read_bytes()


def test_what_is_written_is_plain_json(kfold: tuple[Path, Manifest]) -> None:
    folder, manifest = kfold
    found = evaluated(str(folder), manifest.folder)
    written = json.loads((folder / "evaluation.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert written == found.to_dict()
    assert (written["kind"], written["split"], written["floor"]) == ("run", "test", "each member's training rows")
    assert set(written["groups"]["all"]["model"]["mean"]) == {*metrics.NAMES, "undefined"}


def test_other_splits_are_computed(kfold: tuple[Path, Manifest], tmp_path: Path) -> None:
    """A row in val of one member is scored by that member; test rows computed again equal the recorded ones."""
    folder, manifest = kfold
    splits = {n: m["splits"] for n, m in run.read_run(folder)["members"].items()}
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    total, count = np.zeros((ROWS, 2)), np.zeros((ROWS, 1))
    for name, own in splits.items():
        rows = [row_of[clip] for clip in own["val"]]
        total[rows] += run.predict(folder / name, manifest, rows)
        count[rows] += 1
    rows = np.flatnonzero(count[:, 0])
    wanted = metrics.table(
        manifest.labels[rows], total[rows] / count[rows], [manifest.clips[r].id for r in rows], SCHEMA
    )
    found = evaluated(folder, manifest, "val", out=tmp_path)
    assert found.groups["all"].clips == len(rows)
    assert found.groups["all"].model["traits"]["open"] == pytest.approx(wanted["traits"]["open"], abs=1e-5)


def test_a_foreign_manifest_is_scored_by_all_members(kfold: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, home = kfold
    other = corpus(tmp_path / "other", name="new", seed=1)
    members = run.members_of(folder)
    scores = np.mean([run.predict(member, other) for member in members], axis=0)
    found = evaluated(folder, other, out=tmp_path).groups["all"]
    wanted = metrics.table(other.labels, scores, [clip.id for clip in other.clips], SCHEMA)
    assert found.model["traits"]["open"] == pytest.approx(wanted["traits"]["open"], abs=1e-5)
    # The members' own training means, remembered by the models: a constant that knows nothing of these labels.
    assert found.training_mean["traits"]["open"]["mae"] == pytest.approx(
        np.abs(other.labels[:, 1] - _untrained_centre(members)).mean(), abs=1e-5
    )
    with_splits = replace(other, splits=("test",) * 10 + ("train",) * 30)
    assert evaluated(folder, with_splits, out=tmp_path).groups["all"].clips == 10
    with pytest.raises(ManifestError, match=r"clips\.csv: no row has split 'val'; fill the column"):
        evaluated(folder, with_splits, "val", out=tmp_path)


def _untrained_centre(members: list[Path]) -> float:
    models = [run.load_member(member) for member in members]
    return float(np.mean([model.to_scale(model.centre)[1].item() for model in models]))


def test_seeds_of_a_fold_are_averaged(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    folder = trained(tmp_path / "run", manifest, runs={"over": "fold", "seeds": 2})
    member = run.read_run(folder)["members"]["fold1-seed0"]
    rows = [row for row, clip in enumerate(manifest.clips) if clip.id in member["splits"]["test"]]
    both = [run.predict(folder / f"fold1-seed{n}", manifest, rows) for n in range(2)]
    assert not np.allclose(*both, equal_nan=True)
    part = replace(
        manifest,
        clips=tuple(manifest.clips[r] for r in rows),
        labels=manifest.labels[rows],
        splits=(None,) * len(rows),
    )
    found = evaluated(folder, part, out=tmp_path).groups["all"]
    wanted = metrics.table(part.labels, np.mean(both, axis=0), [clip.id for clip in part.clips], SCHEMA)
    assert found.model["traits"]["open"] == pytest.approx(wanted["traits"]["open"], abs=1e-5)


def test_unfinished_members_are_said(tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "corpus")
    folder = trained(tmp_path / "run", manifest)
    (folder / "fold2" / "metrics.json").unlink()
    found = evaluated(folder, manifest)
    assert found.notes == ("1 of 4 members are not trained to their end",)
    assert found.groups["all"].clips < ROWS and "note: 1 of 4 members" in found.to_text()
    for member in run.members_of(folder):
        (member / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="no member is trained to its end; finish it with `mmtraits train --resume`"):
        evaluated(folder, manifest)


def test_the_table_for_a_terminal(kfold: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = kfold
    constant = replace(manifest, labels=np.full_like(manifest.labels, 0.5))
    lines = evaluated(folder, constant, out=tmp_path).to_text().splitlines()
    assert lines[0].endswith("split test; training mean: each member's training rows")
    assert lines[2] == "all: 40 clips of 21 persons"
    assert lines[3].split() == ["1-MAE", "MAE", "RMSE", "r", "CCC", "R2", "n", "unscored"]
    calm = lines[4].split()
    assert calm[0] == "calm" and calm[4:] == ["-", "-", "-", "39", "1"]  # constant labels: undefined, never 0
    assert [line.split()[0] for line in lines[5:8]] == ["open", "mean", "training"]
    assert len({len(line) for line in lines[3:6]}) == 1


def test_other_traits_are_refused(kfold: tuple[Path, Manifest]) -> None:
    folder, manifest = kfold
    wide = replace(SCHEMA, traits=(SCHEMA.traits[0], Trait(name="open", low=1.0, high=7.0)))
    with pytest.raises(ManifestError, match="needs the same traits, scales and order"):
        evaluated(folder, replace(manifest, schema=wide))


def test_neither_run_nor_bundle(kfold: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither run\.json nor bundle\.json; expected what train or export wrote"):
        evaluated(tmp_path, kfold[1])


# ---------------------------------------------------------------------------------------------------- bundles


def texts(folder: Path, splits: tuple[str | None, ...] = (None,) * 3) -> Manifest:
    """The tiny bundle scores one .01 for each word of a text."""
    clips = tuple(Clip(id=str(n), text=" ".join(["hello"] * n)) for n in (1, 2, 3))
    labels = np.array([[0.02, 0.0], [0.02, np.nan], [0.02, 0.3]])
    manifest = Manifest(path=folder / "clips.csv", schema=TINY, clips=clips, labels=labels, splits=splits)
    manifests.write(manifest)
    return manifest


def test_a_bundle_scores_what_the_manifest_names(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    found = evaluated(bundle, texts(tmp_path), out=tmp_path / "out")
    assert list(found.groups) == ["all"]  # every row has text, none has a face or a voice: nothing to tell apart
    rows = found.groups["all"].model["traits"]
    assert rows["brightness"]["mae"] == pytest.approx(0.02 / 3, abs=1e-6) and rows["brightness"]["n"] == 3
    assert rows["loudness"]["mae"] == pytest.approx((0.01 + 0.27) / 2, abs=1e-6) and rows["loudness"]["n"] == 2
    assert found.kind == "bundle" and found.floor == "the evaluated rows themselves (a harder floor)"
    assert found.groups["all"].training_mean["traits"]["loudness"]["mae"] == pytest.approx(0.15)
    assert (tmp_path / "out" / "evaluation.json").is_file() and not (bundle / "evaluation.json").exists()


def test_the_floor_of_a_bundle(tmp_path: Path) -> None:
    manifest = texts(tmp_path, ("train", "test", "test"))
    found = evaluated(write_tiny_bundle(tmp_path / "a"), manifest, out=tmp_path)
    assert found.floor == "the manifest's split train" and found.groups["all"].clips == 2
    assert found.groups["all"].training_mean["traits"]["loudness"]["mae"] == pytest.approx(0.3)
    standard = replace(TINY, transform="z_score")
    member = {"scale": [1, 1], "low": [0, 0], "high": [1, 1]}
    transforms = [{**member, "shift": [0.5, 0.6]}, {**member, "shift": [0.5, 0.2]}]
    bundle = write_tiny_bundle(tmp_path / "b", schema=standard.to_dict(), transform=transforms)
    found = evaluated(bundle, manifest, out=tmp_path)
    assert found.floor == "the bundle's training rows"
    assert found.groups["all"].training_mean["traits"]["loudness"]["mae"] == pytest.approx(0.1)


def test_failed_clips_are_counted_and_never_scored(tmp_path: Path) -> None:
    manifest = texts(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    broken = replace(manifest, clips=(Clip(id="broken", video=tmp_path / "broken.mp4"), *manifest.clips[1:]))
    found = evaluated(write_tiny_bundle(tmp_path / "bundle"), broken, out=tmp_path)
    assert found.groups["all"].model["traits"]["brightness"]["unscored"] == 1
    assert found.groups["with text"].clips == 2 and "1 clips failed" in found.notes


def test_a_bundle_does_not_read_features_and_says_so(tmp_path: Path, kfold: tuple[Path, Manifest]) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    manifest = texts(tmp_path)
    given = replace(manifest.clips[0], features={"voice": "voice.npz#1"})
    found = evaluated(bundle, replace(manifest, clips=(given, *manifest.clips[1:])), out=tmp_path / "out")
    assert found.notes == ("feature_<stream> of 1 clips was not read: a bundle starts from media and text",)
    only = tuple(Clip(id=clip.id, features={"voice": "voice.npz#1"}) for clip in manifest.clips)
    with pytest.raises(ManifestError, match="no media or text; a bundle starts from media: evaluate the run"):
        evaluated(bundle, replace(manifest, clips=only), out=tmp_path / "out")


def test_a_bundle_wants_another_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a bundle's files are sealed; name another folder for evaluation\.json"):
        evaluated(write_tiny_bundle(tmp_path / "bundle"), texts(tmp_path))


def test_training_mean_leaves_unknown_labels_out() -> None:
    np.testing.assert_array_equal(training_mean(np.array([[1.0, np.nan], [2.0, np.nan]])), [1.5, np.nan])
    assert math.isnan(training_mean(np.zeros((0, 1)))[0])
