"""A folder of clips and a CSV of labels -> a manifest: `prepare_folder.py MEDIA LABELS OUT --id COLUMN ...`.

A row belongs to the file that its id names: a path below MEDIA or a mere file name, with or without suffix. Files of
one stem go together: a.mp4, a.wav and a.srt are the video, the sound and the transcript of one clip. For tables that
need more than this, see prepare_table.py. Running it again gives the same bytes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmtraits.data import manifest as manifests
from mmtraits.data.prepare import Dropped, Row, finish, labels, run, split_name
from mmtraits.data.prepare import table as read_table
from mmtraits.data.problems import did_you_mean, manifest_error
from mmtraits.errors import ManifestError
from mmtraits.media.probe import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from mmtraits.media.transcript import SUFFIXES as TRANSCRIPT_SUFFIXES
from mmtraits.schema import Clip, Trait, TraitSchema

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "plain_folder"
CELLS = ("person", "question", "speaker", "text", "split")
_SUFFIXES = {"video": VIDEO_SUFFIXES, "audio": AUDIO_SUFFIXES, "transcript": TRANSCRIPT_SUFFIXES}

Files = Mapping[str, Path]  # video, audio, transcript of one clip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("media", type=Path, help="folder of video, audio and transcript files, at any depth")
    parser.add_argument("table", type=Path, metavar="labels", help="CSV or TSV with a header, one row per clip")
    parser.add_argument("out", type=Path, help="folder for clips.csv, schema.yaml and clips.csv.sha256")
    parser.add_argument("--id", dest="key", required=True, metavar="COLUMN", help="names the clip's file")
    parser.add_argument("--schema", type=Path, metavar="FILE", help="a schema.yaml whose traits are columns of LABELS")
    parser.add_argument("--traits", nargs="+", default=(), metavar="COLUMN", help="instead of --schema")
    parser.add_argument("--low", type=float, help="with --traits: lowest value of the scale")
    parser.add_argument("--high", type=float, help="with --traits: highest value of the scale")
    parser.add_argument("--construct", choices=("apparent", "self_reported"), help="with --traits: what was labelled")
    parser.add_argument("--judged-by", help="with --traits: who gave the labels")
    for name in CELLS:
        parser.add_argument(f"--{name}", metavar="COLUMN", help=f"{name} of the clip")
    parser.add_argument("--attributes", nargs="+", default=(), metavar="COLUMN", help="for audits, never model inputs")
    return run(prepare, parser.parse_args(arguments))


def prepare(
    media: Path,
    table: Path,
    out: Path,
    *,
    key: str,
    schema: Path | None = None,
    traits: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    construct: Literal["apparent", "self_reported"] | None = None,
    judged_by: str | None = None,
    attributes: Sequence[str] = (),
    **cells: str | None,
) -> str:
    """Write the manifest; return the report. `cells`: columns by the names in CELLS. Raises ManifestError."""
    if schema:
        made = manifests.read_schema(schema)
    else:
        made = _schema(out.resolve().name, traits, low, high, construct, judged_by)
    used = {name: column for name, column in cells.items() if column}
    rows = read_table(table, (key, *used.values(), *attributes), key=(key,))
    columns = _columns(table, rows, made, traits)
    dropped = Dropped()
    clips = _clips(rows, key, _files(media, dropped), dropped)
    kept = [row for row in rows if row[key] in clips]
    manifest = manifests.Manifest(
        path=out / "clips.csv",
        schema=made,
        clips=tuple(_clip(row, row[key], clips[row[key]], used, attributes) for row in kept),
        labels=labels(kept, columns, made),
        splits=_splits(kept, used.get("split")),
    )
    own = (out / "dataset.yaml").is_file()  # somebody said there what the data are
    return finish(manifest, dropped, out if own else CORPUS)


def _schema(
    name: str,
    traits: Sequence[str],
    low: float | None,
    high: float | None,
    construct: Literal["apparent", "self_reported"] | None,
    judged_by: str | None,
) -> TraitSchema:
    if not traits or low is None or high is None or construct is None or not judged_by:
        raise ManifestError("no schema: name --schema FILE, or all of --traits --low --high --construct --judged-by")
    if low >= high:
        raise ManifestError(f"--low {low:g} is not below --high {high:g}")
    return TraitSchema(
        name=name,
        construct=construct,
        judged_by=judged_by,
        traits=tuple(Trait(name=_trait(column), low=low, high=high) for column in traits),
    )


def _trait(column: str) -> str:
    """`Emotional Stability` -> emotional_stability."""
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _columns(path: Path, rows: Sequence[Row], schema: TraitSchema, named: Sequence[str]) -> dict[str, str]:
    """The column of each trait: as named on the command line, or the one called like the trait."""
    header = list(rows[0].cells) if rows else []
    found = {_trait(column): column for column in (*header, *named)}
    lost = [trait for trait in schema.trait_names if found.get(trait) not in header]
    if rows and lost:
        raise manifest_error([f"{path}:1: no column for trait {name!r}{did_you_mean(name, header)}" for name in lost])
    return {trait: found[trait] for trait in schema.trait_names} if rows else {}


# ---------------------------------------------------------------------------------------------------- rows and files


def _files(folder: Path, dropped: Dropped) -> dict[str, Files]:
    """A clip's files by every name below `folder`: `sub/a` is all of that stem, `sub/a.mp4` one and its transcript."""
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder; expected the media files, in any folders below it")
    stems: defaultdict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.rglob("*")):
        kind = next((kind for kind, suffixes in _SUFFIXES.items() if path.suffix.lower() in suffixes), None)
        if kind and path.is_file() and stems[_below(path.with_suffix(""), folder)].setdefault(kind, path) != path:
            dropped.add(_below(path, folder), f"a second {kind} of one stem")
    found: dict[str, Files] = {}
    for stem, kinds in stems.items():
        transcript = {kind: path for kind, path in kinds.items() if kind == "transcript"}
        found |= {_below(path, folder): {kind: path, **transcript} for kind, path in kinds.items()} | {stem: kinds}
    return found


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _clips(rows: Sequence[Row], key: str, files: Mapping[str, Files], dropped: Dropped) -> dict[str, Files]:
    """The files of every row that has some; both sides' orphans go to `dropped`."""
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for full in files:
        by_name[Path(full).name].append(full)
    problems: list[str] = []
    clips: dict[str, Files] = {}
    taken: dict[Path, str] = {}
    for row in rows:
        clip = row[key]
        names = [clip] if clip in files else by_name.get(Path(clip).name, [])
        if len(names) > 1:
            problems.append(f"{row.where}: {clip!r} may be {' or '.join(names[:3])}; name the folder too")
        elif not names:
            dropped.add(clip, "rows without a file of that name")
        else:
            clips[clip] = files[names[0]]
            owners = {kind: taken.setdefault(path, clip) for kind, path in clips[clip].items()}
            others = {owner for kind, owner in owners.items() if kind != "transcript" and owner != clip}
            problems += [f"{row.where}: {clip!r} names a file of {owner!r}; one row per clip" for owner in others]
    if problems:
        raise manifest_error(problems)
    for path in sorted({path for kinds in files.values() for path in kinds.values()} - taken.keys()):
        dropped.add(path.name, "files without a row")
    return clips


def _clip(row: Row, clip: str, files: Files, cells: Mapping[str, str], attributes: Sequence[str]) -> Clip:
    told: dict[str, Any] = {name: row[column] or None for name, column in cells.items() if name != "split"}
    audited = {_trait(column): row[column] for column in attributes if row[column]}
    return Clip(id=clip, **{**files, **told}, attributes=audited)


def _splits(rows: Sequence[Row], column: str | None) -> tuple[str | None, ...]:
    problems: list[str] = []
    found = tuple(split_name(row[column], row.where, problems) if column else None for row in rows)
    if problems:
        raise manifest_error(problems)
    return found


if __name__ == "__main__":
    sys.exit(main())
