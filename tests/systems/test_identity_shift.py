"""ELIM's identity shift: the transport against plain loops, what moves and what does not, what is learned."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SCHEMA, config
from torch import nn

from mmtraits import config as configs
from mmtraits import losses, parts
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.batch import Batch
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError
from mmtraits.model import build
from mmtraits.objectives.identity_shift import FLOOR, Config, Objective, identity_shift, sinkhorn
from mmtraits.schema import Clip, TargetTransform
from mmtraits.tokens import Tokens
from mmtraits.train import fit

CONFIG = Path(__file__).parents[2] / "configs" / "systems" / "identity_shift.yaml"


# ---------------------------------------------------------------------------------------------------- transport


def plain_plan(cost: np.ndarray, left: np.ndarray, right: np.ndarray, sharpness: float, rounds: int) -> np.ndarray:
    """Cuturi's two lines, not in logarithms."""
    kernel = np.exp(-sharpness * cost)
    v = np.ones(len(right))
    for _ in range(rounds):
        u = left / (kernel @ v)
        v = right / (kernel.T @ u)
    return u[:, None] * kernel * v[None, :]


def plain_shift(features: np.ndarray, groups: list[int], anchor: int) -> np.ndarray:
    """One person after the other, one clip after the other."""
    shift = np.zeros(len(groups))
    mine = [i for i, group in enumerate(groups) if group == anchor]
    for person in set(groups) - {anchor}:
        theirs = [i for i, group in enumerate(groups) if group == person]
        cost = np.zeros((len(mine), len(theirs)))
        for a, i in enumerate(mine):
            for b, j in enumerate(theirs):
                lengths = np.linalg.norm(features[i]) * np.linalg.norm(features[j])
                cost[a, b] = 1 - features[i] @ features[j] / lengths
        left = np.array([max(0, features[i] @ features[theirs].mean(0)) + FLOOR for i in mine])
        right = np.array([max(0, features[j] @ features[mine].mean(0)) + FLOOR for j in theirs])
        plan = plain_plan(cost, left / left.sum(), right / right.sum(), 5.0, 5)
        for b, j in enumerate(theirs):
            shift[j] = sum(plan[a, b] * cost[a, b] for a in range(len(mine)))
    return shift


def test_transport_is_the_plain_one_and_its_right_sums_are_exact() -> None:
    rng = np.random.default_rng(0)
    cost, left, right = rng.uniform(0, 2, (4, 6)), rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(6))
    found = sinkhorn(torch.tensor(cost), torch.tensor(left)[None], torch.tensor(right)[None], 5.0, 5)[0]
    np.testing.assert_allclose(found, plain_plan(cost, left, right, 5.0, 5), rtol=1e-9)
    np.testing.assert_allclose(found.sum(0), right, rtol=1e-9)
    long = sinkhorn(torch.tensor(cost), torch.tensor(left)[None], torch.tensor(right)[None], 5.0, 500)[0]
    np.testing.assert_allclose(long.sum(1), left, rtol=1e-6)


def test_a_sharp_transport_takes_the_cheaper_match() -> None:
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    half = torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(sinkhorn(cost, half, half, 50.0, 5)[0], torch.eye(2) / 2)
    blunt = torch.exp(torch.tensor(-1.0))  # by symmetry, the kernel's own shares
    wanted = torch.tensor([[1, blunt], [blunt, 1]]) / (2 * (1 + blunt))
    torch.testing.assert_close(sinkhorn(cost, half, half, 1.0, 5)[0], wanted)


@pytest.mark.parametrize("groups", [[0, 0, 0, 1, 1, 2, 2, 2], [5, 3, 5, 3, 9, 9, 1, 5], [4, 0, 1, 2, 3, 4, 4, 0]])
def test_the_batched_shift_is_that_of_plain_loops(groups: list[int]) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(8, 5)) + 0.5
    for anchor in set(groups):
        found, moved = identity_shift(torch.tensor(features), torch.tensor(groups), torch.tensor(anchor))
        np.testing.assert_allclose(found, plain_shift(features, groups, anchor), rtol=1e-6, atol=1e-9)
        assert moved.tolist() == [group != anchor for group in groups]


