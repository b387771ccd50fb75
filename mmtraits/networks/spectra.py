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
from torchaudio.compliance.kaldi import get_mel_banks


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
    """Windowed discrete Fourier transform of real frames (..., N), in two steps of matrix products; default: Hann.

    With N = P·Q, sample n = Q·p + q and frequency k = u + P·v:
    X[k] = Σ_q exp(−2πi·q·v/Q) · exp(−2πi·u·q/N) · Σ_p x[n] · exp(−2πi·u·p/P).
    Returns the power |X[k]|² (..., N/2 + 1) of the frequencies k·rate/N.
    """

    window: Tensor
    across: Tensor
    twist: Tensor
    along: Tensor

    def __init__(self, length: int, window: Tensor | None = None) -> None:
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
            "window": torch.hann_window(length, dtype=torch.float64) if window is None else window,
            "across": torch.cat([across.real, across.imag]),
            "twist": torch.stack([twist.real, twist.imag]),
            # [real, imaginary] row vectors times this matrix are [real, imaginary] of the complex product
            "along": torch.cat([torch.cat([along.real, along.imag], 1), torch.cat([-along.imag, along.real], 1)]),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (..., N) -> power (..., N/2 + 1)."""
        grid = (frames * self.window).reshape(*frames.shape[:-1], self.rows, self.columns)
        real, imag = (self.across @ grid).chunk(2, dim=-2)
        cos, sin = self.twist[0], self.twist[1]
        turned = torch.cat([real * cos - imag * sin, real * sin + imag * cos], dim=-1)
        real, imag = (turned @ self.along).chunk(2, dim=-1)
        power = real.square() + imag.square()
        return power.transpose(-1, -2).flatten(-2)[..., : self.length // 2 + 1]


class Fbank(nn.Module):
    """Log mel power (B, T, mels) as Kaldi's `compute-fbank-feats` gives it: frames of 25 ms every 10 ms.

    Each frame loses its mean, is pre-emphasised by 0.97, Hann-windowed, padded to a power of two; mel bands from 20 Hz
    to half the rate; no dither, no energy. Equals torchaudio.compliance.kaldi.fbank(window_type="hanning", dither=0) of
    a wave without its mean.
    """

    EMPHASIS = 0.97
    LOW_HZ = 20.0
    mel: Tensor

    def __init__(self, sample_rate: int, mels: int) -> None:
        super().__init__()
        self.frame, self.hop = sample_rate * 25 // 1000, sample_rate // 100
        self.size = 2 ** math.ceil(math.log2(self.frame))
        hann = torch.hann_window(self.frame, periodic=False, dtype=torch.float64)
        self.spectrum = Spectrum(self.size, functional.pad(hann, (0, self.size - self.frame)))
        banks, _ = get_mel_banks(mels, self.size, float(sample_rate), self.LOW_HZ, 0.0, 100.0, -500.0, 1.0)
        self.register_buffer("mel", functional.pad(banks, (0, 1)).T.contiguous(), persistent=False)

    def forward(self, wave: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Wave (B, S) and mask -> log mel power (B, 1 + S // hop, mels) and which frames lie wholly in the sound.

        A sound shorter than one frame is one frame, filled up with zeros.
        """
        lengths = sample_counts(mask)
        total = torch.where(mask, wave, 0).sum(1, keepdim=True)
        level = total / mask.sum(1, keepdim=True).clamp_min(1)
        framed = self._framed(torch.where(mask, wave - level, 0))
        counts = torch.where(lengths > 0, ((lengths - self.frame) // self.hop + 1).clamp_min(1), 0)
        real = torch.arange(framed.shape[1], device=wave.device) < counts[:, None]
        centred = framed - framed.mean(2, keepdim=True)
        before = torch.cat([centred[..., :1], centred[..., :-1]], 2)
        emphasised = functional.pad(centred - self.EMPHASIS * before, (0, self.size - self.frame))
        power = self.spectrum(emphasised) @ self.mel
        return power.clamp_min(torch.finfo(torch.float32).eps).log(), real

    def _framed(self, wave: Tensor) -> Tensor:
        """Frames (B, 1 + S // hop, frame) that start at 0, hop, 2 hop, ...: runs of blocks that divide both."""
        block = math.gcd(self.frame, self.hop)
        stride, blocks, steps = self.hop // block, self.frame // block, wave.shape[1] // self.hop + 1
        needed = (steps - 1) * stride + blocks
        padded = functional.pad(wave, (0, self.frame + self.hop))[:, : needed * block]
        chunks = padded.reshape(wave.shape[0], needed, block)
        last = (steps - 1) * stride + 1
        return torch.cat([chunks[:, first : first + last : stride] for first in range(blocks)], dim=2)
