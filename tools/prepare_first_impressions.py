"""First Impressions V2 as a table (clips.csv.gz + faces.npz) -> a manifest: `prepare_first_impressions.py SOURCE OUT`.

The layout of SOURCE and the terms of the corpus: datasets/first_impressions/README.md. Running it again gives the same
bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.errors import ManifestError, MMTraitsError
from mmtraits.schema import Clip, Trait, TraitSchema

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "first_impressions"
VOICE = (
    "voice_chroma_stft", "voice_rmse", "voice_spectral_centroid", "voice_spectral_bandwidth", "voice_rolloff",
    "voice_zero_crossing_rate", *(f"voice_mfcc{i}" for i in range(1, 21)),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with clips.csv.gz and faces.npz")
    parser.add_argument("out", type=Path, help="folder for clips.csv, schema.yaml, dataset.yaml, voice.npz, face.npz")
    parser.add_argument("--interview", action="store_true", help="also keep the hire-like sixth label; off on purpose")
    options = parser.parse_args(arguments)
    try:
        print(prepare(options.source, options.out, interview=options.interview))
    except MMTraitsError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def prepare(source: Path, out: Path, *, interview: bool = False) -> str:
    """Write the manifest and the feature tables; return the report. Raises ManifestError."""
    schema = manifests.read_schema(CORPUS / "schema.yaml")
    if interview:
        schema = replace(schema, traits=(*schema.traits, Trait(name="interview", low=0.0, high=1.0)))
    rows = _rows(source / "clips.csv.gz", schema)
    ids = [row["clip"] for row in rows]
    voices = {row["clip"]: voice for row in rows if (voice := _voice(row)) is not None}
    faces, orphans = _faces(source / "faces.npz", set(ids))
    clips = [_clip(row, voices, faces) for row in rows]
    kept = [i for i, clip in enumerate(clips) if clip.text or clip.features]
    manifest = manifests.Manifest(
        path=out / "clips.csv",
        schema=schema,
        clips=tuple(clips[i] for i in kept),
        labels=np.array([[_number(rows[i], name) for name in schema.trait_names] for i in kept]),
        splits=tuple(rows[i]["split"] or None for i in kept),
    )
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (("voice.npz", voices), ("face.npz", faces)):
        if table:
            np.savez_compressed(out / name, clip=np.array(list(table)), features=np.stack(list(table.values())))
    shutil.copyfile(CORPUS / "dataset.yaml", out / "dataset.yaml")  # what an export says of the data and its licence
    manifests.write(manifest)
    manifests.read(manifest.path, check_files=True)  # what was written is a manifest, or this says why not
    return _report(manifest, dropped=len(rows) - len(kept), orphans=orphans)


def _rows(path: Path, schema: TraitSchema) -> list[dict[str, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, EOFError) as error:
        raise ManifestError(f"{path}: {error}; expected the gzipped table of the corpus") from error
    needed = ("clip", "person", "split", *schema.trait_names, "gender", "transcript", *VOICE)
    if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise ManifestError(f"{path}: columns {', '.join(missing)} are missing; expected {len(needed)} columns")
    return rows


def _voice(row: Mapping[str, str]) -> NDArray[np.float32] | None:
    """The 26 means, or None where the table has no voice for the clip; a half-filled row is an error."""
    values = [_number(row, name) for name in VOICE]
    if all(map(math.isnan, values)):
        return None
    if not all(map(math.isfinite, values)):
        raise ManifestError(f"clip {row['clip']}: its voice statistics are incomplete; expected {len(VOICE)} or none")
    return np.array(values, dtype=np.float32)


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        return float(row[name] or "nan")
    except ValueError as error:
        raise ManifestError(f"clip {row['clip']}: {name} {row[name]!r} is not a number") from error


def _faces(path: Path, ids: set[str]) -> tuple[dict[str, NDArray[np.float16]], int]:
    """Face features by clip, and how many of the file's clips have no row in the table."""
    try:
        with np.load(path, allow_pickle=False) as file:
            clips, features = file["clip"], file["features"]
    except (OSError, ValueError, KeyError) as error:
        raise ManifestError(f"{path}: {error}; expected the arrays `clip` and `features`") from error
    found = {clip: row for clip, row in zip(clips.tolist(), features, strict=True) if clip in ids}
    return found, len(clips) - len(found)


def _clip(row: Mapping[str, str], voices: Mapping[str, object], faces: Mapping[str, object]) -> Clip:
    clip = row["clip"]
    features = {
        stream: f"{stream}.npz#{clip}" for stream, table in (("voice", voices), ("face", faces)) if clip in table
    }
    return Clip(
        id=clip,
        text=row["transcript"].strip() or None,
        person=row["person"] or None,
        attributes={"gender": row["gender"]} if row["gender"] else {},
        features=features,
    )


def _report(manifest: manifests.Manifest, *, dropped: int, orphans: int) -> str:
    clips = manifest.clips
    streams = Counter("+".join((["text"] if c.text else []) + sorted(c.features)) for c in clips)
    lines = [
        f"{manifest.path}: {len(clips)} clips of {len({c.person for c in clips})} persons",
        f"traits: {', '.join(manifest.schema.trait_names)}",
        "splits: " + ", ".join(f"{name} {n}" for name, n in sorted(Counter(map(str, manifest.splits)).items())),
        *(f"{n} clips with {streams_}" for streams_, n in streams.most_common()),
        f"dropped: {dropped} clips without transcript, voice and face; {orphans} faces of clips that have no row",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
