"""Vectors of four streams with planted traits: sums, products across streams, and an emotion that carries one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mmtraits import config, parts
from mmtraits.config import RunConfig
from mmtraits.data.manifest import Manifest, write
from mmtraits.schema import Clip, Trait, TraitSchema

SIZES = {"text": 6, "voice": 5, "face": 4, "emotion": 3}
STEPS = {"text": 4, "voice": 1, "face": 3, "emotion": 1}
SYSTEMS = Path(__file__).parents[1] / "configs" / "systems"


def plant(folder: Path, clips: int = 400, traits: int = 2) -> Manifest:
    """Write the corpus. Odd traits: a sum over three streams; even ones: a sum and a product of text and voice.

    `emotion` is a function of text and voice with noise. Every seventh clip lacks face, every ninth emotion.
    """
    draw = np.random.default_rng(0)
    data = {s: draw.normal(size=(clips, STEPS[s], size)).astype(np.float32) for s, size in SIZES.items()}
    text, voice, face = (data[s].mean(1) * STEPS[s] ** 0.5 for s in ("text", "voice", "face"))
    shared = text[:, 0] + voice[:, 0]
    data["emotion"][:, 0] = 0.3 * data["emotion"][:, 0] + np.stack([shared, text[:, 1], -shared], 1)
    together, summed = shared + text[:, 2] * voice[:, 2], shared + 0.4 * face[:, 1]
    labels = np.stack([(together, summed)[k % 2] for k in range(traits)], 1)
    names = tuple(f"trait_{k}" for k in range(traits))
    schema = TraitSchema(
        name="streams", traits=tuple(Trait(name=name) for name in names), construct="apparent", judged_by="a formula",
        transform="z_score",
    )  # fmt: skip
    return _written(folder, data, labels, schema)


def _written(folder: Path, data: dict[str, np.ndarray], labels: np.ndarray, schema: TraitSchema) -> Manifest:
    ids = [f"c{n:03d}" for n in range(len(labels))]
    folder.mkdir(parents=True, exist_ok=True)
    for stream, features in data.items():
        np.savez(folder / f"{stream}.npz", clip=np.array(ids), features=features)
    lacks = {"face": 7, "emotion": 9}
    rows = tuple(
        Clip(id=one, person=f"p{n}", features={s: f"{s}.npz#{one}" for s in SIZES if s not in lacks or n % lacks[s]})
        for n, one in enumerate(ids)
    )
    made = Manifest(path=folder / "clips.csv", schema=schema, clips=rows, labels=labels, splits=(None,) * len(ids))
    write(made)
    return made


def settings(system: str, folder: Path, streams: tuple[str, ...], *changes: str, pool: str = "none") -> RunConfig:
    """The system's own config on the corpus in `folder`: its fusion, head and loss, other streams, a short training."""
    own = config.load(SYSTEMS / f"{system}.yaml").streams
    given = [
        f"streams.{s}={{use: precomputed, size: {SIZES[s]}, width: 16, dropout: 0.0, pool: {pool}}}" for s in streams
    ]
    short = (
        f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}", "data.batch_size=32",
        "protocol.split=holdout", "runs.over=none", "trainer.accelerator=cpu", "trainer.patience=null",
        "optimizer.lr=3e-3", "optimizer.schedule=cosine",
    )  # fmt: skip
    return config.load(
        SYSTEMS / f"{system}.yaml",
        [*(f"streams.{s}=null" for s in own), *given, *short, *changes],
        check=parts.problems,
    )


def errors_of_mean(member: Path, made: Manifest) -> dict[str, float]:
    """By trait: the MAE of a trained member on its test rows as a share of that of the mean of all labels."""
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    blind = np.abs(made.labels - made.labels.mean(0)).mean(0)
    return {trait.name: test[trait.name]["mae"] / blind[k] for k, trait in enumerate(made.schema.traits)}
