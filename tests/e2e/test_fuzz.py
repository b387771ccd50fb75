"""Mutants of five media files through the loader: no exception, no hang, no lost worker. All 2,000: tools/fuzz.py."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tool_scripts import tool

fuzz = tool("fuzz")


@pytest.mark.slow
def test_a_minute_of_mutants() -> None:
    """Other ones than those of the tool's own run; `reasons` shows that the damage is of many kinds."""
    found = fuzz.fuzz(100_000, workers=2, seconds=60.0, seed=1)
    assert (found.findings, found.lost) == ([], 0)
    assert found.mutants >= 500
    assert found.mutants * 0.2 < found.decoded < found.mutants * 0.95
    assert {"unreadable_container", "truncated_no_index", "truncated", "corrupt_packets"} <= set(found.reasons)


def test_some_mutants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--mutants", "40", "--workers", "1", "--seed", "2", "--keep", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("    40 mutants in ")
    assert list(tmp_path.iterdir()) == []


def test_the_whole_files_are_whole(tmp_path: Path) -> None:
    """Else every mutant is unreadable for a reason that is not its damage."""
    for name, codecs in fuzz.SEEDS.items():
        fuzz._written(tmp_path / name, *codecs)
    found = fuzz.Found()
    fuzz._decode(iter(sorted(tmp_path.iterdir())), 0, found, None)
    assert (found.mutants, found.decoded, dict(found.reasons)) == (5, 5, {"none": 5})


def test_mutants_can_be_made_again_and_differ() -> None:
    data = np.random.default_rng(0).bytes(9000)
    made = [fuzz.mutated(data, np.random.default_rng((0, number))) for number in range(50)]
    assert made == [fuzz.mutated(data, np.random.default_rng((0, number))) for number in range(50)]
    assert len({*made, data}) > 45
    assert any(len(mutant) < len(data) for mutant in made) and any(len(mutant) > len(data) for mutant in made)
    assert fuzz.mutated(b"", np.random.default_rng(0)) == b""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_a_lost_worker_is_counted() -> None:
    def children() -> set[int]:
        return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}

    def kill_one() -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until and not (new := children() - before):
            time.sleep(0.05)
        time.sleep(1.5)
        os.kill(min(new), signal.SIGKILL)

    before = children()
    killer = threading.Thread(target=kill_one)
    killer.start()
    found = fuzz.fuzz(100_000, workers=1, seconds=4.0)
    killer.join()
    assert found.lost == 1
    assert found.findings == []
