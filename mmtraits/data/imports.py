"""Features that other tools extracted -> one array of steps per clip. NumPy only; nothing is filled in.

Every reader is `file -> {key: Imported}`; the key is the file's stem, or the clip's name inside a file that holds many.
Layouts, from the tools' own documentation and code:

    openface    CSV of FeatureExtraction: frame, [face_id,] timestamp, confidence, success, gaze_*, pose_*, AU*_r, AU*_c
                https://github.com/TadasBaltrusaitis/OpenFace/wiki/Output-Format
    pyfeat      CSV of a Fex: FaceRect*, FaceScore, Pitch, Roll, Yaw, AU*, emotions, frame, [Identity]; a row per face
                https://github.com/cosanlab/py-feat (feat/utils/__init__.py names the columns)
    opensmile   CSV of SMILExtract (-csvoutput, -lldcsvoutput): name;[frameTime;]features, or of the Python package:
                file,start,end,features. https://audeering.github.io/opensmile/get-started.html
    mmsa        pickle {train, valid, test: {id, text, audio, vision, [audio_lengths, vision_lengths]}}
                https://github.com/thuiar/MMSA#2-datasets
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.pickles import load_pickle
from mmtraits.data.problems import did_you_mean
from mmtraits.errors import ManifestError
from mmtraits.media.probe import MEDIA_SUFFIXES

Floats = NDArray[np.float64]

OPENFACE_COLUMNS = ("AU*", "gaze_*", "pose_*")
PYFEAT_COLUMNS = (
    "AU*", "Pitch", "Roll", "Yaw", "valence", "arousal", "gaze_*", "[Aa]nger", "[Dd]isgust", "[Ff]ear",
    "[Hh]appiness", "[Hh]appy", "[Ss]adness", "[Ss]ad", "[Ss]urprise", "[Nn]eutral",
)  # fmt: skip
MODALITIES = ("text", "audio", "vision")
_OPENFACE_ABOUT = ("frame", "face_id", "timestamp", "confidence", "success")
_PYFEAT_ABOUT = (
    "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore",
    "frame", "input", "approx_time", "Identity",
)  # fmt: skip
_OPENSMILE_ABOUT = ("name", "frameTime", "frameIndex", "file", "start", "end", "class")
_EMPTY = ("", "na", "nan", "none", "?")


class Imported(NamedTuple):
    """T steps of D named features, all finite; `times_s` (T,) from the start of the medium, None where not told."""

    names: tuple[str, ...]
    times_s: Floats | None
    values: NDArray[np.float32]
    dropped: Mapping[str, int]  # why rows of the file are no steps, and how many


def openface(path: Path, columns: Sequence[str] = ()) -> dict[str, Imported]:
    """One OpenFace CSV; default columns: action units, gaze and head pose. Raises ManifestError.

    Rows without success are dropped. Where several faces were tracked, the one seen in most frames is taken.
    """
    table = _Table.read(path, columns or OPENFACE_COLUMNS, about=_OPENFACE_ABOUT, needed=("frame", "success"))
    seen = table.numbers("success") == 1
    keep, others = _main_face(table.text("face_id"), table.text("frame"), seen.astype(np.float64))
    times_s = table.numbers("timestamp") if "timestamp" in table.about else None
    dropped = {"without success": int(np.sum(~seen)), "of another face": others}
    return {path.stem: _steps(table.names, table.values, times_s, keep, dropped)}


def pyfeat(path: Path, columns: Sequence[str] = (), *, fps: float | None = None) -> dict[str, Imported]:
    """One Py-Feat CSV; default columns: action units, pose, emotions, valence, arousal, gaze. Raises ManifestError.

    Frames without a face are dropped. Of several faces, the one with the largest area x time is taken, by `Identity`
    where Py-Feat told people apart, else the largest of each frame. It counts frames: times need `fps`.
    """
    table = _Table.read(path, columns or PYFEAT_COLUMNS, about=_PYFEAT_ABOUT)
    sides = [table.numbers(name) for name in ("FaceRectWidth", "FaceRectHeight") if name in table.about]
    area = np.nan_to_num(np.prod(sides, axis=0)) if sides else np.ones(len(table.values))
    counted = "frame" in table.about
    frames = table.text("frame") if counted else list(map(str, range(len(area))))
    keep, others = _main_face(table.text("Identity"), frames, area)
    times_s = table.numbers("frame") / fps if fps and counted else None
    dropped = {"without a face": int(np.sum(area <= 0)), "of another face": others}
    return {path.stem: _steps(table.names, table.values, times_s, keep, dropped)}


def opensmile(path: Path, columns: Sequence[str] = ()) -> dict[str, Imported]:
    """One openSMILE CSV (`;` or `,`): functionals or low-level descriptors; default: all columns. Raises ManifestError.

    SMILExtract appends: where the file holds several instances, each is a key by the stem of its name.
    """
    table = _Table.read(path, columns or ("*",), about=_OPENSMILE_ABOUT, delimiters=";,")
    times_s = _opensmile_times(table)
    names = table.about.get("name") or table.about.get("file") or []
    instances = np.array([stem(name.strip("'")) for name in names])
    if len(set(instances)) < 2:
        keep = {path.stem: np.ones(len(table.values), dtype=np.bool_)}
    else:
        keep = {key: instances == key for key in dict.fromkeys(instances.tolist())}
    return {key: _steps(table.names, table.values, times_s, rows, {}) for key, rows in keep.items()}


def mmsa(path: Path, modality: str) -> dict[str, Imported]:
    """One modality (text, audio or vision) of an MMSA feature pickle, by clip id. Raises ManifestError.

    Padding is cut off: by the lengths where the file has them, else all-zero steps at either end. Nothing in the
    pickle is executed: see `pickles.load_pickle`.
    """
    data = load_pickle(path)
    splits = data if isinstance(data, Mapping) else {}
    splits = {name: split for name, split in splits.items() if isinstance(split, Mapping) and "id" in split}
    if not splits:
        raise ManifestError(f"{path}: no splits with ids; expected {{train, valid, test: {{id, text, audio, vision}}}}")
    found: dict[str, Imported] = {}
    for name, split in splits.items():
        for key, imported in _mmsa_split(f"{path}: {name}", split, modality):
            if key in found:
                raise ManifestError(f"{path}: {name}: id {key!r} is there twice; ids are unique over all splits")
            found[key] = imported
    return found


def stem(name: str) -> str:
    """A medium's name without folders and suffix; `dir/abc.003.mp4` and `abc.003` are both `abc.003`."""
    path = Path(name)
    return path.stem if path.suffix.lower() in MEDIA_SUFFIXES else path.name


