"""Transformers over patches whose tokens may be hidden: what masked autoencoders share (He et al. 2022; CAV-MAE 2023).

Without a null key: a row without any real token reads its own zeros, in torch as in ONNX Runtime, and is masked after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtraits.errors import ConfigError
from mmtraits.layers import FeedForward, hidden, sinusoids
from mmtraits.tokens import Tokens
from mmtraits.weights import read

EXPANSION = 4.0  # of the feed-forward, in every block


class SelfAttention(nn.Module):
    """Multi-head self-attention over the real tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), mask (B, T) -> (B, T, D)."""
        split = self.query_key_value(x).reshape(*x.shape[:2], 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        visible = (mask | ~mask.any(1, keepdim=True))[:, None, None, :]
        read_ = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        joined: Tensor = self.out(read_.transpose(1, 2).flatten(2))
        return joined


class Block(nn.Module):
    """Pre-norm block: self-attention, then a feed-forward of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.feed_forward = FeedForward(width, EXPANSION)

    def forward(self, tokens: Tokens) -> Tokens:
        """(B, T, D) -> (B, T, D)."""
        x = hidden(tokens)
        x = x + self.attention(self.norm_1(x), tokens.mask)
        return Tokens(x + self.feed_forward(self.norm_2(x)), tokens.mask)


class Trunk(nn.Module):
    """Patches -> tokens that know their place -> blocks: the network of one stream of a masked autoencoder.

    `grid`: patches along each axis. Positions start as separable sines and are trained; `modality` is added to all.
    """

    def __init__(self, values: int, grid: Sequence[int], width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.values = values
        self.patch = nn.Linear(values, width)  # a convolution whose stride is its kernel
        self.positions = nn.Parameter(positions(grid, width))
        self.modality = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        initialize(self)

    def embed(self, patches: Tokens) -> Tokens:
        """Patches (B, N, values) -> tokens (B, N, width)."""
        return Tokens(self.patch(hidden(patches)) + self.positions + self.modality, patches.mask)

    def encode(self, tokens: Tokens) -> Tokens:
        """Any of the tokens (B, n, width) -> the same after all blocks, zeros where hidden."""
        for block in self.blocks:
            tokens = block(tokens)
        return Tokens(hidden(tokens), tokens.mask)


def positions(grid: Sequence[int], width: int) -> Tensor:
    """Separable sines and cosines of a grid, (product of `grid`, width), row-major; each axis has an equal share."""
    pairs = [len(range(axis, width // 2, len(grid))) for axis in range(len(grid))]
    tables = [
        sinusoids(steps, 2 * share)[(slice(None),) + (None,) * (len(grid) - axis - 1)].expand(*grid[axis:], 2 * share)
        for axis, (steps, share) in enumerate(zip(grid, pairs, strict=True))
    ]
    return torch.cat([table.expand(*grid, -1) for table in tables], -1).reshape(math.prod(grid), width)


def initialize(module: nn.Module) -> None:
    """Uniform Xavier weights and zero biases in every linear layer, as in masked autoencoders."""
    for inner in module.modules():
        if isinstance(inner, nn.Linear):
            nn.init.xavier_uniform_(inner.weight)
            nn.init.zeros_(inner.bias)


def load_part(part: nn.Module, location: str, folder: Literal["encoders", "fusion"]) -> None:
    """Fill an encoder or a fusion from a file that holds whole models: a run's best.safetensors or a converted release.

    Of several encoders in the file the one that fits best is taken, whatever its stream is called. ConfigError names
    missing, unexpected and misshapen tensors in one message.
    """
    own = part.state_dict()
    found = max(_groups(read(location), folder).values(), key=lambda group: _fitting(own, group), default={})
    wrong = {
        "missing": sorted(own.keys() - found.keys()),
        "unexpected": sorted(found.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    problems = [f"{kind}: {', '.join(names)}" for kind, names in wrong.items() if names]
    if problems:
        raise ConfigError(
            f"{location}: does not fit {type(part).__module__}; {'; '.join(problems)}; expected best.safetensors of a "
            "run with the same options, or a release converted by tools/remap_social_mae.py"
        )
    part.load_state_dict(found)


def _groups(tensors: Mapping[str, Tensor], folder: str) -> dict[str, dict[str, Tensor]]:
    """The parts of one folder in a model's tensors, by prefix: `encoders.face.`, `fusion.`."""
    depth = 2 if folder == "encoders" else 1
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        keys = name.split(".")
        if keys[0] == folder and len(keys) > depth:
            groups.setdefault(".".join(keys[:depth]), {})[".".join(keys[depth:])] = tensor
    return groups


def _fitting(own: Mapping[str, Tensor], group: Mapping[str, Tensor]) -> int:
    return sum(name in group and group[name].shape == tensor.shape for name, tensor in own.items())
