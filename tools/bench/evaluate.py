"""Seconds and peak memory of `evaluate` on 10,000 clips with the whole ladder: `python tools/bench/evaluate.py`.

A corpus is drawn (five traits, persons with several clips, three vector streams that not every clip has, transcripts),
a small system is trained on it for one epoch in five folds, and `mmtraits evaluate` runs on it in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mmtraits.config import from_data
from mmtraits.data.manifest import Manifest, write
from mmtraits.schema import Clip, Trait, TraitSchema

TRAITS = ("openness", "conscientiousness", "extraversion", "agreeableness", "emotional_stability")
STREAMS = {"voice": (26, 0.8), "face": (1280, 0.2), "words": (385, 1.0)}  # width, share of clips that have it


def main() -> None:
    """Draw, train, evaluate, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=10_000)
    clips = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus(folder, clips)
        run = train(folder)
        began = time.monotonic()
        command = [Path(sys.executable).with_name("mmtraits"), "evaluate", run, "--manifest", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"evaluate on {clips} clips: {seconds:.1f} s, peak {peak_mb:.0f} MB, audit by one attribute included")


def corpus(folder: Path, clips: int) -> None:
    """Write clips.csv, schema.yaml and the vectors."""
    draw = np.random.default_rng(0)
    person = np.sort(draw.integers(0, int(0.3 * clips), clips))
    ids = [f"c{n:06d}" for n in range(clips)]
    impression = 0.1 * draw.normal(size=(clips, 5))[person] + 0.08 * draw.normal(size=(clips, 5))
    labels = np.clip(0.5 + impression, 0, 1)
    has = {stream: draw.random(clips) < share for stream, (_, share) in STREAMS.items()}
    for stream, (width, _) in STREAMS.items():
        vectors = draw.normal(size=(clips, width))
        vectors[:, :5] += 4 * impression
        np.savez(folder / f"{stream}.npz", clip=np.array(ids), features=vectors.astype(np.float32))
    vocabulary = np.array([f"word{n}" for n in range(5000)])
    texts = [" ".join(vocabulary[(5000 * draw.random(40) ** 3).astype(int)]) for _ in ids]
    rows = tuple(
        Clip(
            id=ids[n],
            text=texts[n],
            person=f"p{person[n]}",
            attributes={"group": "ab"[int(person[n]) % 2]},
            features={stream: f"{stream}.npz#{ids[n]}" for stream in STREAMS if has[stream][n]},
        )
        for n in range(clips)
    )
    schema = TraitSchema(
        name="bench",
        traits=tuple(Trait(name=name, low=0.0, high=1.0) for name in TRAITS),
        construct="apparent",
        judged_by="a formula",
        transform="z_score",
    )
    write(Manifest(path=folder / "clips.csv", schema=schema, clips=rows, labels=labels, splits=(None,) * clips))


def train(folder: Path) -> Path:
    """A run of five folds, one epoch each."""
    from mmtraits.train import fit

    settings = {
        "name": "bench",
        "data": {"manifest": folder / "clips.csv", "cache": folder / "cache", "batch_size": 256},
        "streams": {s: {"use": "precomputed", "size": width, "width": 16} for s, (width, _) in STREAMS.items()},
        "fusion": {"use": "mean_pool", "width": 16},
        "head": {"use": "linear"},
        "loss": {"mse": 1.0},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "patience": None},
        "protocol": {"split": "kfold", "folds": 5},
        "runs": {"over": "fold"},
    }
    return fit(from_data(settings), root=folder / "checkpoints")


if __name__ == "__main__":
    main()
