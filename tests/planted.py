"""A corpus of given vectors with planted traits: `warm` in stream `a`, `calm` in stream `b` (mean over its steps)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmtraits import parts
from mmtraits.config import RunConfig, from_data
from mmtraits.data.manifest import Manifest, write
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="planted",
    traits=(Trait(name="warm", low=0.0, high=1.0), Trait(name="calm", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="a formula",
)


def plant(folder: Path, clips: int = 200, *, unknown: int = 7) -> Manifest:
    """Write the corpus; every fifth clip lacks `a`, every `unknown`-th the label of `calm`."""
    draw = np.random.default_rng(0)
    a = draw.normal(size=(clips, 6)).astype(np.float32)
    b = draw.normal(size=(clips, 3, 5)).astype(np.float32)
    labels = np.clip(np.stack([0.5 + 0.15 * a[:, 0], 0.5 + 0.25 * b[:, :, 1].mean(1)], 1), 0, 1)
    labels[::unknown, 1] = np.nan
    ids = [f"c{n:03d}" for n in range(clips)]
    folder.mkdir(parents=True, exist_ok=True)
    for stream, features in (("a", 20 * a + 50), ("b", b)):  # far from standardised
        np.savez(folder / f"{stream}.npz", clip=np.array(ids), features=features)
    rows = tuple(
        Clip(
            id=one,
            person=f"p{n // 2}",
            features={s: f"{s}.npz#{one}" for s in ("a", "b") if s == "b" or n % 5},
        )
        for n, one in enumerate(ids)
    )
    manifest = Manifest(path=folder / "clips.csv", schema=SCHEMA, clips=rows, labels=labels, splits=(None,) * clips)
    write(manifest)
    return manifest


def config(folder: Path, **changes: Any) -> RunConfig:
    """A small system for the corpus in `folder`; a change such as `trainer__max_epochs=2` replaces one option."""
    data: dict[str, Any] = {
        "name": "toy",
        "data": {"manifest": folder / "clips.csv", "cache": folder / "cache", "batch_size": 32},
        "streams": {s: {"use": "precomputed", "size": size, "width": 16} for s, size in (("a", 6), ("b", 5))},
        "fusion": {"use": "mean_pool", "width": 32},
        "head": {"use": "mlp", "hidden": 32},
        "loss": {"mse": 1.0},
        "modality_dropout": 0.2,
        "optimizer": {"lr": 4e-3},
        "trainer": {"accelerator": "cpu", "max_epochs": 12, "patience": 12},
        "protocol": {"split": "holdout"},
    }  # fmt: skip
    for name, value in changes.items():
        group, _, key = name.partition("__")
        data[group] = {**data.get(group, {}), key: value} if key else value
    return from_data(data, check=parts.problems)
