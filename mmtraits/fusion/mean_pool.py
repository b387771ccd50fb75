"""Mean over the present streams of their mean tokens: the simplest fusion, and a floor for the others."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import masked_mean, present
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """Width D and dropout on the fused vector."""

    model_config = ConfigDict(extra="forbid")
    width: int = Field(64, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class Fusion(nn.Module):
    """Masked mean per stream, then over present streams, plus a learned vector for each absent stream."""

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.width = config.width
        self.streams = streams
        self.absence = nn.Parameter(torch.randn(len(streams), config.width) * config.width**-0.5)
        self.finish = nn.Sequential(nn.LayerNorm(config.width), nn.Dropout(config.dropout))

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D), no auxiliary output."""
        means = torch.stack([masked_mean(tokens[stream]) for stream in self.streams], 1)
        there = torch.stack([present(tokens[stream]) for stream in self.streams], 1)
        absent = (~there).to(means.dtype) @ self.absence
        return self.finish(masked_mean(Tokens(means, there)) + absent), {}
