"""Groups of parameters and how rates fall, on a small module and in a run."""

from __future__ import annotations

import csv

import pytest
import torch
from planted import config, plant
from torch import nn

from mmtraits import optimizer
from mmtraits.config import OptimizerConfig, TrainerConfig
from mmtraits.errors import ConfigError
from mmtraits.train import fit


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 3)
        self.encoders = nn.ModuleDict({"face": nn.Linear(3, 2), "facet": nn.Linear(3, 2)})
        self.head = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))


def names(module: nn.Module, group: dict) -> set[str]:
    kept = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in module.named_parameters() if id(parameter) in kept}


def test_without_groups_matrices_decay_and_the_rest_does_not() -> None:
    decayed, free = optimizer.groups(module := Small(), OptimizerConfig(weight_decay=0.1))
    assert names(module, decayed) == {"encoders.face.weight", "encoders.facet.weight", "head.0.weight"}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert "lr" not in decayed


def test_groups_are_multiples_by_the_longest_name_and_keep_the_rule_of_decay() -> None:
    options = OptimizerConfig(lr=0.01, weight_decay=0.1, groups={"encoders": 0.5, "encoders.face": 0.1, "head": 10})
    made = optimizer.adamw(module := Small(), options)
    found = {name: (group["lr"], group["weight_decay"]) for group in made.param_groups for name in names(module, group)}
    assert found["words.weight"] == (0.01, 0.0)
    assert found["encoders.face.weight"] == pytest.approx((0.001, 0.1))
    assert found["encoders.facet.weight"] == pytest.approx((0.005, 0.1))
    assert found["head.0.weight"] == pytest.approx((0.1, 0.1))
    assert found["head.0.bias"] == found["head.1.weight"] == pytest.approx((0.1, 0.0))
    assert len(found) == len(list(module.parameters()))


def test_a_frozen_parameter_is_in_no_group() -> None:
    module = Small()
    module.encoders["face"].requires_grad_(False)
    kept = set.union(*(names(module, group) for group in optimizer.groups(module, OptimizerConfig())))
    assert not {name for name in kept if name.startswith("encoders.face.")}


def test_an_unknown_group_names_those_that_exist(tmp_path) -> None:
    plant(tmp_path, clips=40)
    settings = config(tmp_path, optimizer__groups={"encoders.c": 0.1, "head": 2})
    with pytest.raises(
        ConfigError,
        match=r"optimizer.groups: found encoders.c; there are encoders, encoders.a, encoders.b, fusion, .*head",
    ):
        fit(settings, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_plateau_warms_up_and_takes_off_what_stays_off() -> None:
    options = OptimizerConfig(lr=1.0, schedule="plateau", warmup_epochs=0.5, factor=0.5, patience=1, min_lr=0.2)
    made = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    rising, falling = (
        found["scheduler"] for found in optimizer.schedules(made, options, TrainerConfig(max_epochs=10), steps=50)
    )
    rates = []
    for value in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        for _ in range(5):
            rates.append(made.param_groups[0]["lr"])
            made.step()
            rising.step()
        falling.step(value)
    assert rates[:5] == pytest.approx([2 / 7, 4 / 7, 6 / 7, 1.0, 1.0])
    assert rates[::5] == pytest.approx([2 / 7, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2])


def test_a_run_follows_the_value_that_it_monitors(tmp_path) -> None:
    plant(tmp_path, clips=60)
    settings = config(
        tmp_path,
        optimizer={"lr": 1e-30, "schedule": "plateau", "patience": 1, "factor": 0.1, "warmup_epochs": 0},
        trainer__max_epochs=5,
        trainer__monitor="val_ccc",
    )
    folder = fit(settings, root=tmp_path / "runs")
    with (folder / "single" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["lr"]) for row in rows]
    assert rates[0] == 1e-30 and rates[-1] == pytest.approx(1e-31)


def test_a_plateau_resumes_where_it_stood(tmp_path) -> None:
    plant(tmp_path, clips=60)
    options = {"lr": 0.05, "schedule": "plateau", "patience": 0, "warmup_epochs": 0}
    weights = {}
    for name, epochs in (("whole", (4,)), ("parts", (2, 4))):
        for n, most in enumerate(epochs):
            settings = config(tmp_path, name=name, optimizer=options, trainer__max_epochs=most, trainer__patience=None)
            folder = fit(settings, root=tmp_path / "runs", resume=n > 0)
            if most < 4:  # as if it had been stopped before it was finished
                for finished in ("best.safetensors", "metrics.json"):
                    (folder / "single" / finished).unlink()
        with (folder / "single" / "metrics.csv").open() as file:
            weights[name] = (
                [row["lr"] for row in csv.DictReader(file)],
                (folder / "single" / "best.safetensors").read_bytes(),
            )
    assert weights["whole"] == weights["parts"]
    assert len(set(weights["whole"][0])) > 1
