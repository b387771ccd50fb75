"""Front-end outputs on disk: content-addressed entries, many to a file. NumPy only.

A pack is a safetensors file `packs/<sha256>.safetensors` with the tensors `<key>/<window>/data` and `.../mask` of many
entries; what one needs to know before reading (times of the windows, which hold anything) is in its header. So ten
thousand clips are a few dozen files, opening a store reads headers only, and any set of entries can be added at any
time. Packs are written whole under another name and then renamed: an interrupted extraction leaves whole packs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from mmtraits.schema import Raw

logger = logging.getLogger(__name__)
PACK_BYTES = 64 << 20
UNREADABLE = "unreadable"  # in place of a digest
_CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}


@dataclass(frozen=True, slots=True)
class Span:
    """An array inside a file."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> NDArray[Any]:
        """Read it into memory."""
        count = int(np.prod(self.shape))
        flat = np.fromfile(self.file, self.dtype, count, offset=self.offset)
        if len(flat) != count:
            raise OSError(f"{self.file}: shorter than its header says; delete it, it will be made again")
        return flat.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Stored:
    """One stream of one window that lies in a pack."""

    data: Span
    mask: Span
    present: bool

    def read(self) -> Raw:
        """Read it into memory."""
        return Raw(self.data.read(), self.mask.read())

    @property
    def steps(self) -> int:
        """Length in time."""
        return self.mask.shape[0]

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return int(np.prod(self.data.shape)) * np.dtype(self.data.dtype).itemsize + self.steps


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream of one clip: its windows as (start, end) in seconds, and what the front-end gave for each."""

    times: tuple[tuple[float, float], ...]
    windows: tuple[Stored, ...]


class Store:
    """The packs of one folder. `add` keeps entries in memory until `flush`, or until a pack is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "packs"
        self._entries: dict[str, Entry] = {}
        self._waiting: dict[str, tuple[Sequence[tuple[float, float]], Sequence[Raw]]] = {}
        self._waiting_bytes = 0
        for path in sorted(self.folder.glob("*.safetensors")):
            self._register(path)

    def get(self, key: str) -> Entry | None:
        """The entry, or None; what waits for `flush` is not seen."""
        return self._entries.get(key)

    def add(self, key: str, times: Sequence[tuple[float, float]], windows: Sequence[Raw]) -> None:
        """Put one stream of one clip in."""
        self._waiting[key] = (times, windows)
        self._waiting_bytes += sum(raw.data.nbytes + raw.mask.nbytes for raw in windows)
        if self._waiting_bytes >= PACK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one pack."""
        if not self._waiting:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{key}/{number}/{part}": np.ascontiguousarray(array)
            for key, (_, windows) in self._waiting.items()
            for number, raw in enumerate(windows)
            for part, array in (("data", raw.data), ("mask", raw.mask))
        }
        about = {
            key: {"times": [list(time) for time in times], "present": [bool(raw.mask.any()) for raw in windows]}
            for key, (times, windows) in self._waiting.items()
        }
        self._register(_write(self.folder, save(arrays, {"entries": json.dumps(about)})))
        self._waiting, self._waiting_bytes = {}, 0

    def _register(self, path: Path) -> None:
        try:
            header, start = _read_header(path)
            about = json.loads(header.pop("__metadata__")["entries"])
            if path.stat().st_size != start + max(tensor["data_offsets"][1] for tensor in header.values()):
                raise ValueError("its end is missing")
            spans = {name: _span(path, start, tensor) for name, tensor in header.items()}
            self._entries |= {key: _entry(key, known, spans) for key, known in about.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s: not a whole pack (%s); its clips are extracted again, delete it", path, error)


def pack_entries(path: Path) -> int | None:
    """How many entries a pack holds; None where its header cannot be read."""
    try:
        return len(json.loads(_read_header(path)[0]["__metadata__"]["entries"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entry(key: str, known: Mapping[str, Any], spans: Mapping[str, Span]) -> Entry:
    windows = tuple(
        Stored(spans[f"{key}/{number}/data"], spans[f"{key}/{number}/mask"], present)
        for number, present in enumerate(known["present"])
    )
    return Entry(tuple((start, end) for start, end in known["times"]), windows)


def _span(path: Path, start: int, tensor: Mapping[str, Any]) -> Span:
    return Span(path, start + tensor["data_offsets"][0], _CODES[tensor["dtype"]], tuple(tensor["shape"]))


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("its header is cut off")
        return json.loads(file.read(length)), 8 + length


def _write(folder: Path, content: bytes) -> Path:
    """One file, named by the sha256 of its bytes, whole or not at all."""
    partial = folder / f".{os.getpid()}.{secrets.token_hex(4)}.partial"
    try:
        partial.write_bytes(content)
        return partial.replace(folder / f"{hashlib.sha256(content).hexdigest()}.safetensors")
    finally:
        partial.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, or `UNREADABLE`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return UNREADABLE
