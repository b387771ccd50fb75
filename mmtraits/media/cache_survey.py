"""What a cache folder holds, whether it is whole, and making it smaller: clips and rows, packs of training."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmtraits.errors import ConfigError
from mmtraits.media import shelf
from mmtraits.media.cache import pack_entries
from mmtraits.media.shelf import PARTIAL

PACKS = "packs"


class Holding(NamedTuple):
    """Everything of one kind in a cache. A pack is one file of many entries; -1 entries: some cannot be read."""

    kind: str
    files: int
    entries: int
    size_mb: float
    unused_days: float  # since the one that was used longest ago; of packs: since it was written


class Removed(NamedTuple):
    """What pruning took away."""

    files: int
    size_mb: float


def survey(folder: Path) -> list[Holding]:
    """What there is, by kind. Raises ConfigError where there is no folder."""
    kinds: dict[str, list[shelf.File]] = {}
    for file in _files(folder):
        kinds.setdefault("partial" if file.path.suffix == PARTIAL else _kind(folder, file.path), []).append(file)
    return [_holding(kind, files) for kind, files in sorted(kinds.items())]


def damaged(folder: Path) -> Iterator[Path]:
    """Read everything; yields the files that are not whole. Raises ConfigError where there is no folder."""
    for file in sorted(_files(folder)):
        if file.path.suffix != PARTIAL and not _is_whole(file.path):
            yield file.path


def prune(folder: Path, *, max_mb: float | None = None, unused_days: float | None = None) -> Removed:
    """Remove clips and rows that were not used for so long, then those used longest ago until `max_mb` are left.

    Packs are left alone: what made them may have taken hours. Raises ConfigError where there is no folder.
    """
    _check(folder)
    gone = shelf.trim(folder, sum(file.size for file in shelf.files(folder)))  # what writers abandoned
    if unused_days is not None:
        before_s = time.time() - unused_days * 86400
        old = [file for file in shelf.files(folder) if file.used_s < before_s and file.path.suffix != PARTIAL]
        for file in old:
            file.path.unlink(missing_ok=True)
        gone += old
    if max_mb is not None:
        gone += shelf.trim(folder, round(max_mb * 1e6))
    return Removed(len(gone), sum(file.size for file in gone) / 1e6)


def to_text(holdings: list[Holding]) -> str:
    """One line per kind."""
    lines = [f"{'':8}{'files':>8}{'entries':>9}{'MB':>11}{'oldest, days':>14}"]
    lines += [f"{h.kind:8}{h.files:8d}{h.entries:9d}{h.size_mb:11.1f}{h.unused_days:14.1f}" for h in holdings]
    return "\n".join(lines) if holdings else "nothing"


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected the one of predict --cache or of a config's data.cache")


def _files(folder: Path) -> list[shelf.File]:
    _check(folder)
    packs = [(path, path.stat()) for path in folder.glob(f"{PACKS}/*.safetensors")]
    return shelf.files(folder) + [shelf.File(path, facts.st_size, facts.st_mtime) for path, facts in packs]


def _kind(folder: Path, path: Path) -> str:
    return path.relative_to(folder).parts[0]


def _holding(kind: str, files: list[shelf.File]) -> Holding:
    counts = [pack_entries(file.path) for file in files] if kind == PACKS else [1] * len(files)
    entries = -1 if None in counts else sum(count or 0 for count in counts)
    oldest_s = max(time.time() - min(file.used_s for file in files), 0.0)
    total_mb = sum(file.size for file in files) / 1e6
    return Holding(kind, len(files), entries, total_mb, oldest_s / 86400)


def _is_whole(path: Path) -> bool:
    if path.parent.name != PACKS:
        return shelf.is_whole(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == path.stem
