"""Features of other tools -> a stream of a manifest: `import_features.py KIND SOURCE... MANIFEST --stream NAME`.

KIND: openface, pyfeat, opensmile (CSV files or folders of them) or mmsa (one pickle, with --modality). The layouts:
mmtraits/data/imports.py. MANIFEST, a prepared folder, gets NAME.npz and the column feature_NAME; everything else in it
stays. A file belongs to the clip with its name, or to every clip cut from the medium with its name; of such a clip only
the steps inside its stretch are taken. Nothing is filled in: a clip without features has none.

--pool behaviour gives a vector of named statistics of motion (mmtraits/media/features/behaviour.py); with
--columns "AU*_r" "pose_*" "x_*" "y_*" it tells the asymmetry of OpenFace's landmarks too.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import imports
from mmtraits.data import manifest as manifests
from mmtraits.data.prepare import Dropped, finish, run
from mmtraits.errors import ManifestError
from mmtraits.media.features import behaviour
from mmtraits.schema import Clip

Steps = NDArray[np.float32]
KINDS = ("openface", "pyfeat", "opensmile", "mmsa")
POOLS = ("none", "mean", "mean_std", "behaviour")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, import, print the report; 2 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=KINDS, help="which tool wrote the files")
    parser.add_argument("source", nargs="+", type=Path, help="its files, or folders that hold them at any depth")
    parser.add_argument("manifest", type=Path, help="the prepared folder: clips.csv with schema.yaml beside it")
    parser.add_argument("--stream", required=True, help="name of the stream; the column is feature_<stream>")
    parser.add_argument("--columns", nargs="+", default=(), metavar="PATTERN", help="which features: AU*_r gaze_*")
    parser.add_argument("--modality", choices=imports.MODALITIES, help="mmsa: which of its three")
    parser.add_argument("--fps", type=float, help="pyfeat: frames per second, where clips are cut from longer media")
    parser.add_argument("--pool", choices=POOLS, default="none", help="one vector per clip instead of its steps")
    return run(prepare, parser.parse_args(arguments))


def prepare(
    kind: str,
    source: Sequence[Path],
    manifest: Path,
    *,
    stream: str,
    columns: Sequence[str] = (),
    modality: str | None = None,
    fps: float | None = None,
    pool: str = "none",
) -> str:
    """Write the stream into the manifest's folder, whole or not at all; return the report. Raises ManifestError."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", stream):
        raise ManifestError(f"--stream {stream!r}; expected lower-case letters, digits and underscores")
    if (kind == "mmsa") != (modality is not None):
        raise ManifestError(f"--modality {modality}: mmsa needs one of {', '.join(imports.MODALITIES)}, no other kind")
    corpus = manifests.read(manifest)
    if corpus.path.name != "clips.csv":
        raise ManifestError(f"{corpus.path}: expected clips.csv, or the folder that holds one (unpack a clips.csv.gz)")
    found = _read(kind, source, columns, modality, fps)
    dropped = Dropped()
    names, steps = _pooled(_matched(found, corpus.clips, dropped), pool, dropped)
    if not steps:
        raise ManifestError("\n".join([f"{corpus.path}: no clip got features; nothing was written", *dropped.lines()]))
    for clip in corpus.clips:
        if clip.id not in steps:
            dropped.add(clip.id, f"clips without {stream} features")
    arrays, references = _written(steps, f"{stream}.npz")
    report = finish(
        replace(corpus, clips=tuple(_with(clip, stream, references.get(clip.id)) for clip in corpus.clips)),
        dropped,
        corpus.folder,
        files=[(f"{stream}.npz", arrays), (f"{stream}.columns.txt", "".join(f"{name}\n" for name in names))],
    )
    return "\n".join([report, *_rows_left_out(found.values()), "", *_config(stream, len(names))])


def _read(
    kind: str, source: Sequence[Path], columns: Sequence[str], modality: str | None, fps: float | None
) -> dict[str, imports.Imported]:
    """Every file's features by key; all of the same columns."""
    found: dict[str, imports.Imported] = {}
    origin: dict[str, Path] = {}
    for path in _files(source, (".pkl", ".pickle") if kind == "mmsa" else (".csv",)):
        for key, features in _file(kind, path, columns, modality, fps).items():
            if key in found:
                raise ManifestError(f"{path}: features of {key!r} are already in {origin[key]}; keep one of them")
            found[key], origin[key] = features, path
    first = next(iter(found))
    for key, features in found.items():
        if features.names != found[first].names:
            odd = sorted(set(features.names) ^ set(found[first].names)) or ["their order"]
            differ = f"{', '.join(odd[:8])}{', ...' if len(odd) > 8 else ''}"
            raise ManifestError(f"{origin[key]}: other columns than {origin[first]}: {differ}; choose with --columns")
    return found


def _file(
    kind: str, path: Path, columns: Sequence[str], modality: str | None, fps: float | None
) -> dict[str, imports.Imported]:
    if kind == "mmsa":
        return imports.mmsa(path, str(modality))
    if kind == "pyfeat":
        return imports.pyfeat(path, columns, fps=fps)
    return {"openface": imports.openface, "opensmile": imports.opensmile}[kind](path, columns)


