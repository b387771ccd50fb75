"""Many small MLPs side by side, averaged: 32 of them in Traits Run Deep (2025). One batched product per layer."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class Config(BaseModel):
    """Number of MLPs, the widths of their hidden layers, and dropout before every layer."""

    model_config = ConfigDict(extra="forbid")
    members: int = Field(32, ge=1)
    hidden: tuple[int, ...] = (16,)
    dropout: float = Field(0.1, ge=0, lt=1)


class MemberLinear(nn.Module):
    """M independent linear layers as one product."""

    def __init__(self, members: int, width_in: int, width_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width_in)
        self.weight = nn.Parameter(torch.empty(members, width_in, width_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, width_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(M, B, width_in) -> (M, B, width_out)."""
        return torch.matmul(x, self.weight) + self.bias


class Head(nn.Module):
    """Mean of M MLPs. Every member sees the same fused vector under its own dropout."""

    def __init__(self, config: Config, width: int, traits: int) -> None:
        super().__init__()
        self.members = config.members
        widths = pairwise((width, *config.hidden, traits))
        self.layers = nn.ModuleList(MemberLinear(config.members, *pair) for pair in widths)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, fused: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, width) -> (B, K); auxiliary `members` (B, M, K)."""
        x = fused.expand(self.members, *fused.shape)
        for number, layer in enumerate(self.layers):
            x = layer(self.dropout(torch.relu(x) if number else x))
        return x.mean(0), {"members": x.transpose(0, 1)}
