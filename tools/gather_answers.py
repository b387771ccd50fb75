"""Several answers of a person as one sample: `gather_answers.py SOURCE OUT`, for 365 Aspects (configs/systems).

SOURCE, a prepared folder with persons and feature columns, becomes a manifest with a row per person in OUT. Every
stream's features are (R, D) there: row r is the person's answer to question r of those asked in SOURCE, in the order of
their names (--questions chooses and orders them; without a column `question` a person's clips count by id). Steps of an
answer are averaged. An answer that lacks a stream has zeros there, as in the paper's code; one without any stream is
left out, so that persons may have fewer rows. What is said is joined, line by line. A person's labels are the mean of
those of the answers; attributes on which answers differ are left out, a person in two splits is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.data.features import read_features
from mmtraits.data.manifest import Manifest
from mmtraits.data.prepare import Collected, Contents, Dropped, finish, run
from mmtraits.data.texts import said
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip

Vectors = dict[int, dict[str, NDArray[np.float32]]]  # row of the manifest -> stream -> (D,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, gather, print the report; 2 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="a prepared folder: clips.csv with schema.yaml beside it")
    parser.add_argument("out", type=Path, help="another folder")
    parser.add_argument("--streams", nargs="+", default=(), help="which feature columns; without it all")
    parser.add_argument("--questions", nargs="+", default=(), help="which answers, in this order; without it all")
    return run(prepare, parser.parse_args(arguments))


def prepare(source: Path, out: Path, *, streams: Sequence[str] = (), questions: Sequence[str] = ()) -> str:
    """Write OUT, whole or not at all; return the report. Raises ManifestError."""
    corpus, dropped = manifests.read(source), Dropped()
    streams = _streams(corpus, streams)
    people = _people(corpus, _questions(corpus, questions), dropped)
    vectors = _vectors(corpus, sorted(row for rows in people.values() for row in rows), streams)
    gathered = Collected()
    tables: dict[str, dict[str, NDArray[np.float32]]] = {stream: {} for stream in streams}
    filled = 0
    for person, rows in people.items():
        having = [row for row in rows if row in vectors]
        for row in sorted(set(rows) - set(having)):
            dropped.add(corpus.clips[row].id, "answers without any of the streams")
        own = {s: [vectors[row].get(s) for row in having] for s in streams}
        known = {s: some for s, some in own.items() if any(one is not None for one in some)}
        filled += sum(one is None for some in known.values() for one in some)
        for stream, some in known.items():
            tables[stream][person] = _table(some)
        if known:
            _gather(corpus, person, having, {s: f"{s}.npz#{person}" for s in known}, gathered)
    files: list[tuple[str, Contents]] = [(f"{stream}.npz", table) for stream, table in tables.items() if table]
    report = finish(gathered.manifest(out, corpus.schema), dropped, corpus.folder, files=files)
    sizes = [
        f"  {s}: {{use: precomputed, size: {next(iter(t.values())).shape[1]}, width: null}}"
        for s, t in tables.items()
        if t
    ]
    most = max((len(one) for table in tables.values() for one in table.values()), default=0)
    told = [f"up to {most} answers of a person; {filled} that lacked a stream have zeros there", ""]
    return "\n".join([report, *told, "to train on it, in the config:", "streams:", *sizes])


def _streams(corpus: Manifest, wanted: Sequence[str]) -> list[str]:
    known = sorted({stream for clip in corpus.clips for stream in clip.features})
    if lost := [stream for stream in wanted if stream not in known] or ([] if known else ["any"]):
        there = ", ".join(f"feature_{stream}" for stream in known) or "none"
        raise ManifestError(f"{corpus.path}: no column of features for {', '.join(lost)}; its feature columns: {there}")
    return list(wanted) or known


def _questions(corpus: Manifest, wanted: Sequence[str]) -> list[str]:
    """The questions in their order; none where no clip answers one."""
    known = sorted({clip.question for clip in corpus.clips if clip.question})
    if lost := [question for question in wanted if question not in known]:
        raise ManifestError(
            f"{corpus.path}: no clip answers {', '.join(lost)}; its questions: {', '.join(known) or 'none'}"
        )
    return list(wanted) or known


def _people(corpus: Manifest, questions: Sequence[str], dropped: Dropped) -> dict[str, list[int]]:
    """Rows of every person's answers, in the order of the questions, or of ids where there are none."""
    place = {question: n for n, question in enumerate(questions)}
    order = sorted(range(len(corpus.clips)), key=lambda row: corpus.clips[row].id)
    people: dict[str, list[int]] = {clip.person: [] for clip in corpus.clips if clip.person}
    taken: set[tuple[str, str]] = set()
    for row in sorted(order, key=lambda row: place.get(corpus.clips[row].question or "", 0)):
        clip = corpus.clips[row]
        if clip.person is None:
            dropped.add(clip.id, "clips of nobody")
        elif questions and clip.question not in place:
            dropped.add(clip.id, "clips that answer no such question")
        elif questions and (clip.person, str(clip.question)) in taken:
            dropped.add(clip.id, "further answers to the same question")
        else:
            taken.add((clip.person, str(clip.question)))
            people[clip.person].append(row)
    return {person: rows for person, rows in people.items() if rows}


def _vectors(corpus: Manifest, rows: Sequence[int], streams: Sequence[str]) -> Vectors:
    """The mean over the steps of every stream that a row has."""
    found: Vectors = {}
    for stream in streams:
        having = [row for row in rows if stream in corpus.clips[row].features]
        arrays = read_features(corpus.folder, [corpus.clips[row].features[stream] for row in having])
        for row, steps in zip(having, arrays, strict=True):
            found.setdefault(row, {})[stream] = steps.mean(axis=0)
    return found


def _table(vectors: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """(R, D), zeros for an answer without the stream."""
    empty = np.zeros_like(next(one for one in vectors if one is not None))
    return np.stack([empty if one is None else one for one in vectors])


def _gather(
    corpus: Manifest, person: str, rows: Sequence[int], features: Mapping[str, str], gathered: Collected
) -> None:
    """Add the person's row."""
    clips = [corpus.clips[row] for row in rows]
    splits = {corpus.splits[row] for row in rows}
    if len(splits) > 1:
        named = ", ".join(sorted(str(split) for split in splits))
        raise ManifestError(f"{corpus.path}: answers of person {person} are in the splits {named}; expected one")
    labels = corpus.labels[rows]
    known = np.isfinite(labels)
    mean = np.where(
        known.any(axis=0), np.where(known, labels, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.nan
    )
    shared = set.intersection(*(set(clip.attributes.items()) for clip in clips))
    text = "\n".join(text for clip in clips if (text := said(clip)))
    clip = Clip(id=person, person=person, text=text or None, attributes=dict(sorted(shared)), features=dict(features))
    gathered.add(clip, mean, splits.pop())


if __name__ == "__main__":
    sys.exit(main())
