"""P15: the work of a job that is killed half-way and goes on ÷ that of one which is not.

Wall seconds of whole processes. What it costs to start one (imports, opening the model, checking what is done) is
measured with a job that is finished already, and taken off once: the interrupted job starts twice.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import make_clips
from measuring import Found, seconds, wall_s

from mmtraits.runtime import usable_cores

CLIPS = 200
_SCRIPT = """
import os, signal, sys
from mmtraits import predict
media, out, workers, stop = sys.argv[1:]
def progress(done, total):
    if done >= int(stop):
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    predict.run([media], out, workers=int(workers), progress=progress)
"""


def measure(folder: Path, rounds: int) -> list[Found]:
    """Two hundred 640x360 clips of 15 s with the default bundle, killed when a hundred rows are there."""
    media = make_clips.small(folder, CLIPS)[0].parent
    kept, with_start, taken = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as whole, tempfile.TemporaryDirectory(dir=folder) as killed:
            usual = seconds(partial(_run, media, whole, CLIPS + 1), wall_s)
            start = seconds(partial(_run, media, whole, CLIPS + 1), wall_s)
            before = seconds(partial(_run, media, killed, CLIPS // 2), wall_s)
            after = seconds(partial(_run, media, killed, CLIPS + 1), wall_s)
            if (Path(whole) / "results.csv").read_bytes() != (Path(killed) / "results.csv").read_bytes():
                raise RuntimeError("the job that was killed has other results")
        kept.append((before + after - start) / usual)
        with_start.append((before + after) / usual)
        taken.append({"whole_s": usual, "start_s": start, "before_s": before, "after_s": after})
    details = {"clips": CLIPS, "with_second_start": statistics.median(with_start), "rounds": taken}
    return [
        Found(
            claim="P15", what="work before and after kill -9 / uninterrupted, 200 clips, start of a process excluded",
            figure=statistics.median(kept), at_most=1.03, details=details,
        )
    ]  # fmt: skip


def _run(media: Path, out: str, stop: int) -> None:
    script = Path(out).parent / "p15_job.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    call = [sys.executable, str(script), str(media), out, str(usable_cores()), str(stop)]
    subprocess.run(call, check=stop > CLIPS, stderr=subprocess.DEVNULL)
