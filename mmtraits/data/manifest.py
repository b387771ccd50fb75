"""clips.csv + schema.yaml -> `Manifest`; every problem at once, each with file and line.

clips.csv (or clips.csv.gz): UTF-8, one row per clip, an empty cell = absent. Columns:

    id                          unique name of the clip; the only required one besides the traits
    video, audio, transcript    paths, relative to the manifest's folder
    text                        the transcript itself
    start_s, end_s              the stretch of the media that the clip covers
    person, speaker, question   see `schema.Clip`
    split                       train | val | test: the corpus's own split
    <trait>                     one column per trait of schema.yaml; empty = unknown, masked in loss and metrics
    attr_<name>                 an attribute for audits, never a model input
    feature_<stream>            a front-end's output for this clip; see `read_features`

Every row names at least one modality: video, audio, transcript, text or a feature.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.features import feature_file, read_features
from mmtraits.data.problems import did_you_mean, manifest_error
from mmtraits.data.schema_file import ATTRIBUTE, COLUMNS, FEATURE, read_schema, write_schema
from mmtraits.data.tables import unzipped
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip, Trait, TraitSchema

__all__ = [
    "COLUMNS",
    "SPLITS",
    "Manifest",
    "read",
    "read_clips",
    "read_features",
    "read_schema",
    "write",
    "write_schema",
]

SPLITS = ("train", "val", "test")
_PATHS = ("video", "audio", "transcript")
_NAMES = ("person", "speaker", "question")
_MAX_CELL = 1 << 27  # characters: a text corpus may hold everything that one author wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """N labelled clips: labels (N, K) float64 on the schema's scale, NaN = unknown; splits: the corpus's."""

    path: Path
    schema: TraitSchema
    clips: tuple[Clip, ...]
    labels: NDArray[np.float64]
    splits: tuple[str | None, ...]
    lines: tuple[int, ...] = ()  # of the file, where the rows were read from one

    @property
    def folder(self) -> Path:
        """Where the manifest lies; feature references are relative to it."""
        return self.path.parent


def read(path: Path | str, *, check_files: bool = False) -> Manifest:
    """Read a labelled manifest: a clips.csv(.gz), or the folder that holds one; schema.yaml lies beside it.

    `check_files` also demands that every named file exists. Raises ManifestError that lists every problem.
    """
    found, problems = examine(path, check_files=check_files)
    if found is None or problems:
        raise manifest_error(problems)
    return found


def examine(path: Path | str, *, check_files: bool = False) -> tuple[Manifest | None, list[str]]:
    """What `read` reads and every problem in it; labels that are wrong are there as they stand. None without schema.

    Raises ManifestError where there is no such file.
    """
    path = _located(Path(path))
    problems: list[str] = []
    schema: TraitSchema | None = None
    try:
        schema = read_schema(path.parent / "schema.yaml")
    except ManifestError as error:
        problems.append(str(error))
    table = _Table(path, schema.traits if schema else None, labelled=schema is not None, check_files=check_files)
    table.parse()
    problems += table.problems
    if schema is None:
        return None, problems
    labels = np.array(table.labels, dtype=np.float64).reshape(len(table.clips), len(schema.traits))
    found = Manifest(
        path=path,
        schema=schema,
        clips=tuple(table.clips),
        labels=labels,
        splits=tuple(table.splits),
        lines=tuple(table.lines),
    )
    return found, problems


def read_clips(path: Path | str, *, check_files: bool = False) -> tuple[Clip, ...]:
    """The clips of a manifest that needs no labels, for prediction; trait columns only where schema.yaml is."""
    path = _located(Path(path))
    schema_path = path.parent / "schema.yaml"
    traits = read_schema(schema_path).traits if schema_path.is_file() else ()
    table = _Table(path, traits, labelled=False, check_files=check_files)
    table.parse()
    if table.problems:
        raise manifest_error(table.problems)
    return tuple(table.clips)


def write(manifest: Manifest) -> None:
    """Write `manifest.path` (.csv or .csv.gz) and schema.yaml beside it; the same rows give the same bytes."""
    header, rows = _cells(manifest)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    data = text.getvalue().encode()
    manifest.folder.mkdir(parents=True, exist_ok=True)
    manifest.path.write_bytes(gzip.compress(data, mtime=0) if manifest.path.suffix == ".gz" else data)
    write_schema(manifest.folder / "schema.yaml", manifest.schema)


def _located(path: Path) -> Path:
    if path.is_dir():
        plain, packed = path / "clips.csv", path / "clips.csv.gz"
        path = packed if packed.is_file() and not plain.is_file() else plain
    if not path.is_file():
        raise ManifestError(f"{path}: no such file; expected a clips.csv, one row per clip, with schema.yaml beside it")
    return path


# ---------------------------------------------------------------------------------------------------- clips.csv


class _Table:
    """One pass over a clips.csv that collects rows and problems; what a problem spoils is never used."""

    def __init__(self, path: Path, traits: Sequence[Trait] | None, *, labelled: bool, check_files: bool) -> None:
        self.path, self.labelled, self.check_files = path, labelled, check_files
        self.traits, self.judge_columns = traits or (), traits is not None  # unknown traits: any column may be one
        self.clips: list[Clip] = []
        self.labels: list[list[float]] = []
        self.splits: list[str | None] = []
        self.lines: list[int] = []
        self.problems: list[str] = []
        self._line = 1
        self._line_of_id: dict[str, int] = {}
        self._prefixed: dict[str, list[tuple[str, str]]] = {ATTRIBUTE: [], FEATURE: []}

    def parse(self) -> None:
        rows = self._rows()
        header = next(rows, None)
        if header is None:
            if not self.problems:
                self._say("the file is empty; expected a header row")
            return
        self._check_header(header)
        if "id" not in header:
            return
        for cells in rows:
            if len(cells) == len(header):
                self._add(dict(zip(header, cells, strict=True)))
            else:
                self._say(f"{len(cells)} cells; the header has {len(header)} columns")
        if not self._line_of_id and not self.problems:
            self._say("a header and no rows; expected one row per clip")

    def _say(self, what: str) -> None:
        self.problems.append(f"{self.path}:{self._line}: {what}")

    def _rows(self) -> Iterator[list[str]]:
        """Stripped cells of every row that is not blank; keeps `_line` at the line where the row starts."""
        csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL))
        reader = csv.reader(io.StringIO(self._text(), newline=""), strict=True)  # strict: an open quote swallows rows
        while True:
            self._line = reader.line_num + 1
            try:
                cells = [cell.strip() for cell in next(reader)]
            except StopIteration:
                return
            except csv.Error as error:
                self._say(f"not readable as CSV ({error}); check the quotes from here on")
                return
            if any(cells):
                yield cells

    def _text(self) -> str:
        data = self.path.read_bytes()
        try:
            if self.path.suffix == ".gz":
                data = unzipped(data)
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._line = data.count(b"\n", 0, error.start) + 1
            self._say(f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8")
        except (OSError, EOFError, zlib.error) as error:
            self._say(f"not a whole gzip file ({error})")
        return ""

    def _check_header(self, header: Sequence[str]) -> None:
        traits = [trait.name for trait in self.traits]
        known = (*COLUMNS, *traits)
        for position, name in enumerate(header, start=1):
            prefix = next((p for p in self._prefixed if name.startswith(p) and name != p), None)
            if name in header[: position - 1]:
                self._say(f"column {name!r} is there twice")
            elif prefix:
                self._prefixed[prefix].append((name, name.removeprefix(prefix)))
            elif not name:
                self._say(f"column {position} has no name")
            elif name not in known and self.judge_columns:
                hint = did_you_mean(name, known) or f"; known are {', '.join(known)}, attr_<name>, feature_<stream>"
                self._say(f"unknown column {name!r}{hint}")
        missing = [name for name in ("id", *(traits if self.labelled else ())) if name not in header]
        self.problems += [f"{self.path}:1: column {name!r} is missing" for name in missing]

    def _add(self, row: Mapping[str, str]) -> None:
        identity = row["id"]
        if not identity:
            self._say("id is empty; every clip needs a unique one")
        elif (first := self._line_of_id.setdefault(identity, self._line)) != self._line:
            self._say(f"id {identity!r} is already on line {first}; ids are unique")
        self.clips.append(self._clip(row))
        self.labels.append([self._label(row, trait) for trait in self.traits] if self.labelled else [])
        split = row.get("split") or None
        if split not in (None, *SPLITS):
            self._say(f"split {split!r}; expected train, val, test or an empty cell")
        self.splits.append(split)
        self.lines.append(self._line)

    def _clip(self, row: Mapping[str, str]) -> Clip:
        start_s, end_s = self._seconds(row, "start_s") or 0.0, self._seconds(row, "end_s")
        if end_s is not None and end_s <= start_s:
            self._say(f"end_s {end_s} is {'not after' if end_s == start_s else 'before'} start_s {start_s}")
        clip = Clip(
            id=row["id"],
            start_s=start_s,
            end_s=end_s,
            text=row.get("text") or None,
            attributes={name: row[column] for column, name in self._prefixed[ATTRIBUTE] if row[column]},
            features={name: row[column] for column, name in self._prefixed[FEATURE] if row[column]},
            **{name: self.path.parent / row[name] if row.get(name) else None for name in _PATHS},  # type: ignore[arg-type]  # mypy cannot follow **
            **{name: row.get(name) or None for name in _NAMES},  # type: ignore[arg-type]  # as above
        )
        if not (clip.video or clip.audio or clip.transcript or clip.text or clip.features):
            self._say(f"clip {clip.id!r} has no modality; fill one of video, audio, transcript, text, feature_<stream>")
        if self.check_files:
            self._check_files(clip)
        return clip

    def _check_files(self, clip: Clip) -> None:
        named = {name: getattr(clip, name) for name in _PATHS}
        named |= {FEATURE + name: self.path.parent / feature_file(ref)[0] for name, ref in clip.features.items()}
        for column, file in named.items():
            if file is not None and not file.is_file():
                self._say(f"{column} {str(file)!r}: no such file; paths are relative to the manifest's folder")

    def _seconds(self, row: Mapping[str, str], column: str) -> float | None:
        value = self._number(row, column)
        if value is not None and not 0 <= value < math.inf:
            self._say(f"{column} {row[column]!r}; expected seconds from the start of the file, 0 or more")
            return None
        return value

    def _label(self, row: Mapping[str, str], trait: Trait) -> float:
        value = self._number(row, trait.name)
        if value is None:
            return math.nan
        if math.isnan(value):
            self._say(f"{trait.name} is NaN; leave the cell empty where the label is unknown")
        elif math.isinf(value):
            self._say(f"{trait.name} is infinite; expected a number on the trait's scale")
        elif trait.kind == "binary" and value not in (0.0, 1.0):
            self._say(f"{trait.name} {row[trait.name]}; a binary trait is 0 or 1")
        elif not _low(trait) <= value <= _high(trait):
            self._say(f"{trait.name} {row[trait.name]} is outside the scale [{_low(trait):g}, {_high(trait):g}]")
        return value

    def _number(self, row: Mapping[str, str], column: str) -> float | None:
        cell = row.get(column)
        if not cell:
            return None
        try:
            return float(cell)
        except ValueError:
            self._say(f"{column} {cell!r} is not a number")
            return None


def _low(trait: Trait) -> float:
    return -math.inf if trait.low is None else trait.low


def _high(trait: Trait) -> float:
    return math.inf if trait.high is None else trait.high


def _cells(manifest: Manifest) -> tuple[list[str], Iterator[list[str]]]:
    """The header without columns that would be empty, and the rows."""
    clips, names = manifest.clips, manifest.schema.trait_names
    attributes = sorted({name for clip in clips for name in clip.attributes})
    features = sorted({name for clip in clips for name in clip.features})
    used = [name for name in COLUMNS[1:-1] if any(getattr(clip, name) not in (None, 0.0) for clip in clips)]
    split = ["split"] if any(manifest.splits) else []
    header = ["id", *used, *split, *names, *(ATTRIBUTE + n for n in attributes), *(FEATURE + n for n in features)]

    def cells(row: int) -> list[str]:
        clip = manifest.clips[row]
        fixed = [clip.id, *(_cell(getattr(clip, name), manifest.folder) for name in used)]
        labels = ["" if math.isnan(value) else repr(float(value)) for value in manifest.labels[row]]
        extra = [*(clip.attributes.get(n, "") for n in attributes), *(clip.features.get(n, "") for n in features)]
        return [*fixed, *([manifest.splits[row] or ""] if split else []), *labels, *extra]

    return header, (cells(row) for row in range(len(clips)))


def _cell(value: object, folder: Path) -> str:
    if isinstance(value, Path):
        return (value.relative_to(folder) if value.is_relative_to(folder) else value).as_posix()
    return "" if value is None else str(value)
