"""Every stream's mean token, concatenated under one linear layer: the fusion of Deep Impression."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import masked_mean, present
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """Width D of what comes out."""

    model_config = ConfigDict(extra="forbid")
    width: int = Field(256, ge=1)


class Fusion(nn.Module):
    """The sum of the streams' mean tokens, with a learned vector in place of an absent stream's.

    A linear layer over concatenated vectors is the sum of a linear layer over each, and that each stream has already:
    the model's projection to width D. A linear head after it is one linear layer over the concatenation.
    """

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.width = config.width
        self.streams = streams
        self.absence = nn.Parameter(torch.randn(len(streams), config.width) * config.width**-0.5)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D), no auxiliary output."""
        means = torch.stack([masked_mean(tokens[stream]) for stream in self.streams], 1)
        there = torch.stack([present(tokens[stream]) for stream in self.streams], 1)
        return torch.where(there.unsqueeze(-1), means, self.absence).sum(1), {}
