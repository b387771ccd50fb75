"""Windows of clips -> one padded batch of torch tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmtraits.errors import ConfigError
from mmtraits.schema import Raw, stack
from mmtraits.tokens import Tokens


class Item(NamedTuple):
    """One window of one clip: its manifest row, the seconds that it stands for, its streams, its clip's labels (K,).

    group: whose it is, the same number for windows of one person.
    """

    row: int
    seconds: float
    streams: Mapping[str, Raw]
    labels: NDArray[np.floating[Any]]
    group: int = -1


class Batch(NamedTuple):
    """B windows. An unknown label is 0 with `known` False.

    features: {stream: Tokens (B, T_p, ...)}, what front-ends gave; labels (B, K) float32 on the schema's scale;
    known (B, K) bool; weight (B,) float32, seconds; rows (B,) int64, rows of the manifest; groups (B,) int64, whose
    each is.
    """

    features: dict[str, Tokens]
    labels: Tensor
    known: Tensor
    weight: Tensor
    rows: Tensor
    groups: Tensor


def to_tokens(raws: Sequence[Raw]) -> Tokens:
    """Pad one stream of B windows to Tokens (B, T, ...), T >= 1."""
    data, mask = stack(raws)
    return Tokens(torch.from_numpy(data), torch.from_numpy(mask))


def collate(items: Sequence[Item]) -> Batch:
    """Items that hold the same streams -> Batch."""
    labels = np.stack([item.labels for item in items]).astype(np.float32)
    known = np.isfinite(labels)
    return Batch(
        features={stream: to_tokens([item.streams[stream] for item in items]) for stream in items[0].streams},
        labels=torch.from_numpy(np.where(known, labels, np.float32(0))),
        known=torch.from_numpy(known),
        weight=torch.tensor([item.seconds for item in items], dtype=torch.float32),
        rows=torch.tensor([item.row for item in items], dtype=torch.int64),
        groups=torch.tensor([item.group for item in items], dtype=torch.int64),
    )


def mixed(batch: Batch, alpha: float) -> Batch:
    """Mixup (Zhang et al. 2018) of front-end outputs and labels: each row with one drawn from the same batch.

    The row's own share of at least a half is drawn from Beta(alpha, alpha) for the batch. Two rows are mixed only where
    both have the same streams, else the row stays itself: a mix would show half a stream under a whole mask. Steps that
    the partner lacks stay the row's own, its further ones are left out, so masks do not change. A label is known where
    both are. Frames (uint8) are rounded. Raises ConfigError for a stream of whole numbers that mean nothing in between.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    share = max(share, 1 - share)
    partner = torch.randperm(len(batch.rows)).to(batch.rows.device)
    present = torch.stack([tokens.mask.any(1) for tokens in batch.features.values()], 1)
    alike = (present == present[partner]).all(1)
    labels = share * batch.labels + (1 - share) * batch.labels[partner]
    return batch._replace(
        features={s: _mixed(s, tokens, partner, alike, share) for s, tokens in batch.features.items()},
        labels=torch.where(alike.unsqueeze(1), labels, batch.labels),
        known=batch.known & (batch.known[partner] | ~alike.unsqueeze(1)),
    )


def _mixed(stream: str, tokens: Tokens, partner: Tensor, alike: Tensor, share: float) -> Tokens:
    data, mask = tokens.data, tokens.mask
    if not (data.is_floating_point() or data.dtype == torch.uint8):
        raise ConfigError(f"trainer.mixup: stream {stream!r} holds whole numbers, which cannot be mixed; set it to 0")
    both = (mask & mask[partner] & alike.unsqueeze(1)).reshape(*mask.shape, *(1,) * (data.ndim - 2))
    mean = share * data.float() + (1 - share) * data[partner].float()
    mean = mean.to(data.dtype) if data.is_floating_point() else mean.round().to(data.dtype)
    return Tokens(torch.where(both, mean, data), mask)
