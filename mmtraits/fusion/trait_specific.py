"""Traits Run Deeper's ways to fuse, one per trait (arXiv 2606.11269, SYSTEMS.md §1.7).

The chosen streams beside each other, all steps pooled by a learned query, or the text asking the others.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import Attention, concat, hidden, masked_mean, present
from mmtraits.tokens import Tokens

TINY = (
    {"sizes": 8, "hidden": [8]},
    {"way": "pooled", "sizes": 8, "width": 12, "heads": 2, "hidden": [8]},
    {"way": "crossed", "sizes": 8, "width": 12, "heads": 2, "hidden": [16, 8]},
)


class Config(BaseModel):
    """`way`: beside, pooled or crossed; `streams`: those that are read, null for all; `sizes`: of their vectors.

    `width`: of attention; `hidden`: widths of the MLP, the last one that of the fused vector.
    """

    model_config = ConfigDict(extra="forbid")
    way: Literal["beside", "pooled", "crossed"] = "beside"
    streams: tuple[str, ...] | None = None
    anchor: str = "text"
    sizes: int | dict[str, int] = 1536
    width: int = Field(512, ge=1)
    heads: int = Field(8, ge=1)
    hidden: tuple[int, ...] = Field((256, 64), min_length=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.05, ge=0, lt=1)


class Beside(nn.Module):
    """The mean vector of each stream, a learned one where it is absent, one after the other."""

    def __init__(self, config: Config, sizes: dict[str, int]) -> None:
        super().__init__()
        self.width = sum(sizes.values())
        self.absent = nn.ParameterDict({stream: torch.zeros(size) for stream, size in sizes.items()})

    def forward(self, tokens: dict[str, Tokens]) -> Tensor:
        """{stream: (B, T, size)} -> (B, sum of sizes)."""
        parts = [torch.where(present(one).unsqueeze(1), masked_mean(one), self.absent[s]) for s, one in tokens.items()]
        return torch.cat(parts, 1)


class Pooled(nn.Module):
    """All streams' steps projected, read by each other once, and pooled by a learned query."""

    def __init__(self, config: Config, sizes: dict[str, int]) -> None:
        super().__init__()
        self.width = width = config.width
        self.project = nn.ModuleDict(
            {s: nn.Sequential(nn.Linear(size, width), nn.LayerNorm(width), nn.ReLU()) for s, size in sizes.items()}
        )
        self.within = Attention(width, config.heads, config.attention_dropout)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.pool = Attention(width, config.heads, config.attention_dropout)

    def forward(self, tokens: dict[str, Tokens]) -> Tensor:
        """{stream: (B, T, size)} -> (B, width)."""
        steps = concat([Tokens(self.project[s](hidden(one)), one.mask) for s, one in tokens.items()])
        steps = Tokens(self.norm(steps.data + self.within(steps.data, steps)), steps.mask)
        pooled: Tensor = self.pool(self.query.expand(steps.data.shape[0], -1, -1), steps)[:, 0]
        return pooled


class Crossed(nn.Module):
    """The anchor's mean vector asks every step of the other streams: [query; LN(query + what it read)]."""

    def __init__(self, config: Config, sizes: dict[str, int]) -> None:
        super().__init__()
        self.width = 2 * config.width
        self.anchor = config.anchor
        self.project = nn.ModuleDict({stream: nn.Linear(size, config.width) for stream, size in sizes.items()})
        self.across = Attention(config.width, config.heads, config.attention_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: dict[str, Tokens]) -> Tensor:
        """{stream: (B, T, size)} -> (B, 2 * width)."""
        steps = {stream: Tokens(self.project[stream](hidden(one)), one.mask) for stream, one in tokens.items()}
        query = masked_mean(steps.pop(self.anchor))
        read = self.across(query.unsqueeze(1), concat(list(steps.values())))[:, 0]
        return torch.cat([query, self.norm(query + self.dropout(read))], 1)


WAYS: dict[str, type[Beside] | type[Pooled] | type[Crossed]] = {"beside": Beside, "pooled": Pooled, "crossed": Crossed}


class Fusion(nn.Module):
    """The chosen streams' vectors as their encoders give them -> one of the three ways -> MLP."""

    def __init__(self, config: Config, streams: tuple[str, ...]) -> None:
        chosen = config.streams or streams
        given = config.sizes if isinstance(config.sizes, dict) else dict.fromkeys(streams, config.sizes)
        _check(config, chosen, streams, given)
        super().__init__()
        self.width, self.chosen, self.reads = config.hidden[-1], chosen, given
        way = WAYS[config.way](config, {stream: given[stream] for stream in chosen})
        self.way = way
        layers: list[nn.Module] = []
        for before, after in zip((way.width, *config.hidden), config.hidden, strict=False):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """{stream: (B, T, size)} -> (B, width), no auxiliary output. Streams that were not chosen are not read."""
        return self.layers(self.way({stream: tokens[stream] for stream in self.chosen})), {}


def _check(config: Config, chosen: tuple[str, ...], streams: tuple[str, ...], sizes: dict[str, int]) -> None:
    where = f"fusion trait_specific, way {config.way}"
    if unknown := sorted(set(chosen) - set(streams)):
        raise ValueError(f"{where}: streams names {', '.join(unknown)}; choose of {', '.join(streams)}")
    if missing := sorted(set(streams) - sizes.keys()):
        raise ValueError(f"{where}: sizes lacks {', '.join(missing)}; give the length of every stream's vectors")
    if config.way == "crossed" and (config.anchor not in chosen or len(chosen) < 2):
        raise ValueError(
            f"{where}: found {', '.join(chosen)}; expected the anchor {config.anchor!r} and another stream"
        )
