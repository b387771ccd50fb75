"""Messages between a worker and its supervisor: facts as JSON, arrays as a file in memory that both sides see.

Nothing from a worker is unpickled: what a damaged file makes of a decoder must not reach the supervisor as code. The
file of a window is nameless, so nothing is left behind by whoever is killed.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from mmtraits.media.assemble import Window
from mmtraits.media.load import Ending
from mmtraits.schema import Raw

_ALIGN = 64
_INLINE_BYTES = 1 << 14  # less goes through the pipe itself
_LARGEST_MESSAGE = 1 << 26
_MOST_MAPPED = 256  # each mapping keeps a file descriptor; what comes beyond is copied
_Content = bytearray | mmap.mmap
_mapped: WeakSet[mmap.mmap] = WeakSet()


def send(connection: Connection, kind: str, **facts: Any) -> None:
    """Send facts that JSON can hold."""
    connection.send_bytes(json.dumps({"kind": kind, **facts}, default=str).encode())


def receive(connection: Connection) -> dict[str, Any]:
    """The next facts. Raises EOFError or OSError where the other side has gone, ValueError for anything else."""
    facts = json.loads(connection.recv_bytes(_LARGEST_MESSAGE))
    if not isinstance(facts, dict):
        raise ValueError(f"message {facts!r}; expected an object")
    return facts


def send_window(connection: Connection, window: Window) -> None:
    """Send a window; its arrays are copied once."""
    arrays = [np.ascontiguousarray(array) for raw in window.streams.values() for array in raw]
    offsets = _offsets(arrays)
    described = [[array.dtype.str, array.shape, offset] for array, offset in zip(arrays, offsets, strict=False)]
    facts: dict[str, Any] = {"start_s": window.start_s, "end_s": window.end_s, "streams": list(window.streams)}
    facts |= {"arrays": described, "bytes": offsets[-1]}
    if offsets[-1] < _INLINE_BYTES:
        content = bytearray(offsets[-1] + 1)  # a message has at least one byte
        for array, offset in zip(arrays, offsets, strict=False):
            content[offset : offset + array.nbytes] = array.tobytes()
        send(connection, "window", **facts)
        connection.send_bytes(content)
        return
    file = _nameless_file()
    try:
        with open(file, "wb", closefd=False) as stream:  # noqa: PTH123  (a descriptor)
            for array, offset in zip(arrays, offsets, strict=False):
                stream.seek(offset)
                stream.write(array.data)
            stream.truncate(offsets[-1])
        send(connection, "window", **facts)  # once nothing can fail any more: its file must follow it
        send_handle(connection, file, None)  # the process id is for Windows
    finally:
        os.close(file)


def receive_window(connection: Connection, facts: Mapping[str, Any]) -> Window:
    """The window that these facts announce; its arrays lie in the sender's copy, and writing to them is private."""
    size = int(facts["bytes"])
    content: _Content
    if size < _INLINE_BYTES:
        content = bytearray(connection.recv_bytes(_LARGEST_MESSAGE))
    else:
        content = _mapped_content(recv_handle(connection), size)
    arrays = [_array(content, *described) for described in facts["arrays"]]
    if len(_mapped) > _MOST_MAPPED:
        arrays = [array.copy() for array in arrays]
    raws = (Raw(data, mask) for data, mask in zip(arrays[::2], arrays[1::2], strict=True))
    streams = dict(zip(facts["streams"], raws, strict=True))
    return Window(start_s=float(facts["start_s"]), end_s=float(facts["end_s"]), streams=streams)


def send_ending(connection: Connection, ending: Ending) -> None:
    """Send what is known of a clip at its end."""
    send(connection, "ending", **asdict(ending))


def receive_ending(facts: Mapping[str, Any]) -> Ending:
    """The ending that these facts are."""
    duration_s = float(facts["duration_s"])
    return Ending(reasons=tuple(facts["reasons"]), duration_s=duration_s, details=dict(facts["details"]))


def _offsets(arrays: Iterable[NDArray[Any]]) -> list[int]:
    """Where each array begins, and then where the last one ends; aligned for any type."""
    offsets = [0]
    for array in arrays:
        offsets.append(-(-(offsets[-1] + array.nbytes) // _ALIGN) * _ALIGN)
    return offsets


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mmtraits-window")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _mapped_content(file: int, size: int) -> mmap.mmap:
    try:
        if os.fstat(file).st_size < size:
            raise ValueError(f"a window of {os.fstat(file).st_size} bytes; expected {size}")
        content = mmap.mmap(file, size, access=mmap.ACCESS_COPY)
    finally:
        os.close(file)
    _mapped.add(content)
    return content


def _array(content: _Content, kind: str, shape: list[int], offset: int) -> NDArray[Any]:
    dtype = np.dtype(kind)
    if dtype.hasobject:
        raise ValueError(f"an array of {kind}; expected numbers")
    return np.ndarray(tuple(shape), dtype, buffer=content, offset=offset)
