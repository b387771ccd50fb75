"""AVI Challenge 2025 (observers' ratings) or 2026 (self-report) -> a manifest, one clip per answer.

The layout of SOURCE, which edition is which, and the terms of the corpus: datasets/avi/README.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.data import prepare as shared
from mmtraits.data.problems import manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip, TraitSchema

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "avi"
TABLES = {
    "train": ("train_data.csv",),
    "val": ("val_data.csv",),
    "test": ("test_data.csv", "test_data_basic_information.csv"),
}
QUESTIONS = ("q1", "q2", "q3", "q4", "q5", "q6")
OWN_QUESTION = {
    "honesty_humility": "q3", "extraversion": "q4", "emotionality": "q4", "agreeableness": "q5",
    "conscientiousness": "q6",
}  # fmt: skip
AGES = (30, 45, 60)  # bounds of the bands of attr_age
KINDS = {
    "video": (".mp4", ".mov", ".mkv", ".webm", ".avi"),
    "audio": (".wav", ".mp3", ".m4a", ".flac"),
    "transcript": (".json", ".vtt", ".srt", ".txt"),
}
_ANSWER = re.compile(r"(?P<person>.+?)_(?P<question>q[1-6])(?:_[a-z]+)?")

Answer = tuple[str, str]  # person, question


@dataclass(frozen=True)
class Edition:
    """A year's challenge: where its schema lies and which column holds which trait."""

    schema_file: str
    columns: Mapping[str, str]


