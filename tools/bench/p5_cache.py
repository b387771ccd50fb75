"""P5: the cache. A folder scored cold ÷ the same folder warm; a cold run that fills the cache ÷ one without a cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import make_clips
from measuring import Found, in_turn, medians, ratio, wall_s

from mmtraits import predict
from mmtraits.runtime import usable_cores


def measure(folder: Path, rounds: int) -> list[Found]:
    """Forty 720p clips of 15 s with the default bundle, wall time in one process that has been up for a while."""
    make_clips.many(folder)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        runs = _Runs(folder / "folder_40", Path(scratch))
        taken = in_turn({"without": runs.without, "cold": runs.cold, "warm": runs.warm}, rounds, wall_s)
        size_mb = sum(path.stat().st_size for path in runs.full.rglob("*.zip")) / 1e6
    cpu = {name: spent[-rounds:] for name, spent in runs.cpu_s.items()}  # not those of the first round
    details = {"wall_s": medians(taken), "cpu_s": medians(cpu), "cache_mb": round(size_mb, 1)}
    cold_cpu = ratio(cpu["cold"], cpu["without"])
    return [
        Found(
            claim="P5", what="cold / warm, 40 clips of 720p 15 s", figure=ratio(taken["cold"], taken["warm"]),
            at_least=50, details=details,
        ),
        Found(
            claim="P5", what="cold with a cache / without", figure=ratio(taken["cold"], taken["without"]),
            at_most=1.03, details=details,
        ),
        Found(claim="P5", what="cold with a cache / without, CPU seconds of all processes", figure=cold_cpu),
    ]  # fmt: skip


class _Runs:
    """The three kinds of run, each into new folders; they must give the same bytes."""

    def __init__(self, clips: Path, scratch: Path) -> None:
        self.clips, self.scratch, self.full = clips, scratch, scratch / "full"
        self.cpu_s: dict[str, list[float]] = {"without": [], "cold": [], "warm": []}
        self.expected = self._run("fill", self.full)

    def without(self) -> None:
        """No cache."""
        self._check("without", None)

    def cold(self) -> None:
        """A cache that is empty at first."""
        shutil.rmtree(self.scratch / "cold", ignore_errors=True)
        self._check("cold", self.scratch / "cold")

    def warm(self) -> None:
        """A cache that holds everything."""
        self._check("warm", self.full)

    def _check(self, kind: str, cache: Path | None) -> None:
        before = sum(os.times()[:4])  # of workers that have ended, too
        if self._run(kind, cache) != self.expected:
            raise RuntimeError(f"{kind}: other rows; expected the same with and without a cache")
        self.cpu_s[kind].append(sum(os.times()[:4]) - before)

    def _run(self, kind: str, cache: Path | None) -> bytes:
        out = self.scratch / f"out_{kind}"
        outcome = predict.run([self.clips], out, workers=usable_cores(), batch=8, cache=cache)
        rows = (out / "results.csv").read_bytes()
        shutil.rmtree(out)
        if outcome.counts["ok"] != len(list(self.clips.glob("*.mp4"))):
            raise RuntimeError(f"{self.clips}: {dict(outcome.counts)}; expected good clips alone")
        return rows
