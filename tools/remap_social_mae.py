"""Released Social-MAE weights -> a file that training starts from: `remap_social_mae.py RELEASE.pth OUT.safetensors`.

OUT is named as `pretrained` in mae_audio, mae_face and shared_block (configs/systems/social_mae.yaml); the stream of
sound comes first there. The release runs over bands, then time, and over rows, columns, then time: kernels and
positions are turned into the order of mmtraits. Its frames are BGR: the colours of its kernels are turned round (--rgb:
leave them, as for CAV-MAE). The decoder, the norms that no pass uses and the last linear layer, whose labels are its
own, stay behind. Layout read in the released code (Bohy et al. 2024); no checkpoint was at hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmtraits.encoders.mae_face import FRAMES
from mmtraits.errors import ConfigError

BANDS = 8  # patches over the 128 mel bands
LEFT = re.compile(
    r"decoder_.*|mask_token|mlp_head\.1\..*|blocks_[av]\.\d+\.norm[12]_[av]\..*"  # not read, by design
)
LAYERS = {
    "attn.qkv": "attention.query_key_value", "attn.proj": "attention.out",
    "mlp.fc1": "feed_forward.layers.0", "mlp.fc2": "feed_forward.layers.3",
}  # fmt: skip
ENDS = ("weight", "bias")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, convert, say what stayed behind; 2 when the file is no such checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("release", type=Path, help="a state dict: VoxCeleb2 pre-training or a fine-tuned model")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--rgb", action="store_true", help="the kernels expect RGB frames")
    options = parser.parse_args(arguments)
    try:
        found = torch.load(options.release, map_location="cpu", weights_only=True)
        converted, left = convert(found, rgb=options.rgb, where=str(options.release))
    except (OSError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 2
    save_file(converted, options.out)
    print(f"{options.out}: {len(converted)} tensors; not taken over: {', '.join(left) or 'nothing'}")
    return 0


def convert(release: Mapping[str, Tensor], *, rgb: bool, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a release -> those of a TraitModel with streams voice and face, and names of those left behind.

    ConfigError names every missing and every unexpected tensor.
    """
    found = {name.removeprefix("module."): tensor for name, tensor in release.items()}
    depth = {side: _depth(found, side) for side in "av"}
    left = sorted(name for name in found if LEFT.fullmatch(name))
    expected = _expected(depth) | (_head() & found.keys())
    missing, unexpected = sorted(expected - found.keys()), sorted(found.keys() - expected - set(left))
    if missing or unexpected:
        said = [
            f"{kind} {', '.join(names)}" for kind, names in (("missing", missing), ("unexpected", unexpected)) if names
        ]
        raise ConfigError(f"{where}: {'; '.join(said)}; expected the tensors of a Social-MAE or CAV-MAE checkpoint")
    made = _voice(found) | _face(found, rgb=rgb) | _fusion(found)
    for side, stream in (("a", "voice"), ("v", "face")):
        made[f"encoders.{stream}.trunk.modality"] = found[f"modality_{side}"].flatten()
        for number in range(depth[side]):
            made |= _block(found, f"blocks_{side}.{number}", f"encoders.{stream}.trunk.blocks.{number}")
    return {name: tensor.float().contiguous().clone() for name, tensor in made.items()}, left


def _depth(found: Mapping[str, Tensor], side: str) -> int:
    numbers = [int(name.split(".")[1]) for name in found if re.match(rf"blocks_{side}\.\d+\.", name)]
    return max(numbers, default=0) + 1


def _expected(depth: Mapping[str, int]) -> set[str]:
    names = {f"{kind}_{side}" for kind in ("modality", "pos_embed") for side in "av"}
    names |= {f"patch_embed_{side}.proj.{end}" for side in "av" for end in ENDS}
    blocks = [f"blocks_{side}.{number}" for side in "av" for number in range(depth[side])]
    names |= {
        f"{b}.{layer}.{end}" for b in [*blocks, "blocks_u.0"] for layer in ("norm1", "norm2", *LAYERS) for end in ENDS
    }
    names |= {f"blocks_u.0.norm{n}_{side}.{end}" for n in (1, 2) for side in "av" for end in ENDS}
    return names | {f"norm{side}.{end}" for side in ("", "_a", "_v") for end in ENDS}


def _head() -> set[str]:
    return {f"mlp_head.0.{end}" for end in ENDS}


def _voice(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kernel, places = found["patch_embed_a.proj.weight"], found["pos_embed_a"][0]  # (D, 1, bands, time), bands first
    return {
        "encoders.voice.trunk.patch.weight": kernel.transpose(2, 3).flatten(1),
        "encoders.voice.trunk.patch.bias": found["patch_embed_a.proj.bias"],
        "encoders.voice.trunk.positions": places.unflatten(0, (BANDS, -1)).transpose(0, 1).flatten(0, 1),
    }


def _face(found: Mapping[str, Tensor], *, rgb: bool) -> dict[str, Tensor]:
    kernel, places = found["patch_embed_v.proj.weight"], found["pos_embed_v"][0]  # (D, 3, rows, columns, time)
    times = FRAMES // kernel.shape[4]
    side = isqrt(len(places) // times)
    return {
        "encoders.face.trunk.patch.weight": (kernel if rgb else kernel.flip(1)).permute(0, 4, 2, 3, 1).flatten(1),
        "encoders.face.trunk.patch.bias": found["patch_embed_v.proj.bias"],
        "encoders.face.trunk.positions": places.unflatten(0, (side, side, times)).permute(2, 0, 1, 3).flatten(0, 2),
    }


def _fusion(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    width = found["norm.weight"]
    plain = {"weight": torch.ones_like(width), "bias": torch.zeros_like(width)}
    made = {f"fusion.finish.{end}": found.get(f"mlp_head.0.{end}", plain[end]) for end in ENDS}
    for theirs, ours in (("blocks_u.0.norm1", "norm_1"), ("blocks_u.0.norm2", "norm_2"), ("norm", "norm")):
        made |= {
            f"fusion.{ours}.{end}": torch.stack([found[f"{theirs}{s}.{end}"] for s in ("", "_a", "_v")]) for end in ENDS
        }
    return made | {
        f"fusion.{ours}.{end}": found[f"blocks_u.0.{theirs}.{end}"] for theirs, ours in LAYERS.items() for end in ENDS
    }


def _block(found: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    names = {**LAYERS, "norm1": "norm_1", "norm2": "norm_2"}
    return {f"{ours}.{new}.{end}": found[f"{theirs}.{old}.{end}"] for old, new in names.items() for end in ENDS}


if __name__ == "__main__":
    raise SystemExit(main())
