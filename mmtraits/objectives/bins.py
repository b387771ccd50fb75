"""Labels as scores and as bins: first the bins alone, then beside the losses of the config."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits import losses
from mmtraits.data.batch import Batch
from mmtraits.model import TraitModel
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """`classify_steps`: how many steps train the classification alone; `weight`: of it, beside the other losses."""

    model_config = ConfigDict(extra="forbid")
    weight: float = Field(default=0.5, gt=0)
    classify_steps: int = Field(default=0, ge=0)


class Objective(nn.Module):
    """Classification, then classification and regression: the two stages of CR-Net (Li et al., IJCV 2020).

    Classification is the cross-entropy of a head's `bins` with labels divided between their two nearest bins. Raises
    ValueError for a head without bins.
    """

    steps: Tensor

    def __init__(self, config: Config, model: TraitModel, loss_weights: Mapping[str, float]) -> None:
        if not hasattr(model.head, "bins"):
            raise ValueError(f"objective bins: {type(model.head).__module__} gives no bins; expected a head as cr_net")
        super().__init__()
        self.model = model
        self.loss_weights = dict(loss_weights)
        self.weight = config.weight
        self.classify_steps = config.classify_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch, features: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """One batch -> its loss (), and the classification's to log."""
        predictions, aux = self.model(features)
        targets = self.model.to_target(batch.labels)
        classified = cross_entropy(aux["bins"].float(), targets, batch.known)
        scored = losses.total(self.loss_weights, predictions.float(), targets, batch.known, aux)
        first = self.steps < self.classify_steps
        if self.training:
            self.steps += 1
        return torch.where(first, classified, self.weight * classified + scored), {"bins": classified.detach()}


def soft_bins(targets: Tensor, bins: int) -> Tensor:
    """Shares (..., bins) of targets in [0, 1]: those between the middles of two bins belong to both, by nearness."""
    place = (targets * bins - 0.5).clamp(0, bins - 1).unsqueeze(-1)
    return (1 - (place - torch.arange(bins, device=targets.device)).abs()).clamp_min(0)


def cross_entropy(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Of logits (B, K, bins) with targets (B, K) in [0, 1], mean over known labels; ()."""
    known = known & targets.isfinite()
    shares = soft_bins(torch.where(known, targets, torch.zeros_like(targets)), logits.shape[-1])
    values = -(shares * logits.log_softmax(-1)).sum(-1)
    return torch.where(known, values, torch.zeros_like(values)).sum() / known.sum().clamp_min(1)
