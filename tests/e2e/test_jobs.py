"""Jobs interrupted at any moment, in real processes: they go on where they were and end with the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from jobs import Server, leaky_bundle, sounds

from mmtraits import predict

CLIPS = 200


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder of clips, a bundle, and the results of a job that nobody interrupted."""
    folder = tmp_path_factory.mktemp("jobs")
    sounds(folder / "media", CLIPS)
    leaky_bundle(folder / "bundle")
    predict.run([folder / "media"], folder / "whole", bundle=folder / "bundle", batch=4)
    return folder


def arguments(work: Path, out: Path, *more: object) -> list[object]:
    return ["predict", work / "media", "--model", work / "bundle", "--out", out, "--batch", 4, "--workers", 0, *more]


def same(work: Path, out: Path) -> bool:
    names = [path.name for path in out.iterdir()]
    assert sorted(names) == ["job.sqlite", "report.html", "results.csv", "results.jsonl"]
    return all((out / name).read_bytes() == (work / "whole" / name).read_bytes() for name in predict.OUTPUTS)


def finished(out: Path) -> int:
    """Clips in the journal of a job that does not run."""
    with sqlite3.connect(out / "job.sqlite") as database:
        (count,) = database.execute("SELECT count(*) FROM clips").fetchone()
    database.close()
    return int(count)


def wait_until_some_are_done(out: Path, server_process: int) -> None:
    """The journal is locked while its job runs, but its size tells."""
    log, until = out / "job.sqlite-wal", time.monotonic() + 60
    while not (log.is_file() and log.stat().st_size > 200_000):
        assert time.monotonic() < until
        os.kill(server_process, 0)
        time.sleep(0.002)


def test_batches_are_seen_in_the_scores(work, tmp_path):
    """Else the other tests would pass whatever the batches are."""
    predict.run([work / "media"], tmp_path / "out", bundle=work / "bundle", batch=3)
    assert (tmp_path / "out" / "results.csv").read_bytes() != (work / "whole" / "results.csv").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_job_that_can_go_on(server, work, tmp_path, number, code):
    out = tmp_path / "out"
    process = server.start(*arguments(work, out))
    wait_until_some_are_done(out, process)
    os.kill(process, number)
    assert server.ended() == code
    done = finished(out)
    assert 0 < done < CLIPS and done % predict.group_size(4) == 0
    assert not (out / "results.csv").exists()
    server.start(*arguments(work, out))
    assert server.ended() == 0
    assert same(work, out)


def test_a_second_job_on_one_output_is_refused(server, work, tmp_path):
    out = tmp_path / "out"
    process = server.start(*arguments(work, out))
    wait_until_some_are_done(out, process)
    os.kill(process, signal.SIGSTOP)
    with Server() as other:
        other.start(*arguments(work, out))
        assert other.ended() == 2
        other.start(*arguments(work, out, "--fresh"))
        assert other.ended() == 2
    os.kill(process, signal.SIGCONT)
    assert server.ended() == 0
    assert same(work, out)


@pytest.mark.slow
def test_kill_9_at_fifty_points(server, work, tmp_path):
    """Rows are neither lost nor doubled, and the results are those of a job that nobody killed."""
    moments = random.Random(0)
    started = time.monotonic()
    server.start(*arguments(work, tmp_path / "timed"))
    assert server.ended() == 0
    usual_s = time.monotonic() - started
    kills, jobs, done = 0, 0, []
    out = tmp_path / "out0"
    while kills < 50:
        process = server.start(*arguments(work, out))
        time.sleep(moments.uniform(0, usual_s))
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.kill(process, signal.SIGKILL)
        if server.ended() == -signal.SIGKILL:
            kills += 1
            done.append(finished(out) if (out / "job.sqlite").is_file() else 0)
        else:
            assert same(work, out)
            jobs += 1
            out = tmp_path / f"out{jobs}"
    server.start(*arguments(work, out))
    assert server.ended() == 0
    assert same(work, out)
    assert len(set(done)) > 8  # the kills came at different points
