"""Traits Run Deep (2025) as its authors built it: block-wise projectors, a softmax over heads, and the text enhanced.

One vector per stream; what each stream adds is read off the anchor's (the text's) vector. The softmax of a connector
runs over its heads, not over time: that is the method, and `text_centric` is the variant with attention over time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import masked_mean, present
from mmtraits.tokens import Tokens

CHUNKS = ((20480, 40), (16384, 32), (8192, 16), (4096, 8), (2048, 4), (1024, 2))  # inputs from this width on: so many
TINY = (
    {"sizes": 8, "unified": 12, "hidden": 8, "width": 8, "heads": 2},
    {"sizes": 1024, "unified": 8, "hidden": 8, "width": 1024, "heads": 2, "learned_tokens": False},
)


class Config(BaseModel):
    """Widths as in the winning run; `sizes`: the length of each stream's vector, one number where all are alike."""

    model_config = ConfigDict(extra="forbid")
    sizes: int | dict[str, int] = 4096
    anchor: str = "text"
    unified: int = Field(512, ge=1)
    hidden: int = Field(256, ge=1)
    width: int = Field(256, ge=1)
    heads: int = Field(4, ge=1)
    learned_tokens: bool = True
    projector_dropout: float = Field(0.2, ge=0, lt=1)
    connector_dropout: float = Field(0.3, ge=0, lt=1)
    enhancer_dropout: float = Field(0.1, ge=0, lt=1)


def chunks(size: int) -> int:
    """In how many blocks a vector of `size` is projected."""
    return next((count for smallest, count in CHUNKS if size >= smallest), 1)


