"""Sound as patches of a Kaldi filter bank: the audio side of Social-MAE."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torchaudio.transforms import FrequencyMasking, TimeMasking

from mmtraits.layers import hidden
from mmtraits.networks import spectra, vit
from mmtraits.schema import WaveSpec
from mmtraits.tokens import Tokens

SAMPLE_RATE = 16_000
TINY = ({"size": "tiny"},)


class Size(NamedTuple):
    """Frames of 10 ms, mel bands and patch side, and the network."""

    frames: int
    mels: int
    patch: int
    width: int
    layers: int
    heads: int


SIZES = {"full": Size(1024, 128, 16, 768, 11, 12), "tiny": Size(96, 32, 8, 32, 2, 2)}


class Config(BaseModel):
    """Options of `mae_audio`. `pretrained`: best.safetensors of a pre-training run, or a converted release.

    level, spread: of log mel power, subtracted and divided by. time_mask, frequency_mask: the most frames and bands
    that are hidden of a clip in training (SpecAugment, Park et al. 2019; 192 and 48 in fine-tuning, none before).
    """

    model_config = ConfigDict(extra="forbid")
    size: Literal["full", "tiny"] = "full"
    level: float = -6.2943
    spread: float = Field(default=12.26344, gt=0)
    time_mask: int = Field(default=0, ge=0)
    frequency_mask: int = Field(default=0, ge=0)
    pretrained: str | None = None


class Encoder(nn.Module):
    """Wave (B, S) -> log mel power (B, T, 128) -> tokens (B, 512, 768) of patches of 16 frames x 16 bands, 11 blocks.

    Exactly 1,024 frames (10.24 s) are read: later ones are dropped, missing ones masked, and tokens of nothing but
    missing frames with them (the release reads such padding as silence). Tokens run over time, then bands. Social-MAE
    (Bohy et al. 2024) and its released code, after CAV-MAE (Gong et al. 2023).
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"  # any length is taken; 1,024 frames are made of it
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        size = SIZES[config.size]
        self.spec = WaveSpec(sample_rate=SAMPLE_RATE, max_s=size.frames / 100 + 0.015)  # the last frame is 25 ms long
        self.width, self.frames, self.mels, self.patch = size.width, size.frames, size.mels, size.patch
        self.level, self.spread = config.level, config.spread
        self.fbank = spectra.Fbank(SAMPLE_RATE, size.mels)
        self.masking = [TimeMasking(config.time_mask, True), FrequencyMasking(config.frequency_mask, True)]
        self.grid = (size.frames // size.patch, size.mels // size.patch)
        self.trunk = vit.Trunk(size.patch**2, self.grid, size.width, size.layers, size.heads)
        if config.pretrained:
            vit.load_part(self, config.pretrained, "encoders")

    def frontend(self, raw: Tokens) -> Tokens:
        """Wave (B, S) float32 in [-1, 1] -> log mel power (B, T, mels); no parameters."""
        data, mask = self.fbank(*raw)
        return Tokens(hidden(Tokens(data, mask)), mask)

    def patches(self, features: Tokens) -> Tokens:
        """Log mel power (B, T, mels) -> normalised patches (B, N, p·p), in the order of the tokens."""
        scaled = hidden(Tokens((features.data - self.level) / self.spread, features.mask))
        rows, side, (times, bands) = features.mask.shape[0], self.patch, self.grid
        picture = torch.cat([self._masked(scaled), scaled.new_zeros(rows, self.frames, self.mels)], 1)[:, : self.frames]
        mask = torch.cat([features.mask, features.mask.new_zeros(rows, self.frames)], 1)[:, : self.frames]
        cut = picture.reshape(rows, times, side, bands, side).transpose(2, 3).reshape(rows, times * bands, side * side)
        real = mask.reshape(rows, times, 1, side).any(3).expand(-1, -1, bands)
        return Tokens(cut, real.reshape(rows, -1))

    def adapt(self, tokens: Tokens) -> Tokens:
        """Log mel power (B, T, mels) -> tokens (B, N, width)."""
        return self.trunk.encode(self.trunk.embed(self.patches(tokens)))

    def forward(self, raw: Tokens) -> Tokens:
        """Wave (B, S) -> tokens (B, N, width)."""
        return self.adapt(self.frontend(raw))

    def _masked(self, scaled: Tensor) -> Tensor:
        """In training each clip loses a random stretch of time and of bands: there it is 0, the mean."""
        if not self.training:
            return scaled
        picture = scaled.transpose(1, 2).unsqueeze(1)
        for mask in self.masking:
            if mask.mask_param:
                picture = mask(picture)
        return picture.squeeze(1).transpose(1, 2)
