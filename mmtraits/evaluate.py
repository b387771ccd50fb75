"""Metrics of a run or a bundle over a whole split, beside what the training mean would have scored on the same rows.

A run is scored out of fold: each member speaks only for its own rows of the split, members that share rows are
averaged. On a manifest that holds none of the run's clips all members are averaged over all its rows of the split.
A bundle scores the media that the manifest names, with the runtime that ships.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmtraits import baselines, metrics
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, ManifestError
from mmtraits.schema import TraitSchema

Split = Literal["train", "val", "test"]
Streams = tuple[str, ...]
ByRow = tuple[list[int], NDArray[np.float64]]  # rows of the manifest, scores (n, K)
_COLUMNS = {"one_minus_mae": "1-MAE", "mae": "MAE", "rmse": "RMSE", "pearson": "r", "ccc": "CCC", "r2": "R2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One set of rows: `metrics.table` of the model and of the training mean."""

    clips: int
    persons: int
    model: Mapping[str, Any]
    training_mean: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What `evaluation.json` holds. groups: "all", and "with <stream>" where some rows have it and some have not."""

    source: str
    kind: Literal["run", "bundle"]
    manifest: str
    split: Split
    floor: str  # where the training mean comes from
    groups: Mapping[str, Group]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an undefined metric is null."""
        groups = {
            name: {
                "clips": group.clips,
                "persons": group.persons,
                "model": _plain(group.model),
                "training_mean": _plain(group.training_mean),
            }
            for name, group in self.groups.items()
        }
        return {
            "format_version": 1,
            "source": self.source,
            "kind": self.kind,
            "manifest": self.manifest,
            "split": self.split,
            "floor": self.floor,
            "groups": groups,
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """A table per group of rows, for a terminal."""
        lines = [f"{self.source} on {self.manifest}, split {self.split}; training mean: {self.floor}"]
        for name, group in self.groups.items():
            lines += ["", f"{name}: {group.clips} clips of {group.persons} persons", _header()]
            lines += [_line(trait, row) for trait, row in group.model["traits"].items()]
            lines += [_line("mean", group.model["mean"]), _line("training mean", group.training_mean["mean"])]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def evaluate(
    source: Path | str,
    manifest: Path | str | Manifest,
    split: Split = "test",
    *,
    out: Path | str | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
) -> Evaluation:
    """Evaluate a run folder or a bundle folder and write `evaluation.json` into `out` (a run: default its folder).

    Raises ConfigError for a folder that is neither or a bundle without `out`, ManifestError where no row can be scored.
    """
    source = Path(source)
    labelled = manifest if isinstance(manifest, Manifest) else manifests.read(manifest)
    if (source / "bundle.json").is_file():
        if out is None:
            raise ConfigError(f"{source}: a bundle's files are sealed; name another folder for evaluation.json")
        kind, scored = "bundle", _score_bundle(source, labelled, split, device)
    elif (source / "run.json").is_file():
        kind, scored = "run", _score_run(source, labelled, split, device)
    else:
        raise ConfigError(f"{source}: neither run.json nor bundle.json; expected what train or export wrote")
    result = Evaluation(
        source=str(source),
        kind="bundle" if kind == "bundle" else "run",
        manifest=str(labelled.path),
        split=split,
        floor=scored.floor_of,
        groups=_groups(scored, labelled),
        notes=tuple(scored.notes),
    )
    folder = source if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)
    (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    return result


# ---------------------------------------------------------------------------------------------------- groups of rows


@dataclass(slots=True, kw_only=True)
class _Scored:
    """Rows of the manifest (N,), their scores and the training mean's (N, K), and which streams each row had."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    floor: NDArray[np.float64]
    present: Mapping[str, NDArray[np.bool_]]
    floor_of: str
    notes: list[str] = field(default_factory=list)


def _groups(scored: _Scored, manifest: Manifest) -> dict[str, Group]:
    parts = {"all": np.ones(len(scored.rows), np.bool_)}
    parts |= {f"with {s}": has for s, has in scored.present.items() if has.any() and not has.all()}
    return {name: _group(scored, manifest, keep) for name, keep in parts.items()}


def _group(scored: _Scored, manifest: Manifest, keep: NDArray[np.bool_]) -> Group:
    rows = scored.rows[keep]
    ids = [manifest.clips[row].id for row in rows]
    labels = manifest.labels[rows]
    return Group(
        clips=len(rows),
        persons=len({manifest.clips[row].person or f"clip {manifest.clips[row].id}" for row in rows}),
        model=metrics.table(labels, scored.scores[keep], ids, manifest.schema),
        training_mean=metrics.table(labels, scored.floor[keep], ids, manifest.schema),
    )


def _check_traits(schema: TraitSchema, manifest: Manifest, source: Path) -> None:
    if schema.traits != manifest.schema.traits:
        raise ManifestError(
            f"{manifest.path}: traits {', '.join(manifest.schema.trait_names)} with their scales; "
            f"{source} scores {', '.join(schema.trait_names)} and needs the same traits, scales and order"
        )


def _official(manifest: Manifest, split: Split) -> NDArray[np.int64]:
    """Rows of the manifest's own split; all where it divides nothing."""
    if not any(manifest.splits):
        return np.arange(len(manifest.clips))
    rows = np.flatnonzero([own == split for own in manifest.splits])
    if not len(rows):
        raise ManifestError(f"{manifest.path}: no row has split {split!r}; fill the column or name another split")
    return rows


# ---------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spoken:
    """What one member says of the rows it is asked about, and its training mean (K,)."""

    rows: Sequence[int]
    floor: NDArray[np.float64]
    by_streams: Mapping[Streams, ByRow]  # per set of streams that was given


def _score_run(folder: Path, manifest: Manifest, split: Split, device: str) -> _Scored:
    about, spoken = _members(folder, manifest, split, device)
    means = _mean_of_members(spoken, manifest)
    rows = np.unique(np.concatenate([member.rows for member in spoken])).astype(np.int64)
    if not len(rows):
        raise ManifestError(f"{manifest.path}: none of its clips is in split {split!r} of {folder}")
    scores = np.full(manifest.labels.shape, np.nan)
    for some in means.values():  # smallest sets first: what stays is the score from all streams that a row has
        scores = np.where(np.isnan(some), scores, some)
    floors, counts = np.zeros(manifest.labels.shape), np.zeros((len(manifest.clips), 1))
    for member in spoken:
        floors[member.rows] += member.floor
        counts[member.rows] += 1
    missing = len(about["members"]) - len(spoken)
    return _Scored(
        rows=rows,
        scores=scores[rows],
        floor=floors[rows] / counts[rows],
        present={s: ~np.isnan(means[s,][rows, 0]) for s in about["streams"] if (s,) in means},
        floor_of="each member's training rows",
        notes=[f"{missing} of {len(about['members'])} members are not trained to their end"] if missing else [],
    )


def _members(folder: Path, manifest: Manifest, split: Split, device: str) -> tuple[dict[str, Any], list[_Spoken]]:
    """run.json, and what every finished member says about its own rows of the split, or about a foreign manifest."""
    from mmtraits import run  # brings torch in, which a bundle does not need

    about = run.read_run(folder)
    _check_traits(TraitSchema.from_dict(about["schema"]), manifest, folder)
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    used = {clip for member in about["members"].values() for ids in member["splits"].values() for clip in ids}
    asked = _official(manifest, split).tolist() if not used & row_of.keys() else None
    spoken = [_ask(member, about, manifest, row_of, split, asked, device) for member in run.members_of(folder)]
    if not spoken:
        raise ConfigError(f"{folder}: no member is trained to its end; finish it with `mmtraits train --resume`")
    return about, spoken


def _ask(
    member: Path,
    about: Mapping[str, Any],
    manifest: Manifest,
    row_of: Mapping[str, int],
    split: Split,
    asked: list[int] | None,
    device: str,
) -> _Spoken:
    """One member's scores of `asked`, or where that is None of its own rows of the split."""
    splits = about["members"][member.name]["splits"]
    own = {name: [row_of[clip] for clip in ids if clip in row_of] for name, ids in splits.items()}
    rows = own[split] if asked is None else asked
    if asked is None and split == "test":
        table = _recorded(member / "predictions.csv")
    else:
        table = _computed(member, manifest, rows, device)
    floor = baselines.training_mean(manifest.labels[own["train"]])
    if len(own["train"]) < len(splits["train"]):  # the manifest does not hold what the member was trained on
        floor = _remembered_mean(member)
    return _Spoken(rows=rows, floor=floor, by_streams=_by_streams(table, row_of, manifest.schema))


def _recorded(path: Path) -> list[dict[str, str]]:
    """Rows of predictions.csv; none where no test clip had any stream."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _computed(member: Path, manifest: Manifest, rows: Sequence[int], device: str) -> list[dict[str, str]]:
    """The same rows as in predictions.csv, for any clips."""
    from mmtraits import config, extract, run

    options = config.load(member.parent / "config.yaml")
    found = extract.extract(options, manifest, rows, device=device)
    return run.score_by_streams(run.load_member(member, device), found.windows, manifest, options.data.batch_size)


def _remembered_mean(member: Path) -> NDArray[np.float64]:
    """The mean of the training labels that the trained model itself holds."""
    from mmtraits import run

    model = run.load_member(member)
    return np.asarray(model.to_scale(model.centre).numpy(), np.float64)


def _by_streams(
    table: Iterable[Mapping[str, str]], row_of: Mapping[str, int], schema: TraitSchema
) -> dict[Streams, ByRow]:
    rows: dict[Streams, list[int]] = {}
    scores: dict[Streams, list[list[float]]] = {}
    for line in table:
        if line["clip"] in row_of:
            streams = tuple(line["streams"].split("+"))
            rows.setdefault(streams, []).append(row_of[line["clip"]])
            scores.setdefault(streams, []).append([float(line[name]) for name in schema.trait_names])
    return {streams: (rows[streams], np.array(scores[streams], np.float64)) for streams in rows}


def _mean_of_members(spoken: Sequence[_Spoken], manifest: Manifest) -> dict[Streams, NDArray[np.float64]]:
    """Per set of given streams, smallest first: (N, K), NaN where no member scored the row from these streams."""
    means = {}
    for streams in sorted({some for member in spoken for some in member.by_streams}, key=len):
        total, count = np.zeros(manifest.labels.shape), np.zeros((len(manifest.clips), 1))
        for member in spoken:
            if streams in member.by_streams:
                rows, scores = member.by_streams[streams]
                total[rows] += scores
                count[rows] += 1
        means[streams] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


# ---------------------------------------------------------------------------------------------------- bundles


def _score_bundle(folder: Path, manifest: Manifest, split: Split, device: Literal["cpu", "cuda"]) -> _Scored:
    from mmtraits.runtime import Predictor

    predictor = Predictor(folder, device=device)
    _check_traits(predictor.schema, manifest, folder)
    rows = _official(manifest, split)
    clips = [manifest.clips[row] for row in rows]
    without = sum(not (clip.video or clip.audio or clip.transcript or clip.text) for clip in clips)
    if without == len(clips):
        raise ManifestError(
            f"{manifest.path}: its clips name feature_<stream> files and no media or text; a bundle starts from media: "
            "evaluate the run, which takes features"
        )
    found = predictor.predict(clips)
    floor, floor_of = _bundle_floor(predictor.info, manifest, rows)
    notes = [f"{sum(s == 'failed' for s in found.status)} clips failed"] if "failed" in found.status else []
    if ignored := sum(bool(clip.features) for clip in clips):
        notes.append(f"feature_<stream> of {ignored} clips was not read: a bundle starts from media and text")
    return _Scored(
        rows=rows,
        scores=found.values.astype(np.float64),
        floor=np.tile(floor, (len(rows), 1)),
        present={stream: found.present[:, p] for p, stream in enumerate(found.streams)},
        floor_of=floor_of,
        notes=notes,
    )


def _bundle_floor(
    info: Mapping[str, Any], manifest: Manifest, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], str]:
    """The mean of the bundle's training labels where it is known, else the best that this manifest offers."""
    if info["schema"]["transform"] == "z_score":
        transforms = info["transform"] if isinstance(info["transform"], list) else [info["transform"]]
        return np.mean([one["shift"] for one in transforms], axis=0), "the bundle's training rows"
    train = np.flatnonzero([own == "train" for own in manifest.splits])
    if len(train):
        return baselines.training_mean(manifest.labels[train]), "the manifest's split train"
    return baselines.training_mean(manifest.labels[rows]), "the evaluated rows themselves (a harder floor)"


# ---------------------------------------------------------------------------------------------------- output


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _header() -> str:
    return f"  {'':<24}" + "".join(f"{title:>9}" for title in _COLUMNS.values()) + f"{'n':>8}{'unscored':>10}"


def _line(name: str, row: Mapping[str, Any]) -> str:
    cells = "".join(f"{'-' if math.isnan(row[metric]) else format(row[metric], '.4f'):>9}" for metric in _COLUMNS)
    return f"  {name:<24}{cells}" + (f"{row['n']:>8}{row['unscored']:>10}" if "n" in row else "")