def test_one_clip_each_is_shifted_by_its_whole_cost() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]])
    shift, _ = identity_shift(features, torch.arange(4), torch.tensor(0))
    torch.testing.assert_close(shift, torch.tensor([0.0, 1.0, 0.0, 2.0]))  # orthogonal, alike, opposite


def test_a_batch_of_one_person_is_not_shifted() -> None:
    shift, moved = identity_shift(torch.randn(3, 4), torch.zeros(3, dtype=torch.int64), torch.tensor(0))
    assert shift.tolist() == [0.0] * 3
    assert not moved.any()


def test_far_features_and_features_of_nothing_are_finite() -> None:
    for features in (torch.zeros(4, 3), torch.randn(4, 3) * 1e6):
        shift, _ = identity_shift(features, torch.tensor([0, 0, 1, 1]), torch.tensor(0), sharpness=500.0)
        assert shift.isfinite().all()


# ---------------------------------------------------------------------------------------------------- objective


class Plain(nn.Module):
    """A model whose features are its input and whose head is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def fuse(self, features):
        return features["a"].data[:, 0], {}

    def read(self, fused):
        return self.head(fused), {}

    def to_target(self, labels):
        return labels


def batch(groups: list[int]) -> Batch:
    torch.manual_seed(0)
    rows = len(groups)
    features = {"a": Tokens(torch.randn(rows, 1, 3), torch.ones(rows, 1, dtype=torch.bool))}
    known = torch.ones(rows, 2, dtype=torch.bool)
    known[0, 1] = False
    return Batch(features, torch.rand(rows, 2), known, torch.ones(rows), torch.arange(rows), torch.tensor(groups))


def test_the_loss_is_the_labels_and_the_weighted_error_of_shifted_features(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, some = Plain(), batch([7, 7, 8, 8, 9])
    objective = Objective(Config(weight=2.0, wait=0, rise=1), model, {"mse": 1.0})
    objective.steps += 1
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(1))  # the anchor is 7
    loss, logged = objective(some, some.features)
    z = some.features["a"].data[:, 0]
    shift = torch.tensor(plain_shift(z.double().numpy(), [7, 7, 8, 8, 9], 7)).float()
    moved = z - shift[:, None]
    moved = moved / moved.square().mean(1, keepdim=True).sqrt()
    error = (model.head(moved)[2:] - some.labels[2:]).square().mean()
    own = losses.total({"mse": 1.0}, model.head(z), some.labels, some.known)
    torch.testing.assert_close(loss, own + 2 * error)
    torch.testing.assert_close(logged["shifted"], error)
    torch.testing.assert_close(logged["shift"], shift[2:].mean())
    loss.backward()
    assert model.head.weight.grad.isfinite().all()


def test_the_weight_waits_and_then_rises_with_the_steps() -> None:
    objective = Objective(Config(wait=10, rise=200), Plain(), {"mse": 1.0})
    some, found = batch([0, 0, 1, 1]), []
    for _ in range(13):
        found.append(objective._strength().item())
        objective(some, some.features)
    assert found == pytest.approx([0.0] * 10 + [0.05, 0.055, 0.06])
    objective.eval()
    objective(some, some.features)
    assert objective.steps.item() == 13
    objective.steps += 1000
    assert objective._strength().item() == 1


def test_nothing_is_learned_through_the_shift_itself() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    model = Plain()
    model.fuse = lambda _: (features, {})  # type: ignore[method-assign]
    objective = Objective(Config(wait=0, rise=1), model, {"mse": 0.0})
    objective.steps += 1
    seen = []
    objective._shift = lambda z, groups: (  # type: ignore[method-assign]
        seen.append(z.requires_grad) or torch.zeros(4), torch.ones(4, dtype=torch.bool)
    )  # fmt: skip
    some = batch([0, 0, 1, 1])
    objective(some, some.features)[0].backward()
    assert seen == [False]
    assert features.grad is not None and features.grad.abs().sum() > 0


# ---------------------------------------------------------------------------------------------------- the system


def plant(folder: Path, persons: int = 40, each: int = 8) -> Manifest:
    """Clips whose labels lie in what a clip adds to its person's own vector, which is three times as large."""
    draw = np.random.default_rng(0)
    rows = persons * each
    signal = draw.normal(size=(rows, 6))
    features = signal + 3 * np.repeat(draw.normal(size=(persons, 6)), each, 0) * [0, 0, 1, 1, 1, 1]
    labels = np.clip(0.5 + 0.15 * signal[:, :2], 0, 1)
    ids = [f"c{n:03d}" for n in range(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "a.npz", clip=np.array(ids), features=features.astype(np.float32))
    clips = tuple(Clip(id=i, person=f"p{n // each}", features={"a": f"a.npz#{i}"}) for n, i in enumerate(ids))
    manifest = Manifest(path=folder / "clips.csv", schema=SCHEMA, clips=clips, labels=labels, splits=(None,) * rows)
    manifests.write(manifest)
    return manifest


def settings(corpus: Path, **changes) -> RunConfig:
    """The shipped system's objective and losses on one stream of vectors."""
    shipped = configs.load(CONFIG, check=parts.problems)
    return config(
        corpus,
        **{
            "streams": {"a": {"use": "precomputed", "size": 6, "width": 16}},
            "modality_dropout": 0.0,
            "objective": shipped.objective.model_dump(),
            "loss": shipped.loss,
            "data__balance": "person",
            "data__clips_per_person": 4,
            **changes,
        },
    )


def test_the_shipped_config_is_the_specification() -> None:
    found = configs.load(CONFIG, check=parts.problems)
    assert found.loss == {"mse": 1.0, "ccc": 0.5, "pearson": 0.5}
    assert (found.data.balance, found.data.batch_size // found.data.clips_per_person) == ("person", 16)
    options = parts.options("objectives", found.objective)
    assert options == Config(weight=2.0, wait=10, rise=200, sharpness=5.0, iterations=5)


def test_a_whole_model_has_finite_gradients(tmp_path: Path) -> None:
    manifest = plant(tmp_path, persons=4)
    found = settings(tmp_path)
    model = build(found, manifest.schema, TargetTransform.fit(manifest.schema, manifest.labels))
    objective = parts.objective(found.objective, model, found.loss)
    objective.steps += 300
    torch.manual_seed(0)
    features = {"a": Tokens(torch.randn(8, 1, 6), torch.ones(8, 1, dtype=torch.bool))}
    rows = torch.arange(8)
    every = torch.ones(8, 2, dtype=torch.bool)
    objective(Batch(features, torch.rand(8, 2), every, torch.ones(8), rows, rows // 4), features)[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_clips_of_a_person_stand_together_only_in_balanced_batches(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="clips_per_person 4: expected balance person and a batch_size that it div"):
        settings(tmp_path, data__balance="none")
    with pytest.raises(ConfigError, match="clips_per_person 5: expected balance person and a batch_size that it div"):
        settings(tmp_path, data__clips_per_person=5)


def test_a_stopped_run_goes_on_where_the_weight_was(tmp_path: Path) -> None:
    plant(tmp_path / "corpus", persons=16)
    quick = settings(tmp_path / "corpus", trainer__max_epochs=4, trainer__patience=None)
    whole = fit(quick, root=tmp_path / "whole")
    log, stop = logging.getLogger("mmtraits.train"), Stop()
    level = log.level
    log.addFilter(stop)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(quick, root=tmp_path / "cut")
    finally:
        log.removeFilter(stop)
        log.setLevel(level)
    cut = fit(quick, root=tmp_path / "cut", resume=True)
    weights = [(run / "single" / "best.safetensors").read_bytes() for run in (whole, cut)]
    assert weights[0] == weights[1]


class Stop(logging.Filter):
    """Ctrl+C when the third epoch is reported."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("epoch 2:"):
            raise KeyboardInterrupt
        return True


@pytest.mark.slow
def test_labels_are_learned_beneath_persons(tmp_path: Path) -> None:
    manifest = plant(tmp_path / "corpus")
    folder = fit(settings(tmp_path / "corpus", trainer__max_epochs=30, trainer__patience=None), root=tmp_path)
    test = json.loads((folder / "single" / "metrics.json").read_text())["test"]["mean"]
    mean = np.abs(manifest.labels - manifest.labels.mean(0)).mean()
    assert test["mae"] < 0.6 * mean
    with (folder / "single" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["train_shifted"]) < 0.5 * float(rows[0]["train_shifted"])
    assert 0 < float(rows[-1]["train_shift"]) < 2
