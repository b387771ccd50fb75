"""Text to token ids with a tokenizer.json, the same file in training and in a bundle."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from mmtraits.errors import BundleError, ConfigError
from mmtraits.packages import located
from mmtraits.schema import TextSpec

_CHARACTERS_PER_ID = 16  # of running text 4; with more the head alone shows that a text is cut


class Tokenizer:
    """Token ids of one text stream; `root` is the folder of the bundle that a relative tokenizer path is meant in.

    Raises ConfigError for a file that is not there and BundleError for one that is no tokenizer.
    """

    def __init__(self, spec: TextSpec, root: Path | None = None) -> None:
        name, _, expected = spec.tokenizer.partition("#sha256=")
        path = located(name, root)
        content = path.read_bytes()
        if expected and hashlib.sha256(content).hexdigest() != expected:
            raise BundleError(f"{path}: changed since the bundle was opened; copy the bundle again")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: {error}; expected a tokenizer.json of the tokenizers library") from error
        special = self._tokenizer.num_special_tokens_to_add(False)
        if spec.max_ids <= special:
            raise ConfigError(f"max_ids: {spec.max_ids} leaves no room for text; expected more than {special}")
        # The tokenizers library encodes a whole text before it cuts: a second and 160 MB for each million characters.
        self._head = _CHARACTERS_PER_ID * spec.max_ids
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=spec.max_ids)

    def to_json(self) -> str:
        """A tokenizer.json that gives the same ids to whoever opens it: it cuts at `max_ids` and does not pad."""
        return str(self._tokenizer.to_str())

    def encode(self, text: str) -> tuple[NDArray[np.int64], bool]:
        """Token ids (T,), special ones included, T <= max_ids, and whether text was cut off; T = 0 for blank text."""
        if not text.strip():
            return np.zeros(0, np.int64), False
        parts = text[: self._head].rsplit(maxsplit=1)  # what follows the last blank may be a cut word
        head = parts[0] if len(text) > self._head and len(parts) == 2 else text
        encoding = self._tokenizer.encode(head)
        if len(head) < len(text) and not encoding.overflowing:  # rare: long words or long blanks
            encoding = self._tokenizer.encode(text)
        return np.asarray(encoding.ids, np.int64), bool(encoding.overflowing)
