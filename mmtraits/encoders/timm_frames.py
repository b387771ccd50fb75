"""Any image backbone of timm, frame by frame."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar, Literal

import timm
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from timm.data import resolve_data_config
from torch import nn

from mmtraits.layers import hidden, placed
from mmtraits.networks.frames import Normalize, over_real
from mmtraits.schema import FrameSpec
from mmtraits.tokens import Tokens
from mmtraits.weights import Frozen, Storage, load


class Config(BaseModel):
    """Options of `timm_frames`. `pretrained`: a weights file, `hub` (the one case that downloads), or null = random."""

    model_config = ConfigDict(extra="forbid")
    backbone: str = "resnet18"
    pretrained: str | None = None
    freeze: bool = False
    storage: Storage = "float32"
    frames: int = Field(default=32, ge=1)
    size_px: int = Field(default=224, ge=16)
    crop: Literal["full", "face"] = "full"
    width: int = Field(default=128, ge=2, multiple_of=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise ValueError(f"found {name!r}, which timm does not have; close to it: {', '.join(close) or 'nothing'}")
        return name

    @model_validator(mode="after")
    def _sensible(self) -> Config:
        if self.freeze and not self.pretrained:
            raise ValueError("freeze: found true without pretrained weights; name a file in `pretrained`, or train it")
        if self.storage != "float32" and not self.freeze:
            raise ValueError(f"storage: found {self.storage!r} for weights that are trained; expected float32")
        return self


class Encoder(nn.Module):
    """Frames uint8 (B, T, H, W, 3) -> pooled features (B, T, F) -> LayerNorm, projection, place in time (B, T, width).

    A frozen backbone is the front-end, so that its features are computed once; a trained one is part of `adapt`.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        size = config.size_px
        self.spec = FrameSpec(frames=config.frames, height_px=size, width_px=size, crop=config.crop)
        self.width = config.width
        self.freeze = config.freeze
        network = _network(config)
        data = resolve_data_config({}, model=network)
        self.normalize = Normalize(data["mean"], data["std"])
        self.network = Frozen(network, config.storage) if config.freeze else network
        features = getattr(network, "head_hidden_size", network.num_features)
        self.norm = nn.LayerNorm(features)
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(features, config.width))

    def frontend(self, raw: Tokens) -> Tokens:
        """Frames uint8 (B, T, H, W, 3) -> features (B, T, F) of a frozen backbone, else the frames themselves."""
        return self._features(raw) if self.freeze else raw

    def adapt(self, tokens: Tokens) -> Tokens:
        """Features (B, T, F), or frames where the backbone is trained -> tokens (B, T, width)."""
        if not self.freeze:
            tokens = self._features(tokens)
        return placed(Tokens(self.project(self.norm(hidden(tokens))), tokens.mask))

    def forward(self, raw: Tokens) -> Tokens:
        """Frames uint8 (B, T, H, W, 3) -> tokens (B, T, width)."""
        return self.adapt(self.frontend(raw))

    def _features(self, raw: Tokens) -> Tokens:
        pixels = self.normalize(hidden(raw).flatten(0, 1)).permute(0, 3, 1, 2)
        features = over_real(self.network, pixels, raw.mask.flatten())
        return Tokens(hidden(Tokens(features.reshape(*raw.mask.shape, -1), raw.mask)), raw.mask)


def _network(config: Config) -> Any:
    """The backbone without its classifier, built for the frame size where the architecture depends on it."""
    given = timm.get_pretrained_cfg_value(config.backbone, "fixed_input_size")
    size = {"img_size": config.size_px} if given else {}
    network = timm.create_model(config.backbone, pretrained=config.pretrained == "hub", **size)
    if config.pretrained not in (None, "hub"):
        load(network, str(config.pretrained))
    network.reset_classifier(0)
    return network
