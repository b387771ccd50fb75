"""P12: peak memory of scoring one clip of an hour ÷ of 15 s, and its growth per clip over five hundred more.

Resident memory of the job and of its worker together, as the kernel reports it; no swap is counted.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import make_clips
from measuring import Found

CLIPS, SETTLED = 600, 50
_SCRIPT = """
import json, os, sys, threading, time
from pathlib import Path

def megabytes(pid, field):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

def called(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

def family(field):
    children = {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}
    started = [pid for pid in children if called(pid) != called("self")]  # until then it is a view of this process
    return sum(megabytes(pid, field) for pid in ["self", *started])

peak, clips = 0.0, {}

def watch():
    global peak
    while True:
        peak = max(peak, family("VmHWM"))
        time.sleep(0.1)

def progress(done, total):
    clips[done] = family("VmRSS")

if __name__ == "__main__":
    from mmtraits import predict
    media, manifest, out = sys.argv[1:]
    threading.Thread(target=watch, daemon=True).start()
    predict.run([media] if media else [], out, manifest=manifest or None, workers=1, progress=progress)
    print(json.dumps([peak, clips]))
"""


def measure(folder: Path, rounds: int) -> list[Found]:
    """One worker, the default bundle; `rounds` is not used: memory does not vary with what else the machine does."""
    short, long = make_clips.speaking(folder)[0], make_clips.hour(folder)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        alone = folder / "one_clip.mp4"  # without the transcript, which the long one lacks too
        alone.unlink(missing_ok=True)
        alone.hardlink_to(short)
        few_mb, _ = _run(Path(place) / "short", media=alone)
        many_mb, _ = _run(Path(place) / "long", media=long)
        _, grown = _run(Path(place) / "many", manifest=_manifest(Path(place), short))
    steady = [
        (clips, mb) for clips, mb in grown if SETTLED <= clips <= CLIPS - SETTLED
    ]  # the worker ends before the job
    counted, settled = [clips for clips, _ in steady], [mb for _, mb in steady]
    growth = _slope(counted, settled)
    details = {"short_mb": few_mb, "long_mb": many_mb, "after_clips": [counted[0], counted[-1]],
               "mb": [settled[0], settled[-1]]}  # fmt: skip
    return [
        Found(claim="P12", what="peak memory, 60-minute clip / 15 s clip, 720p", figure=many_mb / few_mb, at_most=1.2,
              details=details),
        Found(claim="P12", what=f"growth per clip over {CLIPS - 2 * SETTLED} clips, MB", figure=growth, at_most=0.05,
              details=details),
    ]  # fmt: skip


def _manifest(folder: Path, clip: Path) -> Path:
    """A second of the same clip, again and again."""
    path = folder / "clips.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "video", "text", "end_s"])
        rows.writerows([f"clip {n}", clip, make_clips.SAID, 1.0] for n in range(CLIPS))
    return path


def _run(out: Path, media: Path | str = "", manifest: Path | str = "") -> tuple[float, list[tuple[int, float]]]:
    script = out.with_suffix(".py")
    script.write_text(_SCRIPT, encoding="utf-8")
    call = [sys.executable, str(script), str(media), str(manifest), str(out)]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    peak, clips = json.loads(done.stdout)
    return peak, [(int(count), mb) for count, mb in clips.items()]


def _slope(places: list[int], values: list[float]) -> float:
    """Least squares."""
    middle, mean = sum(places) / len(places), sum(values) / len(values)
    above = sum((place - middle) * (value - mean) for place, value in zip(places, values, strict=True))
    return above / sum((place - middle) ** 2 for place in places)
