"""First Impressions V2, as published (pickles, videos) or as a table without media -> a manifest.

Both layouts of SOURCE and the terms of the corpus: datasets/first_impressions/README.md.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.data import prepare as shared
from mmtraits.data.problems import manifest_error
from mmtraits.errors import ManifestError
from mmtraits.schema import Clip, Trait, TraitSchema

CORPUS = Path(__file__).resolve().parent.parent / "datasets" / "first_impressions"
SPLITS = {"training": "train", "validation": "val", "test": "test"}
VOICE = (
    "voice_chroma_stft", "voice_rmse", "voice_spectral_centroid", "voice_spectral_bandwidth", "voice_rolloff",
    "voice_zero_crossing_rate", *(f"voice_mfcc{i}" for i in range(1, 21)),
)  # fmt: skip
_CLIP_NAME = re.compile(r"(?P<video>.+)\.\d{3}\.mp4")
_ENOUGH = 50  # clips from which a negative correlation of two traits is no accident


Tables = dict[str, Mapping[str, NDArray[Any]]]  # of features, by the name of their file in OUT


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare, print the report; 2 when something is wrong with SOURCE."""
    parser = shared.command_line(
        __doc__,
        source="folder with annotation_*.pkl and transcription_*.pkl, anywhere below it, or with clips.csv.gz",
        media="folder with the videos, anywhere below it; SOURCE where it is not given",
    )
    parser.add_argument("--interview", action="store_true", help="also keep the hire-like sixth label; off on purpose")
    return shared.run(prepare, parser.parse_args(arguments))


def prepare(source: Path, out: Path, *, media: Path | None = None, interview: bool = False) -> str:
    """Write the manifest and the feature tables; return the report. Raises ManifestError."""
    schema = manifests.read_schema(CORPUS / "schema.yaml")
    if interview:
        schema = replace(schema, traits=(*schema.traits, Trait(name="interview", low=0.0, high=1.0)))
    found, dropped, tables = shared.Collected(), shared.Dropped(), Tables()
    if (source / "clips.csv.gz").is_file():
        if media:
            raise ManifestError(f"{media}: the ids of {source / 'clips.csv.gz'} name no video; leave --media out")
        tables = _from_table(source, schema, found, dropped)
    else:
        _from_pickles(source, media or source, schema, found, dropped)
    manifest = found.manifest(out, schema)
    _check_sign(source, schema, manifest.labels)
    return shared.finish(manifest, dropped, CORPUS, files=tables.items())


def _check_sign(source: Path, schema: TraitSchema, labels: NDArray[np.float64]) -> None:
    """In this corpus "neuroticism" rises with extraversion (r = +.80): it is stability. A flipped copy would not."""
    names = schema.trait_names
    extraversion, stability = (labels[:, names.index(name)] for name in ("extraversion", "emotional_stability"))
    known = np.isfinite(extraversion) & np.isfinite(stability)
    if known.sum() < _ENOUGH or not extraversion[known].std() or not stability[known].std():
        return
    if (r := float(np.corrcoef(extraversion[known], stability[known])[0, 1])) < 0:
        expected = "expected about +0.80; were these labels flipped?"
        raise ManifestError(f"{source}: emotional_stability and extraversion correlate at {r:.2f}; {expected}")


# ---------------------------------------------------------------------------------------------------- as published


def _from_pickles(
    source: Path, media: Path, schema: TraitSchema, found: shared.Collected, dropped: shared.Dropped
) -> None:
    pickles = shared.files_by_name(source, (".pkl",))
    if not any(f"annotation_{name}.pkl" in pickles for name in SPLITS):
        expected = "expected clips.csv.gz, or annotation_training.pkl (and _validation, _test) in any folder below it"
        raise ManifestError(f"{source}: no labels; {expected}")
    videos = shared.files_by_name(media, (".mp4",))
    attributes = _attributes(source)
    problems: list[str] = []
    seen: dict[str, str] = {}
    for name, split in SPLITS.items():
        path = pickles.get(f"annotation_{name}.pkl")
        if path is None:
            dropped.add(f"annotation_{name}.pkl", "split without labels")
            continue
        texts = _transcripts(pickles.get(f"transcription_{name}.pkl"))
        for clip_name, labels in _annotations(path, schema, problems):
            if seen.setdefault(clip_name, split) != split:
                problems.append(f"{path}: clip {clip_name!r} is also in {seen[clip_name]}; expected it in one split")
                continue
            clip = _published_clip(clip_name, texts, videos, attributes, problems)
            if clip.text or clip.video:
                found.add(clip, labels, split)
            _note(clip_name, clip, dropped)
        for clip_name in sorted(set(texts) - set(seen)):
            dropped.add(clip_name, "transcript of a clip without labels")
    if problems:
        raise manifest_error(problems)
    for clip_name in sorted(set(videos) - set(seen)):
        dropped.add(clip_name, "video without labels")