def _files(source: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for path in source:
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        files += [file for file in below if file == path or (file.is_file() and file.suffix.lower() in suffixes)]
    if not files:
        raise ManifestError(f"{', '.join(map(str, source))}: no file with suffix {' or '.join(suffixes)}")
    return files


# ---------------------------------------------------------------------------------------------------- files to clips


def _matched(
    found: Mapping[str, imports.Imported], clips: Sequence[Clip], dropped: Dropped
) -> dict[str, imports.Imported]:
    """What each clip has of it, by id, in the manifest's order."""
    by_id, by_medium = _names_of(clips)
    steps: dict[str, imports.Imported] = {}
    for key, features in found.items():
        names = (key, imports.stem(key), key.replace("$_$", "_"))  # MMSA joins video and clip by $_$
        whole = next((by_id[name] for name in names if name in by_id), {})
        parts = next((by_medium[name] for name in names if name in by_medium), {})
        if not whole and not parts:
            dropped.add(key, "features without a clip of that name")
        elif len(whole) > 1:
            dropped.add(key, "features for several clips of one name")
        elif not len(features.values):
            dropped.add(key, "features of which no row is left")
        for name, clip in ({} if len(whole) > 1 else {**whole, **parts}).items():
            own = _inside(features, clip, dropped) if name in parts else features
            if len(own.values):
                steps[name] = own
    return {clip.id: steps[clip.id] for clip in clips if clip.id in steps}


def _names_of(clips: Sequence[Clip]) -> tuple[dict[str, dict[str, Clip]], dict[str, dict[str, Clip]]]:
    """Clips by their own id, with or without folders and suffix, and by the stem of their medium."""
    by_id: defaultdict[str, dict[str, Clip]] = defaultdict(dict)
    by_medium: defaultdict[str, dict[str, Clip]] = defaultdict(dict)
    for clip in clips:
        for name in (clip.id, Path(clip.id).name, imports.stem(clip.id)):
            by_id[name][clip.id] = clip
        for path in filter(None, (clip.video, clip.audio, clip.transcript)):
            by_medium[path.stem][clip.id] = clip
    for clip in clips:
        by_id[clip.id] = {clip.id: clip}  # a full id is never in doubt
    return by_id, by_medium


def _inside(features: imports.Imported, clip: Clip, dropped: Dropped) -> imports.Imported:
    """The steps inside the clip's stretch of its medium."""
    if not len(features.values) or (clip.start_s == 0 and clip.end_s is None):
        return features
    if features.times_s is None:
        dropped.add(clip.id, "its features tell no times, so that its stretch cannot be cut out")
        return features._replace(values=features.values[:0])
    end_s = np.inf if clip.end_s is None else clip.end_s
    inside = (features.times_s >= clip.start_s) & (features.times_s < end_s)
    if not inside.any():
        dropped.add(clip.id, "no step inside its stretch of the medium")
    return features._replace(values=features.values[inside], times_s=features.times_s[inside])


# ---------------------------------------------------------------------------------------------------- what is written


def _pooled(
    found: Mapping[str, imports.Imported], pool: str, dropped: Dropped
) -> tuple[tuple[str, ...], dict[str, Steps]]:
    """Names of the columns, and what each clip gets: its steps, or one vector of them."""
    names = next((features.names for features in found.values()), ())
    if pool == "behaviour":
        return _behaviour(found, dropped)
    if pool == "none":
        return names, {clip: features.values for clip, features in found.items()}
    vectors = {}
    for clip, features in found.items():
        mean, deviation = features.values.mean(axis=0, dtype=np.float64), features.values.std(axis=0, dtype=np.float64)
        vectors[clip] = np.concatenate([mean, deviation] if pool == "mean_std" else [mean])[None].astype(np.float32)
    return (*names, *(f"{name}_sd" for name in names)) if pool == "mean_std" else names, vectors


def _behaviour(found: Mapping[str, imports.Imported], dropped: Dropped) -> tuple[tuple[str, ...], dict[str, Steps]]:
    """How the series of each clip move: gaps in time are bridged, at the rate that most steps have."""
    names: tuple[str, ...] = ()
    vectors = {}
    for clip, features in found.items():
        if features.times_s is None:
            raise ManifestError(f"--pool behaviour: {clip}: its features tell no times; give --fps, or another --pool")
        told = None
        if len(features.values) >= behaviour.MIN_STEPS:
            fps = float(1 / np.median(np.diff(features.times_s)))
            told = behaviour.summary(behaviour.uniform(features.values, features.times_s, fps), features.names, fps)
        if told is None:
            dropped.add(clip, f"fewer than {behaviour.MIN_STEPS} steps, too few for statistics of motion")
        else:
            names, vectors[clip] = told.names, told.values[None].astype(np.float32)
    return names, vectors


def _written(steps: Mapping[str, Steps], file: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """What the file holds: a table where all clips have as many steps, else an array each; and the references to it."""
    if len({len(values) for values in steps.values()}) == 1:
        table = {"clip": np.array(list(steps)), "features": np.stack(list(steps.values()))}
        return table, {clip: f"{file}#{clip}" for clip in steps}
    keys = {clip: f"clip/{clip}" for clip in steps}  # never the name of a parameter of np.savez
    return {keys[clip]: values for clip, values in steps.items()}, {clip: f"{file}#{key}" for clip, key in keys.items()}


def _with(clip: Clip, stream: str, reference: str | None) -> Clip:
    others = {name: other for name, other in clip.features.items() if name != stream}
    return replace(clip, features={**others, stream: reference} if reference else others)


def _rows_left_out(found: Iterable[imports.Imported]) -> list[str]:
    total: Counter[str] = Counter()
    for features in found:
        total.update(features.dropped)
    return [f"rows left out: {count} {reason}" for reason, count in total.most_common(10)]


def _config(stream: str, size: int) -> list[str]:
    return ["to train on it, in the config:", "streams:", f"  {stream}: {{use: precomputed, size: {size}}}"]


if __name__ == "__main__":
    sys.exit(main())
