"""A finished run to a bundle: one ONNX graph from decoded media to scores, and all that it needs.

A bundle is refused, and nothing of it is left, when onnxruntime's scores differ from torch's for some set of present
streams, batch size or length, or when a score depends on its batch mates (`graph.check`).
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from mmtraits import __version__, calibrate, card, config, graph, ranges
from mmtraits import run as runs
from mmtraits.bundle import FORMAT_VERSION, GRAPH
from mmtraits.calibrate import Calibration, Method
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, joined
from mmtraits.evaluate import evaluate, fingerprint
from mmtraits.evaluation import contents, scored_run
from mmtraits.evaluation.contents import Evaluation
from mmtraits.evaluation.scored import Scored, digest, to_calibrate, training_mean, training_median
from mmtraits.media.text import Tokenizer
from mmtraits.model import TraitModel
from mmtraits.runtime import Predictor
from mmtraits.schema import InputSpec, TargetTransform, TextSpec, TraitSchema, Windowing
from mmtraits.unlike import Ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a bundle says of itself beside its graph."""

    name: str
    schema: TraitSchema
    windowing: Windowing
    transforms: Sequence[TargetTransform]  # one per member, or per set of members that say a trait each
    calibration: Calibration | None = None
    ranges: Ranges | None = None
    licence: str = "not stated; the terms of the training data hold"
    provenance: Mapping[str, Any]  # of card.render
    evaluation: Evaluation | None = None  # None: the card says that the accuracy is unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A finished bundle: its folder, the graph's size and the largest differences that its check found."""

    folder: Path
    members: int
    graph_mb: float
    parity: float
    batch_effect: float


class Dataset(BaseModel):
    """dataset.yaml beside a manifest: what the card says of the data, and the licence of what is trained on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str
    licence: str
    citations: list[str] = []


def export(
    run: Path | str,
    out: Path | str,
    *,
    name: str | None = None,
    manifest: Path | str | None = None,
    dataset: Path | None = None,
    method: Method = "split_conformal",
) -> Exported:
    """Export the mean of a run's members as a bundle, calibrated on what they said of rows outside their training.

    method: of the intervals; on First Impressions cqr was no narrower (checkpoints/README.md), so the simpler is taken.
    manifest: where the run's own lies now, if it was moved. dataset: a dataset.yaml, else the one beside the manifest.
    Raises ConfigError, ManifestError or BundleError; then nothing is written.
    """
    run, out = Path(run), Path(out)
    _check_new(out)
    settings, about = config.load(run / "config.yaml"), runs.read_run(run)
    folders = runs.members_of(run)
    labelled = manifests.read(manifest or settings.data.manifest)
    _check_clips(run, about, labelled)
    found = _evaluation(run, labelled, tested=any((folder / "predictions.csv").is_file() for folder in folders))
    data = _dataset(dataset, labelled)
    members = [runs.load_member(folder) for folder in folders]
    facts = Facts(
        name=name or settings.name,
        schema=replace(labelled.schema, transform=settings.data.transform or labelled.schema.transform),
        windowing=Windowing(**settings.data.windowing.model_dump()),
        transforms=_transforms(about, [folder.name for folder in folders]),
        calibration=_calibration(scored_run.score(run, labelled, "test"), labelled, method) if found else None,
        ranges=_ranges(settings, about, labelled, members),
        **({"licence": data.licence} if data else {}),
        provenance={
            "data": data.about if data else None,
            "citations": data.citations if data else None,
            "protocol": found.protocol if found else None,
            "config": settings.name,
            "members": [folder.name for folder in folders],
            "data_sha256": digest(labelled),
            "divided": _divided(settings),
            "training_labels": _training_labels(about, labelled),
            "leakage": about.get("leakage"),
        },
        evaluation=found,
    )
    return write_bundle(members, facts, out)


# ---------------------------------------------------------------------------------------------------- the folder


def write_bundle(members: Sequence[TraitModel], facts: Facts, out: Path | str) -> Exported:
    """Write the mean of `members` into the new folder `out`, whole or not at all. Raises ConfigError or BundleError."""
    out = Path(out)
    _check_new(out)
    _check_members(members, facts.schema)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        exported = _fill(folder, members, facts)
        folder.chmod(0o755)
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return replace(exported, folder=out)


def _fill(folder: Path, members: Sequence[TraitModel], facts: Facts) -> Exported:
    members = [member.eval() for member in members]
    specs = _with_tokenizers(members[0].specs, folder)
    batches = list(graph.examples(members[0].specs, facts.windowing))
    content = graph.to_onnx(members, facts.windowing)
    (folder / GRAPH).write_bytes(content)
    info = _info(members[0], specs, facts)
    text = card.render(info, facts.evaluation)
    card.check(text, where=f"{facts.name}: MODEL_CARD.md")
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    info["files"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    (folder / "bundle.json").write_text(json.dumps(_json(info), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    parity, batch_effect = graph.check(Predictor(folder), members, batches)
    return Exported(
        folder=folder, members=len(members), graph_mb=len(content) / 1e6, parity=parity, batch_effect=batch_effect
    )


def _check_new(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"--out {out}: already exists; name a new folder")


def _check_members(members: Sequence[TraitModel], schema: TraitSchema) -> None:
    if not members:
        raise ConfigError("export: the run has no finished member; train it to its end first")
    first = members[0]
    for stream, encoder in first.encoders.items():
        if not getattr(encoder, "exportable", True):
            raise ConfigError(f"export: {stream!r} uses {type(encoder).__module__}, which cannot be exported")
    if any(member.specs != first.specs for member in members):
        raise ConfigError("export: the members read different input; expected members of one run")
    said = [trait for group in graph.by_traits(members) for trait in members[group[0]].traits]
    if said != list(schema.trait_names):
        raise ConfigError(
            f"export: the members say {', '.join(said)}; expected {', '.join(schema.trait_names)}: "
            "train the run to its end"
        )


def _with_tokenizers(specs: Mapping[str, InputSpec], folder: Path) -> dict[str, InputSpec]:
    """Put every tokenizer into the bundle, equal ones once; the specs then name these files."""
    copied: dict[str, InputSpec] = {}
    names: dict[str, str] = {}
    for stream, spec in specs.items():
        if isinstance(spec, TextSpec):
            content = Tokenizer(spec).to_json()
            name = names.setdefault(content, f"{stream}_tokenizer.json" if names else "tokenizer.json")
            (folder / name).write_text(content, encoding="utf-8")
            spec = replace(spec, tokenizer=name)
        copied[stream] = spec
    return copied


def _info(model: TraitModel, specs: Mapping[str, InputSpec], facts: Facts) -> dict[str, Any]:
    """bundle.json, but for its files."""
    return {
        "format_version": FORMAT_VERSION,
        "name": facts.name,
        "schema": facts.schema.to_dict(),
        "transform": [transform.to_dict() for transform in facts.transforms],
        "streams": {s: {"spec": asdict(specs[s]), "inputs": list(graph.input_names(s))} for s in model.streams},
        "output": graph.OUTPUTS[0],
        "distance": graph.OUTPUTS[1],
        "windowing": asdict(facts.windowing),
        "calibration": facts.calibration.to_dict() if facts.calibration else None,
        "unlike": facts.ranges.to_dict() if facts.ranges else None,
        "versions": {
            "mmtraits": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__, "python": platform.python_version(),
        },
        "provenance": dict(facts.provenance),
        "licence": facts.licence,
    }  # fmt: skip


def _json(value: Any) -> Any:
    """JSON has no NaN: what is undefined is null."""
    if isinstance(value, Mapping):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ---------------------------------------------------------------------------------------------------- the run's facts


def _check_clips(run: Path, about: Mapping[str, Any], manifest: Manifest) -> None:
    used = {clip for member in about["members"].values() for ids in member["splits"].values() for clip in ids}
    if missing := sorted(used - {clip.id for clip in manifest.clips}):
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ConfigError(
            f"{manifest.path}: without {len(missing)} of the {len(used)} clips of {run} ({shown}); "
            "name the manifest that it was trained on"
        )


def _transforms(about: Mapping[str, Any], names: Sequence[str]) -> list[TargetTransform]:
    """Of each member; members that say a trait each are put side by side, as far as every trait has one."""
    by_trait: dict[str | None, list[TargetTransform]] = {}
    for name in names:
        member = about["members"][name]
        by_trait.setdefault(member.get("trait"), []).append(TargetTransform.from_dict(member["transform"]))
    return [TargetTransform.joined(some) for some in zip(*by_trait.values(), strict=False)]


def _divided(settings: RunConfig) -> dict[str, Any]:
    """How `splits.assign` makes the members' rows again, of the same table."""
    members = settings.protocol.folds if settings.over_folds else 1
    return {"by": settings.protocol.model_dump(mode="json", exclude={"allow_leakage"}), "members": members}


