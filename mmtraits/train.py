"""Fit the members of a run with Lightning. What a run folder holds: `mmtraits.run`."""

from __future__ import annotations

import logging
import math
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from mmtraits import losses, metrics, optimizer, run
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.batch import Batch
from mmtraits.data.datamodule import ClipData
from mmtraits.data.dataset import Window, WindowDataset
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, MMTraitsError
from mmtraits.extract import Extraction, Progress, extract
from mmtraits.model import TraitModel, build, drop_streams, trained_state
from mmtraits.run import Member, Rows, by_clip, load_member, predict
from mmtraits.schema import Raw

__all__ = ["TraitTask", "fit", "load_member", "predict"]
logger = logging.getLogger(__name__)
CHECK_STEPS = 64  # losses are looked at this often: looking at each would wait for the device every step


class TraitTask(lightning.LightningModule):  # type: ignore[misc]  # mypy does not follow lightning
    """Training of one member: loss in target space on known labels; metrics over the whole validation split."""

    def __init__(self, model: TraitModel, config: RunConfig, manifest: Manifest, seed: int) -> None:
        super().__init__()
        self.strict_loading = False  # frozen networks are not in checkpoints
        self.model = model
        self.config = config
        self.manifest = manifest
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self._losses: list[tuple[Tensor, Tensor]] = []
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []
        self._since = time.monotonic()

    def configure_optimizers(self) -> Any:
        """AdamW in groups; warm-up, then constant, cosine or plateau."""
        options = self.config.optimizer
        adamw = optimizer.adamw(self.model, options)
        self._add_objective(adamw)
        steps = int(self.trainer.estimated_stepping_batches)
        return [adamw], optimizer.schedules(adamw, options, self.config.trainer, steps)

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the last epoch."""
        self._losses = []
        self._since = time.monotonic()

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Draw each epoch's dropout from its own seed: a resumed run then continues as if it had never stopped.

        Not at the start of the epoch: loaders draw from the same generator, and not equally often after a resume.
        """
        if index == 0:
            torch.manual_seed(hash((self.seed, self.current_epoch)) % 2**63)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One batch -> its loss ()."""
        features = drop_streams(batch.features, {s: self.config.dropout_of(s) for s in self.model.streams})
        predictions, _ = self.model(features)
        targets = self.model.to_target(batch.labels)
        loss = losses.total(self.config.loss, predictions.float(), targets, batch.known)
        self._losses.append((loss.detach(), batch.rows))
        if len(self._losses) % CHECK_STEPS == 0:
            self._check_losses()
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep what one batch predicts; nothing is averaged before the epoch's end."""
        predictions, _ = self.model(batch.features)
        self._validated.append((predictions.float(), batch.weight, batch.rows))

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole split, one row per clip; the row of the epoch in metrics.csv."""
        self._check_losses()
        predictions, weight, rows = (torch.cat(parts) for parts in zip(*self._validated, strict=True))
        self._validated = []
        clips, targets = by_clip(rows, weight, predictions)
        _, scores = by_clip(rows, weight, self.model.to_scale(predictions))
        labels = self.manifest.labels[clips]
        found = _validation(self.config.loss, self.model, self.manifest, clips, labels, targets, scores)
        train_loss = torch.stack([loss for loss, _ in self._losses]).mean().item() if self._losses else math.nan
        values = {"train_loss": train_loss, **found}
        self.log_dict(values, prog_bar=True)
        seconds = time.monotonic() - self._since
        lr = self.optimizers().param_groups[0]["lr"]
        self.history.append({"epoch": self.current_epoch, "seconds": round(seconds, 3), "lr": lr, **values})
        if self.trainer.is_global_zero:
            run.write_csv(Path(self.trainer.default_root_dir) / "metrics.csv", self.history)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        logger.info("epoch %d: %s", self.current_epoch, shown)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen networks out, keep the history."""
        checkpoint["history"] = self.history
        if not self.config.trainer.average_weights:  # Lightning's averaging wants all of its own back
            kept = {f"model.{name}" for name in trained_state(self.model)}
            checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the history."""
        self.history = checkpoint["history"]

    def _check_losses(self) -> None:
        recent = self._losses[-CHECK_STEPS:]
        if not recent or bool(torch.isfinite(torch.stack([loss for loss, _ in recent])).all()):
            return
        rows = next(rows for loss, rows in recent if not torch.isfinite(loss))
        ids = [self.manifest.clips[row].id for row in rows.tolist()]
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        raise MMTraitsError(
            f"training, epoch {self.current_epoch}: the loss is not finite, first on the clips {shown}; "
            "lower optimizer.lr, or look at these clips' features and labels"
        )


def _validation(
    weights: Mapping[str, float],
    model: TraitModel,
    manifest: Manifest,
    clips: Rows,
    labels: NDArray[np.float64],
    targets: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> dict[str, float]:
    known = torch.from_numpy(np.isfinite(labels))
    wanted = model.to_target(torch.from_numpy(labels).to(model.shift.device)).cpu()
    loss = losses.total(weights, torch.from_numpy(targets), wanted, known)
    mean = metrics.table(labels, scores, [manifest.clips[row].id for row in clips], manifest.schema)["mean"]
    return {"val_loss": loss.item(), **{f"val_{name}": mean[name] for name in ("mae", "ccc", "pearson", "r2")}}


# ---------------------------------------------------------------------------------------------------- fitting


def fit(
    config: RunConfig,
    *,
    resume: bool = False,
    root: Path | str = "checkpoints",
    progress: bool = False,
    extracting: Progress | None = None,
) -> Path:
    """Train every member of a run; returns the run folder `root/config.name`.

    `resume` continues an interrupted run as if it had never stopped. `progress` shows Lightning's progress bar,
    `extracting` hears of clips that are read. Raises ConfigError for a folder that exists (or, to resume, does not) and
    for a split with persons of training (`protocol.allow_leakage`), ManifestError for wrong data, MMTraitsError for a
    loss that is not finite.
    """
    folder = Path(root) / config.name
    run.check_folder(folder, config, resume=resume)
    manifest = manifests.read(config.data.manifest)
    plan = run.plan(config, manifest)
    run.leakage(config, manifest, plan)  # refused before anything is computed
    device = _device(config)
    features = extract(config, manifest, device=device, progress=extracting)
    first = run.own(manifest, plan[0].trait)
    tasks = {plan[0].name: _prepared(config, first, features, plan[0])}  # fails before anything is written
    run.create(folder, config, manifest, plan, features)
    for member in plan:
        place, labelled = folder / member.name, run.own(manifest, member.trait)
        if not (place / "best.safetensors").is_file():
            task = tasks.pop(member.name, None) or _prepared(config, labelled, features, member)
            _train(place, config, labelled, features, member, task, progress)
        if not (place / "metrics.json").is_file():
            _write_results(place, config, labelled, features, member)
    return folder


def _device(config: RunConfig) -> torch.device:
    gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _prepared(config: RunConfig, manifest: Manifest, features: Extraction, member: Member) -> TraitModel:
    """A fresh model whose input and output scales are fitted on the member's training rows."""
    _seed(member.seed)
    train = features.of(member.rows["train"])
    if not train or not features.of(member.rows["val"]):
        raise ConfigError(f"{manifest.path}: member {member.name} has no usable training or validation clip")
    model = build(config, manifest.schema, member.transform)
    labels = torch.from_numpy(manifest.labels[sorted({window.row for window in train})])
    model.fit_output(model.to_target(labels), torch.isfinite(labels))
    for stream in model.streams:
        real = [raw.data[raw.mask] for raw in _sample(train, stream)]
        if not real:
            raise ConfigError(f"stream {stream!r}: no training clip of member {member.name} has it; take it out")
        standardize: Any = getattr(model.encoders[stream], "standardize", None)
        if standardize is not None:
            standardize.fit(torch.from_numpy(np.concatenate(real)).float())
    return model


