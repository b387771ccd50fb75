"""One transformer block over the tokens of all streams, with norms of its own for a stream that is alone.

After CAV-MAE (Gong et al. 2023) and Social-MAE (Bohy et al. 2024), section 3, and the released code of both.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mmtraits.layers import FeedForward, concat, hidden, masked_mean, present
from mmtraits.networks import vit
from mmtraits.tokens import Tokens

TINY = ({"size": "tiny"},)


class Size(NamedTuple):
    """Width of tokens, heads."""

    width: int
    heads: int


SIZES = {"full": Size(768, 12), "tiny": Size(32, 2)}


class Config(BaseModel):
    """`pretrained`: best.safetensors of a pre-training run, or a converted release."""

    model_config = ConfigDict(extra="forbid")
    size: Literal["full", "tiny"] = "full"
    pretrained: str | None = None


class Fusion(nn.Module):
    """Tokens of every stream, joined -> block -> LayerNorm -> mean over tokens -> LayerNorm.

    It takes encoders' tokens as they are: their width is its own. Where a row has one stream alone, that stream's norms
    stand in the place of the joint ones: the release's modes `audioonly` and `videoonly`, row by row.
    """

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.width, heads = SIZES[config.size]
        self.reads = dict.fromkeys(streams, self.width)
        self.streams = streams
        self.norm_1, self.norm_2, self.norm = (Norms(self.width, len(streams)) for _ in range(3))
        self.attention = vit.SelfAttention(self.width, heads)
        self.feed_forward = FeedForward(self.width, vit.EXPANSION)
        self.finish = nn.LayerNorm(self.width)
        vit.initialize(self)
        if config.pretrained:
            vit.load_part(self, config.pretrained, "fusion")

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D), no auxiliary output."""
        return self.finish(masked_mean(self.states(tokens))), {}

    def states(self, tokens: dict[str, Tokens]) -> Tokens:
        """Some or all streams (B, T_p, D) -> states of all their tokens (B, ΣT_p, D), in the order given."""
        joined = concat(list(tokens.values()))
        norms = self._norms(tokens, joined)
        x = hidden(joined)
        x = x + self.attention(self.norm_1(x, norms), joined.mask)
        x = x + self.feed_forward(self.norm_2(x, norms))
        return Tokens(self.norm(x, norms), joined.mask)

    def _norms(self, tokens: dict[str, Tokens], joined: Tokens) -> Tensor:
        """Which norms a row takes, one-hot (B, 1 + P): the joint ones first, then those of each stream alone."""
        absent = torch.zeros_like(joined.mask[:, 0])
        there = torch.stack([present(tokens[s]) if s in tokens else absent for s in self.streams], 1)
        alone = there & (there.sum(1, keepdim=True) == 1)
        return torch.cat([~alone.any(1, keepdim=True), alone], 1).to(joined.data.dtype)


class Norms(nn.Module):
    """LayerNorm with one scale and shift for joint rows and one for each stream alone."""

    def __init__(self, width: int, streams: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1 + streams, width))
        self.bias = nn.Parameter(torch.zeros(1 + streams, width))

    def forward(self, x: Tensor, norms: Tensor) -> Tensor:
        """(B, T, D) by the choice (B, 1 + P) -> (B, T, D)."""
        scaled = F.layer_norm(x, x.shape[-1:])
        return scaled * (norms @ self.weight)[:, None] + (norms @ self.bias)[:, None]
