"""P3: the roofline of a folder, from its stages measured alone, ÷ the wall time of scoring it.

bound = sum of the stages' CPU seconds per clip / cores: every stage can use every core, so that none alone is a bound
that is higher. Both stages and the whole are measured in each round; the process and its libraries are up already.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import make_clips
from measuring import Found, cpu_s, seconds, wall_s

from mmtraits import predict
from mmtraits.jobs.inputs import find
from mmtraits.media.assemble import Window
from mmtraits.runtime import Predictor, usable_cores
from mmtraits.workers import Job, decode_one

_SAMPLE = 8  # of the clips, for the stages


def measure(folder: Path, rounds: int) -> list[Found]:
    """Forty 720p clips of 15 s with the default bundle, one decoding worker per core."""
    make_clips.many(folder)
    clips, cores = find([folder / "folder_40"]), usable_cores()
    predictor = Predictor(threads=1)
    found, taken = [], []
    for turn in range(rounds + 1):
        windows: list[Window] = []
        decoding_s = seconds(lambda: windows.extend(_decoded(predictor, clips[:_SAMPLE])), cpu_s) / _SAMPLE  # noqa: B023  (run at once)
        scoring_s = seconds(lambda: [predictor.examine([w.streams]) for w in windows], cpu_s) / _SAMPLE  # noqa: B023  (run at once)
        with tempfile.TemporaryDirectory(dir=folder) as out:
            wall = seconds(lambda: predict.run([folder / "folder_40"], out, workers=cores), wall_s)  # noqa: B023  (run at once)
        if turn:  # the first warms up
            found.append((decoding_s + scoring_s) * len(clips) / cores / wall)
            taken.append({"decoding_cpu_s": decoding_s, "scoring_cpu_s": scoring_s, "wall_s": wall})
    details = {"clips": len(clips), "cores": cores, "rounds": taken, "efficiency": found}
    return [
        Found(
            claim="P3", what="roofline bound / wall time, 40 clips of 720p 15 s", figure=statistics.median(found),
            at_least=0.85, details=details,
        )
    ]  # fmt: skip


def _decoded(predictor: Predictor, clips: list) -> list[Window]:
    jobs = [Job(clip, predictor.specs, predictor.windowing, predictor.root) for clip in clips]
    return [item for job in jobs for item in decode_one(job) if isinstance(item, Window)]
