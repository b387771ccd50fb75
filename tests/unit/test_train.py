import csv
import json
import logging
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import config, plant
from safetensors.numpy import load_file

from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.errors import ConfigError, MMTraitsError
from mmtraits.train import fit, predict
from mmtraits.weights import loaded


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    plant(folder)
    return folder


@pytest.fixture(scope="module")
def trained(corpus) -> Path:
    return fit(config(corpus), root=corpus / "checkpoints")


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def weights(run: Path, member: str = "single") -> bytes:
    return (run / member / "best.safetensors").read_bytes()


def metrics(run: Path, member: str = "single") -> dict:
    return json.loads((run / member / "metrics.json").read_text())


def test_a_planted_signal_is_learned_from_the_streams_that_carry_it(trained) -> None:
    test = metrics(trained)["test"]
    assert test["traits"]["calm"]["ccc"] > 0.75
    assert test["traits"]["warm"]["ccc"] > 0.6  # a fifth of the clips lack its stream
    by_streams = {
        streams: {
            row["clip"]: row for row in table(trained / "single" / "predictions.csv") if row["streams"] == streams
        }
        for streams in ("a+b", "a", "b")
    }
    both = by_streams["a+b"].keys()
    spread = {s: np.std([float(rows[clip]["warm"]) for clip in both]) for s, rows in by_streams.items()}
    assert spread["b"] < 0.5 * spread["a"]


def test_a_run_folder_holds_what_is_documented_and_nothing_half_written(trained) -> None:
    found = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    logs = {name for name in found if "tensorboard" in name}
    assert any("tfevents" in name for name in logs)
    names = ("best.safetensors", "best.ckpt", "last.ckpt", "metrics.csv", "metrics.json", "predictions.csv")
    assert found - logs == {"config.yaml", "run.json", *(f"single/{name}" for name in names)}


