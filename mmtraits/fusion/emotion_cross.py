"""Emotion beside traits, after EmoPerso (arXiv 2509.02450): shared streams, an emotion task, trait-emotion attention.

Emotion can be read (`input`), predicted from the other streams (`target`) or left out (`none`): the switch that asks
whether emotion helps. `objective: uncertainty` learns how much the task counts beside the traits.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import Attention, FeedForward, concat, hidden, masked_mean, present
from mmtraits.tokens import Tokens

Role = Literal["input", "target", "none"]
TINY: tuple[dict[str, Any], ...] = (
    {"width": 8, "heads": 2, "queries": 2, "layers": 2, "stream": "voice", "emotion": "input"},
    {"width": 8, "layers": 0, "stream": "voice", "emotion": "input"},
)


class Config(BaseModel):
    """`stream`: which one holds emotion, and `emotion`: what is done with it.

    `queries`: learned tokens for the traits, and as many for an emotion that is not read; `layers`: of cross-attention
    between both, 0 = none: one shared layer over the streams side by side, as in MER-PR's baseline.
    """

    model_config = ConfigDict(extra="forbid")
    width: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    queries: int = Field(4, ge=1)
    layers: int = Field(1, ge=0)
    expansion: float = Field(2.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    stream: str = "emotion"
    emotion: Role = "target"


class EmotionTask(nn.Module):
    """Predict the emotion stream's mean token; its mean squared error is the loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.predict = nn.Linear(width, width)

    def forward(self, vector: Tensor, emotion: Tokens) -> dict[str, Tensor]:
        """Vector (B, D), emotion (B, T, D) -> `emotion` (B, D) and `loss_emotion`, 0 where no row has emotion.

        The target is cut from the graph: an encoder that learned it could make it constant.
        """
        predicted = self.predict(vector)
        error = (predicted - masked_mean(emotion).detach()).float().square().mean(1)
        known = present(emotion)
        loss = torch.where(known, error, torch.zeros_like(error)).sum() / known.sum().clamp_min(1)
        return {"emotion": predicted, "loss_emotion": loss}


class Exchange(nn.Module):
    """Trait tokens read emotion tokens and the reverse, from the same states; then a feed-forward each."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.reads = nn.ModuleList(Attention(width, config.heads, config.dropout) for _ in range(2))
        self.ends = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), FeedForward(width, config.expansion, config.dropout)) for _ in range(2)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, traits: Tokens, emotion: Tokens) -> tuple[Tokens, Tokens]:
        """(B, Q, D) and (B, T, D) -> the same."""
        both = (traits, emotion)
        normed = [Tokens(norm(one.data), one.mask) for norm, one in zip(self.norms, both, strict=True)]
        out = []
        for n, one in enumerate(both):
            x = one.data + self.dropout(self.reads[n](normed[n].data, normed[1 - n]))
            out.append(Tokens(x + self.dropout(self.ends[n](x)), one.mask))
        return out[0], out[1]


class Crossed(nn.Module):
    """Learned trait and emotion queries read the streams, then each other."""

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.streams = streams
        self.given = config.stream if config.emotion == "input" else None
        width, apart = config.width, config.emotion == "target"
        self.kinds = nn.Parameter(torch.randn(len(streams), width))
        self.queries = nn.ParameterList(nn.Parameter(torch.randn(1, config.queries, width)) for _ in range(1 + apart))
        self.norm = nn.LayerNorm(width)
        self.reads = nn.ModuleList(Attention(width, config.heads, config.dropout) for _ in range(1 + apart))
        crossing = config.emotion != "none"
        self.layers = nn.ModuleList(Exchange(config) for _ in range(config.layers if crossing else 0))
        self.join = nn.Linear(width * (1 + crossing), width)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, Tensor]:
        """{stream: (B, T, D)} -> fused (B, D) and what the emotion task reads (B, D)."""
        memory = concat(
            [Tokens(hidden(tokens[s]) + k, tokens[s].mask) for s, k in zip(self.streams, self.kinds, strict=True)]
        )
        memory = Tokens(self.norm(memory.data), memory.mask)
        asked = [self._asked(memory, n) for n in range(len(self.queries))]
        traits = asked[0]
        emotion = tokens[self.given] if self.given else asked[-1]
        shared = masked_mean(emotion)
        emotion = Tokens(hidden(emotion), emotion.mask)
        for layer in self.layers:
            traits, emotion = layer(traits, emotion)
        parts = [masked_mean(one) for one in ((traits, emotion) if len(self.layers) else (traits,))]
        return self.join(torch.cat(parts, 1)), shared

    def _asked(self, memory: Tokens, number: int) -> Tokens:
        rows = memory.data.shape[0]
        queries = self.queries[number].expand(rows, -1, -1)
        read = queries + self.reads[number](queries, memory)
        return Tokens(read, torch.ones_like(read[..., 0], dtype=torch.bool))


class Shared(nn.Module):
    """One ReLU layer over the mean tokens and presence bits of the streams, side by side; MER-PR's baseline."""

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.streams = streams
        self.join = nn.Linear(len(streams) * (config.width + 1), config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, Tensor]:
        """{stream: (B, T, D)} -> fused (B, D), twice: the emotion task reads what the traits' head reads."""
        means = [masked_mean(tokens[stream]) for stream in self.streams]
        there = torch.stack([present(tokens[stream]) for stream in self.streams], 1)
        joint = self.dropout(torch.relu(self.join(torch.cat([*means, there.to(means[0].dtype)], 1))))
        return joint, joint


class Fusion(nn.Module):
    """Streams -> (B, D); with `emotion: target` the emotion stream is never read, and predicted where it is present."""

    aux_losses: ClassVar[tuple[str, ...]] = ("emotion",)

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        others = tuple(stream for stream in streams if stream != config.stream)
        if config.emotion != "none" and others == streams:
            raise ValueError(
                f"fusion emotion_cross: stream {config.stream!r} is no stream; choose {', '.join(streams)}, "
                "or `emotion: none`"
            )
        if not others:
            raise ValueError(
                f"fusion emotion_cross: found only {config.stream!r}; expected a stream to predict it from"
            )
        super().__init__()
        self.width, self.stream = config.width, config.stream
        read = streams if config.emotion == "input" and not config.layers else others
        self.traits = Crossed(config, others) if config.layers else Shared(config, read)
        self.task = EmotionTask(config.width) if config.emotion == "target" else None

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D); auxiliary `emotion` (B, D) and `loss_emotion` where it is predicted."""
        fused, shared = self.traits(tokens)
        return fused, {} if self.task is None else self.task(shared, tokens[self.stream])
