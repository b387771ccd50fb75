"""What was heard in clips without a transcript, as files beside the results: transcripts/<clip>.json."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmtraits.report import Record

FOLDER = "transcripts"
_OTHER = re.compile(r"[^A-Za-z0-9 ._~!#$&'()+,;=@\[\]^`{}-]")
_LONGEST = 255  # bytes of a file's name


def written(folder: Path, records: Iterable[Record]) -> Iterator[Record]:
    """The records, with the name of a file in place of the words that were heard; the file is written on the way.

    In whisper's layout, as `media.transcript` reads it; there whole or not at all. One that is there is left alone.
    """
    for record in records:
        details: dict[str, Any] = record["details"]
        words = details.get("transcript")
        if words is None:
            yield record
            continue
        name = name_of(record["clip"])
        _write(folder / name, words.encode())
        yield {**record, "details": {**details, "transcript": name}}


def name_of(clip: str) -> str:
    """The file of a clip, relative to the results: never outside them, whatever a manifest calls a clip."""
    *folders, name = (_quoted(part) for part in clip.split("/"))
    above = [f"{part[:-5]}%2Ejson" if part.endswith(".json") else part for part in folders]  # no file is called so
    return "/".join([FOLDER, *above, f"{name}.json"])


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _quoted(part: str) -> str:
    """A part of a clip's id as a file's name: other ids have other ones."""
    found = _OTHER.sub(lambda one: "".join(f"%{byte:02X}" for byte in _bytes(one[0])), part)
    if found.strip(".") == "":
        return found.replace(".", "%2E") or "%"
    if len(found) + len(".json") > _LONGEST:
        return f"{found[:200]}%{hashlib.sha256(_bytes(part)).hexdigest()[:16]}"
    return found


def _bytes(part: str) -> bytes:
    return part.encode(errors="surrogateescape")
