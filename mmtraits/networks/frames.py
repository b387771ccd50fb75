"""Frames on their way into an image or video network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """uint8 frames (..., H, W, 3) -> float32 (..., H, W, 3): (frame / 255 - mean) / std per colour."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """(..., H, W, 3) -> (..., H, W, 3)."""
        return (frames.float() / 255 - self.mean) / self.std


def over_real(network: nn.Module, items: Tensor, real: Tensor) -> Tensor:
    """Run `network` on items (N, ...) -> (N, D). A training network sees the real ones (N,) alone, the rest give zeros.

    Otherwise padding and absent clips would enter the statistics of batch normalisation.
    """
    if not network.training:
        out: Tensor = network(items)
        return out
    chosen = real if real.any() else torch.ones_like(real)  # an empty batch is refused by most layers
    values = network(items[chosen])
    spread: Tensor = values.new_zeros(len(items), *values.shape[1:])
    return spread.masked_scatter(chosen[:, None], values)
