"""TraitModel: encoders -> projections -> fusion -> head -> the schema's scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmtraits import parts
from mmtraits.config import RunConfig
from mmtraits.errors import ConfigError
from mmtraits.schema import InputSpec, TargetTransform, TraitSchema
from mmtraits.tokens import Tokens


class TraitModel(nn.Module):
    """Any number of streams -> K trait scores.

    Heads work in units of the training labels' spread around their mean (`centre`, `spread`, buffers in target space),
    so an untrained network starts near the mean predictor whatever the schema's scale.
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], fusion: nn.Module, head: nn.Module, transform: TargetTransform
    ) -> None:
        super().__init__()
        self.streams = tuple(encoders)
        self.encoders = nn.ModuleDict(encoders)
        width: Any = fusion.width
        self.projections = nn.ModuleDict({s: nn.Linear(_width(e), width) for s, e in encoders.items()})
        self.fusion = fusion
        self.head = head
        for name, values in transform.to_dict().items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.register_buffer("centre", torch.zeros(len(transform.shift)))
        self.register_buffer("spread", torch.ones(len(transform.shift)))

    shift: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    centre: Tensor
    spread: Tensor

    @property
    def specs(self) -> dict[str, InputSpec]:
        """What media must deliver for each stream."""
        return {stream: self._encoder(stream).spec for stream in self.streams}

    @torch.no_grad()
    def fit_output(self, targets: Tensor, known: Tensor) -> None:
        """Take the start of training from the training labels in target space, (N, K) each; `known` bool."""
        for k in range(targets.shape[1]):
            values = targets[known[:, k], k].double()
            if len(values):
                self.centre[k] = values.mean()
                self.spread[k] = values.std(unbiased=False).clamp_min(1e-6)

    def frontend(self, raw: dict[str, Tokens]) -> dict[str, Tokens]:
        """Decoded media -> front-end outputs, without gradients."""
        with torch.no_grad():
            return {stream: self._encoder(stream).frontend(raw[stream]) for stream in self.streams}

    def forward(self, features: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """Front-end outputs {stream: (B, T, ...)} -> (B, K) in target space, and auxiliary outputs."""
        fused, aux = self.fusion({stream: self._project(stream, features[stream]) for stream in self.streams})
        deviations, more = self.head(fused)
        return self.centre + self.spread * deviations, {**aux, **more}

    def to_target(self, labels: Tensor) -> Tensor:
        """Labels (B, K) on the schema's scale -> target space."""
        return (labels - self.shift) / self.scale

    def to_scale(self, targets: Tensor) -> Tensor:
        """Targets (B, K) -> the schema's scale, clipped to its bounds."""
        return torch.minimum(torch.maximum(targets * self.scale + self.shift, self.low), self.high)

    def scores(self, raw: dict[str, Tokens]) -> Tensor:
        """Decoded media {stream: (B, T, ...)} -> scores (B, K) on the schema's scale: what an export holds."""
        return self.to_scale(self.forward(self.frontend(raw))[0])

    def _encoder(self, stream: str) -> Any:
        return self.encoders[stream]

    def _project(self, stream: str, features: Tokens) -> Tokens:
        tokens: Tokens = self._encoder(stream).adapt(features)
        return Tokens(self.projections[stream](tokens.data), tokens.mask)


def _width(encoder: Any) -> int:
    return int(encoder.width)


def build(config: RunConfig, schema: TraitSchema, transform: TargetTransform) -> TraitModel:
    """The model that a config describes, freshly initialised. Raises ConfigError where parts do not fit together."""
    streams = tuple(config.streams)
    try:
        encoders = {stream: parts.encoder(part) for stream, part in config.streams.items()}
        fusion = parts.fusion(config.fusion, streams)
        head = parts.head(config.head, fusion.width, len(schema.traits))
    except ValueError as error:
        raise ConfigError(f"config {config.name!r}: {error}") from error
    return TraitModel(encoders, fusion, head, transform)


# ------------------------------------------------------------------------------------------- what training changes


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training determines: all but those of frozen networks, which `build` makes again."""
    frozen = _frozen(model)
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(frozen)}


def load_trained(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """The inverse of `trained_state`; ConfigError, located by `where`, unless names and shapes are the model's."""
    own = trained_state(model)
    wrong = sorted(own.keys() ^ state.keys()) or [n for n, t in own.items() if t.shape != state[n].shape]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ConfigError(f"{where}: tensors {shown} do not fit the model; use the config that it was trained with")
    model.load_state_dict(dict(state), strict=False)


def _frozen(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the modules that hold parameters and train none of them."""
    return tuple(f"{name}." for name, module in model.named_modules() if _is_frozen(module))


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


# ---------------------------------------------------------------------------------------------- modality dropout


def drop_streams(features: dict[str, Tokens], rates: Mapping[str, float]) -> dict[str, Tokens]:
    """Clear each stream's mask in each row with its probability; a row that would lose all keeps one of its own."""
    if not any(rates.values()):
        return features
    streams = list(features)
    present = torch.stack([tokens.mask.any(1) for tokens in features.values()], 1)  # (B, P)
    rate = torch.tensor([rates.get(stream, 0.0) for stream in streams], device=present.device)
    drop = torch.rand(present.shape, device=present.device) < rate
    lucky = ((1 + torch.rand(present.shape, device=present.device)) * present).argmax(1, keepdim=True)
    none_left = ~(present & ~drop).any(1, keepdim=True)
    drop = drop & ~(none_left & torch.zeros_like(drop).scatter(1, lucky, True))
    return {
        stream: Tokens(tokens.data, tokens.mask & ~drop[:, p, None])
        for p, (stream, tokens) in enumerate(features.items())
    }
