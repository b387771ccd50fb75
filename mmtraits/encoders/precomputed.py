"""Vectors made elsewhere: read from files named for each clip, or from a producer that the runtime can run."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from mmtraits.layers import Standardize, hidden, placed, pooled, present
from mmtraits.schema import VectorSpec
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """Options of `precomputed`. `size`: the length of one given vector; `pool: mean` or `max` makes one token of all.

    `width: null` hands the vectors on as they are, to a fusion that projects them on its own.
    """

    model_config = ConfigDict(extra="forbid")
    size: int = Field(ge=1)
    producer: str = "external"
    pool: Literal["mean", "max", "none"] = "none"
    width: int | None = Field(default=128, ge=2, multiple_of=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Encoder(nn.Module):
    """Vectors float32 (B, T, size) -> standardised, projected, with their place in time: (B, T or 1, width).

    With `width: null` the vectors themselves, (B, T or 1, size).
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = VectorSpec(width=config.size, producer=config.producer)
        self.width = config.width or config.size
        self.pool = config.pool
        self.as_given = config.width is None
        if config.width is None:
            return
        clip = 10.0 if config.pool == "max" else 3.0  # in spreads of single steps: the largest of many lies far out
        self.standardize = Standardize(config.size, clip)
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.size, config.width))

    def frontend(self, raw: Tokens) -> Tokens:
        """The vectors as they are."""
        return raw

    def adapt(self, tokens: Tokens) -> Tokens:
        """Vectors (B, T, size) -> tokens (B, T, width), or (B, 1, width) with `pool: mean` or `max`."""
        if self.pool != "none":
            tokens = pooled(tokens) if self.pool == "mean" else _largest(tokens)
        if self.as_given:
            return Tokens(hidden(tokens), tokens.mask)
        projected = Tokens(self.project(self.standardize(hidden(tokens))), tokens.mask)
        return placed(projected) if self.pool == "none" else projected

    def forward(self, raw: Tokens) -> Tokens:
        """Vectors (B, T, size) -> tokens (B, T or 1, width)."""
        return self.adapt(raw)


def _largest(tokens: Tokens) -> Tokens:
    """One token of the largest value per column, over the real steps: (B, T, D) -> (B, 1, D)."""
    there = present(tokens).unsqueeze(1)
    largest = torch.where(tokens.mask.unsqueeze(-1), tokens.data, -torch.inf).amax(1, keepdim=True)
    return Tokens(torch.where(there.unsqueeze(-1), largest, 0.0), there)
