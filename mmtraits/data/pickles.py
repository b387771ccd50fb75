"""Pickles of other people -> containers, numbers and arrays, by an allow-list; nothing in them is executed."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.tables import read_bytes
from mmtraits.errors import ManifestError


def load_pickle(path: Path, encoding: str = "latin1") -> Any:
    """Containers, texts, numbers and NumPy arrays out of a pickle (Python 2's too); nothing else can be in it.

    A pickle is a program. This reader knows a fixed list of names and refuses the file at the first other one, before
    anything is called. Raises ManifestError.
    """
    try:
        return _Unpickler(io.BytesIO(read_bytes(path)), encoding=encoding).load()
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


def _reconstruct(*_: object) -> NDArray[Any]:
    """An empty array, whose shape, type and data the pickle sets next."""
    return np.empty(0, np.uint8)


def _dtype(name: str | bytes, *_: object) -> np.dtype[Any]:
    dtype = np.dtype(name.decode("latin1") if isinstance(name, bytes) else str(name))
    if dtype.kind == "V":
        raise ManifestError(f"refused: a structured array ({name!r}); expected plain NumPy arrays")
    return dtype


def _scalar(dtype: np.dtype[Any], data: bytes | str) -> Any:
    if dtype.hasobject:
        raise ManifestError("refused: an object posing as a number; expected plain NumPy scalars")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype)[0]


def _frombuffer(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str, *_: object) -> NDArray[Any]:
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _latin1(text: str, *_: object) -> bytes:
    return text.encode("latin1")


_PLAIN = (set, frozenset, list, dict, tuple, int, float, complex, bool, str, bytes, bytearray, slice, range)
_GLOBALS: dict[tuple[str, str], Any] = {
    **{("builtins", kind.__name__): kind for kind in _PLAIN},
    ("builtins", "long"): int,
    ("builtins", "unicode"): str,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,  # how Python 3 writes bytes for Python 2
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct, which makes no other kind
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}
