"""Many small MLPs side by side, averaged: 32 of them in Traits Run Deep (2025). One batched product per layer."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import MemberLinear


class Config(BaseModel):
    """Number of MLPs, the widths of their hidden layers, and dropout before every layer."""

    model_config = ConfigDict(extra="forbid")
    members: int = Field(32, ge=1)
    hidden: tuple[int, ...] = (16,)
    dropout: float = Field(0.1, ge=0, lt=1)


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
