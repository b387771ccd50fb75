"""Every config of configs/systems: says what it is, loads, round-trips and builds, on its corpus's traits or ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmtraits import config, model, parts
from mmtraits.config import RunConfig
from mmtraits.schema import TargetTransform, Trait, TraitSchema

SYSTEMS = sorted((Path(__file__).parents[2] / "configs" / "systems").glob("*.yaml"))
SCHEMA = TraitSchema(
    name="any",
    traits=tuple(Trait(name=f"trait_{n}", low=0.0, high=1.0) for n in range(4)),
    construct="apparent",
    judged_by="nobody",
)


def loaded(path: Path) -> RunConfig:
    return config.load(path, check=parts.problems)


def test_systems_are_found() -> None:
    assert len(SYSTEMS) >= 10


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_the_header_says_what_is_exact_and_what_is_inferred(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line for line in lines[:5] if line.startswith("# ")]
    assert len(header) == 5, f"{path.name}: expected five lines of header"
    for line, start in zip(header[1:], ("Exact", "Inferred", "Corpus", "Published"), strict=True):
        assert line.removeprefix("# ").startswith(start), line
    assert loaded(path).name == path.stem


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_a_system_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    found = loaded(path)
    (tmp_path / "again.yaml").write_text(config.dump(found), encoding="utf-8")
    assert config.load(tmp_path / "again.yaml", check=parts.problems) == found


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_a_system_builds_from_its_own_file(path: Path) -> None:
    labels = np.random.default_rng(0).uniform(0.1, 0.9, (50, len(SCHEMA.traits)))
    built = model.build(loaded(path), SCHEMA, TargetTransform.fit(SCHEMA, labels))
    trained = [parameter for parameter in built.parameters() if parameter.requires_grad]
    assert trained and all(torch.isfinite(parameter).all() for parameter in trained)
