"""Short-time spectra as matrix products, so that the exported graph computes them as fast as torch does.

ONNX Runtime's own STFT operator is about twenty times slower than torch's; a dense Fourier matrix of 2,048 points
weighs 17 MB. Splitting the transform in two steps (Cooley and Tukey 1965) needs 0.1 MB and a tenth of the products.
Everything here keeps batch and time dynamic and holds no trained weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def sample_counts(mask: Tensor) -> Tensor:
    """Lengths (B,) of waves in samples, up to the last one that is real in the mask (B, S); 0 = absent."""
    place = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return torch.where(mask, place, 0).amax(1)


def frames(wave: Tensor, length: int, hop: int) -> Tensor:
    """Overlapping frames (B, T, length) of waves (B, S) that are centred on 0, hop, 2 hop, ...; T = 1 + S // hop.

    Beyond its ends a wave is zero. `hop` divides `length`: a frame is then a run of blocks of one hop, and framing is
    slicing and concatenation.
    """
    steps, blocks = wave.shape[1] // hop + 1, length // hop
    padded = functional.pad(wave, (length // 2, length // 2 + hop))
    chunks = padded[:, : (steps + blocks - 1) * hop].reshape(wave.shape[0], steps + blocks - 1, hop)
    return torch.cat([chunks[:, first : first + steps] for first in range(blocks)], dim=2)


def frame_mask(lengths: Tensor, steps: int, hop: int) -> Tensor:
    """Which of `steps` frames (B, T) are centred inside a wave of that many samples; none for an absent wave."""
    centres = torch.arange(steps, device=lengths.device) * hop
    return (centres <= lengths[:, None]) & (lengths[:, None] > 0)


class Spectrum(nn.Module):
    """Hann-windowed discrete Fourier transform of real frames (..., N), in two steps of matrix products.

    With N = P·Q, sample n = Q·p + q and frequency k = u + P·v:
    X[k] = Σ_q exp(−2πi·q·v/Q) · exp(−2πi·u·q/N) · Σ_p x[n] · exp(−2πi·u·p/P).
    Returns the power |X[k]|² (..., N/2 + 1) of the frequencies k·rate/N.
    """

    hann: Tensor
    across: Tensor
    twist: Tensor
    along: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.rows = max(p for p in range(1, math.isqrt(length) + 1) if length % p == 0)
        self.columns = length // self.rows
        u, p = torch.arange(self.rows, dtype=torch.float64), torch.arange(self.rows, dtype=torch.float64)
        q, v = torch.arange(self.columns, dtype=torch.float64), torch.arange(self.columns // 2 + 1, dtype=torch.float64)
        across, twist, along = (
            torch.polar(torch.ones(len(a), len(b), dtype=torch.float64), -2 * math.pi * torch.outer(a, b) / n)
            for a, b, n in ((u, p, self.rows), (u, q, length), (q, v, self.columns))
        )
        constants = {
            "hann": torch.hann_window(length, dtype=torch.float64),
            "across": torch.cat([across.real, across.imag]),
            "twist": torch.stack([twist.real, twist.imag]),
            # [real, imaginary] row vectors times this matrix are [real, imaginary] of the complex product
            "along": torch.cat([torch.cat([along.real, along.imag], 1), torch.cat([-along.imag, along.real], 1)]),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (..., N) -> power (..., N/2 + 1)."""
        grid = (frames * self.hann).reshape(*frames.shape[:-1], self.rows, self.columns)
        real, imag = (self.across @ grid).chunk(2, dim=-2)
        cos, sin = self.twist[0], self.twist[1]
        turned = torch.cat([real * cos - imag * sin, real * sin + imag * cos], dim=-1)
        real, imag = (turned @ self.along).chunk(2, dim=-1)
        power = real.square() + imag.square()
        return power.transpose(-1, -2).flatten(-2)[..., : self.length // 2 + 1]
