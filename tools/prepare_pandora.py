"""PANDORA, or another CSV of one author's many texts -> a manifest: `prepare_pandora.py SOURCE OUT`.

SOURCE: a folder with author_profiles.csv and all_comments_since_2015.csv, or one CSV with a text and its author's
labels in each row; layout and terms: datasets/pandora/README.md. Texts are read one by one: the comments are millions.
Running it again gives the same bytes.
"""

from __future__ import annotations

import csv
import heapq
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from mmtraits.data import manifest as manifests
from mmtraits.data.prepare import Dropped, Row, command_line, finish, labels, run, table
from mmtraits.data.problems import did_you_mean, manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip, TraitSchema

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "pandora"
PROFILES, COMMENTS = "author_profiles.csv", "all_comments_since_2015.csv"
AUTHOR = "author"
TEXT_COLUMNS = ("body", "text")
ATTRIBUTES = ("gender", "country", "age")
_GONE = ("", "[deleted]", "[removed]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    parser = command_line(__doc__, source=f"folder with {PROFILES} and {COMMENTS}, or one joined CSV")
    parser.add_argument("--cap", type=int, metavar="N", help="at most N texts an author, drawn by their hash")
    parser.add_argument("--join", action="store_true", help="one clip per author: all texts in one")
    return run(prepare, parser.parse_args(arguments))


def prepare(source: Path, out: Path, *, cap: int | None = None, join: bool = False) -> str:
    """Write the manifest; return the report. Raises ManifestError."""
    if cap is not None and cap < 1:
        raise ManifestError(f"--cap {cap}; expected 1 or more texts an author")
    schema = manifests.read_schema(CORPUS / "schema.yaml")
    dropped = Dropped()
    profiles, comments = (source / PROFILES, source / COMMENTS) if source.is_dir() else (source, source)
    authors = _authors(profiles, schema, dropped, joined=profiles == comments)
    left_out: Counter[str] = Counter()
    texts = _texts(comments, authors, cap, left_out)
    for author in authors.keys() - texts.keys():
        dropped.add(author, "authors with labels and no text")
    kept = [author for author in authors if author in texts]
    pieces = {author: ["\n".join(texts[author])] if join else texts[author] for author in kept}
    known = labels([authors[author] for author in kept], {}, schema)
    manifest = manifests.Manifest(
        path=out / "clips.csv",
        schema=schema,
        clips=tuple(clip for author in kept for clip in _clips(author, pieces[author], authors[author])),
        labels=np.repeat(known, [len(pieces[author]) for author in kept], axis=0),
        splits=(None,) * sum(len(pieces[author]) for author in kept),
    )
    return "\n".join([finish(manifest, dropped, CORPUS), *(f"left out: {n} {why}" for why, n in left_out.items())])


def _authors(path: Path, schema: TraitSchema, dropped: Dropped, *, joined: bool) -> dict[str, Row]:
    """The first row of every author with at least one label; a joined table must not contradict itself."""
    authors: dict[str, Row] = {}
    problems: list[str] = []
    names = (AUTHOR, *schema.trait_names)
    for row in table(path, names, key=() if joined else (AUTHOR,)):
        author, told = row[AUTHOR], [row[name] for name in schema.trait_names]
        if not author:
            problems.append(f"{row.where}: no author; without one, a split would divide persons")
        elif not any(told):
            dropped.add(row.where if joined else author, f"{'rows' if joined else 'authors'} without any label")
        elif told != [authors.setdefault(author, row)[name] for name in schema.trait_names]:
            problems.append(f"{row.where}: other labels of {author!r} than at {authors[author].where}")
    if problems:
        raise manifest_error(problems)
    return authors


def _texts(path: Path, authors: Mapping[str, Row], cap: int | None, left_out: Counter[str]) -> dict[str, list[str]]:
    """The texts of every known author in the file's order; of more than `cap`, those with the smallest hashes."""
    drawn: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)  # heaps: the largest hash on top
    for line, author, text in _rows(path):
        if author not in authors:
            continue
        if text in _GONE:
            left_out["texts that are empty or deleted"] += 1
            continue
        digest = int.from_bytes(blake2b(f"{author}\n{text}".encode(), digest_size=8).digest(), "big")
        entry = (-digest, -line, text)
        if cap is None or len(drawn[author]) < cap:
            heapq.heappush(drawn[author], entry)
        else:
            heapq.heappushpop(drawn[author], entry)
            left_out[f"texts beyond the cap of {cap}"] += 1
    return {
        author: [text for _, _, text in sorted(heap, key=lambda e: -e[1])] for author, heap in drawn.items() if heap
    }


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, author and text of every row."""
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 27))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            column = next((name for name in TEXT_COLUMNS if name in header), None)
            if column is None or AUTHOR not in header:
                missing = AUTHOR if column else " or ".join(TEXT_COLUMNS)
                raise ManifestError(
                    f"{path}:1: no column {missing}{did_you_mean(missing, header)}; found {', '.join(header)}"
                )
            author, text = header.index(AUTHOR), header.index(column)
            for cells in reader:
                if len(cells) == len(header):
                    yield reader.line_num, cells[author].strip(), cells[text].strip()
                elif cells:
                    raise ManifestError(
                        f"{path}:{reader.line_num}: {len(cells)} cells; the header has {len(header)} columns"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: {error}; expected a CSV in UTF-8") from error


def _clips(author: str, texts: Sequence[str], profile: Row) -> Iterator[Clip]:
    attributes = {name: value for name in ATTRIBUTES if (value := _attribute(name, profile.get(name)))}
    for number, text in enumerate(texts, start=1):
        clip = author if len(texts) == 1 else f"{author}#{number}"
        yield Clip(id=clip, text=text, person=author, attributes=attributes)


def _attribute(name: str, cell: str) -> str:
    if cell.lower() in ("nan", "na", "none"):
        return ""
    if name != "age" or not cell:
        return cell
    try:
        return f"{int(float(cell)) // 10 * 10}s"  # an audit compares groups of thirty and more
    except ValueError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
