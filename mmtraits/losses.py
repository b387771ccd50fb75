"""Losses in target space. Unknown labels (masked or NaN) give neither value nor gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def mse(predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Mean squared error over known labels; predictions, targets, known (B, K) -> ()."""
    return _mean((predictions - targets).square(), known)


def l1(predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Mean absolute error over known labels; (B, K) -> ()."""
    return _mean((predictions - targets).abs(), known)


def huber(predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Squared within 1 target unit, absolute beyond (Huber 1964); (B, K) -> (). Meant for z-scored targets."""
    return _mean(F.huber_loss(predictions, targets, reduction="none"), known)


def ccc(predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """1 - concordance correlation (Lin 1989) per trait over the batch, mean over traits with two known labels."""
    count = known.sum(0)
    share = known.to(predictions.dtype) / count.clamp_min(1)
    mean_p, mean_t = (predictions * share).sum(0), (targets * share).sum(0)
    centred_p, centred_t = predictions - mean_p, targets - mean_t
    variances = ((centred_p.square() + centred_t.square()) * share).sum(0)
    covariance = (centred_p * centred_t * share).sum(0)
    concordance = 2 * covariance / (variances + (mean_p - mean_t).square() + 1e-8)
    return _mean(1 - concordance, count >= 2)


LOSSES: dict[str, Loss] = {"mse": mse, "l1": l1, "huber": huber, "ccc": ccc}


def total(weights: Mapping[str, float], predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Weighted sum of `LOSSES` by name; (B, K) -> (). NaN targets are unknown.

    Raises ValueError for a name that is no loss.
    """
    if unknown := sorted(set(weights) - set(LOSSES)):
        raise ValueError(f"loss: found {', '.join(unknown)}; expected {', '.join(LOSSES)}")
    known = known & targets.isfinite()
    targets = torch.where(known, targets, torch.zeros_like(targets))
    terms = [weight * LOSSES[name](predictions, targets, known) for name, weight in weights.items()]
    return torch.stack(terms).sum()


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, torch.zeros_like(values)).sum() / known.sum().clamp_min(1)
