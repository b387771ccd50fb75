"""What moves a model's weights: AdamW with groups of parameters, and how its rates fall. No Lightning."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmtraits.config import OptimizerConfig, TrainerConfig
from mmtraits.errors import ConfigError


def check(module: nn.Module, options: OptimizerConfig, where: str) -> None:
    """ConfigError, located by `where`, unless every name in `groups` is that of a module with parameters."""
    known = {name for name, part in module.named_modules() if name and any(True for _ in part.parameters())}
    if unknown := sorted(set(options.groups) - known):
        shown = ", ".join(sorted(name for name in known if name.count(".") < 2 and not name.split(".")[-1].isdigit()))
        raise ConfigError(
            f"{where}: optimizer.groups: found {', '.join(unknown)}; there are {shown}, and what is below"
        )


def adamw(module: nn.Module, options: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW without decay on vectors (norms, biases) and embeddings, each group with its multiple of the rate."""
    return torch.optim.AdamW(groups(module, options), lr=options.lr)


def groups(module: nn.Module, options: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameter groups: those without a multiple first, decayed before free; empty ones only there."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {"": ([], []), **{name: ([], []) for name in options.groups}}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or id(parameter) in embeddings
            found[_group(name, options)][plain].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, **({"lr": options.lr * options.groups[name]} if name else {})}
        for name, halves in found.items()
        for parameters, decay in zip(halves, (options.weight_decay, 0.0), strict=True)
        if parameters or not name
    ]


def _group(parameter: str, options: OptimizerConfig) -> str:
    """The longest name that is the parameter's module or above it; "" without one."""
    above = [name for name in options.groups if f".{parameter}".find(f".{name}.") == 0]
    return max(above, key=len, default="")


def schedules(
    optimizer: torch.optim.Optimizer, options: OptimizerConfig, trainer: TrainerConfig, steps: int
) -> list[dict[str, Any]]:
    """Warm-up, then constant, a cosine to 0 at the last of all `steps` or a plateau's: as Lightning takes them."""
    warmup = options.warmup_epochs * steps / trainer.max_epochs
    if options.schedule != "plateau":
        rate = _cosine(steps, warmup) if options.schedule == "cosine" else _constant(warmup)
        return [{"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate), "interval": "step"}]
    for group in optimizer.param_groups:
        group["lr"] /= warmup + 1
    rising = torch.optim.lr_scheduler.MultiplicativeLR(optimizer, _growth(warmup))
    falling = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        trainer.mode,
        factor=options.factor,
        patience=options.patience,
        threshold=0.0,  # torch's own, in parts of the best, takes an equal value below 0 for a better one
        min_lr=options.min_lr,
        eps=0.0,
    )
    return [
        {"scheduler": rising, "interval": "step"},
        # Lightning would step it after the epoch's checkpoint, which a resumed run then lacks: `observe` does.
        {"scheduler": falling, "interval": "epoch", "frequency": sys.maxsize, "monitor": trainer.monitor},
    ]


def observe(found: Any, value: float) -> None:
    """Tell a plateau's scheduler, where there is one, the monitored value of an epoch; `found`: Lightning's."""
    for scheduler in found if isinstance(found, list) else [found]:
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(value)


def _constant(warmup: float) -> Callable[[int], float]:
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else 1.0


def _cosine(steps: int, warmup: float) -> Callable[[int], float]:
    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        share = (step - warmup) / max(1.0, steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return rate


def _growth(warmup: float) -> Callable[[int], float]:
    """From each step to the next: what a plateau has taken off meanwhile stays off."""
    return lambda step: min(step + 1, warmup + 1) / min(step, warmup + 1)
