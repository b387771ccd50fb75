"""Small untrained models with every kind of input, for tests of the whole model and its export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmtraits import config, model
from mmtraits.schema import FrameSpec, InputSpec, Raw, TargetTransform, TextSpec, Trait, TraitSchema, WaveSpec, stack
from mmtraits.tokens import Tokens

SCHEMA = TraitSchema(
    name="small",
    traits=(Trait(name="warmth", low=0.0, high=1.0), Trait(name="drive", low=1.0, high=7.0), Trait(name="calm")),
    construct="apparent",
    judged_by="nobody",
    transform="z_score",
)
STREAMS: dict[str, dict[str, Any]] = {
    "scene": {"use": "timm_frames", "backbone": "test_resnet", "frames": 4, "size_px": 32, "width": 16},
    "voice": {"use": "conv_mel", "sample_rate": 4000, "max_s": 1.0, "mels": 16, "width": 16, "layers": 1},
    "text": {"use": "text", "layers": 1, "max_ids": 12, "width": 16},
    "emotion": {"use": "precomputed", "size": 5, "width": 16},
}
FUSIONS = {"text_centric": {"use": "text_centric", "width": 16}, "mean_pool": {"use": "mean_pool"}}


def settings(streams: Sequence[str] = tuple(STREAMS), fusion: str = "text_centric", head: str = "ensemble") -> Any:
    """The RunConfig of a small model."""
    data = {
        "name": "small",
        "streams": {stream: STREAMS[stream] for stream in streams},
        "fusion": FUSIONS[fusion],
        "head": {"use": head},
        "loss": {"mse": 1.0},
    }
    return config.from_data(data)


def transform(seed: int = 0) -> TargetTransform:
    """As if fitted on labels over the whole scale."""
    labels = np.random.default_rng(seed).uniform([0, 1, -2], [1, 7, 2], (50, 3))
    return TargetTransform.fit(SCHEMA, labels)


def member(found: Any, seed: int = 0, schema: TraitSchema = SCHEMA, how: TargetTransform | None = None) -> Any:
    """An untrained model in eval mode, its trainable weights as large as trained ones."""
    torch.manual_seed(seed)
    made = model.build(found, schema, how or transform(seed))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.mul_(1.5)
    return made.eval()


def raw(spec: InputSpec, steps: int, rng: np.random.Generator) -> Raw:
    """`steps` real steps of plausible content."""
    if isinstance(spec, FrameSpec):
        data: Any = rng.integers(0, 256, (steps, spec.height_px, spec.width_px, 3)).astype(np.uint8)
    elif isinstance(spec, WaveSpec):
        data = (0.1 * rng.standard_normal(steps)).astype(np.float32)
    elif isinstance(spec, TextSpec):
        data = rng.integers(1000, 30_000, steps)  # inside of MiniLM's vocabulary
    else:
        data = rng.standard_normal((steps, spec.width)).astype(np.float32)
    return Raw(data, np.ones(steps, np.bool_))


def window(
    specs: Mapping[str, InputSpec], present: Sequence[str], share: float, rng: np.random.Generator
) -> dict[str, Raw]:
    """One window with `share` of the longest length of every present stream."""
    longest = {"frames": 8, "wave": 4000, "text": 12, "vector": 9}
    return {
        stream: raw(spec, max(1, round(share * longest[spec.kind])), rng) if stream in present else spec.empty()
        for stream, spec in specs.items()
    }


def padded(windows: Sequence[Mapping[str, Raw]], extra: int = 0) -> dict[str, Tokens]:
    """A torch batch of windows, `extra` steps longer than it must be."""
    batch = {}
    for stream in windows[0]:
        longest = max(1, *(len(one[stream].mask) for one in windows)) + extra
        data, mask = stack([one[stream] for one in windows], min_steps=longest)
        batch[stream] = Tokens(torch.from_numpy(data), torch.from_numpy(mask))
    return batch


def torch_scores(members: Sequence[Any], windows: Sequence[Mapping[str, Raw]]) -> np.ndarray:
    """The members' mean, each through its own front-ends."""
    with torch.no_grad():
        return torch.stack([one.scores(padded(windows)) for one in members]).mean(0).numpy()
