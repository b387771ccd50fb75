"""schema.yaml <-> `TraitSchema`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mmtraits import yaml_file
from mmtraits.data.problems import did_you_mean, manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import TraitSchema

COLUMNS = (
    "id", "video", "audio", "transcript", "text", "start_s", "end_s", "person", "speaker", "question", "split",
)  # fmt: skip
PREFIXES = ATTRIBUTE, FEATURE = "attr_", "feature_"  # of columns of clips.csv; no trait may be called like one


class _TraitEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: Literal["continuous", "binary"] = "continuous"
    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)
    opposite_of: str | None = None


class _SchemaFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    made_by: Literal["apparent", "self_reported"] = Field(alias="construct")  # a pydantic method has the plain name
    judged_by: str = Field(min_length=1)
    transform: Literal["min_max", "z_score", "yeo_johnson"] = "min_max"
    rated: Literal["clip", "person"] = "clip"
    traits: list[_TraitEntry] = Field(min_length=1)


_KEYS = ("name", "construct", "judged_by", "transform", "rated", "traits")


def read_schema(path: Path | str) -> TraitSchema:
    """Read schema.yaml (YAML 1.2, duplicate keys refused): name, construct, judged_by, transform, rated, traits.

    Raises ManifestError that lists every problem.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"{path}: no such file; it names the traits, their scale and who judged them")
    try:
        data = yaml_file.load(path.read_text("utf-8-sig"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ManifestError(f"{path}: no mapping; expected the keys {', '.join(_KEYS)}")
    try:
        found = _SchemaFile.model_validate(data)
    except ValidationError as error:
        raise manifest_error([f"{path}: {_schema_problem(detail)}" for detail in error.errors()]) from error
    if problems := list(_trait_problems(found.traits)):
        raise manifest_error([f"{path}: {problem}" for problem in problems])
    return TraitSchema.from_dict(found.model_dump(by_alias=True))


def write_schema(path: Path | str, schema: TraitSchema) -> None:
    """Write schema.yaml; keys that hold their default are left out."""
    traits = [
        {k: v for k, v in asdict(t).items() if v is not None and (k, v) != ("kind", "continuous")}
        for t in schema.traits
    ]
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # one line per trait
    yaml.width = 1000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared None, documented as a switch
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        data = {**schema.to_dict(), "traits": traits}
        yaml.dump({k: v for k, v in data.items() if (k, v) != ("rated", "clip")}, file)


def _schema_problem(detail: Any) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(".")
    if detail["type"] == "extra_forbidden":
        known = _TraitEntry.model_fields if len(detail["loc"]) > 1 else _KEYS
        return f"{where}: unknown key{did_you_mean(str(detail['loc'][-1]), known)}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {detail['input']!r}: {detail['msg']}"


def _trait_problems(traits: Sequence[_TraitEntry]) -> Iterator[str]:
    names = [trait.name for trait in traits]
    for position, trait in enumerate(traits):
        if trait.name in names[:position]:
            yield f"traits[{position}]: {trait.name!r} is there twice"
        if trait.name in COLUMNS or trait.name.startswith(PREFIXES):
            yield f"traits[{position}]: {trait.name!r} is the name of another column of clips.csv; choose another"
        if trait.low is not None and trait.high is not None and trait.low >= trait.high:
            yield f"traits[{position}]: low {trait.low:g} is not below high {trait.high:g}"
