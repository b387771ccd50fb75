"""Weights from installed packages, and networks that are stored small and never trained."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmtraits.errors import ConfigError
from mmtraits.packages import located

Storage = Literal["float32", "float16", "int8"]


def read(location: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file, all finite. Raises ConfigError as `loaded`."""
    found = loaded(located(location))
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ConfigError(f"{location}: holds a {type(found).__name__}; expected names with a tensor each")
    if wrong := not_finite(found):
        raise ConfigError(f"{location}: NaN or infinity in {wrong[0]} and in {len(wrong) - 1} more; take another file")
    return found


def loaded(path: Path) -> Any:
    """What a .safetensors or torch file holds; nothing that it asks for is run. Raises ConfigError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that it does not know well
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own text tells how to run the file all the same
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {asked[1]}" if asked else "it is no plain state"
        raise ConfigError(f"{path}: refused: {what}; expected tensors and plain values alone") from None
    except Exception as error:  # whatever a broken file runs into
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{path}: cannot be read ({reason}); expected a whole .safetensors or torch file") from error


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]


def load(network: nn.Module, location: str) -> None:
    """Load a state dict file whose names are the network's own; ConfigError says what does not fit."""
    try:
        network.load_state_dict(read(location))
    except RuntimeError as error:
        raise ConfigError(f"{location}: does not fit {type(network).__name__}; {error}") from error


def load_by_order(network: nn.Module, tensors: Iterable[Tensor]) -> None:
    """Fill a network from tensors of another naming but the same order; batch counters are not among them."""
    targets = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    sources = list(tensors)
    if [t.shape for t in targets.values()] != [t.shape for t in sources]:
        raise ConfigError(
            f"weights: {len(sources)} tensors do not match the {len(targets)} of {type(network).__name__}"
        )
    network.load_state_dict(dict(zip(targets, sources, strict=True)), strict=False)


# -------------------------------------------------------------------------------------------- small and frozen


class Frozen(nn.Module):
    """A network that is never trained: always in eval mode, without gradients, its large weights stored small.

    float16 and int8 weights are widened to float32 at every call, so that a network trained behind them meets the same
    numbers in torch and in ONNX (where they stay small, as Cast and Mul), whatever else is in the batch.
    """

    def __init__(self, network: nn.Module, storage: Storage = "float32") -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        if storage != "float32":
            _compress(self.network, _Half if storage == "float16" else _Int8)

    def train(self, mode: bool = True) -> Frozen:
        """Stay in eval mode whatever is asked: dropout and batch statistics are off."""
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Whatever the network returns."""
        return self.network(*args, **kwargs)


def _compress(network: nn.Module, form: type[nn.Module]) -> None:
    """Only matrices and kernels: norms and biases are small, and batch variances would underflow."""
    for module in list(network.modules()):
        if isinstance(module, (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)):
            parametrize.register_parametrization(module, "weight", form(), unsafe=True)


class _Half(nn.Module):
    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor]:
        return (weight.half(),)  # a tuple: torch lets a lone tensor keep its dtype only


class _Int8(nn.Module):
    """weight = level × scale, one scale per output channel (per entry of an embedding)."""

    def forward(self, levels: Tensor, scale: Tensor) -> Tensor:
        return levels.float() * scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / 127
        return torch.round(weight / scale).to(torch.int8), scale
