"""A folder scored on Ray, in real processes: the same bytes as in one process, also after an interruption."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import leaky_bundle, sounds

from mmtraits import predict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Ray is tested on Linux"),
]
CLIPS = 60


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Clips, one of them broken, a bundle whose scores tell of batch mates, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("ray")
    sounds(folder / "media", CLIPS)
    (folder / "media" / "3" / "broken.mp4").write_bytes(b"this is no video")
    leaky_bundle(folder / "bundle")
    here = Path.cwd()
    os.chdir(folder)
    try:
        predict.run(["media"], "whole", bundle="bundle", batch=4)
    finally:
        os.chdir(here)
    return folder


def start(work: Path, out: str) -> subprocess.Popen[str]:
    """Paths are relative, as they are typed."""
    command = [sys.executable, "-c", "from mmtraits.cli import main; main()", "predict", "media", "--model", "bundle"]
    options = ["--out", out, "--batch", "4", "--speech-to-text", "none", "--engine", "ray"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [*command, *options], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def results(work: Path, out: str) -> list[bytes]:
    return [(work / out / name).read_bytes() for name in predict.OUTPUTS]


def finished(out: Path) -> int:
    """Clips in the journal of a job that does not run."""
    with contextlib.closing(sqlite3.connect(out / "job.sqlite")) as database:
        (count,) = database.execute("SELECT count(*) FROM clips").fetchone()
    return int(count)


def test_ray_gives_the_bytes_of_one_process_also_after_a_kill(work):
    done = start(work, "ray")
    said, errors = done.communicate(timeout=240)
    assert done.returncode == 0, errors
    assert results(work, "ray") == results(work, "whole")
    assert said.splitlines()[0].startswith(f"{CLIPS + 1} clips:")
    assert "Traceback" not in errors and "Warning" not in errors

    killed = start(work, "killed")
    journal = work / "killed" / "job.sqlite-wal"
    began = time.monotonic()
    while not (journal.exists() and journal.stat().st_size > 80_000) and killed.poll() is None:
        assert time.monotonic() - began < 120
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    kept = finished(work / "killed")
    again = start(work, "killed")
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert results(work, "killed") == results(work, "whole")
    assert killed.returncode == -signal.SIGKILL and 0 < kept < CLIPS + 1