def _annotations(path: Path, schema: TraitSchema, problems: list[str]) -> Iterator[tuple[str, list[float]]]:
    """Clip names in order with their labels, NaN where a trait does not have the clip."""
    data = shared.load_pickle(path)
    columns: list[tuple[Trait, dict[str, Any]]] = []
    for trait in schema.traits:
        column = "neuroticism" if trait.name == "emotional_stability" else trait.name
        values = data.get(column) if isinstance(data, dict) else None
        if not isinstance(values, dict):
            raise ManifestError(f"{path}: no dict under {column!r}; expected trait -> clip name -> number")
        columns.append((trait, values))
    for clip in sorted({str(clip) for _, values in columns for clip in values}):
        yield clip, [_number(values.get(clip), trait, f"{path}: clip {clip}:", problems) for trait, values in columns]


def _number(value: object, trait: Trait, where: str, problems: list[str]) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        problems.append(f"{where} {trait.name} {value!r} is not a number")
        return math.nan
    return shared.checked(float(value), trait, f"{where} {trait.name}", problems)


def _transcripts(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    data = shared.load_pickle(path)
    if not isinstance(data, dict) or not all(isinstance(text, str) for text in data.values()):
        raise ManifestError(f"{path}: expected a dict of clip name -> text")
    return {str(clip): " ".join(text.split()) for clip, text in data.items()}


def _attributes(source: Path) -> dict[str, dict[str, str]]:
    """Codes of eth_gender_annotations_dev.csv and _test.csv by clip name; they are for audits only."""
    tables = (path for name, path in shared.files_by_name(source, (".csv",)).items() if name.startswith("eth_gender"))
    rows = [row for path in tables for row in shared.table(path, ("VideoName", "Gender"), key=("VideoName",))]
    return {
        row["VideoName"]: {name: code for name in ("gender", "ethnicity") if (code := row.get(name.capitalize()))}
        for row in rows
    }


def _published_clip(
    name: str,
    texts: Mapping[str, str],
    videos: Mapping[str, Path],
    attributes: Mapping[str, dict[str, str]],
    problems: list[str],
) -> Clip:
    match = _CLIP_NAME.fullmatch(name)
    if not match:
        problems.append(f"clip {name!r}; expected the source video's id, three digits and the suffix: VIDEO.NNN.mp4")
    return Clip(
        id=name.removesuffix(".mp4"),
        video=videos.get(name),
        text=texts.get(name) or None,
        person=match["video"] if match else None,
        attributes=attributes.get(name, {}),
    )


def _note(name: str, clip: Clip, dropped: shared.Dropped) -> None:
    if not clip.text and not clip.video:
        dropped.add(name, "clip with neither transcript nor video")
    elif not clip.video:
        dropped.add(name, "video not found, its clip kept")
    elif not clip.text:
        dropped.add(name, "transcript not found, its clip kept")


# ---------------------------------------------------------------------------------------------------- as a table


def _from_table(source: Path, schema: TraitSchema, found: shared.Collected, dropped: shared.Dropped) -> Tables:
    columns = ("clip", "person", "split", *schema.trait_names, "gender", "transcript", *VOICE)
    rows = shared.table(source / "clips.csv.gz", columns, key=("clip",))
    labels = shared.labels(rows, {}, schema)
    voices = {row["clip"]: voice for row in rows if (voice := _voice(row)) is not None}
    faces = _faces(source / "faces.npz", {row["clip"] for row in rows}, dropped)
    problems: list[str] = []
    for row, values in zip(rows, labels, strict=True):
        clip = _table_clip(row, voices, faces)
        if clip.text or clip.features:
            found.add(clip, values, shared.split_name(row["split"], row.where, problems))
        else:
            dropped.add(clip.id, "clip without transcript, voice and face")
    if problems:
        raise manifest_error(problems)
    return {
        name: {"clip": np.array(list(vectors)), "features": np.stack(list(vectors.values()))}
        for name, vectors in (("voice.npz", voices), ("face.npz", faces))
        if vectors
    }


def _voice(row: shared.Row) -> NDArray[np.float32] | None:
    """The 26 means, or None where the table has no voice for the clip; a half-filled row is an error."""
    cells = [row[name] for name in VOICE]
    if not any(cells):
        return None
    try:
        values = np.array([float(cell) for cell in cells], dtype=np.float32)
    except ValueError:
        values = np.array([math.nan], dtype=np.float32)
    if not np.isfinite(values).all():
        raise ManifestError(f"{row.where}: its voice statistics are incomplete; expected {len(VOICE)} numbers or none")
    return values


def _faces(path: Path, ids: set[str], dropped: shared.Dropped) -> dict[str, NDArray[np.float16]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            clips, features = file["clip"], file["features"]
    except (OSError, ValueError, KeyError) as error:
        raise ManifestError(f"{path}: {error}; expected the arrays `clip` and `features`") from error
    found = dict(zip(clips.tolist(), features, strict=True))
    for clip in sorted(set(found) - ids):
        dropped.add(clip, "face of a clip that has no row")
    return {clip: face for clip, face in found.items() if clip in ids}


def _table_clip(row: shared.Row, voices: Mapping[str, object], faces: Mapping[str, object]) -> Clip:
    clip = row["clip"]
    return Clip(
        id=clip,
        text=row["transcript"] or None,
        person=row["person"] or None,
        attributes={"gender": row["gender"]} if row["gender"] else {},
        features={name: f"{name}.npz#{clip}" for name, held in (("voice", voices), ("face", faces)) if clip in held},
    )


if __name__ == "__main__":
    sys.exit(main())
