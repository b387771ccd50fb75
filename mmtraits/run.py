"""A run on disk: who its members are, what they were trained on, and how they are read back. No Lightning.

<run>/config.yaml            the resolved config
<run>/run.json               schema, stream specs, members with their splits and transforms, versions
<run>/<member>/              one per fold and seed
    best.safetensors         what training determines; frozen networks come from their packages again
    last.ckpt, best.ckpt     Lightning's: to resume from, and the best epoch's
    metrics.csv              one row per epoch
    metrics.json             of the finished member, on its validation and test rows
    predictions.csv          its test rows, scored by every set of their present streams
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmtraits import __version__
from mmtraits.config import RunConfig, dump, load
from mmtraits.data import splits
from mmtraits.data.batch import Batch, collate
from mmtraits.data.dataset import Window, WindowDataset
from mmtraits.data.leakage import between, refusal
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, joined
from mmtraits.extract import Extraction, extract
from mmtraits.model import TraitModel, build, load_trained, trained_state
from mmtraits.schema import TargetTransform, TraitSchema
from mmtraits.tokens import Tokens

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One fit of a run: its split (rows of the manifest) and the transform of its training labels.

    trait: the one that it learns and says, None for all. question: the one whose answers its rows are, None for any.
    """

    name: str
    seed: int
    rows: Mapping[str, Rows]
    transform: TargetTransform
    trait: str | None = None
    question: str | None = None


def plan(config: RunConfig, manifest: Manifest) -> list[Member]:
    """The members of a run: traits first, then folds, then seeds.

    Raises ConfigError where `runs` and `protocol` disagree, or `runs` names a trait or question that is not there.
    """
    runs, protocol = config.runs, config.protocol
    if runs.over == "fold" and protocol.split != "kfold":
        raise ConfigError(f"runs.over: found 'fold' with protocol.split {protocol.split!r}; expected 'kfold'")
    _check_names(config, manifest)
    options = protocol.model_dump(exclude={"allow_leakage"})
    folds = [splits.assign(manifest, member=n, **options) for n in range(protocol.folds if config.over_folds else 1)]
    members = []
    for trait in manifest.schema.trait_names if runs.over == "trait" else [None]:
        question = runs.questions.get(trait) if trait else None
        labelled = own(manifest, trait)
        for fold, every in enumerate(folds):
            rows = {split: rows_asked(manifest, some, question) for split, some in every.items()}
            if trait and not np.isfinite(labelled.labels[rows["train"]]).any():
                raise ConfigError(
                    f"{manifest.path}: no training row with a label of {trait!r}; label it or take it out"
                )
            schema = replace(labelled.schema, transform=config.data.transform or labelled.schema.transform)
            transform = TargetTransform.fit(schema, labelled.labels[rows["train"]])
            for seed in range(runs.seeds):
                names = [trait, f"fold{fold}" if config.over_folds else None, f"seed{seed}" if runs.seeds > 1 else None]
                name = "-".join(part for part in names if part) or "single"
                members.append(
                    Member(
                        name=name,
                        seed=config.seed + seed,
                        rows=rows,
                        transform=transform,
                        trait=trait,
                        question=question,
                    )
                )
    return members


def _check_names(config: RunConfig, manifest: Manifest) -> None:
    """ConfigError unless `runs` names traits of the schema and questions of the clips."""
    asked = (clip.question for clip in manifest.clips)
    if problems := config.runs.unknown(manifest.schema.trait_names, asked, manifest.path):
        raise ConfigError(joined([f"{'.'.join(keys)}: {text}" for keys, text in problems]))


def own(manifest: Manifest, trait: str | None) -> Manifest:
    """The manifest as a member sees it: with its trait alone."""
    if trait is None:
        return manifest
    k = manifest.schema.trait_names.index(trait)
    schema = replace(manifest.schema, traits=manifest.schema.traits[k : k + 1])
    return replace(manifest, schema=schema, labels=manifest.labels[:, k : k + 1])


def rows_asked(manifest: Manifest, rows: Iterable[int], question: str | None) -> Rows:
    """Those of some rows that answer the question; all where there is none."""
    wanted = [row for row in rows if question is None or manifest.clips[row].question == question]
    return np.array(wanted, np.int64)


