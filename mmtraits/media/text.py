"""Text to token ids with a tokenizer.json, the same file in training and in a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from mmtraits.errors import BundleError, ConfigError
from mmtraits.packages import located
from mmtraits.schema import TextSpec


class Tokenizer:
    """Token ids of one text stream; `root` is the folder of the bundle that a relative tokenizer path is meant in.

    Raises ConfigError for a file that is not there and BundleError for one that is no tokenizer.
    """

    def __init__(self, spec: TextSpec, root: Path | None = None) -> None:
        path = located(spec.tokenizer, root)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: {error}; expected a tokenizer.json of the tokenizers library") from error
        special = self._tokenizer.num_special_tokens_to_add(False)
        if spec.max_ids <= special:
            raise ConfigError(f"max_ids: {spec.max_ids} leaves no room for text; expected more than {special}")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=spec.max_ids)

    def to_json(self) -> str:
        """A tokenizer.json that gives the same ids to whoever opens it: it cuts at `max_ids` and does not pad."""
        return str(self._tokenizer.to_str())

    def encode(self, text: str) -> tuple[NDArray[np.int64], bool]:
        """Token ids (T,), special ones included, T <= max_ids, and whether text was cut off; T = 0 for blank text."""
        if not text.strip():
            return np.zeros(0, np.int64), False
        encoding = self._tokenizer.encode(text)
        return np.asarray(encoding.ids, np.int64), bool(encoding.overflowing)
