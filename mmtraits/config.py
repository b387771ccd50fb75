"""One YAML file -> one typed `RunConfig`: `extends` one parent, `key.sub=value` overrides, every problem at once."""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from mmtraits import yaml_file
from mmtraits.errors import ConfigError, joined

Path_ = tuple[str, ...]


class Part(BaseModel):
    """A part by the name of its file; the remaining keys are checked against that file's own `Config`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but `use`."""
        return dict(self.model_extra or {})


class WindowingConfig(BaseModel):
    """Windows of `length_s` every `hop_s` seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    length_s: float = Field(15.0, gt=0)
    hop_s: float = Field(15.0, gt=0)


class DataConfig(BaseModel):
    """Where clips come from and how they are batched. Relative paths are relative to the working directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    manifest: Path = Path("clips.csv")
    cache: Path = Path("cache")
    in_memory_mb: int = Field(4096, ge=0)
    batch_size: int = Field(32, ge=1)
    balance: Literal["none", "person"] = "none"  # person: each is met equally often in an epoch, however many clips
    clips_per_person: int = Field(1, ge=1)  # with balance person: so many stand together in a batch
    workers: int = Field(0, ge=0)
    backend: Literal["pyav", "decord"] = "pyav"
    transform: Literal["min_max", "z_score", "yeo_johnson"] | None = None  # of labels, in place of the schema's own
    windowing: WindowingConfig = WindowingConfig()

    @model_validator(mode="after")
    def _together(self) -> DataConfig:
        if self.clips_per_person > 1 and (self.balance != "person" or self.batch_size % self.clips_per_person):
            raise ValueError(
                f"clips_per_person {self.clips_per_person}: expected balance person and a batch_size that it divides"
            )
        return self


class OptimizerConfig(BaseModel):
    """AdamW; norms, biases and embeddings are not decayed.

    `groups`: multiples of `lr` by the names of modules, such as `encoders.face: 0.1`; the longest name that fits holds.
    `schedule: plateau` multiplies by `factor`, down to `min_lr`, after `patience` epochs in which trainer.monitor did
    not improve.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    groups: dict[str, Annotated[float, Field(gt=0)]] = {}
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_epochs: float = Field(1.0, ge=0)
    factor: float = Field(0.5, gt=0, lt=1)
    patience: int = Field(5, ge=0)
    min_lr: float = Field(0.0, ge=0)


class TrainerConfig(BaseModel):
    """What Lightning's Trainer is told. `patience: null` trains all epochs and keeps the last one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | Literal["auto"] = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    max_epochs: int = Field(30, ge=1)
    patience: int | None = Field(6, ge=1)
    monitor: Literal["val_loss", "val_ccc", "val_pearson", "val_mae"] = "val_loss"
    gradient_clip: float = Field(1.0, ge=0)
    average_weights: float = Field(0.0, ge=0.0, lt=1.0)  # decay of an exponential moving average; 0 = off
    mixup: float = Field(0.0, ge=0.0)  # α of the Beta(α, α) by which two clips and their labels are mixed; 0 = off

    @property
    def mode(self) -> Literal["min", "max"]:
        """Which way `monitor` is better."""
        return "max" if self.monitor in ("val_ccc", "val_pearson") else "min"


