"""Training that is killed while it saves: the last checkpoint always loads, and resuming gives the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from planted import config, plant

from mmtraits.train import fit
from mmtraits.weights import loaded

KILLS = 20
EPOCHS = 200
# Imports once, then trains in one child of its own per line on stdin; says who it is, and how it ended.
ZYGOTE = """
import os, sys
from pathlib import Path
from planted import config
from mmtraits.train import fit
corpus, root, epochs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
settings = config(corpus, trainer__max_epochs=epochs, trainer__patience=epochs)
for _ in sys.stdin:
    child = os.fork()
    if not child:
        fit(settings, root=root, resume=(root / "toy").exists())
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def saved(checkpoint: Path) -> int:
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


@pytest.mark.slow
def test_a_kill_during_a_save_costs_at_most_its_epoch(tmp_path) -> None:
    corpus, root = tmp_path / "corpus", tmp_path / "cut"
    plant(corpus)
    draw = np.random.default_rng(0)
    last = root / "toy" / "single" / "last.ckpt"
    epochs = []
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE, corpus, root, str(EPOCHS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as zygote:
        assert zygote.stdin and zygote.stdout
        for _ in range(KILLS):
            before, deadline_s = saved(last), time.monotonic() + 120
            zygote.stdin.write("go\n")
            zygote.stdin.flush()
            child = int(zygote.stdout.readline())
            while saved(last) == before and time.monotonic() < deadline_s:
                pass
            time.sleep(draw.uniform(0, 0.1))  # an epoch and its save take about as long
            os.kill(child, signal.SIGKILL)
            assert int(zygote.stdout.readline()) == -signal.SIGKILL
            epochs.append(loaded(last)["epoch"])
        zygote.stdin.close()
    assert epochs == sorted(set(epochs)), "every start went on from where the one before was killed"
    settings = config(corpus, trainer__max_epochs=EPOCHS, trainer__patience=EPOCHS)
    runs = fit(settings, root=root, resume=True), fit(settings, root=tmp_path / "whole")
    resumed, whole = ((run / "single" / "best.safetensors").read_bytes() for run in runs)
    assert resumed == whole
    left, expected = ({path.name for path in (run / "single").iterdir()} for run in runs)
    assert left == expected, "nothing half-written stays"
