"""A content-addressed store of raw arrays and front-end outputs: what a key names never changes.

Entries are safetensors files, written beside their place and then renamed, so that a reader sees all of one or none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmtraits.schema import Clip, Raw

_DIGEST = "blake2b"
_log = logging.getLogger(__name__)


def key(content: str, *parts: Any) -> str:
    """The key of what is made from `content` (a digest) by what `parts` tell: plain data or dataclasses of it."""
    told = json.dumps([content, *map(repr, parts)])
    return hashlib.sha256(told.encode()).hexdigest()


def clip_digest(clip: Clip) -> str:
    """sha256 over everything of a clip that its decoded form depends on: the bytes of its files, its text and times."""
    digest = hashlib.sha256()
    for path in (clip.video, clip.audio, clip.transcript):
        digest.update(b"-" if path is None else file_digest(path).encode())
    digest.update(json.dumps([clip.text, clip.start_s, clip.end_s, clip.speaker]).encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, or `unreadable`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


class Cache:
    """A folder of entries. Processes may share it; an entry that is damaged counts as absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> dict[str, Raw] | None:
        """The streams under a key, or None where there are none or the file is damaged."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
                expected = (file.metadata() or {}).get(_DIGEST)
        except (SafetensorError, OSError, ValueError) as error:
            _log.warning("%s: %s; read as absent", path, error)
            return None
        if expected != _checksum(arrays.items()):
            _log.warning("%s: contents do not match their checksum; read as absent", path)
            return None
        streams = sorted({name.rpartition(".")[0] for name in arrays})
        return {stream: Raw(arrays[f"{stream}.data"], arrays[f"{stream}.mask"]) for stream in streams}

    def put(self, key: str, streams: Mapping[str, Raw]) -> None:
        """Store streams under a key, whole or not at all."""
        arrays = {}
        for stream, raw in streams.items():
            arrays[f"{stream}.data"] = np.ascontiguousarray(raw.data)
            arrays[f"{stream}.mask"] = np.ascontiguousarray(raw.mask)
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            unfinished.write_bytes(save(arrays, metadata={_DIGEST: _checksum(arrays.items())}))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _checksum(arrays: Iterable[tuple[str, Any]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays, key=lambda item: item[0]):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
