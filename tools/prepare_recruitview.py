"""RecruitView (metadata.jsonl and videos/) -> a manifest.

The layout of SOURCE, what is left out on purpose, and the terms of the corpus: datasets/recruitview/README.md.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmtraits.data import manifest as manifests
from mmtraits.data import prepare as shared
from mmtraits.data.problems import manifest_error
from mmtraits.errors import ManifestError
from mmtraits.media.transcript import Utterance, render
from mmtraits.schema import Clip, Trait

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "recruitview"
HIRING = "interview_score"  # whom the judges would rather hire
ATTRIBUTES = ("video_quality", "duration")
_STAMPED = re.compile(r"\[(?:(\d+):)?(\d+):(\d{2})\s*-\s*(?:(\d+):)?(\d+):(\d{2})\]\s*(.*)")
_STAMP_S = 1.0  # the stamps count whole seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    parser = shared.command_line(
        __doc__,
        source="folder with metadata.jsonl",
        media="folder in which the `file_name` of each record is looked up; SOURCE where it is not given",
    )
    parser.add_argument("--interview", action="store_true", help=f"also keep {HIRING}, a hiring score; off on purpose")
    return shared.run(prepare, parser.parse_args(arguments))


def prepare(source: Path, out: Path, *, media: Path | None = None, interview: bool = False) -> str:
    """Write the manifest and the timed transcripts; return the report. Raises ManifestError."""
    schema = manifests.read_schema(CORPUS / "schema.yaml")
    if not interview:
        schema = replace(schema, traits=tuple(trait for trait in schema.traits if trait.name != HIRING))
    problems: list[str] = []
    records = list(_records(source / "metadata.jsonl", (*schema.trait_names, "transcript"), problems))
    labels = [[_number(record, trait, where, problems) for trait in schema.traits] for where, record in records]
    splits = [shared.split_name(_text(record, "split"), where, problems) for where, record in records]
    if problems:
        raise manifest_error(problems)
    found, dropped = shared.Collected(), shared.Dropped()
    transcripts: dict[str, str] = {}
    for (_, record), own, split in zip(records, labels, splits, strict=True):
        clip = _clip(record, media or source, out, transcripts, dropped)
        if clip.video or clip.transcript or clip.text:
            found.add(clip, own, split)
    return shared.finish(found.manifest(out, schema), dropped, CORPUS, files=transcripts.items())


def _records(path: Path, keys: Sequence[str], problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """`file:line` and record of every line that is not blank; ids and the keys that every record has are checked."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: {error}; expected the records of the corpus, one JSON object a line") from error
    first: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            problems.append(f"{where}: not readable as JSON ({error}); expected one object a line")
            continue
        missing = [
            key for key in ("id", "file_name", "user_no", *keys) if not isinstance(record, dict) or key not in record
        ]
        if missing:
            problems.append(f"{where}: keys are missing: {', '.join(missing)}")
        elif (at := first.setdefault(str(record["id"]), where)) != where:
            problems.append(f"{where}: id {record['id']!r} is already at {at}; expected one record each")
        else:
            yield where, record


def _number(record: Mapping[str, Any], trait: Trait, where: str, problems: list[str]) -> float:
    value = record[trait.name]
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        problems.append(f"{where}: {trait.name} {value!r} is not a number")
        return math.nan
    return shared.checked(float(value), trait, f"{where}: {trait.name}", problems)


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return "" if value is None else " ".join(str(value).split())


def _clip(
    record: Mapping[str, Any], media: Path, out: Path, transcripts: dict[str, str], dropped: shared.Dropped
) -> Clip:
    """The clip of a record; its timed transcript, where it has one, is added to `transcripts` by file name."""
    identity = str(record["id"])
    video = media / str(record["file_name"])
    utterances = timed(str(record["transcript"] or ""))
    name = f"transcripts/{identity}.vtt"
    if utterances:
        transcripts[name] = render(utterances, ".vtt")
    text = None if utterances else _text(record, "transcript") or None
    if not video.is_file():
        dropped.add(
            identity, "video not found, its clip kept" if utterances or text else "clip without video and words"
        )
    return Clip(
        id=identity,
        video=video if video.is_file() else None,
        transcript=out / name if utterances else None,
        text=text,
        person=_text(record, "user_no") or None,
        question=_text(record, "question") or None,
        attributes={key: value for key in ATTRIBUTES if (value := _text(record, key))},
    )


def timed(transcript: str) -> list[Utterance]:
    """`[mm:ss - mm:ss] text` lines as utterances; a line without a stamp goes on; [] where the first line has none."""
    utterances: list[Utterance] = []
    for line in filter(None, map(str.strip, transcript.splitlines())):
        match = _STAMPED.fullmatch(line)
        if match:
            start_s, end_s = _seconds(match.groups()[:3]), _seconds(match.groups()[3:6])
            utterances.append(Utterance(start_s, max(end_s, start_s + _STAMP_S), None, match[7]))
        elif not utterances:
            return []
        else:
            utterances[-1] = replace(utterances[-1], text=f"{utterances[-1].text} {line}".strip())
    return [utterance for utterance in utterances if utterance.text]


def _seconds(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds = (int(group or 0) for group in groups)
    return float(hours * 3600 + minutes * 60 + seconds)


if __name__ == "__main__":
    sys.exit(main())
