"""Text-centric fusion: the anchor's tokens, led by a learned summary token, query every other stream.

After the text-centric designs of the AVI challenge (Traits Run Deep, 2025), with attention over time in place of their
softmax over heads, and null keys so that any subset of streams may be absent, the anchor too.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import Attention, FeedForward, concat, hidden
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """`length`: tell the summary token how many anchor tokens there are (attention alone cannot count)."""

    model_config = ConfigDict(extra="forbid")
    width: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    layers: int = Field(1, ge=1)
    expansion: float = Field(2.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    anchor: str = "text"
    length: bool = True


class Block(nn.Module):
    """Pre-norm: the sequence reads the other streams, then itself, then a feed-forward."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.across = Attention(width, config.heads, config.dropout)
        self.within = Attention(width, config.heads, config.dropout)
        self.feed_forward = FeedForward(width, config.expansion, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, sequence: Tokens, others: Tokens, queries: int | None = None) -> Tokens:
        """Sequence (B, 1 + T, D) -> the same, or only its first `queries` steps where the rest is not read again."""
        x = sequence.data
        x = x + self.dropout(self.across(self.norms[0](x), others))
        normed = self.norms[1](x)
        x = x[:, :queries] + self.dropout(self.within(normed[:, :queries], Tokens(normed, sequence.mask)))
        x = x + self.dropout(self.feed_forward(self.norms[2](x)))
        return Tokens(x, sequence.mask[:, :queries])


class Fusion(nn.Module):
    """Any number of streams -> the summary token's state."""

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        if config.anchor not in streams:
            raise ValueError(f"fusion text_centric: anchor {config.anchor!r} is no stream; choose {', '.join(streams)}")
        super().__init__()
        self.width = config.width
        self.anchor = config.anchor
        self.others = tuple(stream for stream in streams if stream != config.anchor)
        self.summary = nn.Parameter(torch.randn(1, 1, config.width))
        self.kinds = nn.Parameter(torch.randn(len(streams), config.width))  # the anchor's first
        self.length = nn.Linear(1, config.width, bias=False) if config.length else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D), no auxiliary output."""
        anchor = tokens[self.anchor]
        sequence = self._led(Tokens(hidden(anchor) + self.kinds[0], anchor.mask))
        others = self._memory(tokens)
        for number, block in enumerate(self.blocks, 1):
            sequence = block(sequence, others, queries=1 if number == len(self.blocks) else None)
        return self.norm(sequence.data[:, 0]), {}

    def _led(self, anchor: Tokens) -> Tokens:
        lead = self.summary.expand(anchor.data.shape[0], 1, -1)
        if self.length is not None:
            count = anchor.mask.sum(1, keepdim=True).to(lead.dtype)
            lead = lead + self.length(torch.log1p(count)).unsqueeze(1)
        return concat([Tokens(lead, torch.ones_like(anchor.mask[:, :1])), anchor])

    def _memory(self, tokens: dict[str, Tokens]) -> Tokens:
        """Every other stream's tokens with its kind added; one masked step where there is no other stream."""
        if not self.others:
            anchor = tokens[self.anchor]
            return Tokens(torch.zeros_like(anchor.data[:, :1]), torch.zeros_like(anchor.mask[:, :1]))
        return concat(
            [
                Tokens(hidden(tokens[name]) + kind, tokens[name].mask)
                for name, kind in zip(self.others, self.kinds[1:], strict=True)
            ]
        )
