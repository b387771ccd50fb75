"""Text to token ids with a tokenizer.json, the same file in training and in a bundle."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from mmtraits.errors import BundleError, ConfigError
from mmtraits.schema import TextSpec

_PACKAGE_PREFIX = "package:"


def tokenizer_file(tokenizer: str, root: Path | None = None) -> Path:
    """The tokenizer.json that a TextSpec names: `package:NAME/PATH`, or a path relative to `root` (a bundle's folder).

    Raises ConfigError for a package that is not installed and BundleError for a file that is not there.
    """
    if tokenizer.startswith(_PACKAGE_PREFIX):
        name, _, inside = tokenizer.removeprefix(_PACKAGE_PREFIX).partition("/")
        package = util.find_spec(name) if name.isidentifier() else None  # finds the folder and imports nothing
        if package is None or not package.submodule_search_locations:
            raise ConfigError(f"{tokenizer}: no package {name}; install it, or name a tokenizer.json by its path")
        path = Path(package.submodule_search_locations[0]) / inside
    else:
        path = (root or Path()) / tokenizer
    if not path.is_file():
        raise BundleError(f"{path}: no such file; expected the tokenizer.json of the text stream")
    return path


class Tokenizer:
    """Token ids of one text stream. Raises BundleError for a file that is no tokenizer."""

    def __init__(self, spec: TextSpec, root: Path | None = None) -> None:
        path = tokenizer_file(spec.tokenizer, root)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: {error}; expected a tokenizer.json of the tokenizers library") from error
        special = self._tokenizer.num_special_tokens_to_add(False)
        if spec.max_ids <= special:
            raise ConfigError(f"max_ids: {spec.max_ids} leaves no room for text; expected more than {special}")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=spec.max_ids)

    def encode(self, text: str) -> tuple[NDArray[np.int64], bool]:
        """Token ids (T,), special ones included, T <= max_ids, and whether text was cut off; T = 0 for blank text."""
        if not text.strip():
            return np.zeros(0, np.int64), False
        encoding = self._tokenizer.encode(text)
        return np.asarray(encoding.ids, np.int64), bool(encoding.overflowing)
