"""A bundle's folder -> its facts and the bytes of its files, verified before anything is made of them.

Refused, each with a BundleError: a file that is a link or no regular file, a name outside of the folder, a sha256 that
differs, a graph that asks for more than its own bytes (`onnx_file`), numbers that are not finite, facts that do not
fit each other. A hard link is harmless: what is used are the bytes that were hashed, never the name a second time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from mmtraits import onnx_file
from mmtraits.calibrate import Calibration
from mmtraits.errors import BundleError
from mmtraits.onnx_file import Signature, Value
from mmtraits.schema import FrameSpec, InputSpec, TextSpec, TraitSchema, VectorSpec, WaveSpec, Windowing, spec_from_dict
from mmtraits.unlike import Ranges

FORMAT_VERSION = 1
FACTS, GRAPH = "bundle.json", "model.onnx"
_KEYS = ("format_version", "name", "schema", "transform", "streams", "output", "windowing", "calibration", "files")
_LARGEST_FACTS, _LARGEST_FILE = 64 << 20, 2 << 30  # bytes; protobuf knows no larger graph
_WITHIN = {  # what a spec may ask for, so that a bundle cannot ask for all of a machine's memory
    "frames": (1, 4096), "height_px": (1, 2048), "width_px": (1, 2048), "sample_rate": (1000, 192_000),
    "max_s": (0.1, 3600), "max_ids": (1, 32_768), "width": (1, 65_536), "length_s": (0.1, 3600), "hop_s": (0.1, 3600),
}  # fmt: skip
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle. files: bytes by name. outputs: the graph's, scores first.

    specs: a tokenizer's name ends in the sha256 of its bytes, which whoever opens it checks again (`media.text`).
    fixed_steps: per stream the steps that the graph demands, 1 where the axis is free.
    """

    root: Path
    info: Mapping[str, Any]
    files: Mapping[str, bytes]
    schema: TraitSchema
    specs: Mapping[str, InputSpec]
    windowing: Windowing
    calibration: Calibration | None
    ranges: Ranges | None
    inputs: Mapping[str, tuple[str, str]]  # stream -> names of the graph's data and mask
    outputs: tuple[str, ...]
    fixed_steps: Mapping[str, int]


def read(root: Path) -> Bundle:
    """Read and verify a bundle. Raises BundleError."""
    info, files = read_bundle(root)
    try:
        asked = onnx_file.examine(files[GRAPH])
    except ValueError as error:
        raise BundleError(f"{root / GRAPH}: {error}; use a bundle written by `mmtraits export`") from error
    try:
        return _assembled(root, info, files, asked)
    except BundleError:
        raise
    except Exception as error:  # whatever a fact of another type runs into
        reason = " ".join(str(error).split())
        raise BundleError(f"{root / FACTS}: {type(error).__name__}: {reason}; export the bundle again") from error


def default_bundle() -> Path:
    """Folder of the bundle shipped with the package, from an installed wheel or from a checkout; else BundleError."""
    package = Path(__file__).parent
    for folder in (package / "_bundles" / "default", package.parent / "checkpoints" / "default"):
        if (folder / FACTS).is_file():
            return folder
    raise BundleError(
        "default bundle: this installation holds none; name one with --model BUNDLE (see mmtraits export)"
    )