# ---------------------------------------------------------------------------------------------------- one CSV


@dataclass(frozen=True, slots=True)
class _Table:
    """The chosen feature columns of a CSV as numbers (T, D), NaN = empty, and what it says `about` each row."""

    path: Path
    names: tuple[str, ...]
    values: Floats
    about: Mapping[str, list[str]]

    @classmethod
    def read(
        cls,
        path: Path,
        patterns: Sequence[str],
        *,
        about: Sequence[str],
        needed: Sequence[str] = (),
        delimiters: str = ",",
    ) -> _Table:
        """Row by row: an OpenFace file has hundreds of columns, most of which nobody asks for."""
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                first = file.readline()
                file.seek(0)
                lines = csv.reader(file, delimiter=max(delimiters, key=first.count), skipinitialspace=True)
                header = [name.strip() for name in next(lines, [])]
                if missing := [name for name in needed if name not in header]:
                    raise ManifestError(f"{path}: column {missing[0]!r} is missing{did_you_mean(missing[0], header)}")
                names = _selected(path, [name for name in header if name not in about and name], patterns)
                at = [header.index(name) for name in names]
                told = {name: header.index(name) for name in about if name in header}
                values, cells = _rows(path, lines, header, at, list(told.values()))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ManifestError(f"{path}: {error}; expected a CSV in UTF-8") from error
        return cls(path, names, values, dict(zip(told, cells, strict=True)))

    def text(self, name: str) -> list[str]:
        """T cells of a column that tells about the rows; empty ones where the file has no such column."""
        return self.about.get(name) or [""] * len(self.values)

    def numbers(self, name: str) -> Floats:
        """The same as numbers (T,)."""
        return np.array([_number(cell, f"{self.path}: column {name!r}") for cell in self.about[name]])


