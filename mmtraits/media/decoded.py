"""Arrays that another program decoded -> a clip of one window, as `load` would have given it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.errors import ConfigError
from mmtraits.media.assemble import Window
from mmtraits.media.audio import QUIET_DBFS, loudness_dbfs
from mmtraits.media.load import LoadedClip
from mmtraits.schema import FrameSpec, InputSpec, Raw, TextSpec, WaveSpec, Windowing, join_reasons

_REASONS = {FrameSpec: "no_face", WaveSpec: "no_sound", TextSpec: "no_transcript"}


def from_arrays(arrays: Mapping[str, NDArray[Any]], specs: Mapping[str, InputSpec], windowing: Windowing) -> LoadedClip:
    """{stream: array} of one window -> a clip; streams that are not there are absent, and so is sound below −50 dBFS.

    Frames (T, H, W, 3) uint8, a wave (S,) float32 in [−1, 1], token ids (T,) int64, vectors (T, D) float32: of the
    sizes and rates of `specs`, no longer than a window. Raises ConfigError for any other array.
    """
    if unknown := sorted(arrays.keys() - specs.keys()):
        raise ConfigError(f"decoded clip: streams {', '.join(unknown)}; the bundle has {', '.join(specs)}")
    raws = {name: _raw(name, arrays.get(name), spec, windowing) for name, spec in specs.items()}
    reasons = {_REASONS[type(specs[s])] for s, raw in raws.items() if not raw.mask.any() and type(specs[s]) in _REASONS}
    if not all(np.isfinite(raw.data).all() for raw in raws.values() if raw.data.dtype.kind == "f"):
        reasons.add("non_finite")
    seconds = [len(raws[s].mask) / spec.sample_rate for s, spec in specs.items() if isinstance(spec, WaveSpec)]
    length_s = max(seconds, default=0.0) or windowing.length_s
    return LoadedClip(
        windows=(Window(start_s=0.0, end_s=length_s, streams=raws),),
        reasons=tuple(join_reasons(reasons).split(";")) if reasons else (),
        duration_s=length_s if any(seconds) else math.nan,
        details={},
    )


def _raw(name: str, array: NDArray[Any] | None, spec: InputSpec, windowing: Windowing) -> Raw:
    empty = spec.empty()
    if array is None:
        return empty
    expected = f"{empty.data.dtype} ({', '.join(['T', *map(str, empty.data.shape[1:])])})"
    if not isinstance(array, np.ndarray) or (array.dtype, array.shape[1:]) != (empty.data.dtype, empty.data.shape[1:]):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ConfigError(f"decoded clip: {name} is {found}; expected {expected}")
    if array.ndim != empty.data.ndim:  # a lone number
        raise ConfigError(f"decoded clip: {name} has no axes; expected {expected}")
    if len(array) > (most := _most(spec, windowing)):
        raise ConfigError(f"decoded clip: {name} has {len(array)} steps; expected at most {most:g}, one window")
    quiet = isinstance(spec, WaveSpec) and loudness_dbfs(float(np.dot(array, array)), len(array)) < QUIET_DBFS
    if quiet and np.isfinite(array).all():
        return empty
    return Raw(array, np.ones(len(array), np.bool_))


def _most(spec: InputSpec, windowing: Windowing) -> float:
    if isinstance(spec, FrameSpec):
        return spec.frames
    if isinstance(spec, TextSpec):
        return spec.max_ids
    if isinstance(spec, WaveSpec):
        return math.ceil(spec.sample_rate * min(windowing.length_s, spec.max_s or math.inf))
    return math.inf
