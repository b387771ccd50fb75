"""One hidden layer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class Config(BaseModel):
    """Width of the hidden layer, and dropout before and after it."""

    model_config = ConfigDict(extra="forbid")
    hidden: int = Field(64, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class Head(nn.Module):
    """Fused vector -> hidden layer -> traits."""

    def __init__(self, config: Config, width: int, traits: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, traits),
        )

    def forward(self, fused: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, width) -> (B, K), no auxiliary output."""
        return self.layers(fused), {}
