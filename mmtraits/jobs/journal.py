"""The state of a job in `job.sqlite`: what it is, and one row for every clip that is finished.

A job is killed at any moment and goes on where it was: finished rows are committed group by group, each group whole or
not at all, and `results.*` are written from here. Write-ahead logging; a commit is on the disk within a second.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mmtraits.data.features import feature_file
from mmtraits.errors import ConfigError, JobError
from mmtraits.media import turns
from mmtraits.media.cache import UNREADABLE, file_digest
from mmtraits.schema import Clip

NAME = "job.sqlite"
_FORMAT = 1
_SYNC_S = 1.0  # at most this much finished work is lost with the machine's power; a killed process loses none
_SHOWN = 3  # clips that a message names

_TABLES = """
CREATE TABLE IF NOT EXISTS job (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clips (
    place INTEGER PRIMARY KEY, status TEXT NOT NULL, record TEXT NOT NULL, files TEXT NOT NULL);
"""

Record = dict[str, Any]


class Stamp(NamedTuple):
    """By which a change of a file is noticed."""

    size: int
    mtime_ns: int


class File(NamedTuple):
    """One input file as it was when its clip was decoded; sha256 "" where it changed meanwhile or cannot be read."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A finished clip: its number in the job, its row, and its files, in the order of `paths_of`."""

    place: int
    record: Record
    files: Sequence[File | None]


class Journal:
    """An open job.sqlite, locked for as long as it is open. Use as a context manager.

    Raises ConfigError where another job holds it, and JobError where it cannot be written: what is in it stays.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.path = folder / NAME
        self._synced_s = 0.0
        try:
            self._open(fresh=fresh)
        except sqlite3.OperationalError as error:
            self._database.close()
            if "locked" in str(error):
                raise ConfigError(f"{folder}: another job writes there; await its end or name another --out") from None
            raise self._failed(error) from None
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ConfigError(f"{self.path}: {error}; expected the journal of a job; --fresh starts anew") from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def _open(self, *, fresh: bool) -> None:
        self._database = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")  # takes the lock and keeps it
        if fresh:
            self._database.executescript("BEGIN; DELETE FROM job; DELETE FROM clips; COMMIT; VACUUM;")

    # ------------------------------------------------------------------------------------------------ what job it is

    def start(self, identity: Mapping[str, str], clips: Sequence[Clip]) -> None:
        """Begin the job, or go on with it. Raises ConfigError that says what differs from the job that is there."""
        now = {"format": str(_FORMAT), **identity, "clips": _fingerprint(clips)}
        before = {key: value for key, value in self._facts() if key not in ("batch", "ids")}
        if not before:
            self._write([("INSERT INTO job VALUES (?, ?)", [*now.items(), ("ids", json.dumps([c.id for c in clips]))])])
            return
        different = [key for key in (before | now) if before.get(key) != now.get(key)]
        if different:
            said = "; ".join(self._difference(key, before, now, clips) for key in different)
            raise ConfigError(
                f"{self.path}: holds another job: {said}. --fresh scores everything anew, another --out keeps both"
            )

    @property
    def batch(self) -> int | None:
        """The batch size that the job was started with."""
        known = dict(self._facts()).get("batch")
        return None if known is None else int(known)

    @batch.setter
    def batch(self, size: int) -> None:
        self._write([("INSERT OR REPLACE INTO job VALUES ('batch', ?)", [(str(size),)])])

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield from self._database.execute("SELECT key, value FROM job")

    def _difference(self, key: str, before: Mapping[str, str], now: Mapping[str, str], clips: Sequence[Clip]) -> str:
        if key != "clips":
            return f"{key} {before.get(key)} there, {now.get(key)} now"
        there, here = set(json.loads(dict(self._facts())["ids"])), {clip.id for clip in clips}
        named = [_few(ids, word) for ids, word in ((here - there, "new"), (there - here, "gone")) if ids]
        return "clips " + (", ".join(named) or "in another order, or with other texts, times or speakers")

    # ------------------------------------------------------------------------------------------------ finished clips

    def commit(self, done: Iterable[Done]) -> None:
        """Add a group of finished clips, whole or not at all."""
        rows = [
            (one.place, one.record["status"], json.dumps(one.record, default=_item), json.dumps(one.files))
            for one in done
        ]
        sync = time.monotonic() - self._synced_s >= _SYNC_S
        self._database.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
        self._write([("INSERT OR REPLACE INTO clips VALUES (?, ?, ?, ?)", rows)])
        if sync:
            self._synced_s = time.monotonic()

    def forget(self, places: Iterable[int]) -> None:
        """Take clips back that must be scored again."""
        self._write([("DELETE FROM clips WHERE place = ?", [(place,) for place in places])])

    def places(self) -> set[int]:
        """Numbers of the finished clips."""
        return {place for (place,) in self._database.execute("SELECT place FROM clips")}

    def changed(self, clips: Sequence[Clip], folder: Path | None = None) -> set[int]:
        """Finished clips whose files hold something else than when they were scored; moved times alone do not count."""
        stale = set()
        for place, files in self._database.execute("SELECT place, files FROM clips"):
            before = [None if known is None else File(*known) for known in json.loads(files)]
            if not _same(before, paths_of(clips[place], folder)):
                stale.add(place)
        return stale

    def records(self) -> Iterator[Record]:
        """The rows of the finished clips, in order, read one at a time."""
        for (record,) in self._database.execute("SELECT record FROM clips ORDER BY place"):
            yield json.loads(record)

    def counts(self) -> Counter[str]:
        """How many finished clips have each status."""
        return Counter(dict(self._database.execute("SELECT status, count(*) FROM clips GROUP BY status")))

    def _write(self, statements: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]) -> None:
        try:
            self._database.execute("BEGIN")
            for statement, rows in statements:
                self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> JobError:
        return JobError(f"{self.path}: {error}; finished rows are kept: make room there, then run the same command")


# ---------------------------------------------------------------------------------------------------- files of a clip


def paths_of(clip: Clip, folder: Path | None = None) -> tuple[Path | None, ...]:
    """What a clip is read from: video, audio, transcript, turns, then its vectors, relative to `folder`."""
    vectors = (feature_file(clip.features[stream])[0] for stream in sorted(clip.features))
    spoken = None if clip.speaker is None else turns.sidecar(clip)
    return (clip.video, clip.audio, clip.transcript, spoken, *((folder or Path()) / file for file in vectors))


def stamps_of(paths: Iterable[Path | None]) -> list[Stamp | None]:
    """Size and time of change of each; None where there is no regular file."""
    return [_stamp(path) for path in paths]


def sealed(paths: Sequence[Path | None], stamps: Sequence[Stamp | None]) -> list[File | None]:
    """The files as they were read: `stamps` are those of before; what changed since then has no sha256."""
    found: list[File | None] = []
    for path, before in zip(paths, stamps, strict=True):
        if path is None or before is None:
            found.append(None)
        else:
            digest = _digest(path, before)
            found.append(File(*before, digest if _stamp(path) == before else ""))
    return found


def _same(before: Sequence[File | None], paths: Sequence[Path | None]) -> bool:
    if len(before) != len(paths):
        return False
    return all(_unchanged(file, path) for file, path in zip(before, paths, strict=True))


def _unchanged(before: File | None, path: Path | None) -> bool:
    now = _stamp(path)
    if before is None or now is None or path is None:
        return before is None and now is None
    if not before.sha256 or before.size != now.size:
        return False
    return before.mtime_ns == now.mtime_ns or _digest(path, now) == before.sha256


def _stamp(path: Path | None) -> Stamp | None:
    try:
        found = None if path is None else path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in a name
        return None
    return Stamp(found.st_size, found.st_mtime_ns) if found and stat.S_ISREG(found.st_mode) else None


@lru_cache(maxsize=256)  # a table of vectors is named by many clips
def _digest(path: Path, _: Stamp) -> str:
    found = file_digest(path)
    return "" if found == UNREADABLE else found


def _fingerprint(clips: Sequence[Clip]) -> str:
    """sha256 over what a manifest says of the clips, in order; their files are judged by content, not by name."""
    found = hashlib.sha256()
    for clip in clips:
        said = (clip.id, clip.text, clip.start_s, clip.end_s, clip.speaker, clip.question, dict(clip.features))
        found.update(json.dumps(said).encode() + b"\n")
    return found.hexdigest()


def _item(number: Any) -> Any:
    """NumPy's numbers as Python's."""
    return number.item()


def _few(ids: Iterable[str], word: str) -> str:
    named = sorted(ids)
    return f"{len(named)} {word} ({', '.join(named[:_SHOWN])}{', ...' if len(named) > _SHOWN else ''})"
