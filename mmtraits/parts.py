"""The folder is the registry: `use: conv_mel` in a config is the file `encoders/conv_mel.py`.

A part's file holds a pydantic `Config` and one class named for its folder: `Encoder`, `Fusion`, `Head` or `Objective`.
A class that gives losses of its own names them in `aux_losses`; `loss` in a config weights them. So does a head that
gives `log_variance`: it names gaussian_nll.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from mmtraits.config import Part, RunConfig, describe
from mmtraits.errors import ConfigError

Folder = Literal["encoders", "fusion", "heads", "objectives"]
CLASSES: dict[Folder, str] = {
    "encoders": "Encoder", "fusion": "Fusion", "heads": "Head", "objectives": "Objective",
}  # fmt: skip


def names(folder: Folder) -> list[str]:
    """Every part of a folder, sorted."""
    return sorted(path.stem for path in (Path(__file__).parent / folder).glob("*.py") if path.stem != "__init__")


def module(folder: Folder, use: str) -> ModuleType:
    """Import the part's file; ConfigError names the parts that exist."""
    known = names(folder)
    if use not in known:
        close = difflib.get_close_matches(use, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise ConfigError(f"use: found {use!r}, no file in {folder}/; {hint}")
    return importlib.import_module(f"mmtraits.{folder}.{use}")


def options(folder: Folder, part: Part) -> BaseModel:
    """The part's own Config, checked. Raises ConfigError for an unknown part and ValidationError for wrong options."""
    config: BaseModel = module(folder, part.use).Config.model_validate(part.options)
    return config


def encoder(part: Part) -> Any:
    """Build the Encoder that a stream names."""
    return module("encoders", part.use).Encoder(options("encoders", part))


def fusion(part: Part, streams: tuple[str, ...]) -> Any:
    """Build the Fusion for these streams."""
    return module("fusion", part.use).Fusion(options("fusion", part), streams)


def head(part: Part, width: int, traits: int) -> Any:
    """Build the Head for fused vectors of `width` and K `traits`."""
    return module("heads", part.use).Head(options("heads", part), width, traits)


def objective(part: Part, model: Any, loss_weights: Mapping[str, float]) -> Any:
    """Build the Objective that trains `model`."""
    return module("objectives", part.use).Objective(options("objectives", part), model, loss_weights)


def problems(config: RunConfig) -> list[tuple[tuple[str, ...], str]]:
    """Give every problem inside the parts of a config as (key path, message); for `config.load(check=...)`."""
    found = [problem for keys, folder, part in _parts(config) for problem in _problems_of(keys, folder, part)]
    return [*found, *_unknown_losses(config)]


def _parts(config: RunConfig) -> Iterator[tuple[tuple[str, ...], Folder, Part]]:
    for stream, part in config.streams.items():
        yield ("streams", stream), "encoders", part
    yield ("fusion",), "fusion", config.fusion
    for trait, part in config.runs.fusion.items():
        yield ("runs", "fusion", trait), "fusion", part
    yield ("head",), "heads", config.head
    yield ("objective",), "objectives", config.objective


def _unknown_losses(config: RunConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    from mmtraits import losses  # here, because this module is imported where torch is not

    own = [
        name
        for _, folder, part in _parts(config)
        if part.use in names(folder)
        for name in getattr(getattr(module(folder, part.use), CLASSES[folder]), "aux_losses", ())
    ]
    known = [*losses.LOSSES, *own]
    for name in config.loss:
        if name == "gaussian_nll" and name not in known:
            yield ("loss", name), "no part gives the log_variance that it needs; use a head that does, or mse"
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            yield ("loss", name), f"no loss of that name; {hint}"


def _problems_of(keys: tuple[str, ...], folder: Folder, part: Part) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        options(folder, part)
    except ConfigError as error:
        yield keys, str(error)
    except ValidationError as error:
        model = module(folder, part.use).Config
        for found in error.errors():
            yield (*keys, *(str(step) for step in found["loc"])), describe(found, model)
