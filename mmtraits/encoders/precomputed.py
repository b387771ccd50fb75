"""Vectors made elsewhere: read from files named for each clip, or from a producer that the runtime can run."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from mmtraits.layers import Standardize, hidden, placed, pooled
from mmtraits.schema import VectorSpec
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """Options of `precomputed`. `size`: the length of one given vector; `pool: mean` makes one token of all."""

    model_config = ConfigDict(extra="forbid")
    size: int = Field(ge=1)
    producer: str = "external"
    pool: Literal["mean", "none"] = "none"
    width: int = Field(default=128, ge=2, multiple_of=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Encoder(nn.Module):
    """Vectors float32 (B, T, size) -> standardised, projected, with their place in time: (B, T or 1, width)."""

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = VectorSpec(width=config.size, producer=config.producer)
        self.width = config.width
        self.pool = config.pool
        self.standardize = Standardize(config.size)
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.size, config.width))

    def frontend(self, raw: Tokens) -> Tokens:
        """The vectors as they are."""
        return raw

    def adapt(self, tokens: Tokens) -> Tokens:
        """Vectors (B, T, size) -> tokens (B, T, width), or (B, 1, width) with `pool: mean`."""
        if self.pool == "mean":
            tokens = pooled(tokens)
        projected = Tokens(self.project(self.standardize(hidden(tokens))), tokens.mask)
        return placed(projected) if self.pool == "none" else projected

    def forward(self, raw: Tokens) -> Tokens:
        """Vectors (B, T, size) -> tokens (B, T or 1, width)."""
        return self.adapt(raw)
