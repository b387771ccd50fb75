"""Windows of many clips through the model: sorted by size, cut into batches, several passes at once on a CPU."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.heard import Heard
from mmtraits.runtime import Predictor, usable_cores
from mmtraits.schema import FrameSpec, InputSpec, Raw, TextSpec, WaveSpec

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32)
_SORTED = 4  # batches that are sorted together
_FIRST_IS_SLOWER = 1.4  # than the second pass of a size, at most
_GAIN = 0.03  # by which a larger batch must be quicker per window: it costs memory, and work after a crash
_MOST_PASSES = 8  # at once; each needs the memory of its batch
_TYPICAL = 0.25  # of a stream's longest text


class Waiting(NamedTuple):
    """A window that is to be scored, and where its answer goes."""

    heard: Heard
    place: int
    streams: Mapping[str, Raw]

    @property
    def size(self) -> int:
        """Bytes: windows of one size need no padding in a batch."""
        return sum(raw.data.nbytes for raw in self.streams.values())


class Batches:
    """Scores windows in the background; use as a context manager. Not to be shared by threads.

    Which windows share a batch depends only on the order of `add` and `flush`. A pass that fails is halved, down to one
    window, whose clip then has the reason `out_of_memory`.
    """

    def __init__(self, predictor: Predictor, passes: int) -> None:
        self._predictor, self._passes = predictor, passes
        self._pool = ThreadPoolExecutor(passes, thread_name_prefix="scoring")
        self._buffer: list[Waiting] = []
        self._running: deque[Future[None]] = deque()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def tuned(self) -> Future[int]:
        """The best batch size, as soon as it is found."""
        return self._pool.submit(tune, self._predictor)

    def add(self, window: Waiting, batch: int) -> None:
        """Score a window sometime; waits where too much is waiting already."""
        self._buffer.append(window)
        if len(self._buffer) >= (batch if batch == 1 else _SORTED * batch):
            self.flush(batch)

    def flush(self, batch: int) -> list[Future[None]]:
        """Cut all that waits into batches; what runs then."""
        by_size = sorted(self._buffer, key=lambda window: window.size)
        self._buffer = []
        for start in range(0, len(by_size), batch):
            self._running.append(self._pool.submit(score, self._predictor, by_size[start : start + batch]))
        while len(self._running) > 2 * self._passes:
            self._running.popleft().result()
        return list(self._running)


def group_size(batch: int) -> int:
    """Neighbouring clips that are committed together: windows of two batches' worth of clips are sorted by size."""
    return 1 if batch == 1 else 2 * batch


def passes_at_once(device: str) -> tuple[int, int]:
    """How many forward passes run side by side, and the threads of each: a core does most with a pass of its own."""
    if device != "cpu":
        return 1, usable_cores()
    passes = min(usable_cores(), _MOST_PASSES)
    return passes, usable_cores() // passes


def score(predictor: Predictor, windows: Sequence[Waiting]) -> None:
    """One pass; if it fails, each half of it."""
    try:
        scores, distances = predictor.examine([window.streams for window in windows])
    except Exception as error:  # onnxruntime's exceptions share no public base
        if len(windows) == 1:
            log.warning("scoring a window failed: %s", error)
            windows[0].heard.lost(error)
            return
        log.warning("a pass over %d windows failed and is halved: %s", len(windows), error)
        middle = len(windows) // 2
        score(predictor, windows[:middle])
        score(predictor, windows[middle:])
        return
    for window, answer in zip(windows, zip(scores, distances, strict=True), strict=True):
        window.heard.answers[window.place] = answer


def tune(predictor: Predictor) -> int:
    """The smallest batch size that is about as quick per window as any: larger ones are tried while they gain."""
    window = {name: _noise(spec, predictor.windowing.length_s) for name, spec in predictor.specs.items()}
    best = 1
    try:
        _seconds(predictor, [window])
        best_s = min(_seconds(predictor, [window]) for _ in range(2))
        for size in SIZES[1:]:
            found_s = _seconds(predictor, [window] * size) / size
            if found_s < best_s * _FIRST_IS_SLOWER:
                found_s = min(found_s, _seconds(predictor, [window] * size) / size)
            if found_s > best_s * (1 - _GAIN):
                break
            best, best_s = size, found_s
    except Exception as error:  # no memory for more
        log.info("batches larger than %d: %s", best, error)
    return best


def _seconds(predictor: Predictor, windows: Sequence[Mapping[str, Raw]]) -> float:
    """Of a pass; where it can be told, of its own, whatever else the machine does."""
    clock = time.thread_time if predictor.in_caller else time.perf_counter
    started = clock()
    predictor.examine(windows)
    return clock() - started


def _noise(spec: InputSpec, length_s: float) -> Raw:
    """A full window of one stream."""
    data: NDArray[np.generic]
    if isinstance(spec, FrameSpec):
        data = np.full((spec.frames, spec.height_px, spec.width_px, 3), 127, np.uint8)
    elif isinstance(spec, WaveSpec):
        seconds = length_s if spec.max_s is None else min(length_s, spec.max_s)
        data = np.random.default_rng(0).uniform(-0.1, 0.1, round(seconds * spec.sample_rate)).astype(np.float32)
    elif isinstance(spec, TextSpec):
        data = np.zeros(max(1, round(_TYPICAL * spec.max_ids)), np.int64)
    else:
        data = np.zeros((1, spec.width), np.float32)
    return Raw(data, np.ones(len(data), np.bool_))
