"""Each trait sorted into bins first; the bins guide which features its score is read from: CR-Net."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class Config(BaseModel):
    """Bins per trait, features per bin, and dropout on the fused vector."""

    model_config = ConfigDict(extra="forbid")
    bins: int = Field(4, ge=2)
    hidden: int = Field(32, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class Head(nn.Module):
    """Classification, then regression from features pooled over the classes (CR-Net, Li et al., IJCV 2020).

    Every bin of every trait has features of its own; the bins' probabilities weight them. The objective `bins` trains
    the probabilities. The layout of the pooling is ours.
    """

    def __init__(self, config: Config, width: int, traits: int) -> None:
        super().__init__()
        self.bins = config.bins  # what the objective `bins` looks for
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(width, traits * config.bins)
        self.features = nn.Linear(width, traits * config.bins * config.hidden)
        self.weight = nn.Parameter(torch.randn(traits, config.hidden) * config.hidden**-0.5)
        self.bias = nn.Parameter(torch.zeros(traits))

    def forward(self, fused: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, width) -> (B, K); auxiliary `bins` (B, K, bins), logits from the lowest bin to the highest."""
        fused = self.dropout(fused)
        logits = self.classify(fused).reshape(len(fused), -1, self.bins)
        features = torch.relu(self.features(fused)).reshape(*logits.shape, -1)
        guided = (logits.softmax(-1).unsqueeze(-1) * features).sum(2)  # (B, K, hidden)
        return (guided * self.weight).sum(-1) + self.bias, {"bins": logits}
