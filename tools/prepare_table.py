"""Any table and a file that says which of its columns is what -> a manifest: `prepare_table.py TABLE MAPPING OUT`.

TABLE: .csv, .csv.gz, .tsv or .jsonl (one object a line). MAPPING: YAML, see datasets/mapped_table/README.md. Running it
again gives the same bytes.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml.error import YAMLError

from mmtraits import yaml_file
from mmtraits.data import manifest as manifests
from mmtraits.data.prepare import Dropped, Row, checked, finish, run, split_name
from mmtraits.data.prepare import table as read_table
from mmtraits.data.problems import did_you_mean, manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip, Trait, TraitSchema

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "mapped_table"
MEDIA = ("video", "audio", "transcript")
CELLS = ("person", "speaker", "question", "text")
_BRACES = r"\{([^{}]+)\}"
_STRICT = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Cell = Annotated[str, Field(min_length=1)]  # a column's name, or a text with {columns} in braces


class TraitColumn(BaseModel):
    """Where the labels of one trait stand, and on which scale. `reverse`: label = low + high - what stands there."""

    model_config = _STRICT
    column: str
    kind: Literal["continuous", "binary"] = "continuous"
    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)
    values: dict[str, float] = {}
    reverse: bool = False
    opposite_of: str | None = None

    @model_validator(mode="after")
    def _has_a_scale(self) -> Self:
        if self.kind == "binary" and (self.low, self.high) not in ((None, None), (0.0, 1.0)):
            raise ValueError("a binary trait is 0 or 1; leave low and high out, and translate with values")
        if self.reverse and self.kind == "continuous" and (self.low is None or self.high is None):
            raise ValueError("reverse needs low and high: the label becomes low + high - x")
        return self

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Low and high of the trait."""
        return (0.0, 1.0) if self.kind == "binary" else (self.low, self.high)


class SplitColumn(BaseModel):
    """Where the corpus's own split stands; `values` translates its words."""

    model_config = _STRICT
    column: str
    values: dict[str, Literal["train", "val", "test"]] = {}


