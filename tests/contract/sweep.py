"""Every encoder, fusion and head file with small options, and inputs for it. A new file is swept with its `TINY`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from mmtraits import parts
from mmtraits.schema import FrameSpec, InputSpec, TextSpec, WaveSpec
from mmtraits.tokens import Tokens

WORDS = 60  # of the tiny transformer
STREAMS = ("text", "face", "voice")  # of every fusion
SAMPLES = 997  # of a wave per step, so that small step counts make several frames of every kind


@dataclass(frozen=True)
class Case:
    """One part file with options; `prepare` writes the weights that they name into a folder and returns the rest."""

    folder: parts.Folder
    name: str
    options: Mapping[str, Any]
    prepare: Callable[[Path], Mapping[str, Any]] | None = None

    def __str__(self) -> str:
        return "-".join([self.name, *(str(v) for v in self.options.values() if isinstance(v, str | bool))])

    def build(self, scratch: Path, *arguments: Any) -> nn.Module:
        """The part, with fixed random weights, in eval mode."""
        torch.manual_seed(0)
        module = parts.module(self.folder, self.name)
        options = {**self.options, **(self.prepare(scratch) if self.prepare else {})}
        part = getattr(module, {"encoders": "Encoder", "fusion": "Fusion", "heads": "Head"}[self.folder])
        built: nn.Module = part(module.Config(**options), *arguments)
        return built.eval()


def tiny_transformer(scratch: Path) -> Mapping[str, Any]:
    config = BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(scratch / "transformer")
    return {"model": str(scratch / "transformer")}


def image_weights(scratch: Path) -> Mapping[str, Any]:
    torch.save(timm.create_model("test_resnet").state_dict(), scratch / "image.pt")
    return {"pretrained": str(scratch / "image.pt")}


TEST_RESNET = {"backbone": "test_resnet", "size_px": 32, "frames": 8, "width": 8}
SMALL: dict[tuple[str, str], list[tuple[Mapping[str, Any], Callable[[Path], Mapping[str, Any]] | None]]] = {
    ("encoders", "face"): [({"width": 8}, None)],
    ("encoders", "timm_frames"): [(TEST_RESNET, None), ({**TEST_RESNET, "freeze": True}, image_weights)],
    ("encoders", "tv_video"): [({"backbone": "mc3_18", "size_px": 16, "frames": 8, "width": 8}, None)],
    ("encoders", "text"): [({"width": 8}, tiny_transformer)],
    ("encoders", "precomputed"): [
        ({"size": 5, "width": 8}, None),
        ({"size": 5, "width": 8, "pool": "mean"}, None),
        ({"size": 5, "width": 8, "pool": "max"}, None),
    ],
    ("encoders", "voice"): [({"width": 8, "tokens": 2}, None)],
    ("encoders", "conv_mel"): [({"mels": 16, "width": 8}, None)],
    ("fusion", "text_centric"): [({"width": 8, "heads": 2, "layers": 2}, None)],
    ("fusion", "mean_pool"): [({"width": 8}, None)],
    ("heads", "ensemble"): [({"members": 4, "hidden": (6,)}, None)],
    ("heads", "mlp"): [({"hidden": 6}, None)],
}


def cases(folder: parts.Folder) -> list[Case]:
    """At least one case of every file in the folder: its entries above, or its own `TINY`, or its defaults."""
    return [Case(folder, name, *rest) for name in parts.names(folder) for rest in _small(folder, name)]


def _small(folder: parts.Folder, name: str) -> list[Any]:
    if (folder, name) in SMALL:
        return SMALL[folder, name]
    return [(options, None) for options in getattr(parts.module(folder, name), "TINY", ({},))]


# ---------------------------------------------------------------------------------------------------------- input


def raw(spec: InputSpec, rows: int, steps: int, seed: int = 0) -> Tensor:
    """Plausible content of `rows` x `steps` steps."""
    source = torch.Generator().manual_seed(seed)
    if isinstance(spec, FrameSpec):
        return torch.randint(0, 256, (rows, steps, spec.height_px, spec.width_px, 3), generator=source).byte()
    if isinstance(spec, WaveSpec):
        return torch.randn(rows, steps * SAMPLES, generator=source) * 0.1
    if isinstance(spec, TextSpec):
        return torch.randint(1, WORDS, (rows, steps), generator=source)
    return torch.randn(rows, steps, spec.width, generator=source) + 1


def masked(spec: InputSpec, steps: list[int], seed: int = 0) -> Tokens:
    """A batch whose rows have these numbers of real steps (0 = absent), as media hands it over: zeros beyond them."""
    data = raw(spec, len(steps), max(1, *steps), seed)
    per_step = SAMPLES if isinstance(spec, WaveSpec) else 1
    mask = torch.arange(data.shape[1]) < torch.tensor(steps)[:, None] * per_step
    return Tokens(torch.where(_spread(mask, data), data, torch.zeros_like(data)), mask)


def spoiled(tokens: Tokens, extra: int = 0) -> Tokens:
    """The same batch with `extra` more masked steps and the worst content that its type holds under every False."""
    rows = tokens.data.shape[0]
    data = torch.cat([tokens.data, tokens.data.new_zeros(rows, extra, *tokens.data.shape[2:])], 1)
    mask = torch.cat([tokens.mask, tokens.mask.new_zeros(rows, extra)], 1)
    worst = float("nan") if data.is_floating_point() else torch.iinfo(data.dtype).max
    return Tokens(torch.where(_spread(mask, data), data, torch.full_like(data, worst)), mask)


def row(tokens: Tokens, number: int) -> Tokens:
    """One row of a batch, as a batch, without what is padding at its end."""
    steps = max(1, int((tokens.mask[number].cumsum(0) * tokens.mask[number]).argmax()) + 1)
    return Tokens(tokens.data[number : number + 1, :steps], tokens.mask[number : number + 1, :steps])


def real(tokens: Tokens) -> list[Tensor]:
    """Per row, the tokens that are real."""
    return [data[mask] for data, mask in zip(tokens.data, tokens.mask, strict=True)]


def _spread(mask: Tensor, data: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *(1,) * (data.ndim - 2))
