"""Voice: the means of librosa's spectral features over the first seconds of sound, and a small network on them."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torchaudio.functional import create_dct, melscale_fbanks

from mmtraits.layers import Standardize, hidden, masked_mean
from mmtraits.networks import spectra
from mmtraits.schema import WaveSpec
from mmtraits.tokens import Tokens

SAMPLE_RATE_HZ = 22_050
MAX_S = 7.0
FRAME = 2048
HOP = 512
SAMPLES = round(MAX_S * SAMPLE_RATE_HZ)
MELS = 128
MFCCS = 20
STATISTICS = (
    "chroma_stft", "rms", "spectral_centroid", "spectral_bandwidth", "spectral_rolloff", "zero_crossing_rate",
    *(f"mfcc_{number}" for number in range(1, MFCCS + 1)),
)  # fmt: skip
TINY = torch.finfo(torch.float32).tiny


class Config(BaseModel):
    """Options of the trainable part: `tokens` vectors of `width`, from one hidden layer."""

    model_config = ConfigDict(extra="forbid")

    width: int = Field(128, ge=1)
    tokens: int = Field(1, ge=1)
    hidden: int = Field(128, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)


class Encoder(nn.Module):
    """Wave (B, S) at 22,050 Hz -> 26 means (B, 1, 26) -> tokens (B, tokens, width).

    A row without sound has a False mask; sound beyond 7 s is not looked at.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True
    spec = WaveSpec(sample_rate=SAMPLE_RATE_HZ, max_s=MAX_S)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.width = config.width
        self.tokens = config.tokens
        self.statistics = VoiceStatistics()
        self.standardize = Standardize(len(STATISTICS))
        self.feed_forward = nn.Sequential(
            nn.Linear(len(STATISTICS), config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.tokens * config.width),
            nn.Unflatten(-1, (config.tokens, config.width)),
        )

    def frontend(self, raw: Tokens) -> Tokens:
        """Wave (B, S) float32 in [−1, 1] -> the statistics (B, 1, 26), in the order of STATISTICS."""
        statistics: Tokens = self.statistics(raw)
        return statistics

    def adapt(self, tokens: Tokens) -> Tokens:
        """Statistics (B, T, 26) -> tokens (B, T·tokens, width)."""
        data = self.feed_forward(self.standardize(hidden(tokens))).flatten(1, 2)
        return Tokens(data, tokens.mask.repeat_interleave(self.tokens, dim=1))

    def forward(self, raw: Tokens) -> Tokens:
        """Wave (B, S) -> tokens (B, tokens, width)."""
        return self.adapt(self.frontend(raw))


