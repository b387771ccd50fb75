"""TraitModel: encoders -> projections -> fusion -> head -> the schema's scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmtraits import optimizer, parts, weights
from mmtraits.config import RunConfig
from mmtraits.errors import ConfigError
from mmtraits.schema import InputSpec, TargetTransform, TraitSchema
from mmtraits.tokens import Tokens


class TraitModel(nn.Module):
    """Any number of streams -> K trait scores.

    Heads work in units of the training labels' spread around their mean (`centre`, `spread`, buffers in target space),
    so an untrained network starts near the mean predictor whatever the schema's scale. A head that declares
    `absolute = True` answers in target space itself: there centre stays 0 and spread 1.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        head: nn.Module,
        transform: TargetTransform,
        traits: tuple[str, ...] = (),
        design: str = "",
    ) -> None:
        """traits: names of the K outputs. design: models of one run with equal designs have equal forward passes."""
        super().__init__()
        self.traits = traits
        self.design = design
        self.streams = tuple(encoders)
        self.encoders = nn.ModuleDict(encoders)
        self.projections = nn.ModuleDict({s: _projection(s, _width(e), fusion) for s, e in encoders.items()})
        self.fusion = fusion
        self.head = head
        for name in ("shift", "scale", "low", "high", "curve"):
            if (values := getattr(transform, name)) is not None:
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
        if getattr(self.head, "absolute", False):
            return
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
        fused, aux = self.fuse(features)
        predictions, more = self.read(fused)
        return predictions, {**aux, **more}

    def fuse(self, features: dict[str, Tokens]) -> tuple[Tensor, dict[str, Tensor]]:
        """Front-end outputs -> what the head reads (B, D), and the fusion's auxiliary outputs."""
        fused: tuple[Tensor, dict[str, Tensor]] = self.fusion({s: self._project(s, features[s]) for s in self.streams})
        return fused

    def read(self, fused: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Fused vectors (B, D) -> (B, K) in target space, and the head's auxiliary outputs."""
        deviations, more = self.head(fused)
        return self.centre + self.spread * deviations, more

    def to_target(self, labels: Tensor) -> Tensor:
        """Labels (B, K) on the schema's scale -> target space."""
        curve = dict(self.named_buffers(recurse=False)).get("curve")
        return (labels - self.shift) / self.scale if curve is None else straightened(labels, curve)

    def to_scale(self, targets: Tensor) -> Tensor:
        """Targets (B, K) -> the schema's scale, clipped to its bounds."""
        return on_scale(targets, dict(self.named_buffers(recurse=False)))

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


def _projection(stream: str, width: int, fusion: Any) -> nn.Module:
    """Tokens to the fusion's width; as they are where it projects them itself (`reads`: the widths it expects)."""
    reads: Mapping[str, int] = getattr(fusion, "reads", {})
    if stream not in reads:
        return nn.Linear(width, fusion.width)
    if width != reads[stream]:
        raise ConfigError(
            f"streams.{stream}: tokens of {width}; the fusion expects {reads[stream]}: make fusion.sizes equal"
        )
    return nn.Identity()


# ---------------------------------------------------------------------------------------------- the schema's scale


def on_scale(targets: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Targets (B, K) -> the schema's scale, clipped to its bounds; `state`: a model's, which holds the transform."""
    curve = state.get("curve")
    scaled = targets * state["scale"] + state["shift"] if curve is None else _curved(targets, curve)
    return torch.minimum(torch.maximum(scaled, state["low"]), state["high"])


def straightened(labels: Tensor, curve: Tensor) -> Tensor:
    """Labels (B, K) -> targets by the curve (11, K) of a power transform (`power.curve`)."""
    above, below = (_target(labels.abs(), *curve[rows]) for rows in (slice(3, 7), slice(7, 11)))
    return torch.where(labels < 0, below, above)


def _target(size: Tensor, rate: Tensor, start: Tensor, slope: Tensor, base: Tensor) -> Tensor:
    flat = rate == 0
    logs = torch.log1p(size) - base.log()
    grown = torch.expm1(rate * logs) / torch.where(flat, torch.ones_like(rate), rate)
    return start + torch.where(flat, logs, grown) / slope


def _curved(targets: Tensor, curve: Tensor) -> Tensor:
    """The inverse of `straightened`, clipped to the targets of the scale's ends: a power has no inverse far outside."""
    inside = torch.minimum(torch.maximum(targets, curve[0]), curve[1])
    above, below = (_size(inside, *curve[rows]) for rows in (slice(3, 7), slice(7, 11)))
    return torch.where(inside < curve[2], 1 - below, above - 1)


def _size(targets: Tensor, rate: Tensor, start: Tensor, slope: Tensor, base: Tensor) -> Tensor:
    """1 + |x|, with the logarithm of 1 + z exact where z is small (Kahan): ONNX has no log1p."""
    flat = rate == 0
    step = slope * (targets - start)
    z = (rate * step).clamp_min(-1.0)
    one = 1 + z
    near = one == 1
    log = torch.where(near, z, one.log() * z / torch.where(near, torch.ones_like(z), one - 1))
    return base * torch.exp(torch.where(flat, step, log / torch.where(flat, torch.ones_like(rate), rate)))


def _check_ends(head: nn.Module, transform: TargetTransform, where: str) -> None:
    """A head that answers between 0 and 1 fits targets that do: others would be cut off in silence."""
    ends = transform.to_target(np.stack([transform.low, transform.high]))
    if getattr(head, "absolute", False) and not np.allclose(ends, [[0.0], [1.0]], atol=1e-6):
        raise ConfigError(
            f"{where} answers between the ends of the scale, where labels are targets from {ends.min():.2f} to "
            f"{ends.max():.2f}; set data.transform: min_max"
        )


def build(config: RunConfig, schema: TraitSchema, transform: TargetTransform) -> TraitModel:
    """The model that a config describes, freshly initialised. Raises ConfigError where parts do not fit together."""
    streams = tuple(config.streams)
    if taken := [stream for stream in streams if "." in stream or hasattr(nn.ModuleDict(), stream)]:
        raise ConfigError(f"config {config.name!r}: streams {', '.join(taken)}; torch keeps these names: choose others")
    try:
        encoders = {stream: parts.encoder(part) for stream, part in config.streams.items()}
        chosen = config.fusion_of(schema.trait_names)
        fusion = parts.fusion(chosen, streams)
        head = parts.head(config.head, fusion.width, len(schema.traits))
    except ValueError as error:
        raise ConfigError(f"config {config.name!r}: {error}") from error
    _check_ends(head, transform, where=f"config {config.name!r}: head {config.head.use!r}")
    model = TraitModel(encoders, fusion, head, transform, schema.trait_names, chosen.model_dump_json())
    optimizer.check(model, config.optimizer, where=f"config {config.name!r}")
    return model


# ------------------------------------------------------------------------------------------- what training changes


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training determines: all but those of frozen networks, which `build` makes again."""
    frozen = _frozen(model)
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(frozen)}


def load_trained(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """The inverse of `trained_state`; ConfigError, located by `where`, unless names and shapes are the model's."""
    own = trained_state(model)
    wrong = sorted(own.keys() ^ state.keys()) or [
        name for name, t in own.items() if (t.shape, t.dtype) != (state[name].shape, state[name].dtype)
    ]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ConfigError(f"{where}: tensors {shown} do not fit the model; use the config that it was trained with")
    if broken := weights.not_finite(state):
        raise ConfigError(f"{where}: NaN or infinity in {', '.join(broken[:5])}; train the member again")
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
