"""P11: loading alone by several workers: what a second one gains, and what too many cost.

Wall seconds of `workers.decode` over a folder, the start of the processes included. Nothing else happens with the
windows than that they are received.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import make_clips
from measuring import Found, in_turn, medians, ratio, wall_s

from mmtraits.jobs.inputs import find
from mmtraits.media.assemble import Window
from mmtraits.runtime import Predictor, usable_cores
from mmtraits.workers import Job, decode

_TIMES_TOO_MANY = 4


def measure(folder: Path, rounds: int) -> list[Found]:
    """Forty 720p clips of 15 s as the default bundle wants them."""
    make_clips.many(folder)
    predictor, cores = Predictor(threads=1), usable_cores()
    clips = find([folder / "folder_40"])
    jobs = [Job(clip, predictor.specs, predictor.windowing, predictor.root) for clip in clips]
    counts = sorted({1, 2, cores, _TIMES_TOO_MANY * cores})
    taken = in_turn({str(count): partial(_decode, jobs, count) for count in counts}, rounds, wall_s)
    fitting = [taken[str(count)] for count in counts if count <= cores]
    best = [min(those) for those in zip(*fitting, strict=True)]
    details = {"clips": len(jobs), "cores": cores, "wall_s": medians(taken)}
    return [
        Found(claim="P11", what="loading: two workers / one", figure=ratio(taken["1"], taken["2"]), at_least=1.75,
              details=details),
        Found(claim="P11", what=f"loading: {_TIMES_TOO_MANY * cores} workers on {cores} cores / the best number",
              figure=ratio(best, taken[str(counts[-1])]), at_least=0.95, details=details),
    ]  # fmt: skip


def _decode(jobs: list[Job], workers: int) -> None:
    windows = sum(isinstance(item, Window) for _, item in decode(jobs, workers))
    if windows != len(jobs):
        raise RuntimeError(f"{windows} windows of {len(jobs)} clips; expected one each")
