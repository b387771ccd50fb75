"""Losses weighed by what they leave unexplained: Kendall, Gal and Cipolla, CVPR 2018 (arXiv 1705.07115), eq. 7 to 10.

Each loss of the config has a learned log-variance s: its term is weight · (exp(-s) · loss + s) / 2, smallest at
s = log(loss), so that a task of large errors counts for less. Of all losses, on labels and of parts alike.
"""

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
    """`start`: the first log-variance; `bound`: how far it may go from 0, so that a solved task takes over nothing."""

    model_config = ConfigDict(extra="forbid")
    start: float = 0.0
    bound: float = Field(5.0, gt=0)


class Objective(nn.Module):
    """The losses of the config with a weight above 0, each under its own log-variance; logs the factors exp(-s)."""

    def __init__(self, config: Config, model: TraitModel, loss_weights: Mapping[str, float]) -> None:
        if "gaussian_nll" in loss_weights:
            raise ValueError("objective uncertainty: gaussian_nll has a variance of its own; expected mse in its place")
        super().__init__()
        self.model, self.bound = model, config.bound
        self.loss_weights = {name: weight for name, weight in loss_weights.items() if weight > 0}
        self.log_variances = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(config.start)) for name in self.loss_weights}
        )

    def forward(self, batch: Batch, features: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """One batch -> its loss (); logs `weight_<loss>`. A loss of nothing, such as an unseen target's, counts not."""
        predictions, aux = self.model(features)
        targets = self.model.to_target(batch.labels)
        terms, factors = [predictions.float().sum() * 0], {}
        for name, weight in self.loss_weights.items():
            loss = losses.total({name: 1.0}, predictions.float(), targets, batch.known, aux)
            s = self.log_variances[name].clamp(-self.bound, self.bound)
            term = 0.5 * weight * (torch.exp(-s) * loss + s)
            terms.append(torch.where(loss.detach() == 0, torch.zeros_like(term), term))
            factors[f"weight_{name}"] = torch.exp(-s)
        return torch.stack(terms).sum(), factors
