from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmtraits.errors import ConfigError
from mmtraits.jobs.journal import Done, File, Journal, paths_of, sealed, stamps_of
from mmtraits.schema import Clip

IDENTITY = {"bundle": "b1", "device": "cpu"}
CLIPS = [Clip(id=f"clip{n}", text=f"words {n}") for n in range(4)]


def done(place: int, status: str = "ok", **record: object) -> Done:
    return Done(place=place, record={"clip": f"clip{place}", "status": status, **record}, files=[])


def begun(folder: Path, clips=CLIPS, **identity: str) -> Journal:
    journal = Journal(folder)
    journal.start(IDENTITY | identity, clips)
    return journal


def test_what_was_committed_is_there_again(tmp_path):
    with begun(tmp_path) as journal:
        journal.batch = 4
        journal.commit([done(2, "failed"), done(0, details={"faces": np.float32(0.5), "n": np.int64(3)})])
    with begun(tmp_path) as journal:
        assert journal.batch == 4
        assert journal.places() == {0, 2}
        assert [row["clip"] for row in journal.records()] == ["clip0", "clip2"]
        assert next(journal.records())["details"] == {"faces": 0.5, "n": 3}
        assert journal.counts() == {"ok": 1, "failed": 1}
        journal.forget([2])
        assert journal.places() == {0}


def test_names_that_are_no_unicode_and_numbers_that_are_not_finite(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    with begun(tmp_path, [Clip(id=name, text="x")]) as journal:
        journal.commit([Done(place=0, record={"clip": name, "status": "ok", "x": float("-inf")}, files=[])])
        assert list(journal.records()) == [{"clip": name, "status": "ok", "x": float("-inf")}]


def test_a_second_job_is_refused_while_the_first_runs(tmp_path):
    with begun(tmp_path) as journal:
        with pytest.raises(ConfigError, match=f"{tmp_path}: another job writes there; await its end"):
            Journal(tmp_path)
        call = f"from mmtraits.jobs.journal import Journal; from pathlib import Path; Journal(Path({str(tmp_path)!r}))"
        other = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
        assert "another job writes there" in other.stderr
        journal.commit([done(0)])
    with begun(tmp_path) as journal:
        assert journal.places() == {0}


@pytest.mark.parametrize(
    ("clips", "identity", "told"),
    [
        (CLIPS, {"bundle": "b2"}, "bundle b1 there, b2 now"),
        (CLIPS, {"device": "cuda", "bundle": "b2"}, "bundle b1 there, b2 now; device cpu there, cuda now"),
        ([*CLIPS, Clip(id="z", text="x")], {}, r"clips 1 new \(z\)"),
        (CLIPS[:2], {}, r"clips 2 gone \(clip2, clip3\)"),
        ([Clip(id=f"n{n}", text="x") for n in range(5)], {}, r"5 new \(n0, n1, n2, ...\), 4 gone \(clip0, clip1,"),
        (CLIPS[::-1], {}, "clips in another order, or with other texts"),
        ([Clip(id="clip0", text="other"), *CLIPS[1:]], {}, "in another order, or with other texts"),
        ([Clip(id="clip0", text="words 0", end_s=3.0), *CLIPS[1:]], {}, "in another order, or with other texts"),
    ],
)
def test_another_job_is_refused_in_words(tmp_path, clips, identity, told):
    begun(tmp_path).__exit__()
    with Journal(tmp_path) as journal, pytest.raises(ConfigError, match=told) as raised:
        journal.start(IDENTITY | identity, clips)
    assert "--fresh scores everything anew" in str(raised.value)


def test_fresh_forgets_the_job_that_was_there(tmp_path):
    with begun(tmp_path) as journal:
        journal.batch = 4
        journal.commit([done(0)])
    with Journal(tmp_path, fresh=True) as journal:
        journal.start(IDENTITY | {"bundle": "b2"}, CLIPS[:1])
        assert journal.batch is None and journal.places() == set()


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_journal_is_refused(tmp_path, content):
    (tmp_path / "job.sqlite").write_bytes(content)
    with pytest.raises(ConfigError, match=r"job\.sqlite: .*; expected the journal of a job"):
        Journal(tmp_path)


def test_a_group_is_committed_whole_or_not_at_all(tmp_path):
    with begun(tmp_path) as journal:
        with pytest.raises(KeyError):
            journal.commit([done(0), Done(place=1, record={"clip": "no status"}, files=[])])
        assert journal.places() == set()


def test_it_is_a_plain_table_for_others(tmp_path):
    with begun(tmp_path) as journal:
        journal.commit([done(1, "degraded")])
    with sqlite3.connect(tmp_path / "job.sqlite") as database:
        assert database.execute("SELECT place, status FROM clips").fetchall() == [(1, "degraded")]
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["job.sqlite"]


class TestFiles:
    @pytest.fixture
    def clip(self, tmp_path):
        (tmp_path / "a.wav").write_bytes(b"sound")
        (tmp_path / "v.npy").write_bytes(b"numbers")
        return Clip(id="a", audio=tmp_path / "a.wav", transcript=tmp_path / "a.txt", features={"emotion": "v.npy"})

    @pytest.fixture
    def journal(self, tmp_path, clip):
        (tmp_path / "out").mkdir()
        with begun(tmp_path / "out", [clip]) as journal:
            paths = paths_of(clip, tmp_path)
            journal.commit([Done(place=0, record={"status": "ok"}, files=sealed(paths, stamps_of(paths)))])
            yield journal

    def test_untouched(self, journal, clip, tmp_path):
        assert journal.changed([clip], tmp_path) == set()

    def test_copied_again_with_another_time(self, journal, clip, tmp_path):
        os.utime(tmp_path / "a.wav", ns=(1, 1))
        assert journal.changed([clip], tmp_path) == set()

    @pytest.mark.parametrize("name", ["a.wav", "v.npy"])
    @pytest.mark.parametrize("content", [b"other", b"tone?", b"numbres"])
    def test_other_content(self, journal, clip, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(1, 1))
        assert journal.changed([clip], tmp_path) == {0}

    def test_gone(self, journal, clip, tmp_path):
        (tmp_path / "a.wav").unlink()
        assert journal.changed([clip], tmp_path) == {0}

    def test_a_transcript_has_come(self, journal, clip, tmp_path):
        (tmp_path / "a.txt").write_text("hello")
        assert journal.changed([clip], tmp_path) == {0}

    def test_what_changed_while_it_was_read_is_read_again(self, tmp_path):
        file = tmp_path / "a.wav"
        file.write_bytes(b"before")
        stamps = stamps_of([file])
        file.write_bytes(b"afterwards")
        (seen,) = sealed([file], stamps)
        assert seen == File(6, stamps[0].mtime_ns, "")

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.wav")
        paths = paths_of(Clip(id="a", audio=tmp_path / "a.wav"))
        assert set(sealed(paths, stamps_of(paths))) == {None}
