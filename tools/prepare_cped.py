"""CPED (train_split.csv, valid_split.csv, test_split.csv) -> a manifest, one clip per speaker of a dialogue.

The layout of SOURCE and the terms of the corpus: datasets/cped/README.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmtraits.data import manifest as manifests
from mmtraits.data import prepare as shared
from mmtraits.data.problems import manifest_error
from mmtraits.errors import ManifestError
from mmtraits.media.transcript import Utterance, render
from mmtraits.schema import Clip

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "cped"
TABLES = {"train_split.csv": "train", "valid_split.csv": "val", "test_split.csv": "test"}
TRAITS = ("Neuroticism", "Extraversion", "Openness", "Agreeableness", "Conscientiousness")
COLUMNS = ("TV_ID", "Dialogue_ID", "Utterance_ID", "Speaker", "Gender", "Age", *TRAITS, "Utterance")
LABELS = {"high": 1.0, "low": 0.0, "unknown": math.nan, "": math.nan}
UNKNOWN = "unknown"


@dataclass
class Dialogue:
    """The rows of one dialogue, in the order of the table."""

    split: str
    rows: list[shared.Row] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    parser = shared.command_line(
        __doc__,
        source="folder with train_split.csv, valid_split.csv and test_split.csv",
        media="folder with a video per dialogue, DIALOGUE_ID.mp4, anywhere below it",
    )
    return shared.run(prepare, parser.parse_args(arguments))


def prepare(source: Path, out: Path, *, media: Path | None = None) -> str:
    """Write the manifest and a transcript per dialogue; return the report. Raises ManifestError."""
    schema = manifests.read_schema(CORPUS / "schema.yaml")
    found, dropped = shared.Collected(), shared.Dropped()
    dialogues = _dialogues(source, dropped)
    names = _persons(dialogues.values())
    videos = shared.files_by_name(media, (".mp4",)) if media else {}
    transcripts: dict[str, str] = {}
    for identity, dialogue in dialogues.items():
        video = videos.get(f"{identity}.mp4")
        if media and not video:
            dropped.add(identity, "video of a dialogue not found, its clips kept")
        transcript = f"transcripts/{identity}.json"
        judged = list(_judged(dialogue, dropped))
        if judged:
            transcripts[transcript] = _transcript(dialogue)
        for rows in judged:
            labels = _labels(rows)
            clip = _clip(identity, rows, names, out / transcript, video)
            found.add(clip, [labels[trait] for trait in schema.trait_names], dialogue.split)
    return shared.finish(found.manifest(out, schema), dropped, CORPUS, files=transcripts.items())


def _dialogues(source: Path, dropped: shared.Dropped) -> dict[str, Dialogue]:
    """Dialogues by id in the order of the tables; every problem of the cells at once."""
    dialogues: dict[str, Dialogue] = {}
    problems = []
    found = [(source / name, split) for name, split in TABLES.items() if (source / name).is_file()]
    if not found:
        raise ManifestError(f"{source}: none of {', '.join(TABLES)} is there; expected the official tables")
    for name in TABLES:
        if not (source / name).is_file():
            dropped.add(name, "table of a split not found")
    for path, split in found:
        for row in shared.table(path, COLUMNS, key=("Utterance_ID",)):
            if not row["Dialogue_ID"] or not row["Speaker"]:
                problems.append(f"{row.where}: Dialogue_ID or Speaker is empty; expected both")
                continue
            dialogue = dialogues.setdefault(row["Dialogue_ID"], Dialogue(split))
            if dialogue.split != split:
                problems.append(f"{row.where}: dialogue {row['Dialogue_ID']} is also in {dialogue.split}")
            problems += [
                f"{row.where}: {trait} {row[trait]!r}; expected high, low or unknown"
                for trait in TRAITS
                if row[trait].lower() not in LABELS
            ]
            dialogue.rows.append(row)
    if problems:
        raise manifest_error(problems)
    return dialogues


def _persons(dialogues: Collection[Dialogue]) -> dict[tuple[str, str], str]:
    """Who is who, by show and name: one name with one profile in several shows of a split is one person (a sequel)."""
    profiles: dict[str, set[tuple[str, ...]]] = {}
    rows = [(dialogue.split, row) for dialogue in dialogues for row in dialogue.rows]
    for split, row in rows:
        profiles.setdefault(row["Speaker"], set()).add((split, row["Gender"], *(row[trait] for trait in TRAITS)))
    return {
        (row["TV_ID"], name): name if len(profiles[name]) == 1 else f"{name} ({row['TV_ID']})"
        for _, row in rows
        for name in [row["Speaker"]]
    }


def _judged(dialogue: Dialogue, dropped: shared.Dropped) -> Iterator[list[shared.Row]]:
    """The rows of each speaker who says something and of whom a trait is known."""
    for speaker in dict.fromkeys(row["Speaker"] for row in dialogue.rows):
        rows = [row for row in dialogue.rows if row["Speaker"] == speaker]
        identity = f"{rows[0]['Dialogue_ID']}_{speaker}"
        for trait in TRAITS:
            if len(_found(rows, trait)) > 1:
                dropped.add(identity, f"{trait} both high and low in one dialogue")
        if not any(row["Utterance"] for row in rows):
            dropped.add(identity, "speaker who says nothing")
        elif all(map(math.isnan, _labels(rows).values())):
            dropped.add(identity, "speaker of whom no trait is known")
        else:
            yield rows


def _labels(rows: Sequence[shared.Row]) -> dict[str, float]:
    """1, 0 or NaN by trait; a trait on which the rows of one dialogue disagree is unknown."""
    found = {trait: _found(rows, trait) for trait in TRAITS}
    return {trait.lower(): LABELS[known.pop()] if len(known) == 1 else math.nan for trait, known in found.items()}


def _found(rows: Sequence[shared.Row], trait: str) -> set[str]:
    return {row[trait].lower() for row in rows} - {UNKNOWN, ""}


def _transcript(dialogue: Dialogue) -> str:
    return render((Utterance(None, None, row["Speaker"], row["Utterance"]) for row in dialogue.rows), ".json")


def _clip(
    identity: str,
    rows: Sequence[shared.Row],
    names: Mapping[tuple[str, str], str],
    transcript: Path,
    video: Path | None,
) -> Clip:
    first = rows[0]
    attributes = {"gender": first["Gender"], "age": first["Age"], "show": first["TV_ID"]}
    return Clip(
        id=f"{identity}_{first['Speaker']}",
        video=video,
        transcript=transcript,
        person=names[first["TV_ID"], first["Speaker"]],
        speaker=first["Speaker"],
        attributes={name: value for name, value in attributes.items() if value not in ("", UNKNOWN)},
    )


if __name__ == "__main__":
    sys.exit(main())