def _evaluation(run: Path, manifest: Manifest, *, tested: bool) -> Evaluation | None:
    """The run's own evaluation of its test rows, made now where there is none of these weights and labels."""
    if not tested:
        return None
    known = run / "evaluation.json"
    if known.is_file():
        found = contents.read(known)
        if found.split == "test" and fingerprint(run, manifest).items() <= found.provenance.items():
            return found
    return evaluate(run, manifest)


def _calibration(said: Scored, manifest: Manifest, method: Method) -> Calibration:
    """Of what members said of rows that they did not learn from."""
    return calibrate.fit(said.streams, to_calibrate(said, manifest), low=said.low, high=said.high, method=method)


def _training_labels(about: Mapping[str, Any], manifest: Manifest) -> dict[str, list[float]]:
    """Mean and median over members: what a constant would answer."""
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    labels = []
    for one in about["members"].values():
        if rows := [row_of[clip] for clip in one["splits"]["train"] if clip in row_of]:
            labels.append(scored_run.labels_of(manifest, rows, one.get("trait")))
    of = {"mean": training_mean, "median": training_median}
    return (
        {name: training_mean(np.stack([found(one) for one in labels])).tolist() for name, found in of.items()}
        if labels
        else {}
    )


def _ranges(
    settings: RunConfig, about: Mapping[str, Any], manifest: Manifest, members: Sequence[TraitModel]
) -> Ranges | None:
    """Of the rows that any member learned from."""
    used = {clip for member in about["members"].values() for clip in member["splits"]["train"]}
    rows = [row for row, clip in enumerate(manifest.clips) if clip.id in used]
    return ranges.fit(settings, manifest, rows, members) if rows and members else None


def _dataset(path: Path | None, manifest: Manifest) -> Dataset | None:
    found = path or manifest.folder / "dataset.yaml"
    if path is None and not found.is_file():
        return None
    try:
        return Dataset.model_validate(config.read_yaml(found))
    except ValidationError as error:
        problems = [f"{found}: {'.'.join(map(str, e['loc']))}: {config.describe(e, Dataset)}" for e in error.errors()]
        raise ConfigError(joined(problems)) from None
