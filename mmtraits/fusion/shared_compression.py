"""365 Aspects (AVI-2025, track 2): several answers of one person, each compressed, judged by many MLPs, averaged.

A step of every stream is one answer: features (R, D) per person, answer r in row r of each stream.
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import MemberLinear, hidden, masked_mean
from mmtraits.tokens import Tokens

TINY = ({"sizes": 8, "adapter": 6, "shared": 4, "members": 2, "hidden": (5, 4)},)


class Config(BaseModel):
    """Widths as published; `sizes`: the length of each stream's vectors."""

    model_config = ConfigDict(extra="forbid")
    sizes: int | dict[str, int] = 1024
    adapter: int = Field(2304, ge=1)
    shared: int = Field(768, ge=1)
    members: int = Field(32, ge=1)
    hidden: tuple[int, ...] = Field((768, 32), min_length=1)


class Fusion(nn.Module):
    """Adapter per stream, one compression for all, joined per answer; M MLPs up to their last layer; mean over answers.

    An MLP's last layer is linear and commutes with both means, over MLPs and over answers: it is the head, `linear`. A
    stream that an answer lacks enters as zeros; an answer that all streams lack is not counted.
    """

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        sizes = config.sizes if isinstance(config.sizes, dict) else dict.fromkeys(streams, config.sizes)
        if sizes.keys() != set(streams):
            found, expected = ", ".join(sorted(sizes)), ", ".join(sorted(streams))
            raise ValueError(f"fusion shared_compression: sizes names {found}; expected the streams {expected}")
        super().__init__()
        self.reads, self.members = sizes, config.members
        self.width = config.members * config.hidden[-1]
        self.adapters = nn.ModuleDict({s: nn.Linear(sizes[s], config.adapter) for s in streams})
        self.shared = nn.Linear(config.adapter, config.shared)
        widths = pairwise((len(streams) * config.shared, *config.hidden))
        self.layers = nn.ModuleList(MemberLinear(config.members, *pair) for pair in widths)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, R, size)} -> (B, members * hidden[-1]), no auxiliary output."""
        answers = _aligned({stream: tokens[stream] for stream in self.adapters})
        compressed = [hidden(Tokens(self._compress(s, answer.data), answer.mask)) for s, answer in answers.items()]
        given = torch.stack([answer.mask for answer in answers.values()]).any(0)
        x = torch.cat(compressed, -1).flatten(0, 1).expand(self.members, -1, -1)  # (M, B * R, streams * shared)
        for layer in self.layers:
            x = torch.relu(layer(x))
        judged = x.transpose(0, 1).reshape(*given.shape, self.width)
        return masked_mean(Tokens(judged, given)), {}

    def _compress(self, stream: str, answers: Tensor) -> Tensor:
        compressed: Tensor = self.shared(F.gelu(self.adapters[stream](answers)))
        return compressed


def _aligned(tokens: dict[str, Tokens]) -> dict[str, Tokens]:
    """As many steps in every stream as in the longest, without what lies under a False mask."""
    steps = reduce(torch.sym_max, (one.mask.shape[1] for one in tokens.values()))
    return {
        stream: Tokens(
            F.pad(hidden(one), (0, 0, 0, steps - one.mask.shape[1])), F.pad(one.mask, (0, steps - one.mask.shape[1]))
        )
        for stream, one in tokens.items()
    }
