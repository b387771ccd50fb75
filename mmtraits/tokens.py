"""Tokens: the one tensor type that passes between parts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Tokens(NamedTuple):
    """A batch of sequences and what of them is real.

    data: (B, T, ...) raw input, or (B, T, D) out of an encoder.
    mask: (B, T) bool, True = real. A missing stream is a row whose mask is all False; what lies
        under False is never read.
    """

    data: Tensor
    mask: Tensor
