"""The folder is the registry: `use: conv_mel` in a config is the file `encoders/conv_mel.py`.

A part's file holds a pydantic `Config` and one class named for its folder: `Encoder`, `Fusion` or `Head`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from mmtraits.config import Part, RunConfig, describe
from mmtraits.errors import ConfigError

Folder = Literal["encoders", "fusion", "heads"]


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


def problems(config: RunConfig) -> list[tuple[tuple[str, ...], str]]:
    """Give every problem inside the parts of a config as (key path, message); for `config.load(check=...)`."""
    return [problem for keys, folder, part in _parts(config) for problem in _problems_of(keys, folder, part)]


def _parts(config: RunConfig) -> Iterator[tuple[tuple[str, ...], Folder, Part]]:
    for stream, part in config.streams.items():
        yield ("streams", stream), "encoders", part
    yield ("fusion",), "fusion", config.fusion
    yield ("head",), "heads", config.head


def _problems_of(keys: tuple[str, ...], folder: Folder, part: Part) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        options(folder, part)
    except ConfigError as error:
        yield keys, str(error)
    except ValidationError as error:
        model = module(folder, part.use).Config
        for found in error.errors():
            yield (*keys, *(str(step) for step in found["loc"])), describe(found, model)