def leakage(config: RunConfig, manifest: Manifest, members: Sequence[Member]) -> dict[str, Any]:
    """Persons in training and outside of it, over all members, as run.json records them; null without persons.

    Raises ConfigError where there are any and `protocol.allow_leakage` is not set.
    """
    persons, clips = between(manifest, [member.rows for member in members])
    if persons and not config.protocol.allow_leakage:
        raise ConfigError(f"protocol.split {config.protocol.split!r}: {refusal(manifest, persons, clips)}")
    return {"persons_shared": persons, "clips_shared": clips, "allowed": config.protocol.allow_leakage}


def check_folder(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """ConfigError unless the run folder is new or, to resume, holds the same run."""
    known = folder / "config.yaml"
    if not resume:
        if folder.exists():
            raise ConfigError(f"{folder}: already exists; resume that run, or choose another name")
        return
    if not known.is_file():
        raise ConfigError(f"{folder}: no run to resume; expected a config.yaml in it")
    before, now = (_identity(found) for found in (load(known), config))
    if changed := [key for key in now if now[key] != before[key]]:
        raise ConfigError(f"{known}: {', '.join(changed)} differ from the config given; resume with the run's own")


def _identity(config: RunConfig) -> dict[str, Any]:
    """What a resumed run may not change; where its data lie and how long it trains it may."""
    kept = ("windowing", "batch_size", "balance", "clips_per_person", "backend", "transform")
    data = {key: getattr(config.data, key) for key in kept}
    return {**config.model_dump(exclude={"trainer", "data"}), **data, "mixup": config.trainer.mixup}


def create(folder: Path, config: RunConfig, manifest: Manifest, members: Sequence[Member], found: Extraction) -> None:
    """Write config.yaml, run.json and the members' folders.

    Raises ConfigError where a resumed run's rows moved, or where `leakage` does.
    """
    about = _about(config, manifest, members, found)
    if (folder / "run.json").is_file() and read_run(folder)["members"] != about["members"]:
        raise ConfigError(f"{folder / 'run.json'}: other rows or labels than in {manifest.path}; start a new run")
    for member in members:
        (folder / member.name).mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", dump(config))
    write_json(folder / "run.json", about)


def _about(config: RunConfig, manifest: Manifest, members: Sequence[Member], found: Extraction) -> dict[str, Any]:
    ids = [clip.id for clip in manifest.clips]
    return {
        "format_version": 1,
        "name": config.name,
        "schema": manifest.schema.to_dict(),
        "streams": {stream: part.use for stream, part in config.streams.items()},
        "clips": len(ids),
        "dropped": list(found.dropped),
        "reasons": dict(found.reasons),
        "leakage": leakage(config, manifest, members),
        "members": {
            member.name: {
                "seed": member.seed,
                "transform": member.transform.to_dict(),
                "splits": {split: [ids[row] for row in rows] for split, rows in member.rows.items()},
                **({"trait": member.trait} if member.trait else {}),
                **({"question": member.question} if member.question else {}),
            }
            for member in members
        },
        "versions": {"mmtraits": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
    }


def members_of(folder: Path) -> list[Path]:
    """Folders of the finished members of a run, in the order in which they were planned."""
    return [folder / name for name in read_run(folder)["members"] if (folder / name / "metrics.json").is_file()]


def read_run(folder: Path) -> dict[str, Any]:
    """run.json as plain data; ConfigError where it is no run."""
    path = folder / "run.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a folder written by `mmtraits train`") from None
    return found


# ---------------------------------------------------------------------------------------------------- weights


def save_member(folder: Path, model: TraitModel) -> None:
    """Write best.safetensors."""
    partial = folder / "best.partial"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in trained_state(model).items()}, partial)
    partial.replace(folder / "best.safetensors")


def load_member(folder: Path | str, device: str | torch.device = "cpu") -> TraitModel:
    """The trained model of one member folder, in eval mode. Raises ConfigError for a folder that is none."""
    folder = Path(folder)
    config, about = load(folder.parent / "config.yaml"), read_run(folder.parent)
    if folder.name not in about["members"]:
        raise ConfigError(f"{folder}: no member of the run; there are {', '.join(about['members'])}")
    member = about["members"][folder.name]
    schema = TraitSchema.from_dict(about["schema"])
    if trait := member.get("trait"):
        schema = replace(schema, traits=tuple(one for one in schema.traits if one.name == trait))
    model = build(config, schema, TargetTransform.from_dict(member["transform"]))
    path = folder / "best.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); the member is not trained to its end") from None
    load_trained(model, state, where=str(path))
    return model.eval().to(device)