def read_bundle(root: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read bundle.json and the bytes of every file that it lists, each checked against its sha256."""
    info = _read_info(root / FACTS)
    listed = info["files"]
    if not isinstance(listed, dict) or GRAPH not in listed:
        raise BundleError(f"{root / FACTS}: files does not list {GRAPH}; export the bundle again")
    return info, {name: _verified(root, name, expected) for name, expected in listed.items()}


# ---------------------------------------------------------------------------------------------------- files


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(_content(path, _LARGEST_FACTS), parse_constant=_refused, parse_float=_finite)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{path}: no such file; expected a folder written by `mmtraits export`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); expected JSON written by `mmtraits export`") from None
    version = info.get("format_version") if isinstance(info, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(f"{path}: format_version {version!r}; this mmtraits reads {FORMAT_VERSION}: export it again")
    if missing := [key for key in _KEYS if key not in info]:
        raise BundleError(f"{path}: without {', '.join(missing)}; export the bundle again")
    return dict(info)


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no finite number")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refused(text)


def _verified(root: Path, name: str, expected: str) -> bytes:
    if name != Path(name).name or "\\" in name or name in ("", ".", ".."):
        raise BundleError(f"{root / FACTS}: files names {name!r}; expected names of files inside the bundle")
    try:
        content = _content(root / name, _LARGEST_FILE)
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleError(f"{root / name}: {told}; the bundle is incomplete, copy it again") from None
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise BundleError(f"{root / name}: sha256 {found}; bundle.json says {expected}: copy the bundle again")
    return content


def _content(path: Path, largest: int) -> bytes:
    """The bytes of a regular file, opened once; ValueError for links, pipes, devices and what is too large."""
    if path.is_symlink():
        raise ValueError("a link; expected the file itself")
    flags = [getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")]
    with open(os.open(path, os.O_RDONLY | sum(flags)), "rb") as file:  # noqa: PTH123  (a descriptor, not a path)
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > largest:
            raise ValueError(f"no regular file of at most {largest >> 20} MB")
        return file.read(largest)


# ---------------------------------------------------------------------------------------------------- facts


def _assembled(root: Path, info: Mapping[str, Any], files: Mapping[str, bytes], asked: Signature) -> Bundle:
    specs = {stream: _spec(stream, entry["spec"], info["files"]) for stream, entry in info["streams"].items()}
    inputs = {stream: (str(entry["inputs"][0]), str(entry["inputs"][1])) for stream, entry in info["streams"].items()}
    outputs = (info["output"], *([info["distance"]] if "distance" in info else []))  # none of distance before 0.3
    schema, windowing = _typed(TraitSchema.from_dict(info["schema"])), _typed(Windowing(**info["windowing"]))
    _within("windowing", windowing)
    _check_names(root, asked, inputs, outputs)
    taken = {stream: [asked.inputs[name] for name in pair] for stream, pair in inputs.items()}
    widths = (len(schema.traits), len(specs))
    for name, width in zip(outputs, widths, strict=False):
        _fits(name, asked.outputs[name], Value("float32", (None, width)))
    return Bundle(
        root=root,
        info=info,
        files=files,
        schema=schema,
        specs=specs,
        windowing=windowing,
        calibration=_calibration(info["calibration"], tuple(specs), len(schema.traits)),
        ranges=Ranges.from_dict(info["unlike"]) if info.get("unlike") else None,
        inputs=inputs,
        outputs=outputs,
        fixed_steps={stream: _steps(spec, taken[stream], windowing) for stream, spec in specs.items()},
    )


def _typed(made: _Made) -> _Made:
    """The same dataclass with every field checked against its annotation."""
    checked: _Made = TypeAdapter(type(made)).validate_python(asdict(made))  # type: ignore[call-overload]
    return checked


def _spec(stream: str, data: Mapping[str, Any], files: Mapping[str, str]) -> InputSpec:
    spec = _typed(spec_from_dict(data))
    _within(stream, spec)
    if isinstance(spec, TextSpec):
        if spec.tokenizer not in files:
            raise ValueError(f"{stream}: tokenizer {spec.tokenizer!r} is none of the bundle's files")
        spec = replace(spec, tokenizer=f"{spec.tokenizer}#sha256={files[spec.tokenizer]}")
    return spec


def _within(where: str, facts: InputSpec | Windowing) -> None:
    for name, (low, high) in _WITHIN.items():
        value = getattr(facts, name, None)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{where}: {name} {value}; expected {low} to {high}")


def _calibration(data: Mapping[str, Any] | None, streams: tuple[str, ...], traits: int) -> Calibration | None:
    if data is None:
        return None
    calibration = Calibration.from_dict(data)
    if calibration.streams != streams:
        raise ValueError(f"calibration of the streams {calibration.streams}; the bundle has {streams}")
    sets = {frozenset(some) for n in range(len(streams)) for some in itertools.combinations(streams, n + 1)}
    if set(calibration.widths) != sets:
        raise ValueError(f"calibration of {len(calibration.widths)} sets of streams; expected all {len(sets)}")
    shapes = {
        calibration.low.shape,
        calibration.high.shape,
        *(width.half.shape for width in calibration.widths.values()),
    }
    ends = {end.shape for width in calibration.widths.values() for end in (width.lower, width.upper)}
    if shapes != {(traits,)} or ends != {(traits, 2)}:
        raise ValueError(f"calibration of another number of traits than {traits}")
    return calibration


# ---------------------------------------------------------------------------------------------------- the graph


def _check_names(root: Path, asked: Signature, inputs: Mapping[str, tuple[str, str]], outputs: tuple[str, ...]) -> None:
    declared = {name for pair in inputs.values() for name in pair}
    if set(asked.inputs) != declared or list(asked.outputs) != list(outputs):
        raise BundleError(
            f"{root / GRAPH}: inputs {sorted(asked.inputs)} and outputs {list(asked.outputs)}; "
            f"bundle.json says {sorted(declared)} and {list(outputs)}"
        )


def _steps(spec: InputSpec, taken: Sequence[Value], windowing: Windowing) -> int:
    """Steps that the graph demands of a stream, 1 for any number; ValueError where data or mask is not as in `spec`."""
    (data, mask), (dtype, rest, most) = taken, _form(spec, windowing)
    steps = data.shape[1] if len(data.shape) > 1 else None
    _fits(spec.kind, data, Value(dtype, (None, steps, *rest)))
    _fits(f"{spec.kind} mask", mask, Value("bool", (None, steps)))
    if steps is not None and most is not None and not most <= steps <= 2 * most:
        raise ValueError(f"{spec.kind}: the graph takes {steps} steps; expected any number, or {most} and a few")
    return steps or 1


def _form(spec: InputSpec, windowing: Windowing) -> tuple[str, tuple[int, ...], int | None]:
    """Type, axes after time and largest number of steps of one window."""
    if isinstance(spec, FrameSpec):
        return "uint8", (spec.height_px, spec.width_px, 3), spec.frames
    if isinstance(spec, WaveSpec):
        return "float32", (), round(spec.sample_rate * min(windowing.length_s, spec.max_s or math.inf))
    if isinstance(spec, VectorSpec):
        return "float32", (spec.width,), None
    return "int64", (), spec.max_ids


def _fits(what: str, found: Value, expected: Value) -> None:
    """Free axes may carry any name; a batch of a fixed size, or a fixed axis of another size, does not fit."""
    if found != expected:
        raise ValueError(f"{what}: the graph has {_said(found)}; bundle.json says {_said(expected)}")


def _said(value: Value) -> str:
    axes = ", ".join("any" if axis is None else str(axis) for axis in value.shape)
    return f"{value.dtype or 'another type'} ({axes})"
