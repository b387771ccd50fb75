"""Tables of other people -> rows that know their line, and labels checked against the schema."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.problems import did_you_mean, manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import Trait, TraitSchema

_DELIMITERS = (",", ";", "\t", "|")
MOST_BYTES = 1 << 30  # of an unpacked table; a small gzip file may stand for far more


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: stripped cells by column, and where it stands, as `file:line`."""

    where: str
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def get(self, column: str) -> str:
        """The cell, or an empty text where the table has no such column."""
        return self.cells.get(column, "")


def table(
    path: Path,
    columns: Sequence[str],
    *,
    key: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str = "utf-8-sig",
) -> list[Row]:
    """The rows of a .csv or .csv.gz with a header that holds at least `columns`; blank lines are passed over.

    delimiter None: the one of `,` `;` tab `|` under which the header holds most of `columns`. key: columns whose cells
    together name a row; empty or repeated keys are problems. Raises ManifestError that lists every problem.
    """
    text = _text(path, encoding)
    header = text.lstrip("\r\n").partition("\n")[0]
    delimiter = delimiter or max(_DELIMITERS, key=lambda d: len(set(columns) & set(_cells(header, d))))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter == " ")
    rows: list[Row] = []
    problems: list[str] = []
    names: list[str] | None = None
    for line, cells in _lines(reader, path):
        if names is None:
            names = cells
            _check_header(path, names, columns)
        elif len(cells) != len(names):
            problems.append(f"{path}:{line}: {len(cells)} cells; the header has {len(names)} columns")
        else:
            rows.append(Row(f"{path}:{line}", dict(zip(names, cells, strict=True))))
    if names is None:
        raise ManifestError(f"{path}: the file is empty; expected a header with {', '.join(columns)}")
    problems += _repeated(rows, key)
    if problems:
        raise manifest_error(problems)
    return rows


def _text(path: Path, encoding: str) -> str:
    data = read_bytes(path)
    try:
        if path.suffix == ".gz":
            data = unzipped(data)
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}"
        raise ManifestError(f"{path}:{line}: {found}; save the file in that encoding") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: {error}; expected a whole gzip file") from error


def unzipped(data: bytes) -> bytes:
    """What a gzip file holds; OSError where that is more than any table is."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise OSError(f"more than {MOST_BYTES >> 20} MB in it")
    return found


def read_bytes(path: Path) -> bytes:
    """The whole file; ManifestError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}; expected a file of the corpus") from error


def _lines(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped cells of every row that is not blank."""
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 27))
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise ManifestError(f"{path}:{line}: not readable as CSV ({error}); check the quotes") from error
        if any(cells):
            yield line, cells


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line.strip("\r\n")], delimiter=delimiter), [])]


def _check_header(path: Path, found: Sequence[str], columns: Sequence[str]) -> None:
    missing = [f"{name}{did_you_mean(name, found)}" for name in columns if name not in found]
    problems = [f"{path}:1: columns are missing: {', '.join(missing)}; found are {', '.join(found)}"] if missing else []
    problems += [f"{path}:1: column {name!r} is there twice" for name, n in Counter(found).items() if name and n > 1]
    if problems:
        raise manifest_error(problems)


def _repeated(rows: Sequence[Row], key: Sequence[str]) -> list[str]:
    problems: list[str] = []
    first: dict[tuple[str, ...], str] = {}
    for row in rows if key else ():
        cells = tuple(row[column] for column in key)
        name = f"{', '.join(key)} {', '.join(map(repr, cells))}"
        if not all(cells):
            problems.append(f"{row.where}: {name} is empty; expected one that names the row")
        elif (at := first.setdefault(cells, row.where)) != row.where:
            problems.append(f"{row.where}: {name} is already at {at}; expected one row each")
    return problems


def labels(rows: Iterable[Row], columns: Mapping[str, str], schema: TraitSchema) -> NDArray[np.float64]:
    """(N, K) labels, NaN where a cell is empty; `columns` names a trait's column where it is not called as the trait.

    Raises ManifestError that lists every cell that is no number or lies outside the trait's scale.
    """
    problems: list[str] = []
    values = [[_label(row, columns.get(t.name, t.name), t, problems) for t in schema.traits] for row in rows]
    if problems:
        raise manifest_error(problems)
    return np.array(values, dtype=np.float64).reshape(-1, len(schema.traits))


def _label(row: Row, column: str, trait: Trait, problems: list[str]) -> float:
    try:
        value = float(row[column] or "nan")
    except ValueError:
        problems.append(f"{row.where}: {column} {row[column]!r} is not a number")
        return math.nan
    return checked(value, trait, f"{row.where}: {column}", problems)


def checked(value: float, trait: Trait, where: str, problems: list[str]) -> float:
    """The value of a label; one that is infinite or outside the trait's scale is added to `problems`."""
    low = -math.inf if trait.low is None else trait.low
    high = math.inf if trait.high is None else trait.high
    if math.isinf(value) or value < low or value > high:
        problems.append(f"{where} {value:g} is outside the scale [{low:g}, {high:g}] of {trait.name}")
    return value


_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    "test": "test",
}


def split_name(cell: str, where: str, problems: list[str]) -> str | None:
    """train, val or test, however a corpus spells it; None for an empty cell; anything else is added to `problems`."""
    if cell and cell.lower() not in _SPLITS:
        problems.append(f"{where}: split {cell!r}; expected one of {', '.join(_SPLITS)} or nothing")
    return _SPLITS.get(cell.lower())
