"""YouTube Personality, three tables and transcripts -> a manifest: `prepare_youtube_personality.py SOURCE OUT`.

The layout of SOURCE and the terms of the corpus: datasets/youtube_personality/README.md. Running it again gives the
same bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.data.prepare import Contents, Dropped, Row, command_line, files_by_name, finish, labels, run, table
from mmtraits.data.problems import manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "youtube_personality"
ID = "vlogId"
STREAM = "vlog"
COLUMNS = {
    "extraversion": "Extr",
    "agreeableness": "Agr",
    "conscientiousness": "Cons",
    "emotional_stability": "Emot",
    "openness": "Open",
}
_MISSING = ("", "NA", "NaN", "nan", "-Inf", "Inf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    source = "the unpacked folder: *audiovisual_features*.csv, *impression_scores*.csv, *gender*.csv and transcripts"
    return run(prepare, command_line(__doc__, source=source).parse_args(arguments))


def prepare(source: Path, out: Path) -> str:
    """Write the manifest and vlog.npz; return the report. Raises ManifestError."""
    schema = manifests.read_schema(CORPUS / "schema.yaml")
    scores = _table(source, "impression_scores", (ID, *COLUMNS.values()))
    genders = {row[ID]: row["gender"] for row in _table(source, "gender", (ID, "gender"))}
    features = _table(source, "audiovisual_features", (ID,))
    transcripts = {path.stem: path for path in files_by_name(source, (".txt",)).values()}
    dropped = Dropped()
    vectors = _vectors(features, dropped)
    texts = {row[ID]: _text(transcripts[row[ID]]) for row in scores if row[ID] in transcripts}
    _orphans({row[ID] for row in scores}, {row[ID] for row in features}, transcripts, dropped)
    for row in scores:
        if not texts.get(row[ID]) and row[ID] not in vectors:
            dropped.add(row[ID], "without transcript and features")
    kept = [row for row in scores if texts.get(row[ID]) or row[ID] in vectors]
    manifest = manifests.Manifest(
        path=out / "clips.csv",
        schema=schema,
        clips=tuple(_clip(row[ID], texts, vectors, genders) for row in kept),
        labels=labels(kept, COLUMNS, schema),
        splits=(None,) * len(kept),
    )
    names = [name for name in features[0].cells if name != ID] if features else []
    report = finish(
        manifest, dropped, CORPUS, files=_files({c.id: vectors[c.id] for c in manifest.clips if c.features}, names)
    )
    return f"{report}\n{STREAM}: {len(names)} features a vlog; in a config: {{use: precomputed, size: {len(names)}}}"


def _files(vectors: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> Iterator[tuple[str, Contents]]:
    if vectors:
        yield f"{STREAM}.npz", {"clip": np.array(list(vectors)), "features": np.stack(list(vectors.values()))}
        yield f"{STREAM}.columns.txt", "".join(f"{name}\n" for name in names)


def _table(source: Path, what: str, columns: Sequence[str]) -> list[Row]:
    """The one table below `source` whose name holds `what`; spaces between cells, `NA` where there is no value."""
    found = [path for name, path in files_by_name(source, (".csv",)).items() if what in name.lower()]
    if len(found) != 1:
        raise ManifestError(f"{source}: {len(found)} files *{what}*.csv; expected one")
    return table(found[0], columns, key=(ID,), delimiter=" ")


def _vectors(rows: Sequence[Row], dropped: Dropped) -> dict[str, NDArray[np.float32]]:
    """The features by vlog; a vlog that lacks one of them has none at all, because nothing is filled in."""
    problems: list[str] = []
    found: dict[str, NDArray[np.float32]] = {}
    for row in rows:
        values = [_number(row, name, problems) for name in row.cells if name != ID]
        if np.isfinite(values).all():
            found[row[ID]] = np.array(values, dtype=np.float32)
        else:
            dropped.add(row[ID], "features of vlogs that lack one of them")
    if problems:
        raise manifest_error(problems)
    return found


def _number(row: Row, name: str, problems: list[str]) -> float:
    try:
        return math.nan if row[name] in _MISSING else float(row[name])
    except ValueError:
        problems.append(f"{row.where}: {name} {row[name]!r} is not a number")
        return math.nan


def _orphans(scored: set[str], measured: set[str], transcripts: Mapping[str, Path], dropped: Dropped) -> None:
    for vlog in sorted(measured - scored):
        dropped.add(vlog, "without impression scores")
    for vlog in sorted(set(transcripts) - scored - measured):
        dropped.add(transcripts[vlog].name, "text files of no vlog")


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return data.decode("latin-1").strip()


def _clip(
    vlog: str, texts: Mapping[str, str], vectors: Mapping[str, NDArray[np.float32]], genders: Mapping[str, str]
) -> Clip:
    gender = genders.get(vlog, "")
    return Clip(
        id=vlog,
        person=vlog,  # one vlog a vlogger
        text=texts.get(vlog) or None,
        attributes={} if gender in _MISSING else {"gender": gender},
        features={STREAM: f"{STREAM}.npz#{vlog}"} if vlog in vectors else {},
    )


if __name__ == "__main__":
    sys.exit(main())
