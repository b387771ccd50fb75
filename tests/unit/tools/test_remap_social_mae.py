"""The conversion of released weights, against the release's passes written out plainly in its own layout."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tool_scripts import tool
from torch import Tensor

from mmtraits.encoders import mae_audio, mae_face
from mmtraits.errors import ConfigError
from mmtraits.fusion import shared_block
from mmtraits.layers import masked_mean
from mmtraits.tokens import Tokens

WIDTH, HEADS, LAYERS = 24, 2, 2
remap = tool("remap_social_mae")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """The full grids at a small width."""
    monkeypatch.setitem(mae_face.SIZES, "tiny", mae_face.Size(224, 16, WIDTH, LAYERS, HEADS))
    monkeypatch.setitem(mae_audio.SIZES, "tiny", mae_audio.Size(1024, 128, 16, WIDTH, LAYERS, HEADS))
    monkeypatch.setitem(shared_block.SIZES, "tiny", shared_block.Size(WIDTH, HEADS))


@pytest.fixture
def release() -> dict[str, Tensor]:
    """Names and shapes of the released code, small weights, the prefix of its DataParallel."""
    source = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed_a.proj.weight": (WIDTH, 1, 16, 16), "patch_embed_a.proj.bias": (WIDTH,),
        "patch_embed_v.proj.weight": (WIDTH, 3, 16, 16, 2), "patch_embed_v.proj.bias": (WIDTH,),
        "modality_a": (1, 1, WIDTH), "modality_v": (1, 1, WIDTH),
        "pos_embed_a": (1, 512, WIDTH), "pos_embed_v": (1, 784, WIDTH),
        "mask_token": (1, 1, 8), "decoder_embed.weight": (8, WIDTH), "mlp_head.1.weight": (5, WIDTH),
    }  # fmt: skip
    blocks = [f"blocks_{side}.{n}" for side in "av" for n in range(LAYERS)] + ["blocks_u.0"]
    wide = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    wide |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for block in blocks:
        for layer, shape in wide.items():
            shapes |= {f"{block}.{layer}.weight": shape, f"{block}.{layer}.bias": shape[:1]}
    norms = [f"{block}.norm{n}{side}" for block in blocks for n in (1, 2) for side in ("", "_a", "_v")]
    for norm in [*norms, "norm", "norm_a", "norm_v", "mlp_head.0"]:
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return {f"module.{name}": 0.2 * torch.randn(shape, generator=source) for name, shape in shapes.items()}


def reference(release: dict[str, Tensor], fbank: Tensor | None, video: Tensor | None) -> Tensor:
    """What goes into the last linear layer; fbank (B, 1024, 128) and video (B, 3, 224, 224, 8), both normalised."""
    w = {name.removeprefix("module."): tensor for name, tensor in release.items()}
    streams = []
    if fbank is not None:
        a = F.conv2d(fbank[:, None].transpose(2, 3), w["patch_embed_a.proj.weight"], w["patch_embed_a.proj.bias"], 16)
        streams.append(("a", a.flatten(2).transpose(1, 2) + w["pos_embed_a"] + w["modality_a"]))
    if video is not None:
        v = F.conv3d(video, w["patch_embed_v.proj.weight"], w["patch_embed_v.proj.bias"], (16, 16, 2))
        streams.append(("v", v.flatten(2).transpose(1, 2) + w["pos_embed_v"] + w["modality_v"]))
    alone = "" if len(streams) > 1 else f"_{streams[0][0]}"
    encoded = []
    for side, x in streams:
        for n in range(LAYERS):
            x = block(w, f"blocks_{side}.{n}", "", x)
        encoded.append(x)
    x = norm(w, f"norm{alone}", block(w, "blocks_u.0", alone, torch.cat(encoded, 1)))
    return norm(w, "mlp_head.0", x.mean(1))


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def block(w: dict[str, Tensor], name: str, side: str, x: Tensor) -> Tensor:
    q, k, v = linear(w, f"{name}.attn.qkv", norm(w, f"{name}.norm1{side}", x)).chunk(3, -1)
    q, k, v = (one.unflatten(2, (HEADS, -1)).transpose(1, 2) for one in (q, k, v))
    read = (q @ k.transpose(2, 3) / (WIDTH / HEADS) ** 0.5).softmax(-1) @ v
    x = x + linear(w, f"{name}.attn.proj", read.transpose(1, 2).flatten(2))
    return x + linear(w, f"{name}.mlp.fc2", F.gelu(linear(w, f"{name}.mlp.fc1", norm(w, f"{name}.norm2{side}", x))))


def started(folder, release) -> tuple[mae_audio.Encoder, mae_face.Encoder, shared_block.Fusion]:
    """Our parts from the release's file, by way of the command line."""
    torch.save(release, folder / "release.pth")
    assert remap.main([str(folder / "release.pth"), str(folder / "out.safetensors")]) == 0
    options = {"size": "tiny", "pretrained": str(folder / "out.safetensors")}
    return (
        mae_audio.Encoder(mae_audio.Config(**options)).eval(),
        mae_face.Encoder(mae_face.Config(**options)).eval(),
        shared_block.Fusion(shared_block.Config(**options), ("voice", "face")).eval(),
    )


