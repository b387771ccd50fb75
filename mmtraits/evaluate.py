"""A run (out of fold) or a bundle on labelled clips: evaluation.json, report.html and MODEL_CARD.md.

Every number stands beside what simpler things reach on the same rows, with an interval over persons. Where the corpus
rates persons, scores are averaged over a person's clips before anything is judged.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmtraits import __version__, card, fairness, metrics, report
from mmtraits.bundle import read_bundle
from mmtraits.data import leakage
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.data.texts import transcripts
from mmtraits.errors import ConfigError
from mmtraits.evaluation import contents as types
from mmtraits.evaluation import coverage, findings, group_findings, robustness, scored_bundle, systems, units
from mmtraits.evaluation.contents import Coverage, Evaluation, Leakage, Picture, Robustness
from mmtraits.evaluation.scored import Scored, Scores, Split, digest, to_calibrate
from mmtraits.evaluation.units import Units
from mmtraits.schema import TraitSchema

RESAMPLES = {**systems.RESAMPLES, "groups": 1_000}
POINTS, BINS = 400, 10  # of pictures
MIN_GROUP = 30
WINDOWS_S, MOST_CUT = (1.0, 3.0, 5.0, 15.0), 256  # window lengths, and clips that are read again for each


def evaluate(
    source: Path | str,
    manifest: Path | str | Manifest,
    split: Split = "test",
    *,
    out: Path | str | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    sensitivity: bool = False,
) -> Evaluation:
    """Evaluate a run folder or a bundle folder and write what was found into `out` (a run: default its folder).

    `sensitivity` also re-scores disturbed copies of a bundle's media, and media cut into shorter windows; with it the
    manifest may be a folder of media without labels. Raises ConfigError for a folder that is neither
    or a bundle without `out`, ManifestError where no row can be scored.
    """
    source = Path(source)
    if sensitivity and (source / "run.json").is_file():
        raise ConfigError(f"{source}: a run starts from features; export it and evaluate the bundle with --sensitivity")
    labelled = (
        manifest if isinstance(manifest, Manifest) else _manifest(source, Path(manifest), sensitivity=sensitivity)
    )
    if out is None and (source / "bundle.json").is_file():
        raise ConfigError(f"{source}: a bundle's files are sealed; name another folder for evaluation.json")
    said = _read(source, labelled, split, device)
    counted = units.of(labelled, said.rows)
    found = _judged(source, labelled, split, said, counted)
    notes = [*found.notes, *_unmeasured(is_run=found.kind == "run", sensitivity=sensitivity)]
    found = found.model_copy(update={"notes": notes})
    found = found.model_copy(update=_of_people(labelled, said, counted))
    if sensitivity:
        found = found.model_copy(update=_sensitive(source, labelled, said, found.robustness, device))
    known = [*findings.of(found), *group_findings.of(found.audits, labelled.schema)]
    found = found.model_copy(update={"findings": findings.ordered(known)})
    write(found, source if out is None else Path(out))
    return found


def _manifest(source: Path, path: Path, *, sensitivity: bool) -> Manifest:
    if sensitivity and path.is_dir() and not any((path / name).is_file() for name in ("clips.csv", "clips.csv.gz")):
        schema = TraitSchema.from_dict(read_bundle(source)[0]["schema"])
        return scored_bundle.unlabelled(path, schema)
    return manifests.read(path)


def _read(source: Path, manifest: Manifest, split: Split, device: Literal["cpu", "cuda"]) -> Scored:
    if (source / "bundle.json").is_file():
        return scored_bundle.score(source, manifest, split, device)
    if (source / "run.json").is_file():
        from mmtraits.evaluation import scored_run  # brings torch in, which a bundle does not need

        return scored_run.score(source, manifest, split, device)
    raise ConfigError(f"{source}: neither run.json nor bundle.json; expected what train or export wrote")


def write(found: Evaluation, folder: Path) -> None:
    """evaluation.json, report.html and MODEL_CARD.md."""
    folder.mkdir(parents=True, exist_ok=True)
    report.write_atomic(folder / "evaluation.json", types.to_json(found))
    report.write_evaluation(folder / "report.html", found)
    report.write_atomic(folder / "MODEL_CARD.md", card.of_evaluation(found))


def _judged(source: Path, manifest: Manifest, split: Split, said: Scored, counted: Units) -> Evaluation:
    """Everything that follows from labels, scores and floors."""
    is_run = not (source / "bundle.json").is_file()
    by_streams = {some: counted.mean(scores) for some, scores in said.by_streams.items()}
    labelled = bool(np.isfinite(counted.labels).any())  # a folder of media has no labels: nothing is judged
    return Evaluation(
        name=str(said.about["name"]),
        source=str(source),
        kind="run" if is_run else "bundle",
        manifest=str(manifest.path),
        split=split,
        trait_schema=manifest.schema.to_dict(),
        unit=manifest.schema.rated,
        protocol=said.protocol,
        streams=list(said.streams),
        rows=systems.row_sets(source, said, counted, manifest, is_run=is_run) if labelled else [],
        pictures=_pictures(counted, counted.mean(said.scores), manifest.schema.trait_names) if labelled else {},
        robustness=robustness.measure(
            by_streams, counted.mean(said.mean), counted.labels, counted.ids, manifest.schema, streams=said.streams
        ),
        leakage=_leakage(said, manifest, is_run=is_run),
        resamples=RESAMPLES,
        notes=[*said.notes, f"Training mean and median are those of {said.floor_of}."],
        provenance=_provenance(source, said, manifest),
    )


def _unmeasured(*, is_run: bool, sensitivity: bool) -> list[str]:
    if is_run:
        return [
            "Window lengths and disturbed media need a bundle: export the run, then evaluate it with --sensitivity."
        ]
    return [] if sensitivity else ["Window lengths and disturbed media are measured with --sensitivity."]


def _pictures(counted: Units, scores: Scores, traits: Sequence[str]) -> dict[str, Picture]:
    """Deciles of the score and a fixed choice of units, in the order of ids."""
    order = np.argsort(np.asarray(counted.ids, np.str_), kind="stable")
    found = {}
    for k, trait in enumerate(traits):
        label, score = counted.labels[order, k], scores[order, k]
        known = ~np.isnan(label) & ~np.isnan(score)
        label, score = label[known], score[known]
        ranked = np.argsort(score, kind="stable")
        bins = [part for part in np.array_split(ranked, BINS) if len(part)]
        chosen = np.unique(np.linspace(0, len(label) - 1, POINTS).astype(int)) if len(label) else np.zeros(0, int)
        found[trait] = Picture(
            bins=[types.Bin(n=len(b), score=float(score[b].mean()), label=float(label[b].mean())) for b in bins],
            points=[(round(float(score[i]), 4), round(float(label[i]), 4)) for i in chosen],
        )
    return found


# ---------------------------------------------------------------------------------------------------- leaks


def _leakage(said: Scored, manifest: Manifest, *, is_run: bool) -> Leakage | None:
    """What training shares with the evaluated rows in any fold; None where the training rows are unknown."""
    folds = said.folds if is_run else scored_bundle.learned_from(said, manifest)
    if not folds:
        return None
    words, persons = transcripts(manifest.clips), [clip.person for clip in manifest.clips]
    shared = [leakage.shared_rows(persons, one.train, one.test) for one in folds]
    copies = [leakage.near_duplicates(words, one.train, one.test) for one in folds]
    about = said.about if is_run else said.about["provenance"]
    return Leakage(
        persons_shared=len({person for who, _ in shared for person in who}) if any(persons) else None,
        clips_shared=len({int(row) for _, rows in shared for row in rows}) if any(persons) else None,
        near_duplicates=len({copy.row for found in copies for copy in found}),
        trained_on=len({int(row) for one in folds for row in np.intersect1d(one.train, one.test)}),
        allowed=bool((about.get("leakage") or {}).get("allowed", False)),
    )


# ---------------------------------------------------------------------------------------------------- people


def _of_people(manifest: Manifest, said: Scored, counted: Units) -> dict[str, Any]:
    """Intervals, audits and reliability."""
    schema, scores = manifest.schema, counted.mean(said.scores)
    intervals, groups, lower, upper = _intervals(said, manifest)
    if schema.rated == "person":
        lower = upper = None  # an interval is a clip's; persons are counted
    audits = fairness.audit(
        counted.labels, scores, lower, upper, counted.ids, counted.persons, counted.attributes,
        counted.status(said.status), schema, clips=counted.clips.tolist(), resamples=RESAMPLES["groups"],
    )  # fmt: skip
    persons = [manifest.clips[row].whose for row in said.rows]
    reliability = {
        trait: types.Reliability(
            icc_labels=types.number(metrics.icc1(manifest.labels[said.rows, k], persons)),
            icc_scores=types.number(metrics.icc1(said.scores[:, k], persons)),
        )
        for k, trait in enumerate(schema.trait_names)
    }
    return {"intervals": intervals, "interval_groups": groups, "audits": audits, "reliability": reliability}


def _intervals(said: Scored, manifest: Manifest) -> tuple[list[Coverage], list[Coverage], Scores | None, Scores | None]:
    """Coverage by set of streams and by group, and the interval of every row (n, K). Nothing without labels.

    Always of clips, which is what an interval is given to. A bundle brings its own; a run's are calibrated here on
    other persons.
    """
    clips = [manifest.clips[row] for row in said.rows]
    rows = to_calibrate(said, manifest)
    if not np.isfinite(rows.labels).any():
        return [], [], None, None
    groups = _attribute_groups([clip.attributes for clip in clips])
    traits = manifest.schema.trait_names
    if said.calibration is not None:
        held = coverage.applied(said.calibration, rows)
        sets, of_groups = coverage.measured(said.streams, rows, traits, said.calibration, groups=groups)
    else:
        held = coverage.held_out(said.streams, rows, low=said.low, high=said.high)
        sets, of_groups = coverage.coverage(
            said.streams, rows, traits, low=said.low, high=said.high, groups=groups
        )  # fmt: skip
    whole = coverage.fullest(held)
    return sets, of_groups, whole.lower, whole.upper


def _attribute_groups(attributes: Sequence[Mapping[str, str]]) -> dict[str, NDArray[np.bool_]]:
    """`gender = 1` -> (n,), for every value that at least 30 rows have."""
    found = {}
    for name in sorted({name for row in attributes for name in row}):
        values = np.array([row.get(name, "") for row in attributes])
        for value in sorted(set(values.tolist()) - {""}):
            if (values == value).sum() >= MIN_GROUP:
                found[f"{name} = {value}"] = values == value
    return found


def _sensitive(
    source: Path, manifest: Manifest, said: Scored, known: Robustness, device: Literal["cpu", "cuda"]
) -> dict[str, Any]:
    """Disturbed copies of a bundle's clips, scored again, and the clips in windows of other lengths."""
    from mmtraits.evaluation import nuisance
    from mmtraits.runtime import Predictor

    predictor = Predictor(source, device=device)
    rows = sorted(said.rows, key=lambda row: manifest.clips[row].id)
    clips, labels = [manifest.clips[row] for row in rows], manifest.labels[rows]
    chosen = [
        n for n in np.unique(np.linspace(0, len(clips) - 1, MOST_CUT).astype(int)) if clips[n].video or clips[n].audio
    ]
    ids = [clips[n].id for n in chosen]
    by_length = scored_bundle.by_window_length(predictor, [clips[n] for n in chosen], WINDOWS_S) if chosen else {}
    windows = [
        robustness.window(length_s, scores, labels[chosen], ids, manifest.schema)
        for length_s, scores in by_length.items()
    ]
    return {
        "nuisances": nuisance.sensitivity(predictor, clips, labels),
        "robustness": known.model_copy(update={"windows": windows}),
    }


# ---------------------------------------------------------------------------------------------------- provenance


def fingerprint(source: Path, manifest: Manifest) -> dict[str, str]:
    """Hashes of labels and weights, in any order of rows: whether an evaluation is of this model and these labels."""
    weights = sorted(source.glob("*/best.safetensors")) or [source / "bundle.json"]
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights if path.is_file()]
    return {"data_sha256": digest(manifest), "model_sha256": _digest(files)}


def _provenance(source: Path, said: Scored, manifest: Manifest) -> dict[str, Any]:
    members = list(said.about.get("members") or said.about["provenance"].get("members") or [])
    return {
        **fingerprint(source, manifest),
        "split_sha256": _digest(sorted(manifest.clips[row].id for row in said.rows)),
        "members": members,
        "seeds": sorted(said.seeds),
        "bootstrap_seed": 0,
        "versions": {"mmtraits": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
    }


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
