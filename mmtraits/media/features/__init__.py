"""Vectors that NumPy makes of a clip, in training and at run time: the producers that `VectorSpec.producer` names.

A producer is one file here: `NAMES`, one name per column; `REASON`, of `schema.REASONS`, for a clip that has none of
it; and `vectors(source: Source) -> Raw`, float32 (T, len(NAMES)) and mask of one window. T = 0 says that it is absent.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from mmtraits.errors import ConfigError
from mmtraits.media.transcript import Utterance
from mmtraits.schema import Clip, Raw, VectorSpec

EXTERNAL = "external"  # not made here: read from files


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a producer may read of one window.

    turns: what everybody says in the whole clip; said: what the scored person says in this window (all that is said,
    where speakers are not told apart; all of the clip, where it is not timed). span_s: start and end of the window.
    """

    clip: Clip
    turns: Sequence[Utterance]
    said: Sequence[Utterance]
    span_s: tuple[float, float]

    @property
    def text(self) -> str:
        """What the scored person says in this window."""
        return " ".join(utterance.text for utterance in self.said)


def names() -> list[str]:
    """Every producer, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if hasattr(_import(path.stem), "vectors"))


@cache
def producer(spec: VectorSpec) -> ModuleType:
    """The file that a spec names; ConfigError where there is none or its vectors have another width."""
    known = names()
    if spec.producer not in known:
        close = difflib.get_close_matches(spec.producer, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join([EXTERNAL, *known])}"
        raise ConfigError(f"producer: found {spec.producer!r}, no file in media/features/; {hint}")
    module = _import(spec.producer)
    if spec.width != len(module.NAMES):
        raise ConfigError(
            f"producer {spec.producer!r}: found width {spec.width}; it makes vectors of {len(module.NAMES)}"
        )
    return module


def produce(spec: VectorSpec, source: Source) -> Raw:
    """The vectors (T, width) of one window. Raises ConfigError as `producer` does."""
    raw: Raw = producer(spec).vectors(source)
    return raw if raw.mask.any() else spec.empty()


def _import(name: str) -> ModuleType:
    return importlib.import_module(
        "mmtraits.media.features" if name == "__init__" else f"mmtraits.media.features.{name}"
    )