@torch.no_grad()
def test_a_converted_release_gives_what_the_release_gives(tmp_path, release):
    voice, face, fusion = started(tmp_path, release)
    source = torch.Generator().manual_seed(1)
    heard = Tokens(4 * torch.randn(1, 1024, 128, generator=source) - 6, torch.ones(1, 1024, dtype=torch.bool))
    frames = torch.randint(0, 256, (1, 8, 224, 224, 3), generator=source).byte()
    seen = Tokens(frames, torch.ones(1, 8, dtype=torch.bool))
    fbank = (heard.data + 6.2943) / 12.26344
    # the release normalises by RGB statistics what is BGR; each colour here keeps its own
    video = face.normalize(frames).flip(4).permute(0, 4, 2, 3, 1)
    tokens = {"voice": voice.adapt(heard), "face": face.adapt(seen)}
    absent = {stream: Tokens(one.data, torch.zeros_like(one.mask)) for stream, one in tokens.items()}
    for given, expected in (
        (tokens, reference(release, fbank, video)),
        ({**tokens, "face": absent["face"]}, reference(release, fbank, None)),
        ({**tokens, "voice": absent["voice"]}, reference(release, None, video)),
    ):
        assert (fusion(given)[0] - expected).abs().max() < 1e-4
    assert (masked_mean(tokens["voice"]) - masked_mean(tokens["face"])).abs().max() > 0.1


def test_a_pre_training_checkpoint_has_no_head_to_take_the_norm_from(tmp_path, release):
    bare = {name: tensor for name, tensor in release.items() if "mlp_head" not in name}
    finish = started(tmp_path, bare)[2].finish
    assert finish.weight.tolist() == [1.0] * WIDTH
    assert finish.bias.tolist() == [0.0] * WIDTH


def test_what_stays_behind_is_said(tmp_path, release, capsys):
    started(tmp_path, release)
    said = capsys.readouterr().out
    for name in ("decoder_embed.weight", "mask_token", "mlp_head.1.weight", "blocks_a.0.norm1_v.bias"):
        assert name in said
    kept = load_file(tmp_path / "out.safetensors")
    assert set(kept) == {
        name for name in kept if name.startswith(("encoders.voice.trunk", "encoders.face.trunk", "fusion."))
    }


def test_missing_and_unexpected_names_come_in_one_message(tmp_path, release, capsys):
    release["module.cls_token"] = release.pop("module.norm_a.weight")
    del release["module.blocks_v.1.attn.qkv.bias"]
    with pytest.raises(
        ConfigError, match=re.escape("old.pth: missing blocks_v.1.attn.qkv.bias, norm_a.weight; unexpected cls_token")
    ):
        remap.convert(release, rgb=False, where="old.pth")
    torch.save(release, tmp_path / "old.pth")
    assert remap.main([str(tmp_path / "old.pth"), str(tmp_path / "out.safetensors")]) == 2
    assert "unexpected cls_token" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_colours_of_the_kernels_are_turned_unless_told_otherwise(release):
    name = "encoders.face.trunk.patch.weight"
    bgr, rgb = (remap.convert(release, rgb=rgb, where="x")[0][name].unflatten(1, (-1, 3)) for rgb in (False, True))
    assert torch.equal(bgr.flip(2), rgb)
    assert not torch.equal(bgr, rgb)
