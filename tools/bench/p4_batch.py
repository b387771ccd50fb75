"""P4: clips per second with the batch size that a job finds for itself ÷ with the best fixed one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import make_clips
from measuring import Found, in_turn, medians, wall_s

from mmtraits import predict
from mmtraits.jobs.journal import Journal
from mmtraits.runtime import usable_cores

FIXED = (1, 4, 8, 16, 32)
CLIPS = 256  # of fewer no job looks for a size
HOPELESS = 1.2  # times as long as the quickest in a first round


def measure(folder: Path, rounds: int) -> list[Found]:
    """Clips of 640x360 and 15 s with the default bundle; wall time with the search for the size in it."""
    sizes: list[int | None] = []
    works: dict[str, Callable[[], object]] = {str(size): partial(_run, folder, size) for size in FIXED}
    works["auto"] = lambda: sizes.append(_run(folder, None))
    taken = in_turn(works, rounds, wall_s, drop_above=HOPELESS)
    middle = medians(taken)
    best = min((name for name in taken if name != "auto"), key=lambda name: middle[name])
    ratios = sorted(other / auto for other, auto in zip(taken[best], taken["auto"], strict=True))
    details = {"wall_s": middle, "best": best, "found": sizes}
    return [
        Found(
            claim="P4", what=f"automatic batch / best fixed of 1, 4, 8, 16, 32, {CLIPS} clips of 360p 15 s",
            figure=ratios[len(ratios) // 2], at_least=0.97, details=details,
        )
    ]  # fmt: skip


def _run(folder: Path, batch: int | None) -> int | None:
    """Score the clips; the size with which that was done."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        predict.run(make_clips.small(folder, CLIPS), out, workers=usable_cores(), batch=batch)
        with Journal(Path(out)) as journal:
            return journal.batch
