"""Answers between 0 and 1 on the traits' own scale, by tanh or sigmoid."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class Config(BaseModel):
    """Width of a ReLU layer before the last one (null: none), and what bounds the answers."""

    model_config = ConfigDict(extra="forbid")
    hidden: int | None = Field(default=None, ge=1)
    activation: Literal["tanh", "sigmoid"] = "tanh"


class Head(nn.Module):
    """Fused vector -> traits: (tanh(x) + 1) / 2 as in Deep Impression (2016), or sigmoid as in OCEAN-AI.

    Meant for a schema with `transform: min_max`: there 0 and 1 are the ends of a trait's scale.
    """

    absolute: ClassVar[bool] = True  # not deviations from the training mean, but the answer itself

    def __init__(self, config: Config, width: int, traits: int) -> None:
        super().__init__()
        self.tanh = config.activation == "tanh"
        self.hidden = nn.Linear(width, config.hidden) if config.hidden else None
        self.last = nn.Linear(config.hidden or width, traits)

    def forward(self, fused: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, width) -> (B, K), no auxiliary output."""
        x = self.last(torch.relu(self.hidden(fused)) if self.hidden else fused)
        return (torch.tanh(x) + 1) / 2 if self.tanh else torch.sigmoid(x), {}
