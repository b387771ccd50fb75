"""Jobs interrupted at any moment, in real processes: they go on where they were and end with the same bytes."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import sqlite3
import subprocess
import sys
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
    fixed = ("--batch", 4, "--workers", 0, "--speech-to-text", "none")
    return ["predict", work / "media", "--model", work / "bundle", "--out", out, *fixed, *more]


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


def test_kill_9_while_workers_decode_ahead(server, work, tmp_path):
    """What was decoded and not yet scored is decoded again; how many workers there are changes no byte."""
    out = tmp_path / "out"
    process = server.start(*arguments(work, out, "--workers", 2))
    wait_until_some_are_done(out, process)
    os.kill(process, signal.SIGKILL)
    assert server.ended() == -signal.SIGKILL
    assert 0 < finished(out) < CLIPS
    server.start(*arguments(work, out, "--workers", 1))
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


def limited(work: Path, out: Path, size: int) -> subprocess.CompletedProcess[str]:
    """Score in a process none of whose files may grow beyond `size` bytes, as on a disk that is full."""
    script = (
        "import resource, sys; from mmtraits.cli import main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); main()"
    )
    call = [sys.executable, "-c", script, *map(str, arguments(work, out))]
    return subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(("size", "told"), [(150_000, "job.sqlite: "), (1000, "job.sqlite: ")])
def test_a_full_disk_loses_no_row_that_is_there(work, tmp_path, size, told):
    out = tmp_path / "out"
    done = limited(work, out, size)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"mmtraits: {out / told}")
    assert "run the same command" in done.stderr
    assert not (out / "results.csv").exists()
    if size > 100_000:
        assert 0 < finished(out) < CLIPS
    predict.run([work / "media"], out, bundle=work / "bundle", batch=4)
    assert same(work, out)


def test_a_disk_that_is_full_at_the_end_keeps_the_results_of_before(work, tmp_path):
    out = tmp_path / "out"
    predict.run([work / "media"], out, bundle=work / "bundle", batch=4)
    (out / "results.csv").write_text("before")
    done = limited(work, out, 5_000)
    assert done.returncode == 1
    assert done.stderr == f"mmtraits: {out}: File too large; all rows are kept: make room, then run the same command\n"
    assert (out / "results.csv").read_text() == "before"
    predict.run([work / "media"], out, bundle=work / "bundle", batch=4)
    assert same(work, out)


def test_a_tenth_of_bad_files_costs_no_more_than_a_tenth(work, tmp_path):
    """Bad ones of four kinds among good ones: as many rows as files, and the good ones take no longer."""
    good = sorted((work / "media").rglob("*.wav"))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for n, path in enumerate(good):
        os.link(path, mixed / f"{n:04}.wav")
    content = good[0].read_bytes()
    bad = (b"", b"no media at all", content[:20], content[:12] + bytes(40))
    for n in range(len(good) // 9):
        (mixed / f"{9 * n:04}_bad.wav").write_bytes(bad[n % 4])

    def scored(folder: Path, out: Path) -> float:
        started = time.process_time()
        predict.run([folder], out, bundle=work / "bundle", batch=1, fresh=True)
        return time.process_time() - started

    clean_s = min(scored(work / "media", tmp_path / "clean") for _ in range(3))
    mixed_s = min(scored(mixed, tmp_path / "out") for _ in range(3))
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip"] for row in rows] == sorted(path.name for path in mixed.iterdir())
    assert [row["clip"].endswith("_bad.wav") for row in rows] == [row["status"] == "failed" for row in rows]
    assert mixed_s <= clean_s / 0.9


@pytest.mark.slow
def test_a_hundred_thousand_rows_start_at_once(work, tmp_path):
    """Time and memory from the call to the first row; then again from the journal."""
    rows = (f"clip{n:06},videos/{n // 100:04}/clip{n:06}.mp4,texts/clip{n:06}.txt,0.5,15.5\n" for n in range(100_000))
    (tmp_path / "clips.csv").write_text("id,video,transcript,start_s,end_s\n" + "".join(rows))
    call = [sys.executable, "-c", _START, *map(str, (tmp_path / "clips.csv", work / "bundle", tmp_path / "out"))]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=300)
    for attempt in done.stdout.splitlines():
        cpu_s, grown_mb = map(float, attempt.split())
        print(f"100,000 rows: {cpu_s:.1f} s, {grown_mb:.0f} MB")
        assert cpu_s <= 5 and grown_mb <= 200


_START = """
import contextlib, resource, sys, time
from mmtraits import predict
from mmtraits.runtime import Predictor

class Started(Exception):
    pass

def progress(done, total):
    raise Started

def used_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

manifest, bundle, out = sys.argv[1:]
Predictor(bundle)
before_mb = used_mb()
for _ in range(2):
    started_s = time.process_time()
    with contextlib.suppress(Started):
        predict.run([], out, manifest=manifest, bundle=bundle, batch=1, progress=progress)
    print(time.process_time() - started_s, used_mb() - before_mb)
"""