# ---------------------------------------------------------------------------------------------------- scores


def predict(
    member: Path | str,
    manifest: Manifest,
    rows: Iterable[int] | None = None,
    *,
    streams: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
) -> NDArray[np.float64]:
    """Scores (len(rows), K) of a member folder on rows of a manifest; NaN where nothing is there.

    rows: default all. streams: the ones that may speak, default all.
    """
    member = Path(member)
    config = load(member.parent / "config.yaml")
    wanted = list(range(len(manifest.clips)) if rows is None else rows)
    found = extract(config, manifest, wanted, device=device)
    clips, scores = score(load_member(member, device), found.windows, manifest, config.data.batch_size, streams)
    answer = np.full((len(manifest.clips), scores.shape[1]), np.nan)
    answer[clips] = scores
    return answer[wanted]


@torch.inference_mode()
def score(
    model: TraitModel,
    windows: Sequence[Window],
    manifest: Manifest,
    batch_size: int,
    streams: Iterable[str] | None = None,
) -> tuple[Rows, NDArray[np.float64]]:
    """Windows -> manifest rows (N,), ascending, and scores (N, K). A window without any of `streams` is left out."""
    keep = frozenset(model.streams if streams is None else streams)
    dataset = WindowDataset([window for window in windows if window.present & keep], manifest.labels, keep)
    device = model.centre.device
    found = [(torch.zeros(0, len(model.centre)), torch.zeros(0), torch.zeros(0, dtype=torch.int64))]
    for start in range(0, len(dataset), batch_size):
        batch = collate([dataset[i] for i in range(start, min(start + batch_size, len(dataset)))])
        scores = model.to_scale(model(_moved(batch, device))[0])
        found.append((scores.float().cpu(), batch.weight, batch.rows))
    scores, weight, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    return by_clip(rows, weight, scores)


def _moved(batch: Batch, device: torch.device) -> dict[str, Tokens]:
    return {s: Tokens(t.data.to(device), t.mask.to(device)) for s, t in batch.features.items()}


def by_clip(rows: Tensor, weight: Tensor, values: Tensor) -> tuple[Rows, NDArray[np.float64]]:
    """Windows (W,), (W,), (W, K) -> manifest rows, ascending, and the mean of each by weight (N, K)."""
    clips, place = np.unique(rows.cpu().numpy(), return_inverse=True)
    share = weight.cpu().double().numpy()
    sums = np.zeros((len(clips), values.shape[1]))
    np.add.at(sums, place, values.cpu().double().numpy() * share[:, None])
    return clips, sums / np.bincount(place, share, minlength=len(clips))[:, None]


def score_by_streams(
    model: TraitModel, windows: Sequence[Window], manifest: Manifest, batch_size: int
) -> list[dict[str, Any]]:
    """Rows of predictions.csv: every clip by every set of its present streams, the others' masks cleared.

    The smaller sets are what calibration needs for clips that lack a stream. Whole sets come first for each clip.
    """
    present: dict[int, frozenset[str]] = {}
    for window in windows:
        present[window.row] = present.get(window.row, frozenset()) | window.present
    table = []
    for size in range(len(model.streams), 0, -1):
        for some in combinations(model.streams, size):
            having = [window for window in windows if present[window.row] >= frozenset(some)]
            rows, scores = score(model, having, manifest, batch_size, some)
            table += [_prediction(manifest, row, some, values) for row, values in zip(rows, scores, strict=True)]
    return sorted(table, key=lambda line: line["clip"])


def _prediction(manifest: Manifest, row: int, streams: Sequence[str], values: NDArray[np.float64]) -> dict[str, Any]:
    traits = zip(manifest.schema.trait_names, values, strict=True)
    return {"clip": manifest.clips[row].id, "streams": "+".join(streams), **{n: f"{v:.6f}" for n, v in traits}}


# ---------------------------------------------------------------------------------------------------- files


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """An undefined number is null."""
    write_text(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per row, the first row's keys as header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
