"""What any model must beat, fitted on the same training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def training_mean(labels: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Training labels (N, K), NaN = unknown -> the constant (K,) that it predicts; NaN for a trait without a label."""
    known = np.isfinite(labels)
    sums = np.where(known, labels, 0.0).sum(axis=0, dtype=np.float64)
    counts = known.sum(axis=0)
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)
