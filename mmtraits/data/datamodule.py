"""The loaders that Lightning asks for. Evaluation never shuffles and never drops."""

from __future__ import annotations

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from mmtraits.data.batch import Item, collate
from mmtraits.data.dataset import LengthBatches, WindowDataset


class ClipData(LightningDataModule):  # type: ignore[misc]  # mypy does not follow lightning
    """Training and validation windows of one member of a run."""

    def __init__(
        self, train: WindowDataset, val: WindowDataset, *, batch_size: int, workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.workers, self.seed = batch_size, workers, seed

    def train_dataloader(self) -> DataLoader[Item]:
        """Every training window once per epoch."""
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        lengths = [window.steps for window in self.train.windows]
        batches = LengthBatches(lengths, self.batch_size, self.seed, rank=rank, processes=processes)
        workers = self.workers
        return DataLoader(
            self.train, batch_sampler=batches, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
        )

    def val_dataloader(self) -> DataLoader[Item]:
        """Every validation window once, in order; every process sees all of them."""
        return evaluation_loader(self.val, self.batch_size, self.workers)


def evaluation_loader(dataset: WindowDataset, batch_size: int, workers: int = 0) -> DataLoader[Item]:
    """Batches in the dataset's order; the last one may be smaller."""
    return DataLoader(
        dataset, batch_size=batch_size, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
    )
