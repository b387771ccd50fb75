"""The Yeo-Johnson power transform (Yeo and Johnson, Biometrika 2000), which makes labels nearly normal. NumPy only.

A value's side decides its rate: λ from 0 upwards, 2 − λ below. With its size as log1p |x|, every formula is
±expm1(rate · size) / rate, whose limit at rate 0 is the size itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LARGEST = 300.0  # of a rate times a size: squares of its exponential are still finite
SHRINK = (5**0.5 - 1) / 2
TINY = 1e-12  # rates under this are 0


def forward(values: Floats, power: Floats) -> Floats:
    """Values (N, K) or (K,), λ (K,) -> transformed; NaN stays NaN."""
    sizes, rates = np.log1p(np.abs(values)), np.where(values < 0, 2 - power, power)
    return np.asarray(np.sign(values) * _grown(sizes, rates))


def inverse(transformed: Floats, power: Floats) -> Floats:
    """What `forward` made these of; the far end of the line for what no value is made into."""
    rates, sizes = np.where(transformed < 0, 2 - power, power), np.abs(transformed)
    flat = np.abs(rates) < TINY
    safe = np.where(flat, 1.0, rates)
    with np.errstate(divide="ignore", over="ignore"):
        logs = np.where(flat, sizes, np.log1p(np.maximum(safe * sizes, -1.0)) / safe)
        return np.asarray(np.sign(transformed) * np.expm1(logs))


def fit(values: Floats) -> float:
    """λ of largest likelihood for known values (n,); 1, which changes nothing, where they are all equal or none."""
    if not len(values) or values.min() == values.max():
        return 1.0
    reach = LARGEST / float(np.log1p(np.abs(values)).max())
    low, high = -reach, 2 + reach
    while high - low > 1e-10 * max(1.0, abs(low)):  # golden section: the likelihood has one maximum
        left, right = high - SHRINK * (high - low), low + SHRINK * (high - low)
        if _likelihood(values, left) < _likelihood(values, right):
            low = left
        else:
            high = right
    return (low + high) / 2


def curve(power: Floats, shift: Floats, scale: Floats, low: Floats, high: Floats) -> Floats:
    """What float32 needs to invert targets (t = (forward(x) − shift) / scale) exactly: (11, K).

    Rows: targets of `low`, `high` and 0; then for values above and for values below 0 (four rows each) the rate, an
    anchor's target t0, its slope q and base b: 1 + |x| = b · exp(log1p(rate · q · (t − t0)) / rate). The anchor is the
    value nearest to target 0 on that side, so no digit is lost where rate · shift is nearly −1.
    """
    middle = inverse(shift, power)
    rows = [(forward(x, power) - shift) / scale for x in (low, high, np.zeros_like(shift))]
    for sign, rate, anchor in ((1.0, power, np.maximum(middle, 0)), (-1.0, 2 - power, np.minimum(middle, 0))):
        start = np.where(anchor == middle, 0.0, (forward(anchor, power) - shift) / scale)
        base = 1 + np.abs(anchor)
        rows += [rate, start, sign * scale / base**rate, base]
    return np.stack(rows)


def _grown(sizes: Floats, rates: Floats | float) -> Floats:
    flat = np.abs(rates) < TINY
    safe = np.where(flat, 1.0, rates)
    return np.where(flat, sizes, np.expm1(safe * sizes) / safe)


def _likelihood(values: Floats, power: float) -> float:
    """Log-likelihood per value, up to a constant.

    On one side of 0 the variance is that of sizes around their mean, which neither overflows nor cancels.
    """
    sizes, signs = np.log1p(np.abs(values)), np.where(values < 0, -1.0, 1.0)
    rates = np.where(values < 0, 2 - power, power)
    anchor, rate = 0.0, 0.0
    if (values >= 0).all() or (values <= 0).all():
        anchor, rate = float(sizes.mean()), power if values.max() > 0 else 2 - power
        rates, signs = np.full_like(sizes, rate), np.ones_like(sizes)
    variance = np.var(signs * _grown(sizes - anchor, rates))
    jacobian = np.mean(np.sign(values) * sizes)
    return float((power - 1) * jacobian - rate * anchor - 0.5 * np.log(variance))
