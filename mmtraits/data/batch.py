"""Windows of clips -> one padded batch of torch tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
