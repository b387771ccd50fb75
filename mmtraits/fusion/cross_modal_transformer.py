"""Directed pairwise cross-modal attention, MulT (Tsai et al. 2019, ACL). For streams of tokens, in any alignment."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import Attention, FeedForward, hidden, masked_mean, placed, present
from mmtraits.tokens import Tokens

TINY: tuple[dict[str, Any], ...] = (
    {"width": 8, "heads": 2, "layers": 2, "self_layers": 1, "kernel": 3},
    {"width": 8, "heads": 2, "layers": 1, "self_layers": 1},
)


class Config(BaseModel):
    """`layers` of each directed pair, `self_layers` over what a stream has read.

    `kernel`: steps of the temporal convolution that comes first, null = none. `positions`: add sinusoids.
    """

    model_config = ConfigDict(extra="forbid")
    width: int = Field(64, ge=2, multiple_of=2)
    heads: int = Field(4, ge=1)
    layers: int = Field(2, ge=1)
    self_layers: int = Field(1, ge=1)
    kernel: Literal[1, 3, 5, 7] | None = None
    positions: bool = True
    expansion: float = Field(2.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


class Block(nn.Module):
    """Pre-norm: a sequence reads a memory (another stream's first state, or itself), then a feed-forward."""

    def __init__(self, width: int, config: Config, *, across: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_memory = nn.LayerNorm(width) if across else None
        self.read = Attention(width, config.heads, config.dropout)
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), FeedForward(width, config.expansion, config.dropout))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, sequence: Tokens, memory: Tokens | None = None) -> Tokens:
        """Sequence (B, T, D) and memory (B, S, D) -> (B, T, D)."""
        x = sequence.data
        normed = self.norm(x)
        if memory is None or self.norm_memory is None:
            source = Tokens(normed, sequence.mask)
        else:
            source = Tokens(self.norm_memory(hidden(memory)), memory.mask)
        x = x + self.dropout(self.read(normed, source))
        return Tokens(x + self.dropout(self.feed_forward(x)), sequence.mask)


class Reader(nn.Module):
    """One target stream: it reads every other stream on its own, then what it has read, side by side."""

    def __init__(self, config: Config, sources: int) -> None:
        super().__init__()
        self.across = nn.ModuleList(
            nn.ModuleList(Block(config.width, config, across=True) for _ in range(config.layers))
            for _ in range(sources)
        )
        self.width = config.width * max(1, sources)
        self.within = nn.ModuleList(Block(self.width, config, across=False) for _ in range(config.self_layers))
        self.norm = nn.LayerNorm(self.width)

    def forward(self, target: Tokens, sources: list[Tokens]) -> Tensor:
        """Target (B, T, D) and sources (B, S, D) each -> (B, D per source), zeros where the target is absent."""
        views = [self._view(target, source, stack) for source, stack in zip(sources, self.across, strict=True)]
        sequence = Tokens(torch.cat(views or [target.data], -1), target.mask)
        for block in self.within:
            sequence = block(sequence)
        return masked_mean(Tokens(self.norm(sequence.data), target.mask))

    def _view(self, target: Tokens, source: Tokens, stack: Any) -> Tensor:
        for block in stack:
            target = block(target, source)
        return target.data


class Fusion(nn.Module):
    """Any number of streams, each the target of all others -> (B, D). Mean over time where the paper takes the last."""

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.width = config.width
        self.streams = streams
        self.positions = config.positions
        self.convolutions = nn.ModuleList(_convolution(config) for _ in streams)
        self.readers = nn.ModuleList(Reader(config, len(streams) - 1) for _ in streams)
        joint = sum(reader.width for reader in self.readers)  # type: ignore[misc]  # ModuleList loses the type
        self.absence = nn.Parameter(torch.randn(len(streams), joint) * joint**-0.5)
        self.residual = nn.Sequential(
            nn.Linear(joint, joint), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(joint, joint)
        )
        self.join = nn.Linear(joint, config.width)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D), no auxiliary output."""
        first = [self._first(tokens[s], layer) for s, layer in zip(self.streams, self.convolutions, strict=True)]
        read = [
            reader(target, [source for m, source in enumerate(first) if m != n])
            for n, (reader, target) in enumerate(zip(self.readers, first, strict=True))
        ]
        absent = torch.stack([~present(one) for one in first], 1).to(self.absence.dtype)
        joint = torch.cat(read, 1) + absent @ self.absence
        return self.join(joint + self.residual(joint)), {}

    def _first(self, tokens: Tokens, layer: nn.Module) -> Tokens:
        """Convolved over real steps only, and placed in time."""
        convolved = layer(hidden(tokens).transpose(1, 2)).transpose(1, 2)
        made = Tokens(convolved, tokens.mask)
        made = placed(made) if self.positions else made
        return Tokens(hidden(made), tokens.mask)


def _convolution(config: Config) -> nn.Module:
    if config.kernel is None:
        return nn.Identity()
    return nn.Conv1d(config.width, config.width, config.kernel, padding="same", bias=False)
