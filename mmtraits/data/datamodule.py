"""The loaders that Lightning asks for. Evaluation never shuffles and never drops."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from mmtraits.data.batch import Item, collate
from mmtraits.data.dataset import LengthBatches, WindowDataset


class ClipData(LightningDataModule):  # type: ignore[misc]  # mypy does not follow lightning
    """Training and validation windows of one member of a run; `persons` of the training windows: met equally often.

    `together`: as many windows of a person stand in one batch.
    """

    def __init__(
        self,
        train: WindowDataset,
        val: WindowDataset,
        *,
        batch_size: int,
        workers: int = 0,
        seed: int = 0,
        pinned: bool = False,
        persons: Sequence[str] | None = None,
        together: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.seed, self.persons, self.together = batch_size, seed, persons, together
        workers = min(workers, _cores())  # more would only be in each other's way
        self.reading: dict[str, Any] = {
            "collate_fn": collate, "num_workers": workers, "persistent_workers": workers > 0, "pin_memory": pinned,
        }  # fmt: skip

    def train_dataloader(self) -> DataLoader[Item]:
        """Every training window once per epoch, or every person equally often."""
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        lengths = [window.steps for window in self.train.windows]
        owners: dict[str, Any] = {"persons": self.persons, "together": self.together}
        batches = LengthBatches(lengths, self.batch_size, self.seed, rank=rank, processes=processes, **owners)
        return DataLoader(self.train, batch_sampler=batches, **self.reading)

    def val_dataloader(self) -> DataLoader[Item]:
        """Every validation window once, in order, the last batch as small as it is; every process sees all of them."""
        return DataLoader(self.val, batch_size=self.batch_size, **self.reading)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