def _selected(path: Path, features: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """The feature columns that a pattern (`AU*_r`, case-sensitive) names, in the file's order."""
    found = tuple(name for name in features if any(fnmatchcase(name, pattern) for pattern in patterns))
    if not found:
        shown = ", ".join(features[:12]) + (", ..." if len(features) > 12 else "")
        raise ManifestError(f"{path}: no column matches {', '.join(patterns)}; its features are {shown or 'none'}")
    return found


def _rows(
    path: Path, lines: Any, header: Sequence[str], at: Sequence[int], told: Sequence[int]
) -> tuple[Floats, list[list[str]]]:
    """Values (T, D) of the columns `at`, and the stripped cells of each column in `told`."""
    values: list[list[float]] = []
    cells: list[list[str]] = [[] for _ in told]
    for row in lines:
        where = f"{path}:{lines.line_num}"
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise ManifestError(f"{where}: {len(row)} cells; the header has {len(header)} columns")
        values.append([_number(row[i], f"{where}: {header[i]}") for i in at])
        for column, i in zip(cells, told, strict=True):
            column.append(row[i].strip())
    if not values:
        raise ManifestError(f"{path}: no rows; expected a header line and one row per frame or instance")
    return np.array(values, dtype=np.float64), cells


def _number(cell: str, where: str) -> float:
    try:
        return math.nan if cell.strip().lower() in _EMPTY else float(cell)
    except ValueError as error:
        raise ManifestError(f"{where} {cell.strip()!r} is not a number") from error


def _main_face(who: Sequence[str], frames: Sequence[str], weight: Floats) -> tuple[NDArray[np.bool_], int]:
    """Which rows (T,) show the main face, one a frame, and how many show another; `weight` 0 = nobody is seen."""
    total: Counter[str] = Counter()
    for name, share in zip(who, weight.tolist(), strict=True):
        total[name] += share
    main = max(sorted(total), key=total.__getitem__)
    best: dict[str, int] = {}  # frame -> row
    for row, (name, frame) in enumerate(zip(who, frames, strict=True)):
        if name == main and weight[row] > 0 and (frame not in best or weight[row] > weight[best[frame]]):
            best[frame] = row
    keep = np.zeros(len(weight), dtype=np.bool_)
    keep[list(best.values())] = True
    return keep, int(np.sum(~keep & (weight > 0)))


def _steps(
    names: tuple[str, ...], values: Floats, times_s: Floats | None, keep: NDArray[np.bool_], dropped: Mapping[str, int]
) -> Imported:
    """The kept rows in which no value is missing; each other one is counted under the first column that lacks one."""
    finite = np.isfinite(values)
    holes = Counter(f"without {names[column]}" for column in np.argmin(finite[keep], axis=1)[~finite[keep].all(axis=1)])
    kept = keep & finite.all(axis=1)
    why = {reason: count for reason, count in {**dropped, **holes}.items() if count}
    return Imported(names, None if times_s is None else times_s[kept], values[kept].astype(np.float32), why)


def _opensmile_times(table: _Table) -> Floats | None:
    if "frameTime" in table.about:
        return table.numbers("frameTime")
    if "start" in table.about:
        return np.array([_seconds(cell, table.path) for cell in table.about["start"]])
    return None


def _seconds(cell: str, path: Path) -> float:
    """`0 days 00:01:02.5` (how pandas writes a time span) or plain seconds."""
    if match := re.fullmatch(r"(?:(\d+) days? )?(\d+):(\d+):(\d+(?:\.\d+)?)", cell):
        days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return _number(cell, f"{path}: start")


# ---------------------------------------------------------------------------------------------------- MMSA


def _mmsa_split(where: str, split: Mapping[str, Any], modality: str) -> Iterator[tuple[str, Imported]]:
    if modality not in split:
        raise ManifestError(f"{where}: no {modality!r}; it has {', '.join(sorted(map(str, split)))}")
    ids = [str(np.asarray(entry).ravel()[0]) for entry in split["id"]]
    steps, lengths = split[modality], _lengths(split, modality)
    for what, entries in ((modality, steps), (f"{modality}_lengths", lengths)):
        if entries is not None and len(entries) != len(ids):
            raise ManifestError(f"{where}: {len(ids)} ids and {len(entries)} {what}; expected as many")
    for row, key in enumerate(ids):
        values = np.atleast_2d(np.asarray(steps[row], dtype=np.float64))
        if values.ndim != 2 or not values.size:
            raise ManifestError(f"{where}: {modality} of {key!r} is {values.shape}; expected (steps, width)")
        names = tuple(f"{modality}_{i}" for i in range(values.shape[1]))
        yield key, _steps(names, values, None, _unpadded(values, None if lengths is None else lengths[row]), {})


def _lengths(split: Mapping[str, Any], modality: str) -> list[int] | None:
    if (lengths := split.get(f"{modality}_lengths")) is not None:
        return [int(np.asarray(length).ravel()[0]) for length in lengths]
    if modality == "text" and "text_bert" in split:  # (N, 3, T): word ids, mask, segments
        return [int(total) for total in np.asarray(split["text_bert"])[:, 1].sum(axis=1)]
    return None


def _unpadded(values: Floats, length: int | None) -> NDArray[np.bool_]:
    """Which steps (T,) are no padding; MMSA pads with zeros, at the end or at the front."""
    inside = np.zeros(len(values), dtype=np.bool_)
    filled = np.flatnonzero(values.any(axis=1))
    if not filled.size:
        return inside
    first, last = int(filled[0]), int(filled[-1])
    if length is not None and 0 < length <= len(values):
        spare = len(values) - length
        at_the_front = last >= length and first >= spare
        first, last = (spare, len(values) - 1) if at_the_front else (0, length - 1)
    inside[first : last + 1] = True
    return inside
