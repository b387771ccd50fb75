"""Nothing opens a socket: every process of a command runs where Python's are recorded and the kernel's are deadly."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

from mmtraits.data import synthetic

ROOT = Path(__file__).parents[2]
KERNEL = sys.platform == "linux" and platform.machine() == "x86_64"  # whose numbers the filter below knows
# Python runs this first in every process, spawned ones too. The filter outlives fork and exec and needs no rights:
# socket() of any family but AF_UNIX is answered with ACTION, also where libav or another C library calls it.
GUARD = """
import ctypes, os, struct, sys
def record(event, arguments):
    if not event.startswith(("socket.", "urllib.")) or event in ("socket.__new__", "socket.gethostname"):
        return
    if getattr(arguments[0], "family", None) == 1:  # AF_UNIX: between our own processes
        return
    with open(os.environ["ATTEMPTS"], "a") as file:
        file.write(f"{event} {arguments!r}\\n")
    raise OSError(f"no network here: {event}")
sys.addaudithook(record)
if action := int(os.environ["ACTION"]):
    lines = [(32, 0, 0, 0), (21, 0, 3, 41), (32, 0, 0, 16), (21, 1, 0, 1), (6, 0, 0, action), (6, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(len(lines), ctypes.cast(code, ctypes.c_void_p))), 0, 0) == 0
"""
DEADLY, REFUSED = 0x80000000, 0x00050000 | 97  # end the process; errno EAFNOSUPPORT
COMMAND = "import sys; from mmtraits.cli import main; main()"


class Offline:
    """Runs Python where no socket can be opened, and knows the attempts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.action = folder, DEADLY
        self.attempts = folder / "attempts.txt"
        (folder / "guard").mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(GUARD)

    def python(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        env |= {
            "PYTHONPATH": str(self.folder / "guard"),
            "ATTEMPTS": str(self.attempts),
            "ACTION": str(self.action if KERNEL else 0),
        }
        return subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=self.folder, env=env, capture_output=True, text=True,
            check=False, timeout=600,
        )  # fmt: skip

    def mmtraits(self, *arguments: object) -> str:
        done = self.python("-c", COMMAND, *arguments)
        assert done.returncode == 0, (arguments, done.returncode, done.stderr[-3000:])
        assert not self.attempts.exists(), self.attempts.read_text()
        return done.stdout


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    return Offline(tmp_path)


def test_the_guard_sees_python(offline: Offline) -> None:
    done = offline.python("-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')")
    assert done.returncode != 0
    assert "127.0.0.1" in offline.attempts.read_text()


@pytest.mark.skipif(not KERNEL, reason="the filter knows Linux on x86-64")
def test_the_guard_sees_c_libraries(offline: Offline) -> None:
    done = offline.python("-c", "import ctypes; ctypes.CDLL(None).socket(2, 1, 0); print('opened')")
    assert done.returncode == -31  # SIGSYS
    assert "opened" not in done.stdout
    done = offline.python("-c", "import av; av.open('http://127.0.0.1:9/x.mp4')")
    assert done.returncode == -31  # libav would go there if it were let


def test_predicting_opens_no_socket(offline: Offline) -> None:
    """In workers, with media that ask for addresses among the clips."""
    media = offline.folder / "media"
    media.mkdir()
    with wave.open(str(media / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((np.sin(np.arange(8000)) * 9000).astype("<i2").tobytes())
    for name in ("list.m3u8", "list.mp4"):
        (media / name).write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    (media / "concat.mp4").write_text("ffconcat version 1.0\nfile http://127.0.0.1:9/x.mp4\n")
    (media / "http:").mkdir()
    shutil.copy(media / "tone.wav", media / "http:" / "tcp:127.0.0.1:9.wav")
    bundle = write_tiny_bundle(offline.folder / "bundle")
    for workers in (0, 2):
        out = offline.folder / f"out{workers}"
        offline.mmtraits("predict", media, "--model", bundle, "--out", out, "--workers", workers)
        rows = (out / "results.csv").read_text().splitlines()[1:]
        states = [row.split(",")[1] for row in rows]
        assert states.count("degraded") == 2, rows
        assert states.count("failed") == len(rows) - 2 >= 2
    (bundle / "MODEL_CARD.md").write_text("A card.")
    offline.mmtraits("check", bundle)


@pytest.mark.slow
def test_training_evaluating_exporting_and_scoring_open_no_socket(offline: Offline) -> None:
    offline.action = REFUSED  # urllib3, which others import, asks at import whether a local IPv6 socket can be had
    synthetic.write_corpus(offline.folder / "corpus", clips=16, seconds=1.0)
    corpus = offline.folder / "corpus" / "clips.csv"
    shutil.copytree(ROOT / "configs", offline.folder / "configs")
    epoch = ["name=mine", f"data.manifest={corpus}", "trainer.max_epochs=1"]
    offline.mmtraits("check", corpus)
    offline.mmtraits("train", "configs/base.yaml", *epoch)
    offline.mmtraits("evaluate", "checkpoints/mine", "--manifest", corpus)
    offline.mmtraits("export", "checkpoints/mine", "--out", "bundle")
    offline.mmtraits("predict", "corpus/media", "--model", "bundle", "--out", "scores")
    assert len((offline.folder / "scores" / "results.csv").read_text().splitlines()) > 1
