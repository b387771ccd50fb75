from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_models import SCHEMA, member, padded, settings, torch_scores, transform, window

from mmtraits import config, graph, power
from mmtraits import export as exporting
from mmtraits import run as runs
from mmtraits.data import manifest as manifests
from mmtraits.data import splits
from mmtraits.errors import BundleError, ConfigError
from mmtraits.evaluation.scored import digest
from mmtraits.export import Facts, export, write_bundle
from mmtraits.extract import Extraction
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip, Raw, TargetTransform, Windowing
from mmtraits.tokens import Tokens

STREAMS = ("emotion",)  # the quickest to export


def facts(**changes) -> Facts:
    given = {"name": "small", "schema": SCHEMA, "windowing": Windowing(), "transforms": [transform()]}
    return Facts(**given, **{"provenance": {}, **changes})


@pytest.fixture(scope="module")
def members():
    return [member(settings(STREAMS, "mean_pool", "linear"), seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def done(members, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "deep" / "bundle"
    return write_bundle(members, facts(licence="MIT", provenance={"data": "no clips"}), folder)


def test_a_bundle_scores_as_the_mean_of_its_members(members, done):
    predictor = Predictor(done.folder)
    rng = np.random.default_rng(0)
    windows = [window(predictor.specs, STREAMS, share, rng) for share in (0.2, 1.0)]
    np.testing.assert_allclose(predictor.score(windows), torch_scores(members, windows), atol=1e-5)
    assert np.abs(torch_scores(members[:1], windows) - torch_scores(members, windows)).max() > 1e-3


@pytest.fixture(scope="module")
def fitted():
    """Members whose encoders were fitted on training data: of their own each."""
    made = [member(settings(("emotion", "voice", "scene"), "mean_pool", "linear"), seed) for seed in (0, 1)]
    for seed, one in enumerate(made):
        draw = torch.Generator().manual_seed(seed)
        for stream, width in (("emotion", 5), ("voice", 16)):
            one.encoders[stream].standardize.fit(torch.randn(40, width, generator=draw) * (seed + 0.5) + seed)
    return made


@pytest.fixture(scope="module")
def far(fitted, tmp_path_factory):
    return Predictor(write_bundle(fitted, facts(), tmp_path_factory.mktemp("far") / "bundle").folder)


def test_distances_are_torchs(fitted, far):
    """Scene has a network without statistics of training: it has no distance."""
    rng = np.random.default_rng(1)
    windows = [window(far.specs, some, share, rng) for some in (far.streams, ["voice"], []) for share in (0.3, 1.0)]
    expected = torch.stack([graph.distances(one.frontend(padded(windows)), one.state_dict()) for one in fitted]).mean(0)
    scores, found = far.examine(windows)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(scores, far.score(windows))
    assert (found[:2, :2] > 0).all() and not found[:, 2].any()
    np.testing.assert_array_equal(found[2:] > 0, [[False, True, False]] * 2 + [[False] * 3] * 2)


def test_distances_by_hand(fitted):
    """The mean of two steps, standardised and not clipped; what lies under the mask is not read."""
    first = fitted[0]
    norm = first.encoders["emotion"].standardize
    data = torch.full((1, 3, 5), float("nan"))
    data[0, 0], data[0, 1] = norm.mean + 9 * norm.std, norm.mean + 11 * norm.std
    features = first.frontend(padded([window(first.specs, ["voice"], 1.0, np.random.default_rng(0))]))
    features["emotion"] = Tokens(data, torch.tensor([[True, True, False]]))
    assert graph.distances(features, first.state_dict())[0, 0] == pytest.approx(10, abs=1e-4)


def test_distances_know_no_padding_and_no_batch_mates(far):
    rng = np.random.default_rng(2)
    windows = [window(far.specs, far.streams, share, rng) for share in (0.1, 0.4, 1.0)]
    _, together = far.examine(windows)
    for one, expected in zip(windows, together, strict=True):
        hidden = {
            s: Raw(np.concatenate([raw.data, raw.data]), np.concatenate([raw.mask, ~raw.mask]))
            for s, raw in one.items()
        }
        for alone in (one, hidden):
            np.testing.assert_allclose(far.examine([alone])[1][0], expected, rtol=1e-5, atol=1e-6)


def test_a_graph_whose_distances_differ_is_refused(fitted, far):
    class Drifting(Predictor):
        def examine(self, raws):
            scores, distances = super().examine(raws)
            return scores, distances * np.float32(1.001)

    batches = list(graph.examples(fitted[0].specs, Windowing()))
    with pytest.raises(
        BundleError, match=r"onnxruntime's distances differ by \d.\de-0[34] from torch's; allowed 1e-04"
    ):
        graph.check(Drifting(far.root), fitted, batches)


RATES = (1e-9, 2 - 1e-7, -1.7)  # one for each trait; the last trait's labels have both signs


def powered(rates: tuple[float, ...]) -> TargetTransform:
    """A Yeo-Johnson transform whose targets lie as trained ones do."""
    draw = np.random.default_rng(3)
    labels, low, high = draw.uniform([0, 1, -2], [1, 7, 2], (50, 3)), np.array([0, 1, -4.0]), np.array([1, 7, 4.0])
    moved = power.forward(labels, np.array(rates))
    return TargetTransform(shift=moved.mean(0), scale=moved.std(0), low=low, high=high, power=np.array(rates))


def test_members_with_other_transforms_are_averaged_on_the_schemas_scale(tmp_path):
    """Powers at their limits, another one, and none at all, in one graph."""
    found, hows = settings(STREAMS, "mean_pool", "linear"), [powered(RATES), powered((0.3, 2.0, 0.0)), transform()]
    members = [member(found, seed, how=how) for seed, how in enumerate(hows)]
    done = write_bundle(members, replace(facts(), transforms=hows), tmp_path / "bundle")
    predictor = Predictor(done.folder)
    rng = np.random.default_rng(0)
    windows = [window(predictor.specs, STREAMS, share, rng) for share in (0.1, 0.5, 1.0)]
    scores = predictor.score(windows)
    np.testing.assert_allclose(scores, torch_scores(members, windows), atol=1e-5)
    with torch.no_grad():
        targets = [one(one.frontend(padded(windows)))[0].numpy() for one in members]
    expected = [how.to_scale(some) for how, some in zip(hows, targets, strict=True)]
    np.testing.assert_allclose(scores, np.mean(expected, axis=0), atol=2e-5)
    assert done.parity < 1e-5
    told = json.loads((done.folder / "bundle.json").read_text())["transform"]
    assert ["power" in one for one in told] == [True, True, False]


def test_members_that_do_not_say_all_traits_are_refused(members, tmp_path):
    fewer = replace(SCHEMA, traits=SCHEMA.traits[:2])
    with pytest.raises(ConfigError, match="the members say warmth, drive, calm; expected warmth, drive"):
        write_bundle(members, replace(facts(), schema=fewer), tmp_path / "bundle")


def test_what_a_bundle_holds(done):
    assert sorted(path.name for path in done.folder.iterdir()) == ["MODEL_CARD.md", "bundle.json", "model.onnx"]
    info = json.loads((done.folder / "bundle.json").read_text())
    assert info["streams"]["emotion"]["inputs"] == ["emotion", "emotion_mask"]
    assert sorted(info["files"]) == ["MODEL_CARD.md", "model.onnx"]
    assert info["licence"] == "MIT"
    assert {"mmtraits", "torch", "onnxruntime", "onnx", "python"} <= set(info["versions"])
    card = (done.folder / "MODEL_CARD.md").read_text()
    assert "no clips" in card and "MIT" in card
    assert done.members == 2
    assert done.parity <= 1e-5 and done.batch_effect <= 1e-6
    assert not [path.name for path in done.folder.parent.iterdir() if path != done.folder]


def test_the_graph_is_one_file_with_free_axes(done):
    model = onnx.load(done.folder / "model.onnx", load_external_data=False)
    assert not [tensor.name for tensor in model.graph.initializer if tensor.data_location]
    for value in model.graph.input:
        axes = value.type.tensor_type.shape.dim
        assert axes[0].dim_param and axes[1].dim_param, value.name


def test_the_graph_names_no_path_of_the_machine_that_made_it(done):
    content = (done.folder / "model.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_an_existing_folder_is_left_alone(members, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="--out .*: already exists; name a new folder"):
        write_bundle(members, facts(), tmp_path)
    assert (tmp_path / "mine").read_text() == "x"


def test_no_members(tmp_path):
    with pytest.raises(ConfigError, match="the run has no finished member"):
        write_bundle([], facts(), tmp_path / "bundle")


def test_members_that_read_different_input(members, tmp_path):
    other = member(settings(("scene",), "mean_pool", "linear"))
    with pytest.raises(ConfigError, match="the members read different input"):
        write_bundle([*members, other], facts(), tmp_path / "bundle")


def test_an_encoder_that_cannot_be_exported(tmp_path):
    model = member(settings(STREAMS, "mean_pool", "linear"))
    model.encoders["emotion"].exportable = False
    with pytest.raises(ConfigError, match="'emotion' uses mmtraits.encoders.precomputed, which cannot be exported"):
        write_bundle([model], facts(), tmp_path / "bundle")


def test_a_graph_that_differs_is_refused_and_nothing_is_left(members, done, tmp_path, monkeypatch):
    """The graph is that of other weights, as a faulty conversion would make it."""
    changed = member(settings(STREAMS, "mean_pool", "linear"), 1)
    with torch.no_grad():
        changed.head.layer.bias += 0.01
    monkeypatch.setattr(graph, "to_onnx", lambda *_: (done.folder / "model.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"onnxruntime's scores differ from torch's by \d.\de-0\d; allowed 1e-04"):
        write_bundle([members[0], changed], facts(), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_effect_is_refused(members, done):
    class Leaky(Predictor):
        def examine(self, raws):
            scores, far = super().examine(raws)
            return scores + np.float32(5e-5 * (len(raws) > 1)), far

    batches = list(graph.examples(members[0].specs, Windowing()))
    with pytest.raises(BundleError, match=r"scores differ by 5.0e-05 between a window alone and in a batch"):
        graph.check(Leaky(done.folder), members, batches)


def test_members_share_a_front_end_that_gives_the_same(members):
    specs = members[0].specs
    rng = np.random.default_rng(0)
    inputs = graph._tensors([window(specs, STREAMS, 1.0, rng)] * 2, STREAMS)
    assert graph._owners(members, inputs) == [{"emotion": 0}, {"emotion": 0}]
    own = member(settings(STREAMS, "mean_pool", "linear"), 2)
    own.encoders["emotion"].frontend = lambda raw: raw._replace(data=raw.data + 1)
    assert graph._owners([members[0], own, own], inputs) == [{"emotion": 0}, {"emotion": 1}, {"emotion": 1}]


def test_members_with_front_ends_of_their_own_are_exported_too(members, tmp_path):
    own = member(settings(STREAMS, "mean_pool", "linear"), 2)
    own.encoders["emotion"].frontend = lambda raw: raw._replace(data=raw.data * 3 + 1)
    done = write_bundle([members[0], own], facts(), tmp_path / "bundle")
    assert done.parity <= 1e-5  # checked against each member with its own front-end


def test_compressed_weights_that_were_unpacked_are_refused(members):
    class Compressed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("levels", torch.zeros(1000, dtype=torch.int8))

    model = member(settings(STREAMS, "mean_pool", "linear"))
    model.encoders["emotion"].small = Compressed()
    kept = onnx.numpy_helper.from_array(np.zeros(1000, np.int8), "levels")
    unpacked = onnx.numpy_helper.from_array(np.zeros(1000, np.float32), "levels")
    owners = [{"emotion": 0}]
    holding = [onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [t])) for t in (kept, unpacked)]
    graph._check_small_weights(holding[0], [model], owners)
    with pytest.raises(BundleError, match="0 of 1000 bytes of compressed weights are left"):
        graph._check_small_weights(holding[1], [model], owners)


def test_examples_hold_every_set_of_streams():
    specs = member(settings(("emotion", "voice"), "mean_pool", "linear")).specs
    batches = list(graph.examples(specs, Windowing(length_s=1.0)))
    assert len(batches) == 3
    for batch in batches:
        assert [{s for s, raw in one.items() if raw.mask.any()} for one in batch] == [
            {"emotion", "voice"}, {"emotion"}, {"voice"}, set(),
        ]  # fmt: skip
    assert [len(batch[0]["voice"].mask) for batch in batches][0] == 1


# ---------------------------------------------------------------------------------------------------- a run's facts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two folds over forty clips with one stream, as train leaves it."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    labels = rng.uniform([0, 1, -2], [1, 7, 2], (40, 3))
    features = {f"c{n}": rng.standard_normal(5).astype(np.float32) for n in range(40)}
    np.savez(root / "emotion.npz", **features)
    clips = tuple(Clip(id=i, person=i, features={"emotion": f"emotion.npz#{i}"}) for i in features)
    manifests.write(
        manifests.Manifest(path=root / "clips.csv", schema=SCHEMA, clips=clips, labels=labels, splits=(None,) * 40)
    )
    (root / "dataset.yaml").write_text("about: Forty clips.\nlicence: CC0\ncitations: [Nobody 2020]\n")
    base = settings(STREAMS, "mean_pool", "linear").model_dump(mode="json")
    base |= {"data": {"manifest": str(root / "clips.csv")}, "runs": {"over": "fold"}}
    base |= {"protocol": {"split": "kfold", "folds": 2, "by": "person"}}
    found = config.from_data(base)
    manifest = manifests.read(root / "clips.csv")
    plan = runs.plan(found, manifest)
    runs.create(root / "run", found, manifest, plan, Extraction((), {}, ()))
    for one in plan:
        model = member(found, one.seed, how=one.transform)
        runs.save_member(root / "run" / one.name, model)
        test = one.rows["test"]
        lines = [
            {
                "clip": clips[row].id,
                "streams": "emotion",
                **dict(zip(SCHEMA.trait_names, labels[row] + 0.1, strict=True)),
            }
            for row in test
        ]
        runs.write_csv(root / "run" / one.name / "predictions.csv", lines)
        (root / "run" / one.name / "metrics.json").write_text("{}")
    return root / "run"


@pytest.fixture(scope="module")
def of_run(run):
    return export(run, run.parent / "bundle")


def test_a_run_is_exported_with_its_facts(run, of_run):
    info = json.loads((of_run.folder / "bundle.json").read_text())
    assert info["name"] == "small"
    assert info["licence"] == "CC0"
    assert info["provenance"]["members"] == ["fold0", "fold1"]
    assert info["provenance"]["protocol"] == "Out of fold: 2 folds of 40 clips, no person in two of them."
    assert len(info["transform"]) == 2
    card = (of_run.folder / "MODEL_CARD.md").read_text()
    assert "Forty clips." in card and "- Nobody 2020" in card
    assert "| **mean** |" in card and "| training mean, mean |" in card


def test_a_bundle_names_the_transform_that_was_used(run, tmp_path):
    assert manifests.read(run.parent / "clips.csv").schema.transform == "z_score"
    other = shutil.copytree(run, tmp_path / "run")
    settings = config.load(other / "config.yaml")
    data = settings.data.model_copy(update={"transform": "min_max"})
    (other / "config.yaml").write_text(config.dump(settings.model_copy(update={"data": data})))
    exported = export(other, tmp_path / "bundle", manifest=run.parent / "clips.csv")
    assert json.loads((exported.folder / "bundle.json").read_text())["schema"]["transform"] == "min_max"


def test_intervals_come_from_out_of_fold_residuals(of_run):
    """Every residual is .1, so every half width is."""
    predictor = Predictor(of_run.folder)
    lower, upper = predictor.calibration.interval(np.array([[0.5, 4.0, 0.0]]), np.array([[True]]))
    np.testing.assert_allclose(lower, [[0.4, 3.9, -0.1]], atol=1e-6)
    np.testing.assert_allclose(upper, [[0.6, 4.1, 0.1]], atol=1e-6)


def test_what_a_bundle_remembers_of_its_training(run, of_run):
    manifest = manifests.read(run.parent / "clips.csv")
    provenance = json.loads((of_run.folder / "bundle.json").read_text())["provenance"]
    assert provenance["data_sha256"] == digest(manifest)
    halves = [one["splits"]["train"] for one in runs.read_run(run)["members"].values()]
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    divided = provenance["divided"]
    again = [splits.assign(manifest, member=n, **divided["by"])["train"] for n in range(divided["members"])]
    assert [sorted(rows) for rows in again] == [sorted(row_of[clip] for clip in half) for half in halves]
    medians = [np.median(manifest.labels[[row_of[clip] for clip in half]], axis=0) for half in halves]
    np.testing.assert_allclose(provenance["training_labels"]["median"], np.mean(medians, axis=0))


def test_the_run_is_evaluated_once_and_again_when_it_changed(run, of_run, tmp_path):
    known = run / "evaluation.json"
    before = known.read_bytes()
    changed = json.loads(before)
    changed["notes"].append("as it was")
    known.write_text(json.dumps(changed))
    manifest = manifests.read(run.parent / "clips.csv")
    assert exporting._evaluation(run, manifest, tested=True).notes[-1] == "as it was"
    changed["provenance"]["model_sha256"] = "of other weights"
    known.write_text(json.dumps(changed))
    assert exporting._evaluation(run, manifest, tested=True).notes[-1] != "as it was"
    assert exporting._evaluation(run, manifest, tested=False) is None


def test_a_card_without_a_section_is_refused(members, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.card, "render", lambda info, found: "# Model card\n\n## Intended use\n\nResearch.\n")
    with pytest.raises(ConfigError, match=r"small: MODEL_CARD\.md: section 'Metrics' is missing"):
        write_bundle(members, facts(), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_manifest_that_lacks_clips_of_the_run(run, tmp_path):
    manifest = manifests.read(run.parent / "clips.csv")
    rows = [row for row, clip in enumerate(manifest.clips) if clip.id != "c3"]
    fewer = replace(
        manifest,
        path=tmp_path / "clips.csv",
        clips=tuple(manifest.clips[row] for row in rows),
        labels=manifest.labels[rows],
        splits=tuple(manifest.splits[row] for row in rows),
    )
    manifests.write(fewer)
    with pytest.raises(ConfigError, match=r"clips\.csv: without 1 of the 40 clips of .*run \(c3\)"):
        export(run, tmp_path / "bundle", manifest=tmp_path)


def test_no_run(tmp_path):
    with pytest.raises(ConfigError, match="config.yaml: no such file"):
        export(tmp_path, tmp_path / "bundle")


def test_a_dataset_file_that_is_wrong(run, tmp_path):
    (tmp_path / "dataset.yaml").write_text("about: x\nlicense: CC0\n")
    with pytest.raises(ConfigError) as error:
        export(run, tmp_path / "bundle", dataset=tmp_path / "dataset.yaml")
    assert "dataset.yaml: license: unknown key; did you mean 'licence'?" in str(error.value)
    assert "dataset.yaml: licence: missing" in str(error.value)
    assert not (tmp_path / "bundle").exists()
