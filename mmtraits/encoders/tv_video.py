"""Any video backbone of torchvision: it sees motion, where an image backbone sees frames."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn
from torchvision import models

from mmtraits.layers import hidden, masked_mean, placed
from mmtraits.networks.frames import Normalize, over_real
from mmtraits.schema import FrameSpec
from mmtraits.tokens import Tokens
from mmtraits.weights import Frozen, Storage, load


class Config(BaseModel):
    """Options of `tv_video`. `pretrained`: a weights file, `hub` (the one case that downloads), or null = random.

    `frames` are cut into `tokens` stretches of equal length, each one token.
    """

    model_config = ConfigDict(extra="forbid")
    backbone: str = "r3d_18"
    pretrained: str | None = None
    freeze: bool = False
    storage: Storage = "float32"
    frames: int = Field(default=32, ge=1)
    tokens: int = Field(default=2, ge=1)
    size_px: int = Field(default=112, ge=16)
    crop: Literal["full", "face"] = "full"
    width: int = Field(default=128, ge=2, multiple_of=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        known = models.list_models(module=models.video)
        if name not in known:
            raise ValueError(f"found {name!r}; torchvision has {', '.join(known)}")
        return name

    @model_validator(mode="after")
    def _sensible(self) -> Config:
        if self.frames % self.tokens:
            raise ValueError(f"frames: found {self.frames}, not divisible into {self.tokens} tokens")
        frames, size_px = self.frames // self.tokens, self.size_px
        found = f"{self.backbone}: found {frames} frames a token of {size_px} px"
        if self.backbone.startswith("mvit") and (frames, size_px) != (16, 224):
            raise ValueError(f"{found}; its learned positions need exactly 16 of 224 px")
        if self.backbone == "s3d" and (frames < 16 or size_px < 224):
            raise ValueError(f"{found}; its last pooling needs at least 16 of 224 px")
        if self.freeze and not self.pretrained:
            raise ValueError("freeze: found true without pretrained weights; name a file in `pretrained`, or train it")
        if self.storage != "float32" and not self.freeze:
            raise ValueError(f"storage: found {self.storage!r} for weights that are trained; expected float32")
        return self


class Encoder(nn.Module):
    """Frames uint8 (B, T, H, W, 3) -> features (B, tokens, F) -> LayerNorm, projection, place in time (.., width).

    The backbone sees exactly `frames` frames: further ones are dropped, missing ones are filled in. A frame under a
    False mask is replaced by the mean of the real frames of its stretch; a stretch without any is absent.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"  # any T is taken; the backbone's own number is made of it
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        size = config.size_px
        self.spec = FrameSpec(frames=config.frames, height_px=size, width_px=size, crop=config.crop)
        self.width, self.tokens, self.frames = config.width, config.tokens, config.frames
        self.freeze = config.freeze
        presets: Any = models.get_model_weights(config.backbone)
        preset = presets.DEFAULT.transforms()
        self.normalize = Normalize(preset.mean, preset.std)
        network, features = _network(config)
        self.network = Frozen(network, config.storage) if config.freeze else network
        self.norm = nn.LayerNorm(features)
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(features, config.width))

    def frontend(self, raw: Tokens) -> Tokens:
        """Frames uint8 (B, T, H, W, 3) -> features (B, tokens, F) of a frozen backbone, else the frames themselves."""
        return self._features(raw) if self.freeze else raw

    def adapt(self, tokens: Tokens) -> Tokens:
        """Features (B, tokens, F), or frames where the backbone is trained -> tokens (B, tokens, width)."""
        if not self.freeze:
            tokens = self._features(tokens)
        return placed(Tokens(self.project(self.norm(hidden(tokens))), tokens.mask))

    def forward(self, raw: Tokens) -> Tokens:
        """Frames uint8 (B, T, H, W, 3) -> tokens (B, tokens, width)."""
        return self.adapt(self.frontend(raw))

    def _features(self, raw: Tokens) -> Tokens:
        stretches = self._stretches(raw)  # (B·tokens, frames a token, H, W, 3)
        real = stretches.mask.any(1)
        features = over_real(self.network, _filled(stretches).permute(0, 4, 1, 2, 3), real)
        mask = real.reshape(-1, self.tokens)
        return Tokens(hidden(Tokens(features.reshape(-1, self.tokens, features.shape[1]), mask)), mask)

    def _stretches(self, raw: Tokens) -> Tokens:
        rows, frames = raw.mask.shape[0], self.frames
        data, mask = hidden(raw), raw.mask
        more = data.new_zeros(rows, frames, *data.shape[2:])  # so that the cut below always finds `frames` of them
        data = torch.cat([data, more], 1)[:, :frames]
        mask = torch.cat([mask, mask.new_zeros(rows, frames)], 1)[:, :frames]
        shape = (rows * self.tokens, frames // self.tokens)
        return Tokens(self.normalize(data.reshape(*shape, *data.shape[2:])), mask.reshape(shape))


def _filled(frames: Tokens) -> Tensor:
    """Frames (N, T, H, W, 3) with the mean of a row's real frames in the place of the others; zeros where none is."""
    mean = masked_mean(Tokens(frames.data.flatten(2), frames.mask)).reshape(-1, 1, *frames.data.shape[2:])
    return torch.where(frames.mask[:, :, None, None, None], frames.data, mean)


def _network(config: Config) -> tuple[nn.Module, int]:
    """The backbone without its classifier, and the length of the vector that it then gives."""
    weights = "DEFAULT" if config.pretrained == "hub" else None
    network: nn.Module = models.get_model(config.backbone, weights=weights)
    if config.pretrained not in (None, "hub"):
        load(network, str(config.pretrained))
    name = next(name for name in ("fc", "head", "classifier") if hasattr(network, name))
    last = [layer for layer in getattr(network, name).modules() if isinstance(layer, (nn.Linear, nn.Conv3d))][-1]
    setattr(network, name, nn.Identity())
    return network, last.weight.shape[1]
