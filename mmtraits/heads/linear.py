"""One linear layer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class Config(BaseModel):
    """Nothing to choose."""

    model_config = ConfigDict(extra="forbid")


class Head(nn.Module):
    """Fused vector -> traits."""

    def __init__(self, config: Config, width: int, traits: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, traits)

    def forward(self, fused: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, width) -> (B, K), no auxiliary output."""
        return self.layer(fused), {}
