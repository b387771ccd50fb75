"""Texts whose traits are known by construction: what words say, how long they are, how sentences grow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mmtraits.data.manifest import Manifest, write
from mmtraits.schema import Clip, Trait, TraitSchema

TRAITS = ("warm", "elaborate", "rising")
_SHORT = "cat day sun road tree milk chair stone bread river door lamp shoe field horse cup"
_LONG = "architecture international circumstances communication refrigerator laboratory photography television"
_GOOD = "happy wonderful lovely glad excellent joy delighted beautiful"
_BAD = "sad horrible angry awful lonely pain scared terrible"
_SENTENCES = 8


def plant(
    folder: Path, texts: int = 240, *, per_person: int = 1, scale: float = 1.0, binary: bool = False, unknown: int = 0
) -> Manifest:
    """Write the corpus. warm: share of pleasant among loaded words; elaborate: of long among other words; rising: how
    sentences grow from the first to the last, their mean length the same.

    scale: labels run from 0 to it. binary: labels are 0 or 1 and traits .1 or .9. Every `unknown`-th label is missing.
    """
    draw = np.random.default_rng(0)
    planted = np.repeat(draw.uniform(size=(texts // per_person, len(TRAITS))), per_person, 0)
    labels = (planted > 0.5).astype(float) if binary else scale * planted
    planted = np.where(labels > 0.5, 0.9, 0.1) if binary else planted
    for trait in range(len(TRAITS)) if unknown else ():
        labels[trait::unknown, trait] = np.nan
    kind = "binary" if binary else "continuous"
    schema = TraitSchema(
        name="planted texts",
        traits=tuple(Trait(name=name, kind=kind, low=0.0, high=scale) for name in TRAITS),
        construct="self_reported",
        judged_by="a formula",
        rated="person" if per_person > 1 else "clip",
    )
    clips = tuple(
        Clip(id=f"t{n:03d}", person=f"p{n // per_person}", text=text(draw, *map(float, row)))
        for n, row in enumerate(planted)
    )
    folder.mkdir(parents=True, exist_ok=True)
    made = Manifest(path=folder / "clips.csv", schema=schema, clips=clips, labels=labels, splits=(None,) * texts)
    write(made)
    return made


def errors_of_mean(member: Path, manifest: Manifest) -> dict[str, float]:
    """By trait: the MAE of a trained member on its test rows as a share of that of the mean of all labels."""
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    blind = np.nanmean(np.abs(manifest.labels - np.nanmean(manifest.labels, 0)), 0)
    return {name: test[name]["mae"] / blind[k] for k, name in enumerate(TRAITS)}


def text(draw: np.random.Generator, warm: float, elaborate: float, rising: float) -> str:
    """One text of traits in [0, 1]."""
    slope = np.linspace(-1, 1, _SENTENCES) * (rising - 0.5) * 10
    return " ".join(_sentence(draw, round(9 + more), warm, elaborate) for more in slope)


def _sentence(draw: np.random.Generator, length: int, warm: float, elaborate: float) -> str:
    words = []
    for _ in range(length):
        if draw.uniform() < 0.3:
            listed = _GOOD if draw.uniform() < warm else _BAD
        else:
            listed = _LONG if draw.uniform() < elaborate else _SHORT
        words.append(str(draw.choice(listed.split())))
    return " ".join(words).capitalize() + "."
