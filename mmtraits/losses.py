"""Losses in target space. Unknown labels (masked or NaN) give neither value nor gradient.

A fusion or head adds its own: a scalar `loss_<name>` among its auxiliary outputs, `<name>` in its class's `aux_losses`.
"""

from __future__ import annotations

import math
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


def pearson(predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """1 - Pearson correlation per trait over the batch, mean over traits with two known labels; (B, K) -> ()."""
    count = known.sum(0)
    share = known.to(predictions.dtype) / count.clamp_min(1)
    centred_p = predictions - (predictions * share).sum(0)
    centred_t = targets - (targets * share).sum(0)
    variances = (centred_p.square() * share).sum(0) * (centred_t.square() * share).sum(0)
    correlation = (centred_p * centred_t * share).sum(0) / (variances + 1e-8).sqrt()
    return _mean(1 - correlation, count >= 2)


def bell(predictions: Tensor, targets: Tensor, known: Tensor, theta: float = 0.2) -> Tensor:
    """1 - exp(-e² / 2θ²) of the error e, mean over known labels; (B, K) -> (). CR-Net (Li et al., IJCV 2020).

    theta: the error with the steepest gradient, in target units. CR-Net's 9 on labels in [0, 1] leaves a multiple of
    the squared error; 0.2 is one and a half standard deviations of such labels.
    """
    return _mean(1 - torch.exp(-(predictions - targets).square() / (2 * theta**2)), known)


def pairwise_rank(predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Logistic loss of a pair's order, log(1 + exp(-(p_i - p_j))) where y_i > y_j; (B, K) -> ().

    Mean over the pairs of the batch whose known labels differ, then over the traits that have such pairs. RankNet
    (Burges et al. 2005), RecruitView (arXiv 2512.00450). A difference of one target unit is one logit: z-score.
    """
    above = (targets.unsqueeze(1) > targets.unsqueeze(0)) & known.unsqueeze(1) & known.unsqueeze(0)  # (B, B, K)
    costs = F.softplus(predictions.unsqueeze(0) - predictions.unsqueeze(1))
    pairs = above.sum((0, 1))
    per_trait = torch.where(above, costs, torch.zeros_like(costs)).sum((0, 1)) / pairs.clamp_min(1)
    return _mean(per_trait, pairs > 0)


def masked_bce(predictions: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy over known labels; predictions are probabilities in target space; (B, K) -> ().

    So what a bundle exports, the prediction clipped to the scale from 0 to 1, is the probability that was trained.
    targets: 0, 1 or between (`check_targets`). Below 0.01 the logarithm goes on as its tangent: a prediction outside of
    [0, 1] on the wrong side is drawn back, on the right side it costs nothing.
    """
    return _mean(-(targets * _log(predictions) + (1 - targets) * _log(1 - predictions)), known)


def gaussian_nll(predictions: Tensor, targets: Tensor, known: Tensor, log_variance: Tensor) -> Tensor:
    """Negative log-likelihood without its constant, (log σ² + e²/σ²) / 2, mean over known labels; (B, K) -> ().

    log_variance (B, K): of the target in target space, held within ±10. Nix and Weigend 1994.
    """
    log_variance = log_variance.clamp(-10, 10)
    return _mean(0.5 * (log_variance + (predictions - targets).square() * torch.exp(-log_variance)), known)


LOSSES: dict[str, Loss] = {
    "mse": mse, "l1": l1, "huber": huber, "ccc": ccc, "pearson": pearson, "bell": bell, "pairwise_rank": pairwise_rank,
    "masked_bce": masked_bce,
}  # fmt: skip
NAMES = (*LOSSES, "gaussian_nll")  # the last one reads a head's `log_variance` as well


def total(
    weights: Mapping[str, float],
    predictions: Tensor,
    targets: Tensor,
    known: Tensor,
    aux: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Weighted sum of losses by name; (B, K) -> (). NaN targets are unknown; a weight of 0 asks for nothing.

    aux: the auxiliary outputs of the model: `loss_<name>` () for a name that is none of `NAMES`, `log_variance` (B, K)
    for gaussian_nll. Raises ValueError for a name that is no loss, and for gaussian_nll without its variance.
    """
    known = known & targets.isfinite()
    targets = torch.where(known, targets, torch.zeros_like(targets))
    aux = aux or {}
    terms = [weight * _one(name, predictions, targets, known, aux) for name, weight in weights.items() if weight]
    return torch.stack(terms).sum() if terms else predictions.sum() * 0


def split(weights: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Weights of losses on labels, and of the auxiliary ones of parts."""
    own = {name: weight for name, weight in weights.items() if name in NAMES}
    return own, {name: weight for name, weight in weights.items() if name not in NAMES}


def check_targets(weights: Mapping[str, float], targets: Tensor, known: Tensor) -> None:
    """ValueError where the targets (N, K) of training cannot be what a loss of `weights` reads."""
    values = targets[known & targets.isfinite()]
    if "masked_bce" in weights and len(values) and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"loss.masked_bce: found targets from {values.min():.3g} to {values.max():.3g}; expected 0 to 1: "
            "give every trait of the schema its low and high, and the transform min_max"
        )


def _one(name: str, predictions: Tensor, targets: Tensor, known: Tensor, aux: Mapping[str, Tensor]) -> Tensor:
    if name in LOSSES:
        return LOSSES[name](predictions, targets, known)
    if name == "gaussian_nll":
        if "log_variance" not in aux:
            raise ValueError("loss.gaussian_nll: the head gives no log_variance; use a head that does, or mse")
        return gaussian_nll(predictions, targets, known, aux["log_variance"].to(predictions.dtype))
    if f"loss_{name}" not in aux:
        given = sorted(key.removeprefix("loss_") for key in aux if key.startswith("loss_"))
        raise ValueError(f"loss: found {name}; expected {', '.join((*NAMES, *given))}")
    return aux[f"loss_{name}"].to(predictions.dtype)


def _log(probabilities: Tensor, floor: float = 0.01) -> Tensor:
    tangent = math.log(floor) + (probabilities - floor) / floor
    return torch.where(probabilities > floor, probabilities.clamp(floor, 1).log(), tangent)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, torch.zeros_like(values)).sum() / known.sum().clamp_min(1)
