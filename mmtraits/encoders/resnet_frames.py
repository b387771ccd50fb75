"""A residual network on whole raw frames, learned from nothing: the visual half of Deep Impression."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from mmtraits.layers import hidden, present
from mmtraits.networks.residual import FRAMES, Residual
from mmtraits.schema import FrameSpec
from mmtraits.tokens import Tokens

AT_ONCE = 256  # frames


class Config(BaseModel):
    """Options of `resnet_frames`; the defaults are those of Deep Impression, which reads every frame.

    frames: at uniform times per window, 0.35 MB each in the cache; 15 s at 30 fps have 450. train_on: `crop` reads one
    random frame of a window in training, of it a random square of `crop_px`, mirrored at random; `all` reads what
    evaluation reads.
    """

    model_config = ConfigDict(extra="forbid")
    frames: int = Field(default=32, ge=1)
    height_px: int = Field(default=256, ge=16)
    width_px: int = Field(default=456, ge=16)
    crop: Literal["full", "face"] = "full"
    train_on: Literal["crop", "all"] = "crop"
    crop_px: int = Field(default=224, ge=16)
    channels: tuple[int, ...] = Field(default=(32, 64, 128, 256), min_length=1)
    blocks: tuple[int, ...] = Field(default=(2, 2, 2, 2), min_length=1)

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if len(self.channels) != len(self.blocks):
            raise ValueError(f"channels of {len(self.channels)} stages, blocks of {len(self.blocks)}; expected as many")
        shorter = min(self.height_px, self.width_px)
        if self.train_on == "crop" and self.crop_px > shorter:
            raise ValueError(f"crop_px {self.crop_px} is more than the frame's {shorter}; expected a part of it")
        return self


TINY: tuple[dict[str, Any], ...] = (
    {"frames": 8, "height_px": 24, "width_px": 32, "train_on": "all", "channels": (4, 8), "blocks": (2, 1)},
)


class Encoder(nn.Module):
    """Frames uint8 (B, T, H, W, 3) -> one token per frame (B, T, width); in training on crops (B, 1, width).

    Values from 0 to 255 as they are, no face search, no model of time (Güçlütürk et al. 2016, ECCV Workshops).
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = FrameSpec(
            frames=config.frames, height_px=config.height_px, width_px=config.width_px, crop=config.crop
        )
        self.crop_px = config.crop_px if config.train_on == "crop" else None
        self.network = Residual(FRAMES, config.channels, config.blocks)
        self.width = self.network.width

    def frontend(self, raw: Tokens) -> Tokens:
        """The frames as they are: every weight is trained."""
        return raw

    def adapt(self, tokens: Tokens) -> Tokens:
        """Frames (B, T, H, W, 3) -> tokens (B, T, width), or (B, 1, width) in training on crops."""
        if self.training and self.crop_px:
            tokens = random_crop(tokens, self.crop_px)
        pixels, real = hidden(tokens).flatten(0, 1), tokens.mask.flatten()
        if self.training or torch.compiler.is_compiling():
            features = self._features(pixels, real)
        else:
            pairs = zip(
                torch.split(pixels, AT_ONCE), torch.split(real, AT_ONCE), strict=True
            )  # a batch of all frames is too large
            features = torch.cat([self._features(*pair) for pair in pairs])
        features = features.reshape(*tokens.mask.shape, self.width)
        return Tokens(hidden(Tokens(features, tokens.mask)), tokens.mask)

    def forward(self, raw: Tokens) -> Tokens:
        """Frames uint8 (B, T, H, W, 3) -> tokens."""
        return self.adapt(self.frontend(raw))

    def _features(self, pixels: Tensor, real: Tensor) -> Tensor:
        maps: Tensor = self.network(pixels.permute(0, 3, 1, 2).float(), real[:, None, None])[0]
        return maps.mean((2, 3))


def random_crop(tokens: Tokens, size_px: int) -> Tokens:
    """Of every row a square of one of its real frames, mirrored or not: (B, T, H, W, 3) -> (B, 1, size, size, 3)."""
    device = tokens.data.device
    _, steps, height, width, _ = tokens.data.shape
    luck = torch.rand(len(tokens.mask), steps + 3)
    frame = torch.where(tokens.mask, luck[:, 3:].to(device), -1.0).argmax(1)
    chosen = tokens.data[torch.arange(len(frame), device=device), frame]
    tops, lefts = ((luck[:, n] * (side - size_px + 1)).long().tolist() for n, side in enumerate((height, width)))
    rows = [row[top : top + size_px, left : left + size_px] for row, top, left in zip(chosen, tops, lefts, strict=True)]
    squares = torch.stack(rows)
    mirrored = (luck[:, 2] < 0.5).to(device)[:, None, None, None]
    squares = torch.where(mirrored, squares.flip(2), squares)
    return Tokens(squares.unsqueeze(1), present(tokens).unsqueeze(1))