EDITIONS = (
    Edition(
        "schema.yaml",
        {
            "honesty_humility": "Honesty-Humility",
            "extraversion": "Extraversion",
            "agreeableness": "Agreeableness",
            "conscientiousness": "Conscientiousness",
        },
    ),
    Edition(
        "schema_2026.yaml",
        {
            "honesty_humility": "H_self",
            "emotionality": "E_self",
            "agreeableness": "A_self",
            "conscientiousness": "C_self",
        },
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    parser = shared.command_line(
        __doc__,
        source="folder with train_data.csv, val_data.csv and test_data.csv or test_data_basic_information.csv",
        media="folder with the answers' videos, sounds or transcripts, anywhere below it; SOURCE where it is not given",
    )
    parser.add_argument(
        "--features", type=Path, metavar="FOLDER", help="folder with one folder of .npy files per stream"
    )
    parser.add_argument(
        "--own-question", action="store_true", help="label each answer with the trait that its question is about, alone"
    )
    return shared.run(prepare, parser.parse_args(arguments))


def prepare(
    source: Path, out: Path, *, media: Path | None = None, features: Path | None = None, own_question: bool = False
) -> str:
    """Write the manifest; return the report. Raises ManifestError."""
    tables = _tables(source)
    edition = _edition(source, tables)
    schema = manifests.read_schema(CORPUS / edition.schema_file)
    rows = [(split, row) for split, (_, rows) in tables.items() for row in rows]
    labels = _labels(tables, edition, schema)
    _check_persons([row for _, row in rows])
    found, dropped = shared.Collected(), shared.Dropped()
    files = {kind: _answers(media or source, suffixes) for kind, suffixes in KINDS.items()}
    streams = _streams(features, dropped) if features else {}
    for (split, row), own in zip(rows, labels, strict=True):
        for question in QUESTIONS:
            clip = _clip(row, question, files, streams)
            about = np.array([not own_question or OWN_QUESTION[name] == question for name in schema.trait_names])
            if not (clip.video or clip.audio or clip.transcript or clip.features):
                dropped.add(clip.id, "answer without video, sound, transcript and features")
            elif about.any():
                found.add(clip, np.where(about, own, np.nan), split)
            else:
                dropped.add(clip.id, "answer to a question that is about no trait")
    _note_orphans({row["id"] for _, row in rows}, files, dropped)
    return shared.finish(found.manifest(out, schema), dropped, CORPUS)


# ---------------------------------------------------------------------------------------------------- tables


def _tables(source: Path) -> dict[str, tuple[Path, list[shared.Row]]]:
    """The table of each split that is there."""
    found = {
        split: next((source / name for name in names if (source / name).is_file()), None)
        for split, names in TABLES.items()
    }
    if not found["train"] and not found["val"]:
        raise ManifestError(f"{source}: neither train_data.csv nor val_data.csv; expected the challenge's tables")
    return {split: (path, shared.table(path, ("id",), key=("id",))) for split, path in found.items() if path}


def _edition(source: Path, tables: Mapping[str, tuple[Path, list[shared.Row]]]) -> Edition:
    columns = {column for _, rows in tables.values() for row in rows[:1] for column in row.cells}
    found = [edition for edition in EDITIONS if columns & set(edition.columns.values())]
    if len(found) != 1:
        known = " or ".join(", ".join(edition.columns.values()) for edition in EDITIONS)
        raise ManifestError(f"{source}: columns of {len(found)} editions in the tables; expected one: {known}")
    return found[0]


def _labels(
    tables: Mapping[str, tuple[Path, list[shared.Row]]], edition: Edition, schema: TraitSchema
) -> NDArray[np.float64]:
    """(N, K) labels of all rows; the table of the test split may have none."""
    parts = []
    for split, (path, rows) in tables.items():
        if split == "test" and not any(column in row.cells for row in rows[:1] for column in edition.columns.values()):
            parts.append(np.full((len(rows), len(schema.traits)), np.nan))
        else:
            shared.table(path, ("id", *edition.columns.values()))
            parts.append(shared.labels(rows, edition.columns, schema))
    return np.concatenate(parts)


def _check_persons(rows: Sequence[shared.Row]) -> None:
    first: dict[str, str] = {}
    problems = [
        f"{row.where}: person {row['id']!r} is already at {first[row['id']]}; expected each person in one split"
        for row in rows
        if first.setdefault(row["id"], row.where) != row.where
    ]
    if problems:
        raise manifest_error(problems)


# ---------------------------------------------------------------------------------------------------- answers


def _answers(folder: Path, suffixes: Sequence[str]) -> dict[Answer, Path]:
    """The files that are named after an answer, `PERSON_qN.*` or `PERSON_qN_topic.*`."""
    found: dict[Answer, Path] = {}
    problems = []
    for path in shared.files_by_name(folder, suffixes).values():
        if match := _ANSWER.fullmatch(path.stem):
            answer = match["person"], match["question"]
            if found.setdefault(answer, path) != path:
                problems.append(f"{path}: the same answer as {found[answer]}; expected one file each")
    if problems:
        raise manifest_error(problems)
    return found


def _streams(folder: Path, dropped: shared.Dropped) -> dict[str, dict[Answer, Path]]:
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder; expected one folder of .npy files per stream in it")
    streams: dict[str, dict[Answer, Path]] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        held = streams.setdefault(shared.stream_name(path.name), {})
        for answer, file in _answers(path, (".npy",)).items():
            if isinstance(shared.feature_width(file), int):
                held[answer] = file
            else:
                dropped.add("_".join(answer), f"unusable features in {path.name}")
    return streams


def _clip(
    row: shared.Row,
    question: str,
    files: Mapping[str, Mapping[Answer, Path]],
    streams: Mapping[str, Mapping[Answer, Path]],
) -> Clip:
    answer = row["id"], question
    video = files["video"].get(answer)
    attributes = {name: row.get(name) for name in ("gender", "education")} | {"age": _age_band(row.get("age"))}
    return Clip(
        id="_".join(answer),
        video=video,
        audio=None if video else files["audio"].get(answer),
        transcript=files["transcript"].get(answer),
        person=row["id"],
        question=question,
        attributes={name: code for name, code in attributes.items() if code},
        features={name: str(held[answer].resolve()) for name, held in streams.items() if answer in held},
    )


def _age_band(cell: str) -> str:
    try:
        age = float(cell)
    except ValueError:
        return ""
    bounds = (None, *AGES, None)
    low, high = next((a, b) for a, b in zip(bounds, bounds[1:], strict=False) if b is None or age < b)
    return f"under {high}" if low is None else f"{low} and over" if high is None else f"{low} to {high - 1}"


def _note_orphans(persons: set[str], files: Mapping[str, Mapping[Answer, Path]], dropped: shared.Dropped) -> None:
    for kind, held in files.items():
        for answer, path in held.items():
            if answer[0] not in persons:
                dropped.add(path.name, f"{kind} of a person who is in no table")


if __name__ == "__main__":
    sys.exit(main())
