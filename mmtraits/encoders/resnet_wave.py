"""A residual network on the samples of a wave, learned from nothing: the sounding half of Deep Impression."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from mmtraits.layers import hidden, pooled
from mmtraits.networks.residual import WAVE, Residual
from mmtraits.networks.spectra import sample_counts
from mmtraits.schema import WaveSpec
from mmtraits.tokens import Tokens


class Config(BaseModel):
    """Options of `resnet_wave`; the defaults are those of Deep Impression.

    train_on: `crop` reads a random stretch of `crop_samples` in training (50,176 are 3.14 s), `all` the whole window.
    """

    model_config = ConfigDict(extra="forbid")
    sample_rate: int = Field(default=16_000, ge=1_000)
    max_s: float | None = Field(default=None, gt=0)
    train_on: Literal["crop", "all"] = "crop"
    crop_samples: int = Field(default=50_176, ge=1)
    channels: tuple[int, ...] = Field(default=(32, 64, 128, 256), min_length=1)
    blocks: tuple[int, ...] = Field(default=(2, 2, 2, 2), min_length=1)

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if len(self.channels) != len(self.blocks):
            raise ValueError(f"channels of {len(self.channels)} stages, blocks of {len(self.blocks)}; expected as many")
        return self


TINY: tuple[dict[str, Any], ...] = ({"train_on": "all", "channels": (4, 8), "blocks": (2, 1)},)


class Encoder(nn.Module):
    """Wave (B, S) -> one token, the mean over time of the last maps (B, 1, width).

    Samples as they are, no spectrogram, no model of time (Güçlütürk et al. 2016, ECCV Workshops). A gap is silence.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = WaveSpec(sample_rate=config.sample_rate, max_s=config.max_s)
        self.crop_samples = config.crop_samples if config.train_on == "crop" else None
        self.network = Residual(WAVE, config.channels, config.blocks)
        self.width = self.network.width

    def frontend(self, raw: Tokens) -> Tokens:
        """The samples as they are: every weight is trained."""
        return raw

    def adapt(self, tokens: Tokens) -> Tokens:
        """Wave (B, S) -> token (B, 1, width)."""
        place = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
        wave = Tokens(hidden(tokens), place < sample_counts(tokens.mask)[:, None])
        if self.training and self.crop_samples:
            wave = random_stretch(wave, self.crop_samples)
        maps, mask = self.network(wave.data.unsqueeze(1), wave.mask)
        return pooled(Tokens(maps.transpose(1, 2), mask))

    def forward(self, raw: Tokens) -> Tokens:
        """Wave (B, S) float32 in [−1, 1] -> token (B, 1, width)."""
        return self.adapt(self.frontend(raw))


def random_stretch(wave: Tokens, samples: int) -> Tokens:
    """Of every row `samples` in a row, or all where there are fewer: (B, S) -> (B, at most `samples`)."""
    room = (wave.mask.sum(1) - samples).clamp_min(0)
    start = (torch.rand(len(room)).to(room.device) * (room + 1)).long()
    place = start[:, None] + torch.arange(min(samples, wave.mask.shape[1]), device=room.device)
    return Tokens(wave.data.gather(1, place), wave.mask.gather(1, place))
