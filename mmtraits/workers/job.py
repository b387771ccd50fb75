"""One clip to be decoded, as plain data, and its decoding with every fault told instead of raised."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.errors import MediaError, MMTraitsError
from mmtraits.media.assemble import Window
from mmtraits.media.clip_cache import ClipCache
from mmtraits.media.load import Ending, stream
from mmtraits.media.probe import LIMITS, Limits
from mmtraits.media.recognise import folder_of
from mmtraits.media.speech import NONE
from mmtraits.media.video import Backend
from mmtraits.schema import Clip, InputSpec, Raw, Windowing

log = logging.getLogger(__name__)
Features = Mapping[str, NDArray[np.float32]]  # stream -> (T, D)


class Job(NamedTuple):
    """One clip and how it is to be decoded. `features`: streams given as vectors (T, D), added to every window."""

    clip: Clip
    specs: Mapping[str, InputSpec]
    windowing: Windowing
    root: Path | None = None
    features: Features = {}  # noqa: RUF012  (never written to)
    limits: Limits = LIMITS
    backend: Backend = "pyav"
    cache: ClipCache | None = None  # windows are taken from there, and put there
    speech_to_text: str = NONE  # as `media.speech.chosen` gives it


@dataclass(order=True)
class Task:
    """One job and how far it has come. `items`: windows, and the ending, that have come and have not been taken."""

    number: int
    job: Job = field(compare=False)
    items: deque[Window | Ending] = field(default_factory=deque, compare=False)
    delivered: int = field(default=0, compare=False)  # windows
    crashes: int = field(default=0, compare=False)
    kills: int = field(default=0, compare=False)


def decode_one(job: Job, tell_duration: Callable[[float], None] | None = None) -> Iterator[Window | Ending]:
    """The windows of one clip and its Ending, without the given vectors; any exception becomes the Ending's reason."""
    make = partial(
        stream, job.clip, job.specs, job.windowing,
        backend=job.backend, root=job.root, limits=job.limits, speech_to_text=job.speech_to_text,
        tell_duration=tell_duration,
    )  # fmt: skip
    try:
        yield from make() if job.cache is None else job.cache.through(job.clip, make)
    except MediaError as error:
        yield failure(error.reason, error)
    except MemoryError as error:
        yield failure("out_of_memory", error)
    except MMTraitsError:
        raise  # the bundle's fault, not the clip's
    except Exception as error:  # the edge where a clip's fault must not become the job's
        log.debug("%s: not decoded", job.clip.id, exc_info=True)
        yield failure("decoder_crash", error)


@cache
def model_bytes(speech_to_text: str) -> int:
    """Memory that a recogniser of speech may take: three times its files."""
    if speech_to_text == NONE:
        return 0
    return 3 * sum(path.stat().st_size for path in folder_of(speech_to_text).rglob("*") if path.is_file())


def with_features(job: Job, items: Iterable[Window | Ending]) -> Iterator[Window | Ending]:
    """Add the vectors given for a clip to each of its windows; without windows they make one."""
    given = {name: Raw(data, np.ones(len(data), np.bool_)) for name, data in job.features.items()}
    alone = bool(given)
    for item in items:
        if isinstance(item, Window):
            alone = False
            yield replace(item, streams={**item.streams, **given}) if given else item
            continue
        if alone:
            absent = {name: spec.empty() for name, spec in job.specs.items()}
            yield Window(start_s=job.clip.start_s, end_s=job.clip.start_s, streams={**absent, **given})
        yield item


def failure(reason: str, error: BaseException | str) -> Ending:
    """The Ending of a clip that was given up for this reason."""
    told = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return Ending(reasons=(reason,), duration_s=math.nan, details={"error": told})
