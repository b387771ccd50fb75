"""Training from cached features is bound by compute: a Lightning epoch ÷ a bare loop over the same batches.

    python tools/bench/epoch.py [--clips 2000] [--rounds 7] [--progress] [--threads 1]

Both train the same text + voice + face system on made-up features of real sizes and validate after every epoch. The
bare loop runs inside the Lightning run, after each of its epochs, so that both meet the same machine; Lightning's time
is everything else: loaders, logs, metrics, checkpoints. Medians over the rounds; one epoch of each warms up.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmtraits import losses, parts, train
from mmtraits import trainer as trainers
from mmtraits.config import RunConfig, from_data
from mmtraits.data.batch import Batch, collate
from mmtraits.data.datamodule import ClipData
from mmtraits.data.dataset import Held, LengthBatches, Window, WindowDataset
from mmtraits.data.manifest import Manifest
from mmtraits.model import TraitModel, build, drop_streams
from mmtraits.schema import Clip, Raw, TargetTransform, Trait, TraitSchema

TRAITS = tuple(Trait(name=name, low=0.0, high=1.0) for name in ("one", "two", "three", "four", "five"))
SCHEMA = TraitSchema(name="made up", traits=TRAITS, construct="apparent", judged_by="nobody")
WIDTHS = {"text": 384, "voice": 26, "face": 1280}


def settings(epochs: int, batch_size: int) -> RunConfig:
    """The system of configs/first_impressions.yaml, on given vectors."""
    return from_data(
        {
            "name": "bench",
            "streams": {stream: {"use": "precomputed", "size": size, "width": 64} for stream, size in WIDTHS.items()},
            "fusion": {"use": "text_centric", "width": 64},
            "head": {"use": "ensemble"},
            "loss": {"mse": 1.0, "ccc": 0.1},
            "modality_dropout": 0.2,
            "data": {"batch_size": batch_size},
            "trainer": {"max_epochs": epochs, "accelerator": "cpu", "patience": epochs},
        },
        check=parts.problems,
    )


def made_up(clips: int) -> tuple[list[Window], Manifest]:
    """Text of about 55 tokens for all, voice for four fifths, a face for the others."""
    draw = np.random.default_rng(0)

    def held(stream: str, steps: int) -> Held:
        data = draw.normal(size=(steps, WIDTHS[stream])).astype(np.float32)
        return Held(Raw(data, np.ones(steps, np.bool_)))

    steps = [
        {"text": int(draw.integers(20, 90)), "voice": int(n % 5 > 0), "face": int(n % 5 == 0)} for n in range(clips)
    ]
    windows = [Window(n, 15.0, {s: held(s, t) for s, t in row.items()}) for n, row in enumerate(steps)]
    rows = tuple(Clip(id=f"{n}", text="-") for n in range(clips))
    labels = draw.uniform(size=(clips, len(TRAITS)))
    manifest = Manifest(path=Path("clips.csv"), schema=SCHEMA, clips=rows, labels=labels, splits=(None,) * clips)
    return windows, manifest


class Bare(train.lightning.Callback):  # type: ignore[misc]  # mypy does not follow lightning
    """After every Lightning epoch, one epoch of the same work in a plain loop, and one on batches made ahead."""

    def __init__(self, config: RunConfig, model: TraitModel, data: ClipData) -> None:
        self.config, self.model, self.data = config, copy.deepcopy(model), data
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.seconds: dict[str, list[float]] = {"lightning": [], "bare": [], "ready": []}
        self.left_at = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, task: Any) -> None:
        """Lightning's epoch has ended: run the others."""
        self.seconds["lightning"].append(time.perf_counter() - self.left_at)
        batch = self.config.data.batch_size
        order = LengthBatches([window.steps for window in self.data.train.windows], batch, seed=1)
        order.set_epoch(trainer.current_epoch)
        rows = range(len(self.data.val))
        held_out = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        self._timed("bare", _batches(self.data.train, order), _batches(self.data.val, held_out))
        ready = [list(_batches(self.data.train, order)), list(_batches(self.data.val, held_out))]
        self._timed("ready", *ready)
        self.left_at = time.perf_counter()

    def _timed(self, name: str, batches: Iterable[Batch], held_out: Iterable[Batch]) -> None:
        started = time.perf_counter()
        self._epoch(batches, held_out)
        self.seconds[name].append(time.perf_counter() - started)

    def _epoch(self, batches: Iterable[Batch], held_out: Iterable[Batch]) -> None:
        self.model.train()
        rates = {stream: self.config.dropout_of(stream) for stream in self.model.streams}
        for batch in batches:
            self.optimizer.zero_grad()
            predictions, _ = self.model(drop_streams(batch.features, rates))
            targets = self.model.to_target(batch.labels)
            losses.total(self.config.loss, predictions, targets, batch.known).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        self.model.eval()
        with torch.inference_mode():
            for batch in held_out:
                self.model(batch.features)


def _batches(dataset: WindowDataset, order: Iterable[Iterable[int]]) -> Iterator[Batch]:
    return (collate([dataset[i] for i in rows]) for rows in order)


def main() -> None:
    """Print the ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--progress", action="store_true", help="with the progress bar, as in a terminal")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = settings(options.rounds + 1, options.batch)
    windows, manifest = made_up(options.clips)
    cut = options.clips * 9 // 10
    halves = (WindowDataset(part, manifest.labels) for part in (windows[:cut], windows[cut:]))
    data = ClipData(*halves, batch_size=options.batch)
    model = build(config, SCHEMA, TargetTransform.fit(SCHEMA, manifest.labels))
    bare = Bare(config, model, data)
    with tempfile.TemporaryDirectory() as folder, trainers.quiet():
        trainer = trainers.make(Path(folder), config, options.progress)
        trainer.callbacks.insert(0, bare)
        trainer.fit(train.TraitTask(model, config, manifest, seed=0), datamodule=data)
    medians = {name: statistics.median(seconds[1:]) for name, seconds in bare.seconds.items()}
    found = {
        "lightning_over_bare": round(medians["lightning"] / medians["bare"], 3),
        "lightning_over_batches_made_ahead": round(medians["lightning"] / medians["ready"], 3),
        "clips_per_s": round(options.clips / medians["lightning"]),
        "rounds": options.rounds,
        "threads": options.threads,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
