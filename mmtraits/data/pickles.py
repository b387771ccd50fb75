"""Pickles of other people -> containers, numbers and arrays, by an allow-list; nothing that they ask for is run."""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.tables import read_bytes
from mmtraits.errors import ManifestError

_KINDS = "biufcSUO"  # of arrays: numbers, texts, and objects, which are unpickled here as well


def load_pickle(path: Path, encoding: str = "latin1") -> Any:
    """Containers, texts, numbers and NumPy arrays out of a pickle (Python 2's too); nothing else can be in it.

    A pickle is a program. This reader knows a fixed list of names and refuses the file at the first other one, before
    anything is called; what the names stand for is code of this module, which checks its arguments. Raises
    ManifestError.
    """
    data = read_bytes(path)
    try:
        return _finished(_Unpickler(io.BytesIO(data), encoding=encoding).load())
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    except Exception as error:  # what a broken pickle raises is whatever its opcodes run into
        raise ManifestError(f"{path}: not readable as a pickle ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module).replace("numpy.core", "numpy._core")
        try:
            return _GLOBALS[module, name]
        except KeyError:
            expected = "expected containers, texts, numbers and NumPy arrays only"
            raise ManifestError(f"refused: the pickle asks for {module}.{name}; {expected}") from None


# NumPy's own types trust their pickled state (the flags of a dtype decide what is taken for a pointer). So that state
# goes into these two, which make a dtype and an array from the few facts that they need.


class _Dtype:
    def __init__(self, name: str | bytes, *_: object) -> None:
        self.dtype = np.dtype(name.decode("latin1") if isinstance(name, bytes) else str(name))
        if self.dtype.kind not in _KINDS:
            raise ManifestError(f"refused: an array of {self.dtype}; expected plain NumPy arrays")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = _latin1(state[1]).decode("latin1")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    def __init__(self, *_: object) -> None:
        self.array: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, held, fortran, data = state[-4:]
        if held.dtype.hasobject:
            flat = np.empty(math.prod(shape), object)
            flat[:] = data
        else:
            flat = np.frombuffer(_latin1(data), held.dtype).copy()  # of bytes it would be read-only
        self.array = flat.reshape(shape, order="F" if fortran else "C")


def _scalar(held: _Dtype, data: bytes | str) -> Any:
    if held.dtype.hasobject:
        raise ManifestError("refused: an object posing as a number; expected plain NumPy scalars")
    return np.frombuffer(_latin1(data), held.dtype)[0]


def _frombuffer(data: Any, held: _Dtype, shape: tuple[int, ...], order: str, *_: object) -> NDArray[Any]:
    return np.frombuffer(data, held.dtype).copy().reshape(shape, order="F" if order == "F" else "C")


def _latin1(text: str | bytes = b"", *_: object) -> bytes:
    return text.encode("latin1") if isinstance(text, str) else text


def _bytearray(text: str | bytes = b"", *_: object) -> bytearray:
    return bytearray(_latin1(text))  # which is never a number: that would be a size


_GLOBALS: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "bytes"): _latin1,
    ("builtins", "bytearray"): _bytearray,
    ("_codecs", "encode"): _latin1,  # how Python 3 writes bytes for Python 2
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,  # only ever an argument of the next one
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}


def _finished(value: Any) -> Any:
    """The value with arrays in the place of what stood for them."""
    if isinstance(value, _Array):
        array = value.array
        if array.dtype.hasobject:
            array.reshape(-1, order="A")[:] = [_finished(item) for item in array.reshape(-1, order="A")]
        return array
    if isinstance(value, dict):
        return type(value)((key, _finished(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_finished(item) for item in value)
    return value