def _sample(windows: Sequence[Window], stream: str, most: int = 4096) -> Iterator[Raw]:
    """The stream where it is present, in at most `most` windows spread evenly over all."""
    having = [window for window in windows if window.streams[stream].present]
    for n in range(min(most, len(having))):
        yield having[n * len(having) // min(most, len(having))].streams[stream].read()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (what other libraries draw from)
    torch.manual_seed(seed)


def _train(
    folder: Path,
    config: RunConfig,
    manifest: Manifest,
    features: Extraction,
    member: Member,
    model: TraitModel,
    progress: bool,
) -> None:
    """Train one member, from its last checkpoint where there is one; leaves best.safetensors."""
    train, val = (WindowDataset(features.of(member.rows[split]), manifest.labels) for split in ("train", "val"))
    data = ClipData(
        train,
        val,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        seed=member.seed,
        pinned=_device(config).type == "cuda",
        persons=_owners(manifest, train) if config.data.balance == "person" else None,
    )
    task = TraitTask(model, config, manifest, member.seed)
    last = folder / "last.ckpt"
    with _quiet():
        trainer = _trainer(folder, config, progress)
        _run(trainer, task, data, last if last.is_file() else None)
    chosen = folder / "best.ckpt" if config.trainer.patience else last
    state = torch.load(chosen, map_location="cpu", weights_only=True)["state_dict"]
    task.load_state_dict(state, strict=False)
    if trainer.is_global_zero:
        run.save_member(folder, task.model)


def _owners(manifest: Manifest, windows: WindowDataset) -> list[str]:
    """Whose each window is; a clip without a person is its own."""
    clips = [manifest.clips[window.row] for window in windows.windows]
    return [f"person {clip.person}" if clip.person else f"clip {clip.id}" for clip in clips]


def _write_results(folder: Path, config: RunConfig, manifest: Manifest, features: Extraction, member: Member) -> None:
    """Predictions and metrics of a trained member; metrics.json last: it says `finished`."""
    model = load_member(folder, _device(config))
    windows = {split: features.of(rows) for split, rows in member.rows.items()}
    size = config.data.batch_size
    predictions = run.score_by_streams(model, windows["test"], manifest, size)
    if predictions:
        run.write_csv(folder / "predictions.csv", predictions)
    about: dict[str, Any] = {}
    for split in ("val", "test"):
        clips, scores = run.score(model, windows[split], manifest, size)
        ids = [manifest.clips[row].id for row in clips]
        about[split] = metrics.table(manifest.labels[clips], scores, ids, manifest.schema) if ids else None
    run.write_json(folder / "metrics.json", about)


def _run(trainer: lightning.Trainer, task: TraitTask, data: ClipData, checkpoint: Path | None) -> None:
    """Fit; an interruption comes out as itself, where Lightning would leave the program and ignore the next one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def _trainer(folder: Path, config: RunConfig, progress: bool) -> lightning.Trainer:
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
    mode = "max" if options.monitor in ("val_ccc", "val_pearson") else "min"
    # At the very end of an epoch: Lightning resumes from there exactly, and not from the validation inside the epoch.
    saving: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": True}
    callbacks: list[Callback] = [ModelCheckpoint(**saving, filename="last")]
    if progress:
        callbacks.append(RichProgressBar(refresh_rate=20))
    if options.average_weights:
        callbacks.append(WeightAveraging(use_buffers=False, avg_fn=_average(options.average_weights)))
    if options.patience is not None:
        callbacks.append(EarlyStopping(options.monitor, mode=mode, patience=options.patience, check_finite=False))
        callbacks.append(ModelCheckpoint(**saving, filename="best", monitor=options.monitor, mode=mode))
    return callbacks


def _average(decay: float) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """Exponential moving average; levels of frozen int8 weights stay as they are."""

    def step(average: Tensor, current: Tensor, count: Any) -> Tensor:
        return average.lerp(current, 1 - decay) if current.is_floating_point() else current

    return step


@contextmanager
def _quiet() -> Iterator[None]:
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
