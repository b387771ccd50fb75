"""Zip files in a folder: whole or absent, checked when read, the least recently used go first. NumPy only.

An entry lies at `<kind>/<2 of its digest>/<digest>.zip`, uncompressed, so that `zip`, `unzip` and `numpy.load` read it.
It is written under another name and then renamed; zip's CRC-32 tells a damaged one. There is no index to fall out of
step: the folder is the truth, a file's time of change says when it was last used, and several processes, also on a
shared file system, may use it at once.
"""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)
DAMAGE = (  # what reading a file that is not whole may raise: zipfile says RuntimeError to a flipped encryption bit
    OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
ABSENT = (FileNotFoundError, NotADirectoryError)
PARTIAL = ".partial"
ABANDONED_S = 24 * 3600.0  # a partial file older than that has no writer any more


class File(NamedTuple):
    """One file of a shelf."""

    path: Path
    size: int
    used_s: float  # time.time() of its last use


class Draft:
    """An entry that is being written: there after `keep`, gone after `close` without it."""

    def __init__(self, path: Path, make_room: Callable[[int], None]) -> None:
        self._path, self._make_room = path, make_room
        self._partial = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}")
        self.entry = zipfile.ZipFile(self._partial, "w")

    def keep(self) -> None:
        """Make it an entry of the shelf, whole."""
        self.entry.close()
        self._make_room(self._partial.stat().st_size)
        self._partial.replace(self._path)

    def close(self) -> None:
        """Leave nothing behind of an entry that was not kept."""
        try:
            self.entry.close()
        finally:
            self._partial.unlink(missing_ok=True)


class Shelf:
    """The entries of one folder, at most `max_bytes` of them, given that at most `writers` processes write.

    Each process looks at the folder again after it has written its share of a tenth of `max_bytes`; what is then more
    than nine tenths goes, so that the whole stays below `max_bytes` between two looks.
    """

    def __init__(self, folder: Path, max_bytes: int, writers: int = 1) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._share = max_bytes // 10 // max(writers, 1)
        self._written: int | None = None  # since the last look; None: not yet looked

    def path(self, kind: str, digest: str) -> Path:
        """Where an entry lies, or would."""
        return self.folder / kind / digest[:2] / f"{digest}.zip"

    @contextmanager
    def reading(self, kind: str, digest: str) -> Iterator[zipfile.ZipFile]:
        """Open an entry and mark it as used. Raises one of `ABSENT`, or else of `DAMAGE`."""
        path = self.path(kind, digest)
        with zipfile.ZipFile(path) as entry:
            with suppress(OSError):  # a cache that may only be read is still of use
                os.utime(path)
            yield entry

    def draft(self, kind: str, digest: str) -> Draft:
        """Start a new entry. Raises OSError, as for a full disk."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # faces and voices: the owner's alone
        path = self.path(kind, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        return Draft(path, self._make_room)

    def drop(self, kind: str, digest: str) -> None:
        """Remove an entry that turned out damaged."""
        logger.warning("%s: damaged; it is made again", self.path(kind, digest))
        with suppress(OSError):
            self.path(kind, digest).unlink()

    def recall(self, kind: str, digest: str) -> Any | None:
        """The JSON value kept under this name, or None."""
        try:
            with self.reading(kind, digest) as entry:
                return json.loads(entry.read("value.json"))
        except ABSENT:
            return None
        except DAMAGE:
            self.drop(kind, digest)
            return None

    def remember(self, kind: str, digest: str, value: Any) -> None:
        """Keep a JSON value. A folder that cannot be written is logged and costs no more than the entry."""
        try:
            with closing(self.draft(kind, digest)) as draft:
                draft.entry.writestr("value.json", json.dumps(value))
                draft.keep()
        except OSError as error:
            logger.warning("%s: not kept (%s)", self.folder, error)

    def _make_room(self, size: int) -> None:
        if self._written is None or self._written + size > self._share:
            trim(self.folder, int(0.9 * self.max_bytes) - size)
            self._written = 0
        self._written += size


def put_array(entry: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Write one array as `<name>.npy`."""
    with entry.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def get_array(entry: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read one array, its CRC checked. Raises one of `DAMAGE`."""
    content = entry.read(f"{name}.npy")  # checked before its header is believed
    return np.asarray(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False))


def files(folder: Path) -> list[File]:
    """Every file of a shelf, whole or partial, in any order; files that vanish meanwhile are left out."""
    found = []
    for path in folder.glob("*/??/*"):
        try:
            facts = path.stat()
        except OSError:
            continue
        if path.suffix in (".zip", PARTIAL):
            found.append(File(path, facts.st_size, facts.st_mtime))
    return found


def trim(folder: Path, max_bytes: int) -> list[File]:
    """Remove abandoned partial files, then what was used longest ago, until at most `max_bytes` are left."""
    known = sorted(files(folder), key=lambda file: file.used_s)
    abandoned_s = time.time() - ABANDONED_S
    gone = [file for file in known if file.path.suffix == PARTIAL and file.used_s < abandoned_s]
    total = sum(file.size for file in known) - sum(file.size for file in gone)
    for file in known:
        if total <= max_bytes:
            break
        if file.path.suffix != PARTIAL:
            gone.append(file)
            total -= file.size
    for file in gone:
        file.path.unlink(missing_ok=True)
    return gone


def is_whole(path: Path) -> bool:
    """Whether an entry can be read to its end and all its checksums agree."""
    try:
        with zipfile.ZipFile(path) as entry:
            return entry.testzip() is None
    except DAMAGE:
        return False
