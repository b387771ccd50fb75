"""Fit the members of a run with Lightning. What a run folder holds: `mmtraits.run`."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmtraits import losses, metrics, optimizer, parts, run, weights
from mmtraits import trainer as trainers
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.batch import Batch, mixed
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
        try:
            self.objective = parts.objective(config.objective, model, config.loss)
        except ValueError as error:
            raise ConfigError(f"config {config.name!r}: {error}") from error
        self.manifest = manifest
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self._losses: list[tuple[Tensor, Tensor]] = []
        self._logged: list[Mapping[str, Tensor]] = []
        self._validated: list[tuple[Tensor, ...]] = []
        self._unlabelled: list[tuple[int, Tensor]] = []
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
        self._losses, self._logged = [], []
        self._since = time.monotonic()

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Draw each epoch's dropout from its own seed: a resumed run then continues as if it had never stopped.

        Not at the start of the epoch: loaders draw from the same generator, and not equally often after a resume.
        """
        if index == 0:
            torch.manual_seed(hash((self.seed, self.current_epoch)) % 2**63)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One batch -> its loss ()."""
        if self.config.trainer.mixup:
            batch = mixed(batch, self.config.trainer.mixup)
        features = drop_streams(batch.features, {s: self.config.dropout_of(s) for s in self.model.streams})
        loss: Tensor
        loss, logged = self.objective(batch, features)
        self._losses.append((loss.detach(), batch.rows))
        self._logged.append({name: value.detach() for name, value in logged.items()})
        if len(self._losses) % CHECK_STEPS == 0:
            self._check_losses()
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep what one batch predicts; nothing is averaged before the epoch's end."""
        predictions, aux = self.model(batch.features)
        more = [aux["log_variance"].float()] if "gaussian_nll" in self.config.loss else []
        self._validated.append((batch.weight, batch.rows, predictions.float(), *more))
        self._unlabelled.append((len(batch.rows), self._without_labels(batch, aux)))

    def _without_labels(self, batch: Batch, aux: Mapping[str, Tensor]) -> Tensor:
        """What validation loss holds besides the losses on labels: those of the parts, or only the objective's own."""
        if self._own_validation:
            loss: Tensor = self.objective(batch, batch.features)[0]
            return loss
        extra = losses.split(self.config.loss)[1].items()  # an objective's own are only there in training
        terms = [weight * aux[f"loss_{name}"] for name, weight in extra if f"loss_{name}" in aux]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    @property
    def _own_validation(self) -> bool:
        return bool(getattr(self.objective, "own_validation", False))

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole split, one row per clip; the row of the epoch in metrics.csv."""
        self._check_losses()
        weight, rows, *said = (torch.cat(batches) for batches in zip(*self._validated, strict=True))
        clips, scores = by_clip(rows, weight, self.model.to_scale(said[0]))
        targets = [by_clip(rows, weight, values)[1] for values in said]
        weights = {} if self._own_validation else losses.split(self.config.loss)[0]
        found = _validation(weights, self.model, self.manifest, clips, targets, scores)
        found["val_loss"] += _mean(self._unlabelled)
        self._validated, self._unlabelled = [], []
        train_loss = torch.stack([loss for loss, _ in self._losses]).mean().item() if self._losses else math.nan
        logged = {f"train_{name}": _mean([(1, step[name]) for step in self._logged]) for name in self._logged[0]}
        values = {"train_loss": train_loss, **logged, **found}
        self.log_dict(values, prog_bar=True)
        seconds = time.monotonic() - self._since
        lr = self.optimizers().param_groups[0]["lr"]
        self.history.append({"epoch": self.current_epoch, "seconds": round(seconds, 3), "lr": lr, **values})
        if self.trainer.is_global_zero:
            run.write_csv(Path(self.trainer.default_root_dir) / "metrics.csv", self.history)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        logger.info("epoch %d: %s", self.current_epoch, shown)
        optimizer.observe(self.lr_schedulers(), values.get(self.config.trainer.monitor, math.nan))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen networks out, keep the history."""
        checkpoint["history"] = self.history
        if not self.config.trainer.average_weights:  # Lightning's averaging wants all of its own back
            kept = {f"model.{name}" for name in trained_state(self.model)} | self._of_objective()
            checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the history."""
        self.history = checkpoint["history"]

    def _add_objective(self, adamw: torch.optim.Optimizer) -> None:
        shared = {id(parameter) for parameter in self.model.parameters()}
        own = [p for p in self.objective.parameters() if p.requires_grad and id(p) not in shared]
        for some, decay in (
            ([p for p in own if p.ndim > 1], self.config.optimizer.weight_decay),
            ([p for p in own if p.ndim < 2], 0.0),
        ):
            if some:
                adamw.add_param_group({"params": some, "weight_decay": decay})

    def _of_objective(self) -> set[str]:
        """Names of what the objective alone holds."""
        shared = {id(tensor) for tensor in self.model.state_dict(keep_vars=True).values()}
        own = self.objective.state_dict(keep_vars=True).items()
        return {f"objective.{name}" for name, tensor in own if id(tensor) not in shared}

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
    targets: Sequence[NDArray[np.float64]],
    scores: NDArray[np.float64],
) -> dict[str, float]:
    """targets: predictions (N, K) in target space, and their log variances where there are any."""
    labels = manifest.labels[clips]
    known = torch.from_numpy(np.isfinite(labels))
    wanted = model.to_target(torch.from_numpy(labels).to(model.shift.device)).cpu()
    predictions, *more = map(torch.from_numpy, targets)
    loss = losses.total(weights, predictions, wanted, known, {"log_variance": more[0]} if more else None)
    mean = metrics.table(labels, scores, [manifest.clips[row].id for row in clips], manifest.schema)["mean"]
    return {"val_loss": loss.item(), **{f"val_{name}": mean[name] for name in ("mae", "ccc", "pearson", "r2")}}


def _mean(values: Sequence[tuple[int, Tensor]]) -> float:
    """Mean of scalars by weight."""
    return sum(weight * value.item() for weight, value in values) / max(1, sum(weight for weight, _ in values))


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


def _prepared(config: RunConfig, manifest: Manifest, features: Extraction, member: Member) -> TraitTask:
    """A fresh model whose input and output scales are fitted on the member's training rows, and what trains it."""
    _seed(member.seed)
    train = features.of(member.rows["train"])
    if not train or not features.of(member.rows["val"]):
        raise ConfigError(f"{manifest.path}: member {member.name} has no usable training or validation clip")
    model = build(config, manifest.schema, member.transform)
    labels = torch.from_numpy(manifest.labels[sorted({window.row for window in train})])
    try:
        losses.check_targets(config.loss, model.to_target(labels), torch.isfinite(labels))
    except ValueError as error:
        raise ConfigError(f"{manifest.path}: {error}") from None
    model.fit_output(model.to_target(labels), torch.isfinite(labels))
    for stream in model.streams:
        real = [raw.data[raw.mask] for raw in _sample(train, stream)]
        if not real:
            raise ConfigError(f"stream {stream!r}: no training clip of member {member.name} has it; take it out")
        standardize: Any = getattr(model.encoders[stream], "standardize", None)
        if standardize is not None:
            standardize.fit(torch.from_numpy(np.concatenate(real)).float())
    return TraitTask(model, config, manifest, member.seed)


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
    task: TraitTask,
    progress: bool,
) -> None:
    """Train one member, from its last checkpoint where there is one; leaves best.safetensors."""
    owners = _owners(manifest)
    groups = np.unique(owners, return_inverse=True)[1]
    train, val = (
        WindowDataset(features.of(member.rows[split]), manifest.labels, groups=groups) for split in ("train", "val")
    )
    data = ClipData(
        train,
        val,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        seed=member.seed,
        pinned=_device(config).type == "cuda",
        persons=[owners[window.row] for window in train.windows] if config.data.balance == "person" else None,
        together=config.data.clips_per_person,
    )
    last = folder / "last.ckpt"
    with trainers.quiet():
        trainer = trainers.make(folder, config, progress)
        trainers.fit(trainer, task, data, last if last.is_file() else None)
    chosen = folder / "best.ckpt" if config.trainer.patience else last
    state = weights.loaded(chosen)["state_dict"]
    task.load_state_dict(state, strict=False)
    if trainer.is_global_zero:
        run.save_member(folder, task.model)


def _owners(manifest: Manifest) -> list[str]:
    """Whose each row of the manifest is; a clip without a person is its own."""
    return [f"person {clip.person}" if clip.person else f"clip {clip.id}" for clip in manifest.clips]


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
