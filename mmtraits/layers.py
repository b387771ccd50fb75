"""Building blocks that respect masks: what lies under a False mask (NaN included) never changes anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtraits.tokens import Tokens


def hidden(tokens: Tokens) -> Tensor:
    """Zeros where the mask is False: (B, T, ...). A product would let NaN through."""
    mask = tokens.mask.reshape(*tokens.mask.shape, *(1,) * (tokens.data.ndim - tokens.mask.ndim))
    return torch.where(mask, tokens.data, torch.zeros_like(tokens.data))


def masked_mean(tokens: Tokens) -> Tensor:
    """Mean over the real steps, (B, T, D) -> (B, D); zeros where none is real."""
    count = tokens.mask.sum(1).clamp_min(1).unsqueeze(-1).to(tokens.data.dtype)
    return hidden(tokens).sum(1) / count


def present(tokens: Tokens) -> Tensor:
    """Whether a row has anything to say, (B,) bool."""
    return tokens.mask.any(1)


def pooled(tokens: Tokens) -> Tokens:
    """One token for all steps, their mean: (B, T, D) -> (B, 1, D)."""
    return Tokens(masked_mean(tokens).unsqueeze(1), present(tokens).unsqueeze(1))


def concat(parts: Sequence[Tokens]) -> Tokens:
    """Join along time."""
    return Tokens(torch.cat([part.data for part in parts], 1), torch.cat([part.mask for part in parts], 1))


def sinusoids(steps: int, width: int, *, period: float = 10_000.0) -> Tensor:
    """Sinusoidal positions (steps, width), `width` even (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(period) / width))
    angles = torch.arange(steps).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def placed(tokens: Tokens) -> Tokens:
    """Tokens (B, T, D) that know their place in time."""
    return Tokens(tokens.data + sinusoids(*tokens.data.shape[1:]).to(tokens.data), tokens.mask)


class Attention(nn.Module):
    """Multi-head attention over a memory that may be wholly absent.

    A learned null key and value are always visible. Without them torch gives zeros for a fully masked row where ONNX
    Runtime does not, and a query could not decline to read.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        if width % heads:
            raise ValueError(f"attention: width {width} is not divisible by {heads} heads")
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.null = nn.Parameter(torch.randn(1, 1, 2 * width) * width**-0.5)

    def forward(self, query: Tensor, memory: Tokens) -> Tensor:
        """Read a memory (B, T, D) for queries (B, Q, D) -> (B, Q, D)."""
        null = self.null.expand(query.shape[0], 1, -1)
        keys, values = torch.cat([null, self.key_value(hidden(memory))], 1).chunk(2, -1)
        visible = F.pad(memory.mask, (1, 0), value=True)[:, None, None, :]
        read = F.scaled_dot_product_attention(
            self._split(self.query(query)),
            self._split(keys),
            self._split(values),
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
        )
        joined: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with GELU between, on the last axis; width in, width out."""

    def __init__(self, width: int, expansion: float = 2.0, dropout: float = 0.0) -> None:
        super().__init__()
        inner = round(width * expansion)
        self.layers = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.layers(x)
        return out


class MemberLinear(nn.Module):
    """M independent linear layers as one product."""

    def __init__(self, members: int, width_in: int, width_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width_in)
        self.weight = nn.Parameter(torch.empty(members, width_in, width_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, width_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(M, B, width_in) -> (M, B, width_out)."""
        return torch.matmul(x, self.weight) + self.bias


class Standardize(nn.Module):
    """(x - mean) / std per column, clipped to ±`clip`; the identity until `fit`.

    Clipping keeps an input that training never saw from reaching the network at full size.
    """

    def __init__(self, width: int, clip: float = 3.0) -> None:
        super().__init__()
        self.clip = clip
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def fit(self, data: Tensor, mask: Tensor | None = None) -> None:
        """Take mean and std from training data (..., width) where mask (...) is True. Constant columns keep std 1.

        Raises ValueError where no real row is left.
        """
        rows = (data.flatten(0, -2) if mask is None else data[mask]).double()
        if not len(rows):
            raise ValueError("standardize: found no real row to fit on; expected at least one clip with this stream")
        std = rows.std(0, unbiased=False)
        self.mean.copy_(rows.mean(0))
        self.std.copy_(torch.where(std > 1e-8 * rows.abs().amax(0), std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return ((x - self.mean) / self.std).clamp(-self.clip, self.clip)