class ProtocolConfig(BaseModel):
    """Which rows train, select and test. Groups of `by` are never divided, except by the corpus's own split.

    `stratify`: what the parts are alike in, `label` and names of attributes. `allow_leakage` trains although persons
    are both in training and outside of it; it is recorded in the run and stands on its card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    split: Literal["official", "holdout", "kfold"] = "official"
    folds: int = Field(5, ge=2)
    by: str = "person"
    seed: int = 0
    stratify: tuple[str, ...] = ()
    allow_leakage: bool = False


class RunsConfig(BaseModel):
    """The members of a run: one, one per fold, one per seed or one per trait; `seeds` repeats each member.

    With `over: trait` each member learns and says one trait, and protocol.split kfold makes one per trait and fold.
    `questions`: for a trait, the question to whose answers its members are kept; `fusion`: what a trait has in place of
    the run's own fusion.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    over: Literal["none", "fold", "seed", "trait"] = "none"
    seeds: int = Field(1, ge=1)
    questions: dict[str, str] = {}
    fusion: dict[str, Part] = {}

    @model_validator(mode="after")
    def _by_trait(self) -> RunsConfig:
        if self.over != "trait" and (self.questions or self.fusion):
            raise ValueError(f"questions and fusion are by trait; expected over: trait, found {self.over}")
        return self

    def unknown(self, traits: Sequence[str], asked: Iterable[str | None], where: Path) -> list[tuple[Path_, str]]:
        """What `questions` and `fusion` name that a manifest's traits, or the questions its clips answer, lack."""
        names: dict[str, Mapping[str, Any]] = {"questions": self.questions, "fusion": self.fusion}
        problems: list[tuple[Path_, str]] = [
            (("runs", key), f"no trait {', '.join(lost)}; {where} has {', '.join(traits)}")
            for key, named in names.items()
            if (lost := sorted(named.keys() - set(traits)))
        ]
        known = sorted({question for question in asked if question})
        if lost := sorted(set(self.questions.values()) - set(known)):
            there = ", ".join(known) or "none: fill the column"
            problems.append(
                (("runs", "questions"), f"no clip answers {', '.join(lost)}; {where} has the questions {there}")
            )
        return problems


class RunConfig(BaseModel):
    """Everything that defines one training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 0
    data: DataConfig = DataConfig()
    streams: dict[str, Part] = Field(min_length=1)
    fusion: Part
    head: Part
    loss: dict[str, float] = Field(min_length=1)
    objective: Part = Part(use="supervised")
    modality_dropout: dict[str, float] | float = 0.0  # probability of clearing a stream's mask, for all or per stream
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    runs: RunsConfig = RunsConfig()

    @property
    def over_folds(self) -> bool:
        """Whether each fold of the protocol is tested by members of its own."""
        return self.runs.over == "fold" or (self.runs.over == "trait" and self.protocol.split == "kfold")

    def fusion_of(self, traits: Sequence[str]) -> Part:
        """The fusion of a member that says these traits."""
        return self.runs.fusion.get(traits[0], self.fusion) if self.runs.over == "trait" else self.fusion

    def dropout_of(self, stream: str) -> float:
        """Probability that the mask of a present stream is cleared for a training row."""
        rate = self.modality_dropout
        return rate.get(stream, 0.0) if isinstance(rate, dict) else rate


# ---------------------------------------------------------------------------------------------------- reading

PartCheck = Callable[[RunConfig], Sequence[tuple[Path_, str]]]


def load(path: Path | str, overrides: Sequence[str] = (), *, check: PartCheck | None = None) -> RunConfig:
    """Read a config file with its parents and overrides.

    `check` adds the problems inside parts (`parts.problems`, which needs torch). Raises ConfigError that names every
    problem with file and line.
    """
    path = Path(path)
    data, origins = _read_with_parents(path, ())
    for override in overrides:
        _apply_override(data, origins, override)
    if isinstance(data.get("streams"), dict):  # `face: null` takes a parent's stream out
        data["streams"] = {stream: part for stream, part in data["streams"].items() if part is not None}
    return from_data(data, origins, where=str(path), check=check)


def from_data(
    data: Mapping[str, Any],
    origins: Mapping[Path_, str] | None = None,
    *,
    where: str = "config",
    check: PartCheck | None = None,
) -> RunConfig:
    """Plain data -> RunConfig; ConfigError lists every problem, located by `origins` (key path -> `file:line`)."""
    origins = origins or {}
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        found = [(tuple(str(part) for part in e["loc"]), describe(e, RunConfig)) for e in error.errors()]
        raise ConfigError(joined(_located(found, origins, where))) from None
    found = list(check(config)) if check else []
    if found:
        raise ConfigError(joined(_located(found, origins, where)))
    return config


def dump(config: RunConfig) -> str:
    """Give the resolved config as YAML; `load` of it gives an equal config."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(config.model_dump(mode="json"), stream)
    return stream.getvalue()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, for editors."""
    schema = RunConfig.model_json_schema()
    schema["properties"]["extends"] = {"type": "string", "description": "one parent config, relative to this file"}
    return schema


def describe(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Turn one pydantic error into `what was found; what was expected`, with a suggestion for an unknown key."""
    if error["type"] == "extra_forbidden":
        names = _field_names(model, error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(names)) or 'none'}"
        return f"unknown key; {hint}"
    if error["type"] == "missing":
        return "missing; it has no default"
    message = str(error["msg"])
    return f"found {error['input']!r}; {message[0].lower()}{message[1:]}"


