"""Weights and tokenizers that lie inside installed packages, named `package:NAME/PATH`."""

from __future__ import annotations

from importlib import util
from pathlib import Path

from mmtraits.errors import ConfigError

PACKAGE = "package:"


def located(location: str, root: Path | None = None) -> Path:
    """The file or folder that `package:NAME/PATH`, or a plain path relative to `root`, names.

    Raises ConfigError where it does not exist. The package is found, not imported.
    """
    path = _inside_package(location) if location.startswith(PACKAGE) else (root or Path()) / location
    if not path.exists():
        raise ConfigError(f"{location}: there is nothing at {path}; expected a file, a folder or {PACKAGE}NAME/PATH")
    return path


def _inside_package(location: str) -> Path:
    name, _, rest = location.removeprefix(PACKAGE).partition("/")
    found = util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"{location}: no package {name!r} is installed; pip install 'mmtraits[train]' brings ours")
    return Path(found.submodule_search_locations[0]) / rest
