"""Front-end outputs that a manifest supplies: `feature_<stream>` references -> arrays."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.problems import manifest_error

_KEPT = 4  # tables

_BOMB_BYTES, _BOMB_RATIO = 64 << 20, 200  # of an array in an .npz: numbers of use are never so alike


def feature_file(reference: str) -> tuple[str, str]:
    """`folder/file.npz#key` -> (file, key); the key of a plain file is empty."""
    stem, mark, key = reference.partition(".npz#")
    return (stem + ".npz", key) if mark else (reference, "")


def read_features(folder: Path, references: Sequence[str]) -> list[NDArray[np.float32]]:
    """The front-end outputs that one `feature_<stream>` column names: a (T, D) float32 array each, D the same for all.

    `file.npy` holds (T, D) or (D,). `file.npz#key` is the row of the table `features` (N, D) or (N, T, D) whose id in
    `clip` (N,) is `key`; in a file without such a table, the array named `key`. Paths are relative to `folder`, the
    manifest's. Each file is opened once and nothing is unpickled. Raises ManifestError that lists every problem.
    """
    problems: list[str] = []
    found: list[NDArray[np.float32]] = []
    opened: dict[str, Mapping[str, NDArray[Any]] | str] = {}
    for reference in references:
        file, key = feature_file(reference)
        if file not in opened:
            opened[file] = _open(folder / file)
        arrays = opened[file]
        step = arrays if isinstance(arrays, str) else _steps(arrays, key)
        if not isinstance(step, str) and not np.isfinite(step).all():
            step = f"{key!r} holds NaN or infinity"
        if isinstance(step, str):
            problems.append(f"{folder / file}: {step}")
        else:
            found.append(step)
    widths = sorted({array.shape[1] for array in found})
    if len(widths) > 1:
        problems.append(f"{folder}: features of one stream have widths {widths}; expected one width")
    if problems:
        raise manifest_error(problems)
    return found


class Tables:
    """Feature files read one reference at a time; the last few tables stay open."""

    def __init__(self) -> None:
        self._table = lru_cache(maxsize=_KEPT)(_open)

    def keys(self, file: Path) -> frozenset[str] | str:
        """What a reference to this file may name; or what is wrong with it."""
        arrays = self._table(file)
        return arrays if isinstance(arrays, str) else frozenset(arrays)

    def steps(self, folder: Path, reference: str) -> NDArray[np.float32] | str:
        """The (T, D) array of one reference as `read_features` gives it, finite or not; or what is wrong with it."""
        file, key = feature_file(reference)
        arrays = (self._table if key else _open)(folder / file)
        return arrays if isinstance(arrays, str) else _steps(arrays, key)


def _open(path: Path) -> Mapping[str, NDArray[Any]] | str:
    """The arrays by key, or what is wrong with the file."""
    try:
        with path.open("rb") as file:  # opened here: NumPy leaves a file that it cannot read open
            loaded = np.load(file, allow_pickle=False)
            arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(_members(loaded))
    except FileNotFoundError:
        return "no such file; feature references are relative to the manifest's folder"
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        return f"not readable as .npz or .npy without pickle ({error})"
    if set(arrays) != {"clip", "features"}:
        return arrays
    ids, features = arrays["clip"], arrays["features"]
    if ids.ndim != 1 or len(ids) != len(features):
        return f"`clip` {ids.shape} and `features` {features.shape}; expected one id per row"
    return dict(zip(ids.tolist(), features, strict=True))


def _members(loaded: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of an .npz file; ValueError for one that unpacks to what no features are."""
    for member in loaded.zip.infolist():
        if member.file_size > _BOMB_BYTES and member.file_size > _BOMB_RATIO * member.compress_size:
            raise ValueError(f"{member.filename} unpacks to {member.file_size >> 20} MB, nearly all alike")
    yield from ((name, loaded[name]) for name in loaded.files)


def _steps(arrays: Mapping[str, NDArray[Any]], key: str) -> NDArray[np.float32] | str:
    """The (T, D) array under `key`, or what is wrong with it."""
    if key not in arrays:
        return f"no features under the key {key!r}; a reference reads `file.npz#key` or `file.npy`"
    array = arrays[key]
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "fiu":
        return f"{key!r} is {array.dtype} {array.shape}; expected numbers (T, D) or (D,)"
    steps: NDArray[np.float32] = np.atleast_2d(array).astype(np.float32)
    return steps