class TableMapping(BaseModel):
    """What MAPPING may say."""

    model_config = _STRICT
    name: str = Field(min_length=1)
    construct_: Literal["apparent", "self_reported"] = Field(alias="construct")  # a pydantic method has the plain name
    judged_by: str = Field(min_length=1)
    rated: Literal["clip", "person"] = "clip"
    transform: Literal["min_max", "z_score", "yeo_johnson"] = "min_max"
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    encoding: str = "utf-8-sig"
    missing: list[str] = []
    id: Cell
    person: Cell | None = None
    speaker: Cell | None = None
    question: Cell | None = None
    text: Cell | None = None
    video: Cell | None = None
    audio: Cell | None = None
    transcript: Cell | None = None
    start_s: str | None = None
    end_s: str | None = None
    split: Annotated[
        SplitColumn | None, BeforeValidator(lambda found: {"column": found} if isinstance(found, str) else found)
    ] = None
    attributes: dict[Name, Cell] = {}
    traits: dict[Name, TraitColumn] = Field(min_length=1)

    def columns(self) -> list[str]:
        """Every column of TABLE that is named, each once."""
        patterns = [cell for name in ("id", *CELLS, *MEDIA) if (cell := getattr(self, name))]
        plain = [self.start_s, self.end_s, self.split.column if self.split else None]
        plain += [trait.column for trait in self.traits.values()]
        found = [column for cell in (*patterns, *self.attributes.values()) for column in _columns_of(cell)]
        return list(dict.fromkeys([*found, *(column for column in plain if column)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path, help=".csv, .csv.gz, .tsv or .jsonl")
    parser.add_argument("mapping", type=Path, help="YAML file that says which column is what")
    parser.add_argument("out", type=Path, help="folder for clips.csv, schema.yaml, dataset.yaml and clips.csv.sha256")
    parser.add_argument("--media", type=Path, metavar="FOLDER", help="what media paths start from; else TABLE's folder")
    return run(prepare, parser.parse_args(arguments))


def prepare(table: Path, mapping: Path, out: Path, *, media: Path | None = None) -> str:
    """Write the manifest; return the report. Raises ManifestError that lists every problem."""
    told = read_mapping(mapping)
    rows = [_without(row, told.missing) for row in _rows(table, told)]
    problems: list[str] = []
    dropped = Dropped()
    clips = _clips(rows, told, media or table.parent, dropped, problems)
    labels = np.array([_labels(row, told, problems) for row in rows], dtype=np.float64).reshape(len(rows), -1)
    splits = [_split(row, told, problems) for row in rows]
    if problems:
        raise manifest_error(problems)
    kept = [i for i, clip in enumerate(clips) if any((clip.video, clip.audio, clip.transcript, clip.text))]
    for i in sorted(set(range(len(clips))) - set(kept)):
        dropped.add(clips[i].id, "rows without video, audio, transcript and text")
    manifest = manifests.Manifest(
        path=out / "clips.csv",
        schema=_schema(told),
        clips=tuple(clips[i] for i in kept),
        labels=labels[kept],
        splits=tuple(splits[i] for i in kept),
    )
    own = (out / "dataset.yaml").is_file()  # somebody said there what the data are
    return "\n".join([finish(manifest, dropped, out if own else CORPUS), *_reversed(told)])


# ---------------------------------------------------------------------------------------------------- the mapping


def read_mapping(path: Path) -> TableMapping:
    """Read MAPPING (YAML 1.2, duplicate keys refused). Raises ManifestError that lists every problem."""
    try:
        data = yaml_file.load(path.read_text("utf-8-sig"))
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ManifestError(f"{path}: no mapping; expected the keys {', '.join(_keys(TableMapping))}")
    try:
        return TableMapping.model_validate(data)
    except ValidationError as error:
        raise manifest_error([f"{path}: {_problem(detail)}" for detail in error.errors()]) from error


def _schema(told: TableMapping) -> TraitSchema:
    traits = (
        Trait(name=name, kind=trait.kind, low=trait.bounds[0], high=trait.bounds[1], opposite_of=trait.opposite_of)
        for name, trait in told.traits.items()
    )
    return TraitSchema(
        name=told.name,
        construct=told.construct_,
        judged_by=told.judged_by,
        rated=told.rated,
        transform=told.transform,
        traits=tuple(traits),
    )


def _problem(detail: Any) -> str:
    where = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"traits": TraitColumn, "split": SplitColumn}
        kind = parts.get(detail["loc"][0], TableMapping)
        return f"{where}: unknown key{did_you_mean(str(detail['loc'][-1]), _keys(kind))}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {detail['input']!r}: {detail['msg'].removeprefix('Value error, ')}"


def _keys(kind: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def _columns_of(cell: str) -> list[str]:
    return re.findall(_BRACES, cell) or [cell]


def _reversed(told: TableMapping) -> list[str]:
    return [
        f"{name}: reversed, label = {sum(bound or 0.0 for bound in trait.bounds):g} - {trait.column}"
        for name, trait in told.traits.items()
        if trait.reverse
    ]


# ---------------------------------------------------------------------------------------------------- rows


def _rows(path: Path, told: TableMapping) -> list[Row]:
    if path.suffix.lower() == ".jsonl":
        return _json_rows(path, told.columns())
    try:
        return read_table(path, told.columns(), delimiter=told.delimiter, encoding=told.encoding)
    except LookupError as error:
        raise ManifestError(f"encoding {told.encoding!r}: {error}; expected one like utf-8 or latin-1") from error


def _json_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """One flat object a line; null, an absent key and an empty text are all an empty cell."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: {error}; expected JSON lines in UTF-8") from error
    problems: list[str] = []
    found = {f"{path}:{number}": _object(f"{path}:{number}", line, problems) for number, line in enumerate(lines, 1)}
    known = {name for cells in found.values() for name in cells}
    problems += [f"{path}: no object has {name!r}{did_you_mean(name, known)}" for name in columns if name not in known]
    if problems:
        raise manifest_error(problems)
    return [Row(where, dict.fromkeys(columns, "") | cells) for where, cells in found.items() if cells]


def _object(where: str, line: str, problems: list[str]) -> dict[str, str]:
    try:
        found = json.loads(line) if line.strip() else {}
    except ValueError as error:
        problems.append(f"{where}: not readable as JSON ({error})")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{where}: {type(found).__name__}; expected one object a line")
        return {}
    return {str(name): "" if value is None else str(value).strip() for name, value in found.items()}


def _without(row: Row, missing: Collection[str]) -> Row:
    """The row with empty cells where a word stands that means: not known."""
    return Row(row.where, {name: "" if cell in missing else cell for name, cell in row.cells.items()})


def _filled(row: Row, cell: str | None) -> str:
    """The named cell, or the text with its columns put in; empty where one of them is."""
    if cell is None or not all(row[column] for column in _columns_of(cell)):
        return ""
    return re.sub(_BRACES, lambda found: row[found[1]], cell) if re.search(_BRACES, cell) else row[cell]


def _clips(rows: Sequence[Row], told: TableMapping, media: Path, dropped: Dropped, problems: list[str]) -> list[Clip]:
    """One clip per row; a media file that is not there is left out, and said."""
    first: dict[str, str] = {}
    clips: list[Clip] = []
    for row in rows:
        identity = _filled(row, told.id)
        if not identity:
            problems.append(f"{row.where}: no id from {told.id!r}; every row needs a unique one")
        elif (at := first.setdefault(identity, row.where)) != row.where:
            problems.append(f"{row.where}: id {identity!r} is already at {at}; ids are unique")
        files = {name: media / path for name in MEDIA if (path := _filled(row, getattr(told, name)))}
        for name, file in files.items():
            if not file.is_file():
                dropped.add(f"{identity} ({file})", f"{name} files that are not there")
        given: dict[str, Any] = {name: file for name, file in files.items() if file.is_file()}
        given |= {name: _filled(row, getattr(told, name)) or None for name in CELLS}
        attributes = {name: value for name, cell in told.attributes.items() if (value := _filled(row, cell))}
        start_s, end_s = (_number(row, column, problems) for column in (told.start_s, told.end_s))
        clips.append(Clip(id=identity, start_s=start_s or 0.0, end_s=end_s, attributes=attributes, **given))
    return clips


def _number(row: Row, column: str | None, problems: list[str]) -> float | None:
    try:
        return float(row[column]) if column and row[column] else None
    except ValueError:
        problems.append(f"{row.where}: {column} {row[column or '']!r} is not a number")
        return None


def _split(row: Row, told: TableMapping, problems: list[str]) -> str | None:
    if told.split is None:
        return None
    word = row[told.split.column]
    return told.split.values.get(word) or split_name(word, row.where, problems)


def _labels(row: Row, told: TableMapping, problems: list[str]) -> list[float]:
    """The K labels of a row, NaN where a cell is empty."""
    return [_label(row, name, trait, problems) for name, trait in told.traits.items()]


def _label(row: Row, name: str, told: TraitColumn, problems: list[str]) -> float:
    cell, where = row[told.column], f"{row.where}: {told.column}"
    if cell and told.values and cell not in told.values:
        known = ", ".join(told.values)
        problems.append(f"{where} {cell!r}; expected one of {known} (traits.{name}.values), or a word in missing")
        return math.nan
    value = told.values[cell] if cell in told.values else _number(row, told.column, problems)
    if value is None or math.isnan(value):
        return math.nan
    low, high = told.bounds
    if told.kind == "binary" and value not in (0.0, 1.0):
        problems.append(f"{where} {cell!r}; a binary trait is 0 or 1: translate it in traits.{name}.values")
        return math.nan
    checked(value, Trait(name=name, low=low, high=high), where, problems)
    return (low or 0.0) + (high or 0.0) - value if told.reverse else value


if __name__ == "__main__":
    sys.exit(main())