class VoiceStatistics(nn.Module):
    """Means over time of librosa's spectral features with its defaults (librosa 0.11; chroma with tuning 0).

    Frames of 2,048 samples every 512, centred, zeros beyond the ends. Parameter-free; equal to librosa to 1e-3 of each
    statistic's standard deviation over the clips of First Impressions.
    """

    frequencies: Tensor
    chroma: Tensor
    mel: Tensor
    dct: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = spectra.Spectrum(FRAME)
        bins, nyquist = FRAME // 2 + 1, SAMPLE_RATE_HZ / 2
        constants = {
            "frequencies": torch.linspace(0, nyquist, bins),
            "chroma": chroma_filterbank(FRAME, SAMPLE_RATE_HZ),
            "mel": melscale_fbanks(bins, 0.0, nyquist, MELS, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"),
            "dct": create_dct(MFCCS, MELS, norm="ortho"),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, raw: Tokens) -> Tokens:
        """Wave (B, S) -> statistics (B, 1, 26)."""
        sound = Tokens(raw.data[:, :SAMPLES], raw.mask[:, :SAMPLES])
        wave, lengths = hidden(sound), spectra.sample_counts(sound.mask)
        frames = spectra.frames(wave, FRAME, HOP)
        mask = spectra.frame_mask(lengths, frames.shape[1], HOP)
        power = self.spectrum(frames)
        columns = [
            self._chroma(power),
            frames.square().mean(2, keepdim=True).sqrt(),
            self._shape(power.sqrt()),
            zero_crossing_rate(wave, lengths),
            self._log_mel(power, mask),
        ]
        means = masked_mean(Tokens(torch.cat(columns, 2), mask))
        mfcc = means[:, -MELS:] @ self.dct  # the cosine transform of a mean is the mean of the transforms
        data = torch.cat([means[:, :-MELS], mfcc], dim=1)
        present = mask.any(1, keepdim=True)
        return Tokens(hidden(Tokens(data[:, None], present)), present)

    def _chroma(self, power: Tensor) -> Tensor:
        """Mean of the twelve pitch classes relative to the strongest, (B, T, 1)."""
        classes = power @ self.chroma
        return (classes / _divisor(classes.amax(2, keepdim=True))).mean(2, keepdim=True)

    def _shape(self, magnitude: Tensor) -> Tensor:
        """Centroid, bandwidth and 85 % roll-off of the spectrum in Hz, (B, T, 3)."""
        total = magnitude.sum(2, keepdim=True)
        share = magnitude / _divisor(total)
        centroid = (share * self.frequencies).sum(2, keepdim=True)
        bandwidth = (share * (self.frequencies - centroid).square()).sum(2, keepdim=True).sqrt()
        below = (magnitude.cumsum(2) < 0.85 * total).sum(2, keepdim=True)
        return torch.cat([centroid, bandwidth, below * (SAMPLE_RATE_HZ / FRAME)], dim=2)

    def _log_mel(self, power: Tensor, mask: Tensor) -> Tensor:
        """Mel power in dB, at most 80 dB below the loudest band of the clip, (B, T, 128)."""
        decibels = 10.0 * (power @ self.mel).clamp_min(1e-10).log10()
        loudest = torch.where(mask[..., None], decibels, -100.0).amax((1, 2), keepdim=True)
        return torch.maximum(decibels, loudest - 80.0)


def zero_crossing_rate(wave: Tensor, lengths: Tensor) -> Tensor:
    """Share of the samples of each frame (B, T, 1) whose sign differs from the one before, both inside the wave."""
    negative = wave < -1e-10
    inside = torch.arange(1, wave.shape[1], device=wave.device) < lengths[:, None]
    changes = ((negative[:, 1:] != negative[:, :-1]) & inside).to(wave.dtype)
    framed = spectra.frames(nn.functional.pad(changes, (1, 0)), FRAME, HOP)
    return framed[..., 1:].sum(2, keepdim=True) / FRAME  # a frame's first sample has no predecessor in it


def chroma_filterbank(length: int, sample_rate_hz: int) -> Tensor:
    """Weights (length/2 + 1, 12) from power spectrum to pitch classes C, C#, … B, A at 440 Hz.

    Each frequency spreads over the classes as a Gaussian, of unit norm, under a wide Gaussian over octaves centred
    five octaves above 27.5 Hz. Source: Ellis 2007, "Chroma feature analysis and synthesis"; librosa.filters.chroma.
    """
    hertz = torch.arange(1, length, dtype=torch.float64) * (sample_rate_hz / length)
    pitch = 12 * torch.log2(hertz / 27.5)
    pitch = torch.cat([pitch[:1] - 18, pitch])  # the constant component, an octave and a half below the first
    spacing = torch.cat([pitch.diff().clamp_min(1), torch.ones(1, dtype=torch.float64)])
    distance = torch.remainder(pitch[:, None] - torch.arange(12) + 6, 12) - 6
    weights = nn.functional.normalize(torch.exp(-0.5 * (2 * distance / spacing[:, None]).square()), dim=1)
    weights = weights * torch.exp(-0.5 * ((pitch / 12 - 5) / 2).square())[:, None]
    return weights.roll(-3, dims=1)[: length // 2 + 1].float()


def _divisor(total: Tensor) -> Tensor:
    return torch.where(total < TINY, 1.0, total)
