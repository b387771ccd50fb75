"""Objectives: what the training step makes small, what they hold themselves, and how they are chosen."""

import csv
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from planted import config, plant
from pydantic import BaseModel, ConfigDict
from torch import nn

from mmtraits import losses, parts, run
from mmtraits.config import Part
from mmtraits.data import manifest as manifests
from mmtraits.data.batch import Batch
from mmtraits.errors import ConfigError
from mmtraits.model import build
from mmtraits.schema import TargetTransform
from mmtraits.tokens import Tokens
from mmtraits.train import fit


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    plant(folder)
    return folder


def model(corpus):
    manifest = manifests.read(corpus)
    torch.manual_seed(0)
    return build(config(corpus), manifest.schema, TargetTransform.fit(manifest.schema, manifest.labels))


def batch(rows: int = 6) -> Batch:
    torch.manual_seed(1)
    every = torch.ones(rows, 1, dtype=torch.bool)
    features = {"a": Tokens(torch.randn(rows, 1, 6), every), "b": Tokens(torch.randn(rows, 1, 5), every)}
    known = torch.ones(rows, 2, dtype=torch.bool)
    known[0, 1] = False
    numbers = torch.arange(rows)
    return Batch(features, torch.rand(rows, 2), known, torch.ones(rows), numbers, numbers // 2)


def test_supervised_is_the_weighted_loss_in_target_space(corpus) -> None:
    trained, some = model(corpus).eval(), batch()
    weights = {"mse": 1.0, "l1": 0.5}
    objective = parts.objective(config(corpus).objective, trained, weights)
    loss, logged = objective(some, some.features)
    wanted = losses.total(weights, trained(some.features)[0], trained.to_target(some.labels), some.known)
    assert loss.item() == wanted.item()
    assert logged == {}


# ------------------------------------------------------------------------------- weighed by uncertainty

UNSURE = Part(use="uncertainty")


def test_every_loss_has_a_log_variance_of_its_own(corpus) -> None:
    """Weight times (exp(-s) · loss + s) / 2 of each loss with a weight, s within its bound."""
    trained, some = model(corpus).eval(), batch()
    objective = parts.objective(UNSURE, trained, {"mse": 1.0, "l1": 0.5, "ccc": 0.0})
    assert set(objective.log_variances) == {"mse", "l1"}
    said, targets = trained(some.features)[0], trained.to_target(some.labels)
    mse, l1 = (losses.total({name: 1.0}, said, targets, some.known).item() for name in ("mse", "l1"))
    with torch.no_grad():
        objective.log_variances["mse"].fill_(0.7)
        objective.log_variances["l1"].fill_(-9.0)
    loss, logged = objective(some, some.features)
    wanted = (math.exp(-0.7) * mse + 0.7) / 2 + 0.5 * (math.exp(5) * l1 - 5) / 2
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert {name: value.item() for name, value in logged.items()} == pytest.approx(
        {"weight_mse": math.exp(-0.7), "weight_l1": math.exp(5)}
    )


def test_log_variances_settle_at_the_logs_of_the_losses(corpus) -> None:
    trained, some = model(corpus).eval(), batch()
    objective = parts.objective(UNSURE, trained, {"mse": 1.0, "l1": 0.5})
    optimizer = torch.optim.Adam(objective.log_variances.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        objective(some, some.features)[0].backward()
        optimizer.step()
    said, targets = trained(some.features)[0], trained.to_target(some.labels)
    for name, s in objective.log_variances.items():
        loss = losses.total({name: 1.0}, said, targets, some.known).item()
        assert s.item() == pytest.approx(math.log(loss), abs=0.01)


def test_a_batch_without_labels_moves_no_log_variance(corpus) -> None:
    trained, some = model(corpus).eval(), batch()
    objective = parts.objective(UNSURE, trained, {"mse": 1.0})
    loss, _ = objective(some._replace(known=torch.zeros_like(some.known)), some.features)
    loss.backward()
    assert loss.item() == 0 and objective.log_variances["mse"].grad == 0


def test_a_loss_with_a_variance_of_its_own_is_refused(corpus) -> None:
    with pytest.raises(ValueError, match="gaussian_nll has a variance of its own; expected mse"):
        parts.objective(UNSURE, model(corpus), {"gaussian_nll": 1.0})


def test_it_trains_and_logs_what_the_losses_came_to_count(corpus, tmp_path) -> None:
    found = config(corpus, objective={"use": "uncertainty"}, loss={"mse": 1.0, "l1": 1.0}, trainer__max_epochs=3)
    folder = fit(found, root=tmp_path)
    with (folder / "single" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["train_weight_mse"]) > 0 for row in rows)
    assert len({row["train_weight_l1"] for row in rows}) == 3


# ------------------------------------------------------------------------------- one that holds something of its own


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    target: float = 0.0


class Objective(nn.Module):
    """Draws a parameter of its own to `target`, besides the labels."""

    own_validation: ClassVar[bool] = True
    aux_losses: ClassVar[tuple[str, ...]] = ("pull",)

    def __init__(self, config: Config, model: nn.Module, loss_weights: Any) -> None:
        if config.target < 0:
            raise ValueError(f"objective.target: found {config.target}; expected 0 or more")
        super().__init__()
        self.model, self.weight, self.target = model, loss_weights["pull"], config.target
        self.own = nn.Parameter(torch.ones(1))
        self.steps: torch.Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch, features: dict[str, Tokens]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.training:
            self.steps += 1
        gap = (self.own - self.target).square().sum()
        return self.weight * gap + self.model(features)[0].square().mean(), {"gap": gap}


@pytest.fixture
def pulling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective above, as if it were a file of the folder."""
    module = ModuleType("mmtraits.objectives.pulling")
    module.Config, module.Objective = Config, Objective  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmtraits.objectives.pulling", module)
    found = parts.names
    monkeypatch.setattr(parts, "names", lambda f: [*found(f), *(["pulling"] if f == "objectives" else [])])


def pulled(corpus: Path, **changes: Any):
    return config(corpus, objective={"use": "pulling", "target": 0.5}, loss={"pull": 2.0}, **changes)


@pytest.mark.usefixtures("pulling")
@pytest.mark.parametrize("average", [0.0, 0.5])
def test_what_an_objective_holds_is_trained_logged_and_saved_and_in_no_bundle(corpus, tmp_path, average) -> None:
    changes = {"trainer__average_weights": average} if average else {}
    folder = fit(pulled(corpus, trainer__max_epochs=2, trainer__patience=None, **changes), root=tmp_path)
    kept = torch.load(folder / "single" / "last.ckpt", weights_only=True)["state_dict"]
    assert kept["objective.own"].item() < 0.99
    assert kept["objective.steps"].item() == 2 * 5  # batches of an epoch
    if not average:
        assert {name for name in kept if name.startswith("objective.")} == {"objective.own", "objective.steps"}
    with (folder / "single" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert 0.2 < float(rows[1]["train_gap"]) < float(rows[0]["train_gap"]) < 0.25
    told = set(run.load_member(folder / "single").state_dict())
    assert not any("own" in name or "objective" in name for name in told)


@pytest.mark.usefixtures("pulling")
def test_an_objective_may_judge_validation_itself(corpus, tmp_path) -> None:
    folder = fit(pulled(corpus, trainer__max_epochs=1, optimizer__lr=1e-12), root=tmp_path)
    with (folder / "single" / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    predictions = run.load_member(folder / "single").centre.square().mean().item()  # nearly what is said of all
    assert float(row["val_loss"]) == pytest.approx(2 * 0.25 + predictions, abs=0.1)


@pytest.mark.usefixtures("pulling")
def test_an_objective_that_does_not_fit_is_refused_before_anything_is_written(corpus, tmp_path) -> None:
    wrong = config(corpus, objective={"use": "pulling", "target": -1.0}, loss={"pull": 1.0})
    with pytest.raises(ConfigError, match="config 'toy': objective.target: found -1.0; expected 0 or more"):
        fit(wrong, root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("pulling")
def test_losses_are_those_of_the_labels_and_of_the_parts(corpus) -> None:
    with pytest.raises(ConfigError, match="loss.pul: no loss of that name; did you mean 'pull'"):
        config(corpus, objective={"use": "pulling"}, loss={"pul": 1.0})
    with pytest.raises(ConfigError, match="loss.pull: no loss of that name; did you mean 'bell'|there are mse, l1"):
        config(corpus, loss={"pull": 1.0})
    with pytest.raises(ConfigError, match="objective: use: found 'supervise', no file in objectives/; did you mean"):
        config(corpus, objective={"use": "supervise"})
    with pytest.raises(ConfigError, match="objective.targt: unknown key; did you mean 'target'"):
        config(corpus, objective={"use": "pulling", "targt": 1.0}, loss={"pull": 1.0})


# --------------------------------------------------------------------------------------------- losses of a head's own


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Head(nn.Module):
    """Linear, with a loss of its own: how far its weights are from 1."""

    aux_losses: ClassVar[tuple[str, ...]] = ("ones",)

    def __init__(self, config: Options, width: int, traits: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, traits)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, fused: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.layer(fused), {"loss_ones": (self.layer.weight - 1).square().mean()}


@pytest.fixture
def own_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head above, as if it were a file of the folder."""
    module = ModuleType("mmtraits.heads.own")
    module.Config, module.Head = Options, Head  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmtraits.heads.own", module)
    found = parts.names
    monkeypatch.setattr(parts, "names", lambda f: [*found(f), *(["own"] if f == "heads" else [])])


def epochs(folder: Path) -> list[dict[str, str]]:
    with (folder / "single" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("own_head")
def test_a_heads_own_loss_is_trained_and_validated_by_its_weight(corpus, tmp_path) -> None:
    head = {"use": "own"}
    still = {"trainer__max_epochs": 1, "optimizer__lr": 1e-12, "head": head, "trainer__patience": None}
    plain = float(epochs(fit(config(corpus, **still), root=tmp_path / "plain"))[0]["val_loss"])
    found = float(epochs(fit(config(corpus, **still, loss={"mse": 1.0, "ones": 3.0}), root=tmp_path))[0]["val_loss"])
    assert found == pytest.approx(plain + 3.0, abs=1e-5)  # its weights are 0
    learned = fit(config(corpus, name="learned", head=head, loss={"ones": 1.0}, trainer__max_epochs=8), root=tmp_path)
    assert float(epochs(learned)[-1]["val_loss"]) < 0.9


def test_a_heads_variance_is_trained_and_validated(corpus, tmp_path) -> None:
    settings = config(
        corpus, head={"use": "gaussian"}, loss={"gaussian_nll": 1.0}, trainer__max_epochs=30, optimizer__lr=1e-2
    )
    rows = epochs(fit(settings, root=tmp_path))
    of_all = -1.42  # (log σ² + 1) / 2 of the labels: their mean and spread, whatever the clip
    assert min(float(row["val_loss"]) for row in rows) < of_all - 0.2


def test_a_variance_that_no_part_gives_is_a_problem_of_the_config(corpus) -> None:
    with pytest.raises(
        ConfigError, match="loss.gaussian_nll: no part gives the log_variance that it needs; use a head"
    ):
        config(corpus, loss={"gaussian_nll": 1.0})
