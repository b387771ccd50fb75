"""How the benchmarks measure: pairs in turn, medians of ratios, CPU seconds or wall time, one line per claim."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

Clock = Callable[[], float]
cpu_s: Clock = time.process_time  # of all threads, user and system
wall_s: Clock = time.perf_counter

_LEAST_S, _LONG_S = 0.1, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One figure of a claim. `at_least` or `at_most` is the target; neither: reported only."""

    claim: str
    what: str
    figure: float
    at_least: float | None = None
    at_most: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_least is not None:
            return self.figure >= self.at_least
        return None if self.at_most is None else self.figure <= self.at_most

    def line(self) -> str:
        """A row of the printed table."""
        target = f">= {self.at_least}" if self.at_least is not None else f"<= {self.at_most}"
        verdict = {True: "held", False: "MISSED", None: "-"}[self.held]
        shown = "-" if self.held is None else target
        return f"{self.claim:4} {self.what:76} {self.figure:9.3f}  {shown:>8}  {verdict}"

    def plain(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self) | {"held": self.held, "figure": round(self.figure, 4)}


def seconds(work: Callable[[], object], clock: Clock = cpu_s) -> float:
    """How long `work` takes."""
    started = clock()
    work()
    return clock() - started


def in_turn(
    works: Mapping[str, Callable[[], object]], rounds: int, clock: Clock = cpu_s, *, drop_above: float = math.inf
) -> dict[str, list[float]]:
    """Seconds of each, `rounds` times, one after the other, every second round backwards; one unmeasured round first.

    What else the machine does then meets all of them alike. Short ones are repeated until they last a tenth of a
    second. What took more than `drop_above` times the shortest in a first round is not measured on.
    """
    first = {name: _first(work, clock) for name, work in works.items()}
    kept = [name for name in works if first[name] <= drop_above * min(first.values())]
    repeats = {name: max(1, math.ceil(_LEAST_S / max(first[name], 1e-4))) for name in kept}
    taken: dict[str, list[float]] = {name: [] for name in kept}
    for turn in range(rounds):
        for name in kept if turn % 2 == 0 else reversed(kept):
            taken[name].append(seconds(partial(_repeat, works[name], repeats[name]), clock) / repeats[name])
    return taken


def _first(work: Callable[[], object], clock: Clock) -> float:
    """The very first time libraries are still loaded: a short work is done once more."""
    taken = seconds(work, clock)
    return min(taken, seconds(work, clock)) if taken < _LONG_S else taken


def _repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def ratio(above: list[float], below: list[float]) -> float:
    """Median over the rounds of one divided by the other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def medians(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds of each."""
    return {name: round(statistics.median(values), 5) for name, values in taken.items()}


def machine() -> dict[str, Any]:
    """What it ran on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("numpy", "av", "onnxruntime", "opencv-python-headless", "torch")
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in names},
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
