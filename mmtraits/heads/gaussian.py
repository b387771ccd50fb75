"""One hidden layer, then a mean and a variance for every trait: trained by gaussian_nll (Nix and Weigend 1994)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class Config(BaseModel):
    """Width of the hidden layer, and dropout before and after it."""

    model_config = ConfigDict(extra="forbid")
    hidden: int = Field(64, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class Head(nn.Module):
    """Fused vector -> hidden layer -> traits and how sure each is."""

    aux_losses: ClassVar[tuple[str, ...]] = ("gaussian_nll",)

    def __init__(self, config: Config, width: int, traits: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.GELU(), nn.Dropout(config.dropout)
        )
        self.mean = nn.Linear(config.hidden, traits)
        self.log_variance = nn.Linear(config.hidden, traits)

    def forward(self, fused: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, width) -> (B, K); auxiliary `log_variance` (B, K), of labels in target space. Scores are the mean."""
        x = self.layers(fused)
        return self.mean(x), {"log_variance": self.log_variance(x)}
