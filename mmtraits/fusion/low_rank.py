"""Low-rank multimodal fusion, LMF (Liu et al. 2018, ACL): the outer product of all streams without building it."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import masked_mean, present
from mmtraits.tokens import Tokens

TINY: tuple[dict[str, Any], ...] = ({"width": 8, "hidden": 6, "rank": 2},)


class Config(BaseModel):
    """`hidden`: width of a stream's vector before the product; `rank`: how many rank-1 terms make the weight tensor."""

    model_config = ConfigDict(extra="forbid")
    width: int = Field(64, ge=1)
    hidden: int = Field(32, ge=1)
    rank: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class Fusion(nn.Module):
    """h = sum over ranks of the product over streams of W_r [z; 1] (the paper's equation 6), then a layer norm.

    An absent stream gives the product's neutral element 1. Factors start at 1 + small, so that the untrained product
    behaves like a sum.
    """

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.width = config.width
        self.streams = streams
        self.own = nn.ModuleList(_own(config) for _ in streams)
        factors = torch.randn(len(streams), config.rank, config.hidden + 1, config.width) * config.hidden**-0.5 / 2
        factors[:, :, -1] = 1.0
        self.factors = nn.Parameter(factors)  # (P, R, hidden + 1, D)
        self.bias = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.finish = nn.Sequential(nn.LayerNorm(config.width), nn.Dropout(config.dropout))

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D), no auxiliary output."""
        own = [layers(masked_mean(tokens[stream])) for stream, layers in zip(self.streams, self.own, strict=True)]
        there = torch.stack([present(tokens[stream]) for stream in self.streams], 1)
        return self.finish(product(torch.stack(own, 1), there, self.factors) + self.bias), {}


def product(vectors: Tensor, there: Tensor, factors: Tensor) -> Tensor:
    """Vectors (B, P, h), which of them are there (B, P) bool, factors (P, R, h + 1, D) -> (B, D)."""
    with_one = torch.cat([vectors, torch.ones_like(vectors[..., :1])], -1)
    terms = torch.einsum("bph,prhd->bprd", with_one, factors)
    terms = torch.where(there[:, :, None, None], terms, torch.ones_like(terms))
    joint = terms[:, 0]
    for stream in range(1, terms.shape[1]):  # not prod(): its gradient at 0 has no ONNX-friendly form
        joint = joint * terms[:, stream]
    return joint.sum(1)


def _own(config: Config) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(config.width), nn.Dropout(config.dropout), nn.Linear(config.width, config.hidden), nn.Tanh()
    )
