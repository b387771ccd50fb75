"""P4: clips per second with the batch size that a job finds for itself ÷ with the best fixed one."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import make_clips
from measuring import Found, in_turn, medians, wall_s

from mmtraits import predict
from mmtraits.jobs.journal import Journal
from mmtraits.runtime import usable_cores

FIXED = (1, 4, 8, 16, 32)


def measure(folder: Path, rounds: int) -> list[Found]:
    """Forty 720p clips of 15 s with the default bundle; wall time with the search for the size in it."""
    make_clips.many(folder)
    works = {"auto": partial(_run, folder, None)} | {str(size): partial(_run, folder, size) for size in FIXED}
    taken = in_turn(works, rounds, wall_s, drop_above=1.5)
    middle = medians(taken)
    best = min((name for name in taken if name != "auto"), key=lambda name: middle[name])
    ratios = sorted(other / auto for other, auto in zip(taken[best], taken["auto"], strict=True))
    details = {"wall_s": middle, "best": best, "found": _found(folder)}
    return [
        Found(
            claim="P4", what="automatic batch / best fixed of 1, 4, 8, 16, 32, 40 clips of 720p 15 s",
            figure=ratios[len(ratios) // 2], at_least=0.97, details=details,
        )
    ]  # fmt: skip


def _run(folder: Path, batch: int | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        predict.run([folder / "folder_40"], out, workers=usable_cores(), batch=batch)


def _found(folder: Path) -> int | None:
    """Which size a job finds."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        predict.run([folder / "folder_40"], out, workers=usable_cores())
        with Journal(Path(out)) as journal:
            return journal.batch
