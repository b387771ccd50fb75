"""Essays (stream of consciousness), a CSV of texts and five y/n labels -> a manifest: `prepare_essays.py SOURCE OUT`.

The layout of SOURCE and the terms of the corpus: datasets/essays/README.md. Running it again gives the same bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtraits.data import manifest as manifests
from mmtraits.data.prepare import Dropped, Row, command_line, finish, run, table
from mmtraits.data.problems import manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "essays"
COLUMNS = {
    "extraversion": "cEXT",
    "neuroticism": "cNEU",
    "agreeableness": "cAGR",
    "conscientiousness": "cCON",
    "openness": "cOPN",
}
ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")  # copies of the corpus differ; latin-1 reads any bytes
_VALUES = {"y": 1.0, "n": 0.0, "": math.nan}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    parser = command_line(__doc__, source="essays.csv: #AUTHID, TEXT, cEXT, cNEU, cAGR, cCON, cOPN")
    parser.add_argument("--encoding", help=f"of SOURCE; the first that fits of {', '.join(ENCODINGS)} when not given")
    return run(prepare, parser.parse_args(arguments))


def prepare(source: Path, out: Path, *, encoding: str | None = None) -> str:
    """Write the manifest; return the report. Raises ManifestError."""
    schema = manifests.read_schema(CORPUS / "schema.yaml")
    rows, encoding = _rows(source, encoding)
    dropped = Dropped()
    kept: dict[str, Row] = {}
    for row in rows:
        author = row["#AUTHID"]
        if not author or not row["TEXT"]:
            dropped.add(author or row.where, "without author or text")
        elif kept.setdefault(author, row) is not row:
            dropped.add(row.where, "another text of an author who is already in")
    manifest = manifests.Manifest(
        path=out / "clips.csv",
        schema=schema,
        clips=tuple(Clip(id=author, text=row["TEXT"], person=author) for author, row in kept.items()),
        labels=_labels(list(kept.values()), schema.trait_names),
        splits=(None,) * len(kept),
    )
    return f"{finish(manifest, dropped, CORPUS)}\nread as {encoding}"


def _rows(source: Path, encoding: str | None) -> tuple[list[Row], str]:
    candidates = (encoding,) if encoding else ENCODINGS
    for candidate in candidates:
        try:
            return table(source, ("#AUTHID", "TEXT", *COLUMNS.values()), encoding=candidate), candidate
        except LookupError as error:
            raise ManifestError(
                f"--encoding {encoding!r}: {error}; expected one like {', '.join(ENCODINGS)}"
            ) from error
        except ManifestError as error:
            if not isinstance(error.__cause__, UnicodeDecodeError) or candidate == candidates[-1]:
                raise
    raise AssertionError("the last candidate returned or raised")


def _labels(rows: Sequence[Row], traits: Sequence[str]) -> np.ndarray:
    """(N, 5): y is 1, n is 0, an empty cell is unknown."""
    problems = [
        f"{row.where}: {COLUMNS[trait]} {row[COLUMNS[trait]]!r}; expected y, n or an empty cell"
        for row in rows
        for trait in traits
        if row[COLUMNS[trait]].lower() not in _VALUES
    ]
    if problems:
        raise manifest_error(problems)
    values = [[_VALUES[row[COLUMNS[trait]].lower()] for trait in traits] for row in rows]
    return np.array(values, dtype=np.float64).reshape(len(rows), len(traits))


if __name__ == "__main__":
    sys.exit(main())
