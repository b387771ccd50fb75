"""A long clip takes no more memory than a short one while its windows are let go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import clock
import pytest

PROGRAM = """
import sys
from pathlib import Path
from mmtraits.media import load
from mmtraits.schema import Clip, FrameSpec, WaveSpec, Windowing
specs = {"scene": FrameSpec(height_px=224, width_px=224, crop="full"), "voice": WaveSpec(sample_rate=16000)}
clip, windowing = Clip(id="a", video=Path(sys.argv[1])), Windowing(length_s=5, hop_s=5)
windows = sum(isinstance(item, load.Window) for item in load.stream(clip, specs, windowing))
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(windows, peak.split()[1])
"""


def windows_and_peak_mb(path: Path) -> tuple[int, float]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
    windows, peak_kb = done.stdout.split()
    return int(windows), int(peak_kb) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_memory_is_flat(tmp_path: Path) -> None:
    """All frames of 30 windows would be 140 MB, all sound at its own rate 26 MB."""
    short = clock.write(tmp_path / "short.mp4", seconds=10, fps=8)
    long = clock.write(tmp_path / "long.mp4", seconds=150, fps=8)
    (few, before), (many, after) = windows_and_peak_mb(short), windows_and_peak_mb(long)
    assert (few, many) == (2, 30)
    assert after < before + 20
