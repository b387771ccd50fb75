"""Run folders without any training: members hold their first weights, or just say what a test wants them to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits import config, extract, run
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.model import build
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="pair",
    traits=(Trait(name="calm", low=0.0, high=1.0), Trait(name="open", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="us",
    transform="z_score",
)
SIZES = {"a": 3, "b": 2}
Say = Callable[[frozenset[str]], NDArray[np.float64]]  # set of streams -> scores (N, K) of all rows of a manifest


def corpus(folder: Path, name: str = "clip", seed: int = 0, rows: int = 40) -> Manifest:
    """Clips of two per person; every clip has the stream a, every second one b, the last one words that none reads."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"{name}{i:02d}" for i in range(rows)]
    for stream, size in SIZES.items():
        np.savez(folder / f"{stream}.npz", clip=np.array(ids), features=draw.normal(size=(rows, size)))
    clips = tuple(
        Clip(
            id=clip,
            person=f"{name}p{i // 2}",
            features={"a": f"a.npz#{clip}"} | ({"b": f"b.npz#{clip}"} if i % 2 else {}),
        )
        for i, clip in enumerate(ids[:-1])
    )
    clips = (*clips, Clip(id=ids[-1], person="alone", text="words that no stream reads"))
    labels = draw.uniform(size=(rows, 2))
    labels[3, 0] = np.nan
    manifest = Manifest(path=folder / "clips.csv", schema=SCHEMA, clips=clips, labels=labels, splits=(None,) * rows)
    manifests.write(manifest)
    return manifest


def trained(folder: Path, manifest: Manifest, **changes: Any) -> Path:
    """A run folder whose members hold their first, untrained weights; each member's differ."""
    settings = config.from_data(
        {
            "name": "tiny",
            "data": {"manifest": str(manifest.path), "cache": str(folder.parent / "cache")},
            "streams": {s: {"use": "precomputed", "size": size, "width": 4} for s, size in SIZES.items()},
            "fusion": {"use": "mean_pool", "width": 4},
            "head": {"use": "linear"},
            "loss": {"mse": 1.0},
            "protocol": {"split": "kfold", "folds": 4},
            "runs": {"over": "fold"},
            **changes,
        }
    )
    members = run.plan(settings, manifest)
    found = extract.extract(settings, manifest)
    run.create(folder, settings, manifest, members, found)
    for member in members:
        model = build(settings, manifest.schema, member.transform)
        run.save_member(folder / member.name, model)
        _record(folder / member.name, run.score_by_streams(model.eval(), found.of(member.rows["test"]), manifest, 8))
        run.write_text(folder / member.name / "metrics.json", "{}")
    return folder


def saying(folder: Path, manifest: Manifest, say: Say | NDArray[np.float64], **changes: Any) -> Path:
    """A run folder whose members recorded of their test rows what `say` holds, (N, K) or that by set of streams."""
    trained(folder, manifest, **changes)
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    for name, member in run.read_run(folder)["members"].items():
        lines = [
            {"clip": clip, "streams": "+".join(some)}
            | dict(zip(manifest.schema.trait_names, (say(frozenset(some)) if callable(say) else say)[row], strict=True))
            for clip, row in ((clip, row_of[clip]) for clip in member["splits"]["test"])
            for some in _sets(manifest.clips[row])
        ]
        _record(folder / name, lines)
    return folder


def _record(member: Path, lines: Sequence[dict[str, Any]]) -> None:
    if lines:
        run.write_csv(member / "predictions.csv", lines)


def _sets(clip: Clip) -> list[Sequence[str]]:
    has = [stream for stream in SIZES if stream in clip.features]
    return [some for size in range(1, len(has) + 1) for some in combinations(has, size)]
