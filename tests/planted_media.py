"""A corpus of tiny clips with planted traits: `bright`, the grey of the picture, and `high`, the pitch of a tone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmtraits.data.manifest import Manifest, write
from mmtraits.media.write import write_video
from mmtraits.schema import Clip, Trait, TraitSchema

TRAITS = ("bright", "high")
SCHEMA = TraitSchema(
    name="planted_media",
    traits=tuple(Trait(name=name, low=0.0, high=1.0) for name in TRAITS),
    construct="apparent",
    judged_by="a formula",
)
SAMPLE_RATE = 8000
SIZE_PX = (48, 64)  # height, width


def plant_media(folder: Path, clips: int = 120, seconds: float = 1.0, fps: int = 4) -> Manifest:
    """Write the corpus: noisy frames around a grey of 40 to 210, tones from 200 to 1,600 Hz of any loudness and phase.

    A quarter of the persons, two clips each, are for validation and a quarter for tests.
    """
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    labels = draw.uniform(0, 1, (clips, 2))
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    rows = []
    for n, (bright, high) in enumerate(labels):
        grey = 40 + 170 * bright + draw.normal(0, 40, (round(seconds * fps), *SIZE_PX, 3))
        hz, level, phase = 200 * 8**high, draw.uniform(0.1, 0.4), draw.uniform(0, 6)
        wave = level * np.sin(2 * np.pi * hz * times + phase) + draw.normal(0, 0.01, len(times))
        path = folder / f"c{n:03d}.mp4"
        write_video(path, grey.clip(0, 255).astype(np.uint8), fps, wave.astype(np.float32), SAMPLE_RATE)
        rows.append(Clip(id=path.stem, video=path, person=f"p{n // 2}"))
    splits = tuple(("train", "train", "val", "test")[n // 2 % 4] for n in range(clips))
    made = Manifest(path=folder / "clips.csv", schema=SCHEMA, clips=tuple(rows), labels=labels, splits=splits)
    write(made)
    return made
