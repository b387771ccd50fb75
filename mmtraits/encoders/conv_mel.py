"""Log-mel spectrogram and convolutions over time: sound of any length, learned from nothing."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import FrequencyMasking, TimeMasking

from mmtraits.layers import Standardize, hidden, placed
from mmtraits.networks import spectra
from mmtraits.schema import WaveSpec
from mmtraits.tokens import Tokens

QUIET = 1e-6  # power of a band below which it counts as silent


class Config(BaseModel):
    """Options of `conv_mel`; the defaults make 938 frames of 32 ms and 118 tokens of 15 s of sound.

    frame, hop: samples at `sample_rate`; hop divides frame. time_mask: the largest share of a clip that one time mask
    hides in training; frequency_mask: the most bands that one frequency mask hides (Park et al. 2019, SpecAugment).
    """

    model_config = ConfigDict(extra="forbid")
    sample_rate: int = Field(default=16_000, ge=1_000)
    max_s: float | None = Field(default=None, gt=0)
    frame: int = Field(default=512, ge=16)
    hop: int = Field(default=256, ge=1)
    mels: int = Field(default=64, ge=1)
    layers: int = Field(default=3, ge=1)
    kernel: int = Field(default=5, ge=3)
    width: int = Field(default=128, ge=2, multiple_of=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    time_mask: float = Field(default=0.1, ge=0, le=1)
    frequency_mask: int = Field(default=8, ge=0)
    masks: int = Field(default=2, ge=0)

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.frame % self.hop:
            raise ValueError(
                f"hop {self.hop} does not divide frame {self.frame}; expected a divisor, as {self.frame // 2}"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even; expected an odd number of frames")
        if self.frequency_mask > self.mels:
            raise ValueError(f"frequency_mask {self.frequency_mask} is more than the {self.mels} mels")
        return self


class Encoder(nn.Module):
    """Wave (B, S) -> log-mel (B, T, mels), T = 1 + S // hop -> tokens (B, ⌈T / 2^layers⌉, width).

    Every token carries its place in time.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = WaveSpec(sample_rate=config.sample_rate, max_s=config.max_s)
        self.width = config.width
        self.log_mel = LogMel(config.sample_rate, config.frame, config.hop, config.mels)
        self.standardize = Standardize(config.mels)
        self.augment = Augment(config.time_mask, config.frequency_mask, config.masks)
        widths = [config.mels] + [config.width] * config.layers
        self.layers = nn.ModuleList(
            Layer(inner, outer, config.kernel, config.dropout) for inner, outer in zip(widths, widths[1:], strict=False)
        )

    def frontend(self, raw: Tokens) -> Tokens:
        """Wave (B, S) float32 in [−1, 1] -> log-mel frames (B, T, mels); no parameters."""
        frames: Tokens = self.log_mel(raw)
        return frames

    def adapt(self, tokens: Tokens) -> Tokens:
        """Log-mel frames (B, T, mels) -> tokens (B, ⌈T / 2^layers⌉, width)."""
        scaled = hidden(Tokens(self.standardize(tokens.data), tokens.mask))  # 0, the mean, as beyond a clip's ends
        tokens = Tokens(self.augment(scaled), tokens.mask)
        for layer in self.layers:
            tokens = layer(tokens)
        return Tokens(hidden(placed(tokens)), tokens.mask)

    def forward(self, raw: Tokens) -> Tokens:
        """Wave (B, S) -> tokens (B, ⌈T / 2^layers⌉, width)."""
        return self.adapt(self.frontend(raw))


class LogMel(nn.Module):
    """Natural logarithm of mel band power: torchaudio's MelSpectrogram (HTK scale, zeros beyond the ends), then log."""

    mel: Tensor

    def __init__(self, sample_rate_hz: int, frame: int, hop: int, mels: int) -> None:
        super().__init__()
        self.frame, self.hop = frame, hop
        self.spectrum = spectra.Spectrum(frame)
        filters = melscale_fbanks(frame // 2 + 1, 0.0, sample_rate_hz / 2, mels, sample_rate_hz)
        self.register_buffer("mel", filters, persistent=False)

    def forward(self, raw: Tokens) -> Tokens:
        """Wave (B, S) -> (B, 1 + S // hop, mels); a frame is real when its centre lies in the sound."""
        frames = spectra.frames(hidden(raw), self.frame, self.hop)
        mask = spectra.frame_mask(spectra.sample_counts(raw.mask), frames.shape[1], self.hop)
        power = self.spectrum(frames) @ self.mel
        return Tokens(hidden(Tokens((power + QUIET).log(), mask)), mask)


class Augment(nn.Module):
    """Hide random stretches of time and bands, in training only: there a standardised frame is set to its mean, 0."""

    def __init__(self, time_share: float, bands: int, masks: int) -> None:
        super().__init__()
        self.time_share, self.bands, self.masks = time_share, bands, masks

    def forward(self, x: Tensor) -> Tensor:
        """Standardised log-mel (B, T, mels) -> the same shape; each clip its own masks."""
        if not self.training:
            return x
        picture = x.transpose(1, 2).unsqueeze(1)
        time = TimeMasking(x.shape[1], iid_masks=True, p=self.time_share)
        frequency = FrequencyMasking(self.bands, iid_masks=True)
        for _ in range(self.masks):
            picture = frequency(time(picture))
        return picture.squeeze(1).transpose(1, 2)


class Layer(nn.Module):
    """Convolution over time with stride 2, normalised within each time step: no padding and no batch mate gets in."""

    def __init__(self, inner: int, outer: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.convolve = nn.Conv1d(inner, outer, kernel, stride=2, padding=kernel // 2)
        self.norm = nn.LayerNorm(outer)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tokens) -> Tokens:
        """(B, T, inner) -> (B, ⌈T / 2⌉, outer); a step is real when the step at its centre was."""
        data = self.convolve(tokens.data.transpose(1, 2)).transpose(1, 2)
        mask = tokens.mask[:, ::2]
        return Tokens(hidden(Tokens(self.dropout(F.gelu(self.norm(data))), mask)), mask)
