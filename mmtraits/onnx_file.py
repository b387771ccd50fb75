"""What an ONNX file asks for, read from its bytes before anything opens, loads or runs it. NumPy only.

A walk over the protobuf wire format (https://protobuf.dev/programming-guides/encoding) along the messages of onnx.proto
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). It is stricter than a parser: what `mmtraits export` never
writes (weights in other files or at addresses, operators of other domains, functions, training graphs) is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

OPSETS = range(17, 24)  # of ONNX's own operators; the newest that onnxruntime 1.23 knows
_DEEPEST = 50  # messages below each other: a graph inside of a graph is three deeper
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_WHOLE = {2, 3, 4, 5, 6, 7, 8, 9, 12, 13}  # TensorProto's numbers of integers, texts and booleans
# Of floats: the field that may hold them in place of raw_data (9), and how NumPy reads their bytes.
_FLOATS = {1: (4, "<f4"), 11: (10, "<f8"), 10: (0, "<f2"), 16: (0, "<u2")}

Fields = list[tuple[int, int, int | memoryview]]  # number, wire type, value


class Value(NamedTuple):
    """An input or output: NumPy's name of its type ("" = another), and its axes, None = free."""

    dtype: str
    shape: tuple[int | None, ...]


class Signature(NamedTuple):
    """What a graph takes and gives, by name."""

    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]


def examine(content: bytes) -> Signature:
    """Read the signature of an ONNX model. Raises ValueError for one that is broken or asks for what is refused."""
    graphs = []
    opsets = []
    for kind, fields in _messages("model", memoryview(content), 0):
        if kind == "tensor":
            _check_tensor(fields)
        elif kind == "node":
            _check_node(fields)
        elif kind == "attribute":
            _check_numbers(_text(fields, 1), _parts(fields, 2), lone=True)
            _check_numbers(_text(fields, 1), _parts(fields, 7), lone=False)
        elif kind == "opset":
            opsets += [_whole(fields, 2)] if _text(fields, 1) in ("", "ai.onnx") else []
        elif kind in ("training", "function"):
            raise ValueError(f"holds a {kind} graph; expected one plain graph")
        elif kind == "graph":
            graphs.append(fields)
    if len(opsets) != 1 or opsets[0] not in OPSETS:
        raise ValueError(f"opset {opsets}; expected one from {OPSETS[0]} to {OPSETS[-1]}")
    if not graphs:
        raise ValueError("no graph in it")
    return Signature(*({name: value for name, value in _values(graphs[0], number)} for number in (11, 12)))


# ---------------------------------------------------------------------------------------------------- checks


def _check_node(fields: Fields) -> None:
    domain, operator = _text(fields, 7), _text(fields, 4)
    if domain not in ("", "ai.onnx"):
        raise ValueError(f"operator {operator} of the domain {domain!r}; expected ONNX's own operators alone")


def _check_tensor(fields: Fields) -> None:
    """Weights lie inside of the file and are numbers; only a lone constant may be infinite (the start of a maximum)."""
    name = _text(fields, 8)
    if any(number == 13 or (number == 14 and value != 0) for number, _, value in fields):
        raise ValueError(f"weights {name!r} refer to memory outside the file; expected them inside")
    kind = _whole(fields, 2)
    if kind in _WHOLE:
        return
    if kind not in _FLOATS:
        raise ValueError(f"weights {name!r} of the ONNX type {kind}; expected whole numbers or floats of 16 to 64 bits")
    plain, dtype = _FLOATS[kind]
    if any(number in (4, 5, 10) and number != plain for number, _, _ in fields):
        raise ValueError(f"weights {name!r} are stored in an unknown way; expected raw bytes")
    lone = not any(number == 1 for number, _, _ in fields)
    _check_numbers(name, (part for number in (9, plain) for part in _parts(fields, number)), dtype, lone=lone)


def _check_numbers(name: str, parts: Iterable[memoryview], dtype: str = "<f4", *, lone: bool) -> None:
    for part in parts:
        values = np.frombuffer(part, dtype)
        if values.dtype == np.uint16:  # bfloat16 is the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if np.isnan(values).any() or not (lone or np.isfinite(values).all()):
            raise ValueError(f"{name!r} holds NaN or infinity; expected finite weights")


# ---------------------------------------------------------------------------------------------------- inputs, outputs


def _values(graph: Fields, number: int) -> Iterator[tuple[str, Value]]:
    for part in _parts(graph, number):
        fields = _fields(part)
        tensor = _below(_below(fields, 2), 1)
        axes = [_fields(axis) for axis in _parts(_below(tensor, 2), 1)]
        shape = tuple(_whole(axis, 1) if any(n == 1 for n, _, _ in axis) else None for axis in axes)
        yield _text(fields, 1), Value(_TYPES.get(_whole(tensor, 1), ""), shape)


# ---------------------------------------------------------------------------------------------------- the wire format


def _messages(kind: str, data: memoryview, depth: int) -> Iterator[tuple[str, Fields]]:
    """A message and all below it, outer ones first."""
    if depth > _DEEPEST:
        raise ValueError("graphs are nested too deeply")
    fields = _fields(data)
    yield kind, fields
    below = _INSIDE.get(kind, {})
    if kind == "model" and sum(number == 7 for number, _, _ in fields) > 1:
        raise ValueError("two graphs in it")
    for number, wire, value in fields:
        if number in below:
            if wire != 2 or isinstance(value, int):
                raise ValueError(f"broken: a {below[number]} of wire type {wire}")
            yield from _messages(below[number], value, depth + 1)


def _fields(data: memoryview) -> Fields:
    found: Fields = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            found.append((number, wire, value))
            continue
        if wire not in (1, 2, 5) or not 0 < number < 1 << 29:
            raise ValueError(f"no ONNX: a field {number} of wire type {wire}")
        size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
        if at + size > len(data):
            raise ValueError("no ONNX, or cut short")
        found.append((number, wire, data[at : at + size]))
        at += size
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("no ONNX, or cut short")


def _parts(fields: Fields, number: int) -> Iterator[memoryview]:
    """Every value of a field that holds bytes."""
    for found, _, value in fields:
        if found == number:
            if isinstance(value, int):
                raise ValueError(f"broken: field {number} is a number")
            yield value


def _below(fields: Fields, number: int) -> Fields:
    """The message in a field that is there once; without it, nothing."""
    parts = list(_parts(fields, number))
    if len(parts) > 1:
        raise ValueError(f"broken: field {number} is there twice")
    return _fields(parts[0]) if parts else []


def _text(fields: Fields, number: int) -> str:
    """The last text of a field, as protobuf reads it."""
    return ([""] + [bytes(part).decode("utf-8", "replace") for part in _parts(fields, number)])[-1]


def _whole(fields: Fields, number: int) -> int:
    """The last number of a field, as protobuf reads it; 0 without one."""
    found = [value for n, _, value in fields if n == number]
    if any(not isinstance(value, int) for value in found):
        raise ValueError(f"broken: field {number} is no number")
    return ([0] + [value for value in found if isinstance(value, int)])[-1]