def test_training_leaves_nothing_in_the_working_directory(corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(config(corpus, trainer__max_epochs=1), root=tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_epochs_metrics_are_those_of_the_whole_split(trained) -> None:
    epochs = table(trained / "single" / "metrics.csv")
    assert [int(row["epoch"]) for row in epochs] == list(range(12))
    best = min(epochs, key=lambda row: float(row["val_loss"]))
    whole = metrics(trained)["val"]["mean"]
    for name in ("mae", "ccc", "pearson", "r2"):
        assert float(best[f"val_{name}"]) == pytest.approx(whole[name], abs=1e-6)


def test_a_clip_scores_alike_alone_and_in_a_batch(corpus) -> None:
    small = config(corpus, name="small", data__batch_size=7)
    run = fit(small, root=corpus / "checkpoints")
    manifest = manifests.read(corpus)
    whole = predict(run / "single", manifest, range(40))
    one_by_one = np.concatenate([predict(run / "single", manifest, [row]) for row in (0, 7, 33)])
    np.testing.assert_allclose(one_by_one, whole[[0, 7, 33]], atol=1e-6)


# ---------------------------------------------------------------------------------------------------- resuming


class Interrupt(logging.Handler):
    """Ctrl+C when an epoch is reported."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(f"epoch {self.epoch}:"):
            raise KeyboardInterrupt


def interrupted(settings: RunConfig, root: Path, epoch: int) -> None:
    log, handler = logging.getLogger("mmtraits.train"), Interrupt(epoch)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(settings, root=root)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@pytest.mark.parametrize("changes", [{}, {"trainer__average_weights": 0.9}, {"trainer__patience": None}])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(corpus, tmp_path, changes) -> None:
    settings = config(corpus, trainer__max_epochs=5, **changes)
    whole = fit(settings, root=tmp_path / "whole")
    interrupted(settings, tmp_path / "cut", epoch=3)
    assert not (tmp_path / "cut" / "toy" / "single" / "best.safetensors").exists()
    resumed = fit(settings, root=tmp_path / "cut", resume=True)
    assert weights(resumed) == weights(whole)
    told = [[row for row in table(run / "single" / "metrics.csv")] for run in (whole, resumed)]
    for rows in told:
        for row in rows:
            del row["seconds"]
    assert told[0] == told[1]


def test_the_last_checkpoint_knows_the_best_of_its_own_epoch(corpus, tmp_path) -> None:
    run = fit(config(corpus, trainer__max_epochs=1), root=tmp_path)  # a kill between two saves must not lose it
    states = loaded(run / "single" / "last.ckpt")["callbacks"].values()
    (best,) = (state for state in states if state.get("monitor"))
    assert float(best["best_model_score"]) == pytest.approx(float(table(run / "single" / "metrics.csv")[0]["val_loss"]))


def test_an_interruption_can_be_followed_by_another(corpus, tmp_path) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupted(config(corpus), tmp_path, epoch=0)
    assert threading.current_thread() is threading.main_thread()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_stopped_before_its_first_checkpoint_starts_again(corpus, tmp_path) -> None:
    settings = config(corpus, trainer__max_epochs=2)
    interrupted(settings, tmp_path / "cut", epoch=0)
    resumed = fit(settings, root=tmp_path / "cut", resume=True)
    assert weights(resumed) == weights(fit(settings, root=tmp_path / "whole"))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(corpus, tmp_path) -> None:
    runs = [fit(config(corpus, trainer__max_epochs=1, seed=s), root=tmp_path / str(n)) for n, s in enumerate([3, 3, 4])]
    assert weights(runs[0]) == weights(runs[1])
    assert weights(runs[0]) != weights(runs[2])


def test_only_unfinished_members_are_trained_again(corpus, tmp_path) -> None:
    settings = config(corpus, runs={"over": "seed", "seeds": 2}, trainer__max_epochs=1)
    run = fit(settings, root=tmp_path)
    (run / "seed1" / "metrics.json").unlink()
    (run / "seed1" / "best.safetensors").unlink()
    kept = (run / "seed0" / "best.safetensors").stat().st_mtime_ns
    fit(settings, root=tmp_path, resume=True)
    assert (run / "seed0" / "best.safetensors").stat().st_mtime_ns == kept
    assert metrics(run, "seed1")["test"]["mean"]["mae"] > 0


# ---------------------------------------------------------------------------------------------------- options


def test_early_stopping_ends_after_the_patience(corpus, tmp_path) -> None:
    run = fit(config(corpus, optimizer__lr=1e-9, trainer__patience=2, trainer__monitor="val_ccc"), root=tmp_path)
    epochs = [float(row["val_ccc"]) for row in table(run / "single" / "metrics.csv")]
    assert len(epochs) < 12
    assert max(epochs[:-2]) >= max(epochs[-2:])


def test_without_patience_the_last_epoch_is_kept(corpus, tmp_path) -> None:
    run = fit(config(corpus, trainer__patience=None, trainer__max_epochs=3), root=tmp_path)
    assert not (run / "single" / "best.ckpt").exists()
    assert len(table(run / "single" / "metrics.csv")) == 3


def test_the_schedule_warms_up_and_falls_to_nothing(corpus, tmp_path) -> None:
    run = fit(config(corpus, trainer__max_epochs=4, trainer__patience=None, optimizer__lr=1e-3), root=tmp_path)
    rates = [float(row["lr"]) for row in table(run / "single" / "metrics.csv")]
    assert rates[0] == pytest.approx(1e-3, rel=0.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-5


def test_inputs_are_standardised_on_the_training_rows(trained, corpus) -> None:
    rows = json.loads((trained / "run.json").read_text())["members"]["single"]["splits"]["train"]
    with np.load(corpus / "a.npz") as file:
        seen = file["features"][[int(clip[1:]) for clip in rows if int(clip[1:]) % 5]]
    state = load_file(trained / "single" / "best.safetensors")
    np.testing.assert_allclose(state["encoders.a.standardize.mean"], seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state["encoders.a.standardize.std"], seen.std(0), rtol=1e-5)


def test_only_matrices_decay(trained) -> None:
    checkpoint = torch.load(trained / "single" / "last.ckpt", weights_only=True)
    decayed, free = checkpoint["optimizer_states"][0]["param_groups"]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    shapes = [state["exp_avg"].ndim for _, state in sorted(checkpoint["optimizer_states"][0]["state"].items())]
    assert min(shapes[: len(decayed["params"])]) == 2
    assert max(shapes[len(decayed["params"]) :]) == 1
    assert len(free["params"]) > 5


def test_averaged_weights_are_what_is_validated_and_kept(corpus, tmp_path) -> None:
    run = fit(config(corpus, trainer__average_weights=0.95, trainer__max_epochs=6), root=tmp_path)
    best = min(float(row["val_loss"]) for row in table(run / "single" / "metrics.csv"))
    mean = metrics(run)["val"]["mean"]
    row = next(r for r in table(run / "single" / "metrics.csv") if float(r["val_loss"]) == best)
    assert float(row["val_mae"]) == pytest.approx(mean["mae"], abs=1e-6)


def test_bf16_trains_and_its_weights_are_float32(corpus, tmp_path) -> None:
    run = fit(config(corpus, trainer__precision="bf16-mixed"), root=tmp_path)
    assert metrics(run)["test"]["mean"]["ccc"] > 0.7
    state = torch.load(run / "single" / "last.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


# ---------------------------------------------------------------------------------------------------- bad input


def test_an_existing_run_is_refused(corpus, trained) -> None:
    with pytest.raises(ConfigError, match="toy: already exists; resume that run, or choose another name"):
        fit(config(corpus), root=trained.parent)


def test_a_loss_that_is_not_finite_names_the_clips(corpus, tmp_path) -> None:
    wild = config(corpus, optimizer__lr=1e30, trainer__gradient_clip=0.0, optimizer__warmup_epochs=0)
    with pytest.raises(
        MMTraitsError, match=r"epoch \d: the loss is not finite, first on the clips c\d\d\d, .* and 24 more; lower"
    ):
        fit(wild, root=tmp_path)


def test_a_stream_that_no_training_clip_has_is_refused_before_anything_is_written(corpus, tmp_path) -> None:
    streams = {**config(corpus).model_dump()["streams"], "c": {"use": "precomputed", "size": 3}}
    with pytest.raises(ConfigError, match="stream 'c': no training clip of member single has it; take it out"):
        fit(config(corpus, streams=streams), root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_split_that_shares_persons_is_refused_before_any_compute(tmp_path) -> None:
    manifest = plant(tmp_path / "own", clips=40)
    divided = tuple("test" if n % 4 == 0 else "train" for n in range(40))  # of ten pairs; one is drawn for validation
    manifests.write(replace(manifest, splits=divided))
    settings = config(tmp_path / "own", protocol={"split": "official"}, trainer__max_epochs=1)
    features = (tmp_path / "own" / "a.npz").rename(tmp_path / "kept.npz")  # extraction would miss it
    with pytest.raises(ConfigError, match="9 persons of .* both in training and in validation or test, with 9 clips"):
        fit(settings, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    features.rename(tmp_path / "own" / "a.npz")
    allowed = config(tmp_path / "own", protocol={"split": "official", "allow_leakage": True}, trainer__max_epochs=1)
    run = fit(allowed, root=tmp_path / "runs")
    about = json.loads((run / "run.json").read_text())
    assert about["leakage"] == {"persons_shared": 9, "clips_shared": 9, "allowed": True}


def test_person_balanced_training_is_another_and_can_be_resumed(corpus, tmp_path) -> None:
    settings = config(corpus, data__balance="person", trainer__max_epochs=3)
    whole = fit(settings, root=tmp_path / "whole")
    assert weights(whole) != weights(fit(config(corpus, trainer__max_epochs=3), root=tmp_path / "plain"))
    interrupted(settings, tmp_path / "cut", epoch=1)
    assert weights(fit(settings, root=tmp_path / "cut", resume=True)) == weights(whole)


def test_mixup_trains_otherwise_still_learns_and_can_be_resumed(corpus, tmp_path, trained) -> None:
    settings = config(corpus, trainer__mixup=0.4, trainer__max_epochs=4)
    whole = fit(settings, root=tmp_path / "whole")
    assert weights(whole) != weights(fit(config(corpus, trainer__max_epochs=4), root=tmp_path / "plain"))
    interrupted(settings, tmp_path / "cut", epoch=1)
    with pytest.raises(ConfigError, match="mixup differ from the config given"):
        fit(config(corpus, trainer__max_epochs=4), root=tmp_path / "cut", resume=True)
    assert weights(fit(settings, root=tmp_path / "cut", resume=True)) == weights(whole)
    learned = fit(config(corpus, name="learned", trainer__mixup=0.4), root=tmp_path)
    assert metrics(learned)["test"]["mean"]["ccc"] > 0.55 * metrics(trained)["test"]["mean"]["ccc"]


def test_several_clips_of_a_person_in_a_batch_can_be_resumed(corpus, tmp_path) -> None:
    settings = config(corpus, data__balance="person", data__clips_per_person=2, trainer__max_epochs=3)
    whole = fit(settings, root=tmp_path / "whole")
    interrupted(settings, tmp_path / "cut", epoch=1)
    assert weights(fit(settings, root=tmp_path / "cut", resume=True)) == weights(whole)


def test_targets_that_are_no_probabilities_are_refused_before_anything_is_written(tmp_path) -> None:
    manifest = plant(tmp_path / "own", clips=60)
    traits = tuple(replace(trait, low=None, high=None) for trait in manifest.schema.traits)
    manifests.write(replace(manifest, schema=replace(manifest.schema, traits=traits, transform="z_score")))
    with pytest.raises(ConfigError, match="clips.csv: loss.masked_bce: found targets from -.* to .*; expected 0 to 1"):
        fit(config(tmp_path / "own", loss={"masked_bce": 1.0}), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_binary_trait_is_exported_as_the_probability_that_was_trained(tmp_path) -> None:
    manifest = plant(tmp_path / "own", clips=240)
    labels = np.where(np.isfinite(manifest.labels), manifest.labels > 0.6, np.nan)  # a third of them
    manifests.write(replace(manifest, labels=labels))
    run = fit(config(tmp_path / "own", loss={"masked_bce": 1.0}, trainer__monitor="val_loss"), root=tmp_path)
    rows = json.loads((run / "run.json").read_text())["members"]["single"]["splits"]["test"]
    place = [int(clip[1:]) for clip in rows]
    scores = predict(run / "single", manifests.read(tmp_path / "own"), place)
    assert scores.min() >= 0
    assert scores.max() <= 1
    known = np.isfinite(labels[place])
    costs = -np.log(np.clip(np.where(labels[place] > 0.5, scores, 1 - scores), 0.01, 1))[known].mean()
    base = np.nanmean(labels)
    assert costs < 0.9 * -(base * np.log(base) + (1 - base) * np.log(1 - base))  # of saying the share of all