def _located(found: Iterable[tuple[Path_, str]], origins: Mapping[Path_, str], where: str) -> list[str]:
    lines = []
    for keys, message in found:
        nearest = next((origins[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in origins), where)
        lines.append(f"{nearest}: {'.'.join(keys)}: {message}" if keys else f"{nearest}: {message}")
    return lines


def _field_names(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(str(part))
        inner = _model_inside(field.annotation) if field else None
        if inner is None:
            break
        model = inner
    return list(model.model_fields)


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (dict, Union, UnionType):
        return next((found for arg in get_args(annotation) if (found := _model_inside(arg))), None)
    return None


def read_yaml(path: Path) -> Any:
    """Parse one YAML 1.2 file with line numbers (ruamel's `lc`); duplicate keys are refused. Raises ConfigError."""
    try:
        return yaml_file.load(path.read_text(encoding="utf-8-sig"), "rt")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a .yaml config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a UTF-8 YAML file") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {str(error.problem).splitlines()[0]}; expected valid YAML 1.2") from None
    except YAMLError as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}; expected valid YAML 1.2") from None


def _read_with_parents(path: Path, children: tuple[Path, ...]) -> tuple[dict[str, Any], dict[Path_, str]]:
    resolved = path.resolve()
    if resolved in children:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(p.name for p in children)}; break the circle")
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: found {type(found).__name__}; expected a mapping of config keys")
    data, origins = _plain(found, path, ())
    parent = data.pop("extends", None)
    if parent is None:
        return data, origins
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends: found {parent!r}; expected the path of one parent config")
    base, base_origins = _read_with_parents(path.parent / parent, (*children, resolved))
    return _merge(base, data), base_origins | origins


def _plain(node: Any, path: Path, keys: Path_) -> tuple[Any, dict[Path_, str]]:
    """Ruamel's commented tree -> plain dicts and lists, and where each key was found."""
    origins: dict[Path_, str] = {}
    if isinstance(node, dict):
        plain: dict[str, Any] = {}
        places = node.lc.data or {}  # type: ignore[attr-defined]  # ruamel's CommentedMap; merged keys have no place
        for key, value in node.items():
            inner = (*keys, str(key))
            if key in places:
                origins[inner] = f"{path}:{places[key][0] + 1}"
            plain[str(key)], below = _plain(value, path, inner)
            origins |= below
        return plain, origins
    if isinstance(node, list):
        return [_plain(value, path, keys)[0] for value in node], origins
    for kind in (bool, int, float, str):  # ruamel's scalar subclasses -> the built-in types
        if isinstance(node, kind):
            return kind(node), origins
    return node, origins


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else replaces. A part with another `use` replaces the parent's wholly."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and value.get("use") in (None, below.get("use")):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _apply_override(data: dict[str, Any], origins: dict[Path_, str], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = tuple(name.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r}: expected key.sub=value, for example optimizer.lr=3e-4")
    try:
        value = yaml_file.load(text) if text else None
    except YAMLError:
        raise ConfigError(f"override {override!r}: {text!r} is no YAML value; quote it") from None
    node = data
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {key!r} holds {node!r}; it has no keys below it")
    if keys[-1] == "use" and node.get("use") != value:
        node.clear()  # another part: the options of the one before do not fit it
    node[keys[-1]] = value
    for depth in range(1, len(keys)):
        origins.setdefault(keys[:depth], f"override {override!r}")
    origins[keys] = f"override {override!r}"
