"""Late fusion by concatenation: each stream pooled, through its own MLP, side by side. The first of three baselines."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import masked_mean, present
from mmtraits.tokens import Tokens

TINY: tuple[dict[str, Any], ...] = ({"width": 8, "hidden": 8}, {"width": 8, "hidden": None, "slot": "zero"})


class Config(BaseModel):
    """`hidden`: of each stream's MLP, null = none, plain concatenation. `slot`: what stands for an absent stream."""

    model_config = ConfigDict(extra="forbid")
    width: int = Field(64, ge=1)
    hidden: int | None = Field(64, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    slot: Literal["learned", "zero"] = "learned"


class Fusion(nn.Module):
    """Mean token per stream -> its MLP, or the absent stream's slot -> all of them and P presence bits -> linear."""

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.width = config.width
        self.streams = streams
        self.own = nn.ModuleList(_own(config) for _ in streams)
        slots = torch.randn(len(streams), config.width) * config.width**-0.5
        self.slots = nn.Parameter(slots) if config.slot == "learned" else None
        self.join = nn.Linear(len(streams) * (config.width + 1), config.width)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D), no auxiliary output."""
        own = [layers(masked_mean(tokens[stream])) for stream, layers in zip(self.streams, self.own, strict=True)]
        vectors = torch.stack(own, 1)
        there = torch.stack([present(tokens[stream]) for stream in self.streams], 1)
        slots = torch.zeros_like(vectors[:1]) if self.slots is None else self.slots
        vectors = torch.where(there.unsqueeze(-1), vectors, slots)
        return self.join(torch.cat([vectors.flatten(1), there.to(vectors.dtype)], 1)), {}


def _own(config: Config) -> nn.Module:
    if config.hidden is None:
        return nn.Identity()
    return nn.Sequential(
        nn.LayerNorm(config.width),
        nn.Linear(config.width, config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.width),
        nn.GELU(),
        nn.Dropout(config.dropout),
    )
