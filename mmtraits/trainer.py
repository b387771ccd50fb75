"""Lightning's Trainer as a run wants it: what it saves and averages, when it stops, what it does not say."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from mmtraits import weights
from mmtraits.config import RunConfig
from mmtraits.data.datamodule import ClipData


def fit(trainer: lightning.Trainer, task: lightning.LightningModule, data: ClipData, checkpoint: Path | None) -> None:
    """Fit; an interruption comes out as itself, where Lightning would leave the program and ignore the next one."""
    handler = signal.getsignal(signal.SIGINT)
    if checkpoint is not None:
        weights.loaded(checkpoint)  # refused in words, before Lightning reads it
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def make(folder: Path, config: RunConfig, progress: bool) -> lightning.Trainer:
    """The trainer of one member; it writes into `folder`."""
    options = config.trainer
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator=options.accelerator,
        devices=options.devices,
        precision=options.precision,
        max_epochs=options.max_epochs,
        gradient_clip_val=options.gradient_clip or None,
        callbacks=_callbacks(folder, config, progress),
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the loaders divide training themselves and never divide evaluation
    )


def _callbacks(folder: Path, config: RunConfig, progress: bool) -> list[Callback]:
    options = config.trainer
    # At the very end of an epoch: Lightning resumes from there exactly, and not from the validation inside the epoch.
    saving: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    callbacks: list[Callback] = [RichProgressBar(refresh_rate=20)] if progress else []
    if options.average_weights:
        callbacks.append(WeightAveraging(use_buffers=False, avg_fn=_average(options.average_weights)))
    if options.patience is not None:
        callbacks.append(
            EarlyStopping(options.monitor, mode=options.mode, patience=options.patience, check_finite=False)
        )
        callbacks.append(ModelCheckpoint(**saving, filename="best", monitor=options.monitor, mode=options.mode))
    # After `best`: what is resumed then knows which epoch was the best, also after a kill between the two saves.
    return [*callbacks, ModelCheckpoint(**saving, filename="last")]


def _average(decay: float) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """Exponential moving average; levels of frozen int8 weights stay as they are."""

    def step(average: Tensor, current: Tensor, count: Any) -> Tensor:
        return average.lerp(current, 1 - decay) if current.is_floating_point() else current

    return step


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's greetings, its advice on workers for what lies in memory, its word on a resumed folder."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # frozen networks are meant to be
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # lightning 2.6 on torch 2.13
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.WARNING)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
