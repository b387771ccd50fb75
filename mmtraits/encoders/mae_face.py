"""Faces as patches in space and time: the video side of Social-MAE."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mmtraits.layers import hidden, masked_mean
from mmtraits.networks import vit
from mmtraits.networks.frames import Normalize
from mmtraits.schema import FrameSpec
from mmtraits.tokens import Tokens

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours
FRAMES, TUBE = 8, 2  # frames of a window; frames of one patch
TINY = ({"size": "tiny"},)


class Size(NamedTuple):
    """Frame and patch in pixels, and the network."""

    frame_px: int
    patch_px: int
    width: int
    layers: int
    heads: int


SIZES = {"full": Size(224, 16, 768, 11, 12), "tiny": Size(32, 8, 32, 2, 2)}


class Config(BaseModel):
    """Options of `mae_face`. `pretrained`: best.safetensors of a pre-training run, or a converted release."""

    model_config = ConfigDict(extra="forbid")
    size: Literal["full", "tiny"] = "full"
    crop: Literal["face", "full"] = "face"
    pretrained: str | None = None


class Encoder(nn.Module):
    """Frames uint8 (B, T, H, W, 3) -> tokens (B, 784, 768) of patches of 16 x 16 px and 2 frames, after 11 blocks.

    Exactly 8 frames are read: further ones are dropped, missing ones are masked; beside a masked frame its patch shows
    the other one twice. Tokens run over time, then rows, then columns. Social-MAE (Bohy et al. 2024), section 3, and
    its released code; positions are separable in three axes where the release's grid has two.
    """

    lengths: ClassVar[Literal["free", "fixed"]] = "free"  # any T is taken; 8 frames are made of it
    exportable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        size = SIZES[config.size]
        self.spec = FrameSpec(frames=FRAMES, height_px=size.frame_px, width_px=size.frame_px, crop=config.crop)
        self.width, self.side, self.patch_px = size.width, size.frame_px // size.patch_px, size.patch_px
        self.normalize = Normalize(MEAN, STD)
        grid = (FRAMES // TUBE, self.side, self.side)
        self.trunk = vit.Trunk(TUBE * size.patch_px**2 * 3, grid, size.width, size.layers, size.heads)
        if config.pretrained:
            vit.load_part(self, config.pretrained, "encoders")

    def frontend(self, raw: Tokens) -> Tokens:
        """The frames as they are."""
        return raw

    def patches(self, features: Tokens) -> Tokens:
        """Frames uint8 (B, T, H, W, 3) -> normalised patches (B, N, 2·p·p·3), in the order of the tokens."""
        frames, rows = self._exactly(features), features.mask.shape[0]
        tubes = Tokens(frames.data.reshape(-1, TUBE, *frames.data.shape[2:]), frames.mask.reshape(-1, TUBE))
        cut = _filled(tubes).reshape(-1, TUBE, self.side, self.patch_px, self.side, self.patch_px, 3)
        patches = cut.permute(0, 2, 4, 1, 3, 5, 6).reshape(rows, -1, self.trunk.values)
        real = tubes.mask.any(1).reshape(rows, -1, 1).expand(-1, -1, self.side**2)
        return Tokens(patches, real.reshape(rows, -1))

    def adapt(self, tokens: Tokens) -> Tokens:
        """Frames uint8 (B, T, H, W, 3) -> tokens (B, N, width)."""
        return self.trunk.encode(self.trunk.embed(self.patches(tokens)))

    def forward(self, raw: Tokens) -> Tokens:
        """Frames uint8 (B, T, H, W, 3) -> tokens (B, N, width)."""
        return self.adapt(raw)

    def _exactly(self, raw: Tokens) -> Tokens:
        """Eight frames (B, 8, H, W, 3), normalised, zeros where masked."""
        data, mask = hidden(raw), raw.mask
        data = torch.cat([data, data.new_zeros(data.shape[0], FRAMES, *data.shape[2:])], 1)[:, :FRAMES]
        mask = torch.cat([mask, mask.new_zeros(mask.shape[0], FRAMES)], 1)[:, :FRAMES]
        return Tokens(self.normalize(data), mask)


def _filled(tubes: Tokens) -> Tensor:
    """Tubes (N, 2, H, W, 3) with the real frame in the place of a masked one; zeros where none is real."""
    mean = masked_mean(Tokens(tubes.data.flatten(2), tubes.mask)).reshape(-1, 1, *tubes.data.shape[2:])
    return torch.where(tubes.mask[:, :, None, None, None], tubes.data, mean)