class Blocks(nn.Module):
    """One linear layer per block, without mixing them: (N, B, width_in) -> (N, B, width_out)."""

    def __init__(self, blocks: int, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, width_in, width_out))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, width_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, B, width_in) -> (N, B, width_out)."""
        return torch.matmul(x, self.weight) + self.bias


class ChunkProjector(nn.Module):
    """A vector (B, size) in blocks, each with weights of its own and a gate to a learned token -> (B, width).

    The learned tokens are what the paper calls prompts; they have nothing to do with those of a language model.
    """

    def __init__(self, size: int, width: int, dropout: float, learned_tokens: bool) -> None:
        blocks = chunks(size)
        if size % blocks or width % blocks:
            raise ValueError(f"fusion head_softmax: {size} to {width} in {blocks} blocks; expected multiples of it")
        super().__init__()
        inner, outer = 4 * width // blocks, width // blocks
        self.blocks = blocks
        self.widen, self.narrow = Blocks(blocks, size // blocks, inner), Blocks(blocks, inner, outer)
        self.scale = nn.Parameter(torch.ones(blocks, 1, inner))
        self.shift = nn.Parameter(torch.zeros(blocks, 1, inner))
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(2 * outer, 1) if learned_tokens else None
        self.tokens = nn.Parameter(0.02 * torch.randn(blocks, 1, outer)) if learned_tokens else None
        self.compensation = nn.Parameter(torch.full((width,), 0.1))
        self._start(size // blocks, inner, outer)

    @torch.no_grad()
    def _start(self, width: int, inner: int, outer: int) -> None:
        self.widen.weight.normal_(0, math.sqrt(2 / width))  # He et al. 2015
        self.narrow.weight.normal_(0, 0.5 * math.sqrt(2 / (inner + outer)))  # half of Glorot & Bengio 2010
        self.narrow.bias.normal_(0, 0.01)
        if self.gate is not None:
            nn.init.orthogonal_(self.gate.weight)
            self.gate.bias.fill_(0.5)

    def forward(self, vector: Tensor) -> Tensor:
        """(B, size) -> (B, width)."""
        x = torch.relu(self.widen(vector.reshape(len(vector), self.blocks, -1).transpose(0, 1)))
        x = F.layer_norm(x, x.shape[-1:]) * self.scale + self.shift
        x = self.dropout(self.narrow(x))
        if self.gate is not None and self.tokens is not None:
            tokens = self.tokens.expand_as(x)
            open_ = torch.sigmoid(self.gate(torch.cat([x, tokens], -1)))
            x = open_ * x + (1 - open_) * tokens
        joined: Tensor = x.transpose(0, 1).flatten(1) + self.compensation
        return joined


class Connector(nn.Module):
    """What the anchor's heads say, weighted by how another stream's heads match them; no residual."""

    def __init__(self, unified: int, hidden: int, heads: int, dropout: float) -> None:
        if hidden % heads:
            raise ValueError(f"fusion head_softmax: hidden {hidden} is not divisible by {heads} heads")
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(unified, hidden) for _ in range(3))
        self.out = nn.Linear(hidden, hidden)
        self.finish = nn.Sequential(nn.Dropout(dropout), nn.LayerNorm(hidden))
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, other: Tensor, anchor: Tensor) -> Tensor:
        """Two vectors (B, unified) -> (B, hidden)."""
        query, key, value = (
            layer(x).unflatten(1, (self.heads, -1))
            for layer, x in ((self.query, other), (self.key, anchor), (self.value, anchor))
        )
        match = (query * key).sum(-1, keepdim=True) / math.sqrt(query.shape[-1])  # (B, heads, 1)
        joined: Tensor = self.finish(self.out((match.softmax(1) * value).flatten(1)))
        return joined


class Enhancer(nn.Module):
    """The anchor plus a gated sum of what all streams say: parts (B, hidden), the anchor's last -> (B, width)."""

    def __init__(self, parts: int, hidden: int, width: int, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(parts * hidden, width), nn.ReLU(), nn.Linear(width, parts))
        weigh = [nn.Linear(hidden, hidden) for _ in range(parts)]
        for layer in weigh:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.weigh = nn.ModuleList(weigh)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Identity() if hidden == width else nn.Linear(hidden, width)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Parts (B, hidden) -> (B, width)."""
        shares = self.gate(torch.cat(parts, 1)).softmax(1)
        said = torch.stack([layer(part) for layer, part in zip(self.weigh, parts, strict=True)], 1)
        enhanced: Tensor = self.out(self.norm(parts[-1] + self.dropout((shares.unsqueeze(-1) * said).sum(1))))
        return enhanced


class Fusion(nn.Module):
    """One vector of each stream, as its encoder gives it -> (B, width). A stream of several steps enters as their mean.

    The method knows no missing streams: here an absent stream's part is zeros, and without the anchor all parts are, so
    that every such clip gets the same vector.
    """

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        if config.anchor not in streams:
            raise ValueError(f"fusion head_softmax: anchor {config.anchor!r} is no stream; choose {', '.join(streams)}")
        sizes = config.sizes if isinstance(config.sizes, dict) else dict.fromkeys(streams, config.sizes)
        if sizes.keys() != set(streams):
            found, expected = ", ".join(sorted(sizes)), ", ".join(sorted(streams))
            raise ValueError(f"fusion head_softmax: sizes names {found}; expected the streams {expected}")
        super().__init__()
        self.width, self.anchor, self.reads = config.width, config.anchor, sizes
        self.others = tuple(stream for stream in streams if stream != config.anchor)
        rest = (config.projector_dropout, config.learned_tokens)
        self.projectors = nn.ModuleDict({s: ChunkProjector(sizes[s], config.unified, *rest) for s in streams})
        self.direct = ChunkProjector(sizes[config.anchor], config.hidden, *rest)
        connector = (config.unified, config.hidden, config.heads, config.connector_dropout)
        self.connectors = nn.ModuleDict({s: Connector(*connector) for s in self.others})
        self.enhancer = Enhancer(len(streams), config.hidden, config.width, config.enhancer_dropout)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, size)} -> (B, width), no auxiliary output."""
        vectors = {stream: masked_mean(tokens[stream]) for stream in self.projectors}
        there = {stream: present(tokens[stream]).unsqueeze(1) for stream in self.projectors}
        text = vectors[self.anchor]
        unified = self.projectors[self.anchor](text)
        parts = []
        for stream, connect in self.connectors.items():
            said = connect(self.projectors[stream](vectors[stream]), unified)
            parts.append(torch.where(there[stream] & there[self.anchor], said, torch.zeros_like(said)))
        direct = self.direct(text)
        parts.append(torch.where(there[self.anchor], direct, torch.zeros_like(direct)))
        return self.enhancer(parts), {}
