"""A gate for every pair of modalities: the fusion of OCEAN-AI."""

from __future__ import annotations

from itertools import combinations, product

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import masked_mean, present
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """`block`: the width of one pair's vector; all of them together are the fusion's.

    sets: kinds of features, each naming one stream per modality in the same order of modalities, as
    [[text_words, voice_pitch], [text, voice]] (hand-crafted, then learned). Null: all streams are one set.
    """

    model_config = ConfigDict(extra="forbid")
    block: int = Field(64, ge=1)
    sets: tuple[tuple[str, ...], ...] | None = Field(default=None, min_length=1)


class GatedPair(nn.Module):
    """h = σ([x1, x2] W) · tanh(x1 W1) + (1 − σ([x1, x2] W)) · tanh(x2 W2)."""

    def __init__(self, width: int, block: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, block)
        self.first = nn.Linear(width, block)
        self.second = nn.Linear(width, block)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two vectors (B, width) -> (B, block)."""
        gate = torch.sigmoid(self.gate(torch.cat([first, second], -1)))
        return gate * torch.tanh(self.first(first)) + (1 - gate) * torch.tanh(self.second(second))


class Fusion(nn.Module):
    """Per pair of modalities the sum over sets of a gated pair; the pairs side by side.

    After the gated Siamese fusion network of OCEAN-AI: three modalities, two sets, 64 each, 192 together. A learned
    vector stands in for an absent stream.
    """

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        sets = config.sets or (streams,)
        _check(sets, streams)
        super().__init__()
        self.pairs = tuple(combinations(range(len(sets[0])), 2))
        self.sets = sets
        self.streams = streams
        self.width = config.block * len(self.pairs)
        self.norms = nn.ModuleDict({stream: nn.LayerNorm(self.width) for stream in streams})
        self.absence = nn.Parameter(torch.randn(len(streams), self.width))
        self.gates = nn.ModuleList(GatedPair(self.width, config.block) for _ in product(self.pairs, sets))

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, D)} -> (B, D), no auxiliary output."""
        vectors = {
            stream: torch.where(
                present(tokens[stream]).unsqueeze(-1), self.norms[stream](masked_mean(tokens[stream])), absence
            )
            for stream, absence in zip(self.streams, self.absence, strict=True)
        }
        found = [
            gate(vectors[kind[one]], vectors[kind[other]])
            for gate, ((one, other), kind) in zip(self.gates, product(self.pairs, self.sets), strict=True)
        ]
        blocks = torch.stack(found, 1).reshape(len(found[0]), len(self.pairs), len(self.sets), -1)
        return blocks.sum(2).flatten(1), {}


def _check(sets: tuple[tuple[str, ...], ...], streams: tuple[str, ...]) -> None:
    named = [stream for one in sets for stream in one]
    if sorted(named) != sorted(streams):
        raise ValueError(
            f"fusion gated_pairs: sets name {', '.join(named)}; expected every stream once: {', '.join(streams)}"
        )
    sizes = {len(one) for one in sets}
    if len(sizes) > 1 or min(sizes) < 2:
        raise ValueError(
            f"fusion gated_pairs: found sets of {', '.join(map(str, sorted(sizes)))} streams; "
            "expected the same modalities in each set, at least two"
        )
