"""From series of a face to scores by how it moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmtraits import config, parts
from mmtraits.data.manifest import Manifest, write
from mmtraits.media.features import behaviour
from mmtraits.schema import Clip, Trait, TraitSchema
from mmtraits.train import fit

CONFIG = Path(__file__).parents[2] / "configs" / "systems" / "behaviour.yaml"
FPS = 25.0
TRAITS = ("lively", "smooth")
SCHEMA = TraitSchema(
    name="planted motion",
    traits=tuple(Trait(name=name, low=0.0, high=1.0) for name in TRAITS),
    construct="apparent",
    judged_by="a formula",
)


def series(draw: np.random.Generator, lively: float, smooth: float) -> np.ndarray:
    """Ten seconds of a smile that peaks 6 to 36 times a minute, of any size, and a head that trembles or not."""
    time_s = np.arange(int(10 * FPS)) / FPS
    hz, phase, size = 0.1 + 0.5 * lively, draw.uniform(0, 6), draw.uniform(0.5, 2)
    smile = size * np.exp(4 * (np.cos(2 * np.pi * hz * time_s + phase) - 1))
    nod = size * np.sin(0.9 * time_s + phase) + 0.02 * size * 5 ** (1 - smooth) * draw.normal(size=len(time_s))
    return np.stack([smile, nod, draw.normal(size=len(time_s))], 1)


def plant(folder: Path, clips: int) -> tuple[Manifest, int]:
    draw = np.random.default_rng(0)
    labels = draw.uniform(size=(clips, 2))
    made = [behaviour.summary(series(draw, *map(float, row)), ("AU12_r", "pose_Rx", "AU01_r"), FPS) for row in labels]
    vectors = np.stack([one.values for one in made if one is not None]).astype(np.float32)
    ids = [f"c{n:03d}" for n in range(clips)]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "behaviour.npz", clip=np.array(ids), features=vectors)
    rows = tuple(Clip(id=one, person=one, features={"behaviour": f"behaviour.npz#{one}"}) for one in ids)
    path = folder / "clips.csv"
    manifest = Manifest(path=path, schema=SCHEMA, clips=rows, labels=labels, splits=(None,) * clips)
    write(manifest)
    return manifest, vectors.shape[1]


def test_the_configs_width_is_that_of_the_import_it_names():
    """OpenFace writes the intensity of 17 action units, and 6 numbers of pose."""
    found = config.load(CONFIG, check=parts.problems)
    names = [*(f"AU{n:02d}_r" for n in range(17)), *(f"pose_{name}" for name in ("Tx", "Ty", "Tz", "Rx", "Ry", "Rz"))]
    told = behaviour.summary(np.random.default_rng(0).normal(size=(50, len(names))), names, 30.0)
    assert told is not None
    assert parts.encoder(found.streams["behaviour"]).spec.width == len(told.names)


@pytest.mark.slow
def test_it_learns_how_often_and_how_smoothly(tmp_path: Path):
    """MAE at most .6 of the mean predictor's on each planted trait."""
    made, width = plant(tmp_path, 300)
    changes = (f"data.manifest={made.path}", f"data.cache={tmp_path / 'cache'}", f"streams.behaviour.size={width}")
    few = ("protocol.split=holdout", "runs.over=none", "trainer.max_epochs=50", "optimizer.lr=4e-3")
    quick = ("trainer.accelerator=cpu", "streams.behaviour.dropout=0.1")
    found = config.load(CONFIG, [*changes, *few, *quick], check=parts.problems)
    member = fit(found, root=tmp_path / "runs") / "single"
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    blind = np.abs(made.labels - made.labels.mean(0)).mean(0)
    ratios = {name: test[name]["mae"] / blind[k] for k, name in enumerate(TRAITS)}
    assert max(ratios.values()) < 0.6, ratios
