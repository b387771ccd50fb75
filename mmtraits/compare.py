"""Several systems under one protocol, on the same rows, each with its interval and its differences to the others.

Scores are out of fold. Systems stand in the order given; persons are never ranked.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits import __version__, config, metrics, parts, report, run, train
from mmtraits.config import RunConfig
from mmtraits.data import leakage
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ConfigError, MMTraitsError, joined
from mmtraits.evaluate import fingerprint
from mmtraits.evaluation import bootstrap, scored_run, side_findings, units, views
from mmtraits.evaluation import contents as types
from mmtraits.evaluation.contents import Comparison, System, Table
from mmtraits.evaluation.scored import Scored, Scores
from mmtraits.evaluation.side_by_side import Pair, Side, SideBySide, Spread
from mmtraits.evaluation.systems import MEAN, MEDIAN, ORDERS, RESAMPLES
from mmtraits.evaluation.units import Units
from mmtraits.extract import Progress
from mmtraits.schema import TraitSchema

logger = logging.getLogger(__name__)
OF_SEEDS = ("one_minus_mae", "pearson", "ccc")
_WHERE: dict[str, Any] = {"data": {"manifest", "cache", "in_memory_mb", "workers"}}  # where data lie, no system's own
Divided = frozenset[tuple[tuple[str, frozenset[str]], ...]]  # per member split -> ids of clips, seeds apart


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """One system before anything is trained; `given`: a finished run that is not ours to change."""

    source: str
    settings: RunConfig
    folder: Path
    given: bool
    divided: Divided


def compare(
    sources: Sequence[Path | str],
    manifest: Path | str,
    out: Path | str,
    overrides: Sequence[str] = (),
    *,
    progress: bool = False,
    extracting: Progress | None = None,
) -> SideBySide:
    """Judge configs and finished run folders side by side; writes comparison.json and report.html into `out`.

    A config is trained on `manifest` into `out/runs/<name>` with the overrides; a finished run of the same config there
    is taken as it is, an unfinished one is resumed. Floors are the training mean and median: cheap, and the same for
    every system. Raises ConfigError, before anything is trained, for systems that do not share names of their own,
    protocol, rows and schema; ManifestError for wrong data; what `train.fit` raises.
    """
    labelled, out = manifests.read(manifest), Path(out)
    plans = _planned(sources, labelled, out, overrides)
    for plan in plans:
        if not plan.given and not _finished(plan.folder):
            logger.info("training %s", plan.folder)
            train.fit(
                plan.settings, resume=plan.folder.exists(), root=out / "runs", progress=progress, extracting=extracting
            )
    found = _side_by_side(plans, labelled, overrides)
    found = found.model_copy(update={"findings": side_findings.of(found, _persons_shared(plans[0], labelled))})
    out.mkdir(parents=True, exist_ok=True)
    report.write_atomic(out / "comparison.json", types.to_json(found))
    report.write_comparison(out / "report.html", found)
    return found


# ---------------------------------------------------------------------------------------------------- planning


def _planned(sources: Sequence[Path | str], manifest: Manifest, out: Path, overrides: Sequence[str]) -> list[_Planned]:
    if len(sources) < 2:
        raise ConfigError(f"compare: found {len(sources)} system; expected two or more configs or run folders")
    plans, problems = [], []
    for source in map(Path, sources):
        try:
            plans.append(_given(source, manifest) if source.is_dir() else _own(source, manifest, out, overrides))
        except MMTraitsError as error:
            problems.append(str(error))
    for n, plan in enumerate(plans[1:], 1):
        problems += _unlike(plan, plans[:n])
    if problems:
        raise ConfigError(joined(problems))
    return plans


def _given(source: Path, manifest: Manifest) -> _Planned:
    """A finished run folder of these clips."""
    about = run.read_run(source)
    ours, theirs = manifest.schema.to_dict(), TraitSchema.from_dict(about["schema"]).to_dict()
    other = [key for key in ours if ours[key] != theirs[key]]
    if other:
        raise ConfigError(
            f"{source}: its schema has another {', '.join(other)} than {manifest.path}; expected the same"
        )
    unfinished = len(about["members"]) - len(run.members_of(source))
    if unfinished:
        raise ConfigError(
            f"{source}: {unfinished} of {len(about['members'])} members are not trained to their end; "
            f"finish it with `mmtraits train --resume {source}`"
        )
    divided = _divided([member["splits"] for member in about["members"].values()])
    lost = {clip for member in divided for _, ids in member for clip in ids} - {clip.id for clip in manifest.clips}
    if lost:
        raise ConfigError(
            f"{source}: {len(lost)} of its clips are not in {manifest.path}, such as {min(lost)}; "
            "expected the manifest that it was trained on"
        )
    settings = config.load(source / "config.yaml")
    if settings.runs.questions and divided == _parts(settings, manifest):
        divided = _parts(settings, manifest, asked=False)
    return _Planned(source=str(source), settings=settings, folder=source, given=True, divided=divided)


def _own(source: Path, manifest: Manifest, out: Path, overrides: Sequence[str]) -> _Planned:
    """A config, to be trained into `out/runs`; what is there already must be of the same config and rows."""
    settings = config.load(source, overrides, check=parts.problems)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"manifest": manifest.path})})
    run.leakage(settings, manifest, run.plan(settings, manifest))
    divided = _parts(settings, manifest, asked=False)
    folder = out / "runs" / settings.name
    if folder.exists():
        before, now = (one.model_dump(exclude=_WHERE) for one in (config.load(folder / "config.yaml"), settings))
        changed = [key for key in now if now[key] != before[key]]
        if changed:
            raise ConfigError(f"{source}: {folder} is a run with another {', '.join(changed)}; choose another --out")
        if _finished(folder) and divided != _given(folder, manifest).divided:
            raise ConfigError(f"{source}: {folder} was trained on other rows of {manifest.path}; choose another --out")
    return _Planned(source=str(source), settings=settings, folder=folder, given=False, divided=divided)


def _unlike(plan: _Planned, before: Sequence[_Planned]) -> list[str]:
    """What keeps a system from standing beside those before it."""
    first, found = before[0], []
    if same := [other.source for other in before if other.settings.name == plan.settings.name]:
        found.append(f"{plan.source}: name {plan.settings.name!r} is also that of {same[0]}; expected different names")
    here, there = _protocol(plan.settings), _protocol(first.settings)
    differ = [f"{key} {here[key]!r}, {there[key]!r} in {first.source}" for key in here if here[key] != there[key]]
    if differ:
        found.append(f"{plan.source}: {'; '.join(differ)}; expected one protocol for all systems")
    elif plan.divided != first.divided:
        found.append(
            f"{plan.source}: other rows in train, val or test than {first.source}, though by the same protocol; "
            "expected runs that were trained on one manifest"
        )
    return found


def _protocol(settings: RunConfig) -> dict[str, Any]:
    """What decides which rows train and test."""
    chosen = settings.protocol.model_dump(exclude={"allow_leakage"})
    return {f"protocol.{key}": value for key, value in chosen.items()} | {"runs.over fold": settings.over_folds}


def _divided(members: Sequence[Mapping[str, Sequence[str]]]) -> Divided:
    return frozenset(tuple(sorted((split, frozenset(ids)) for split, ids in one.items())) for one in members)


def _parts(settings: RunConfig, manifest: Manifest, *, asked: bool = True) -> Divided:
    """How a config divides the clips; `asked: False`: before members keep to the answers to their trait's question."""
    if not asked:
        settings = settings.model_copy(update={"runs": settings.runs.model_copy(update={"questions": {}})})
    ids, members = [clip.id for clip in manifest.clips], run.plan(settings, manifest)
    return _divided([{split: [ids[row] for row in rows] for split, rows in one.rows.items()} for one in members])


def _persons_shared(plan: _Planned, manifest: Manifest) -> int | None:
    """Persons in training and outside of it; all systems have the same rows."""
    row_of = {clip.id: row for row, clip in enumerate(manifest.clips)}
    members = [
        {split: np.array([row_of[clip] for clip in ids], np.int64) for split, ids in member} for member in plan.divided
    ]
    return leakage.between(manifest, members)[0]


def _finished(folder: Path) -> bool:
    return (folder / "run.json").is_file() and len(run.members_of(folder)) == len(run.read_run(folder)["members"])


# ---------------------------------------------------------------------------------------------------- judging


def _side_by_side(plans: Sequence[_Planned], manifest: Manifest, overrides: Sequence[str]) -> SideBySide:
    said = {plan.settings.name: scored_run.score(plan.folder, manifest, "test") for plan in plans}
    shared = reduce(np.logical_and, (_scored(one, manifest) for one in said.values()))
    rows: NDArray[np.int64] = np.flatnonzero(shared.any(axis=1))
    if not len(rows):
        raise ConfigError(f"compare: no trait of a clip of {manifest.path} was scored by all of {', '.join(said)}")
    manifest = replace(manifest, labels=np.where(shared, manifest.labels, np.nan))
    counted, first = units.of(manifest, rows), said[plans[0].settings.name]
    at = {name: np.searchsorted(one.rows, rows) for name, one in said.items()}
    floors = {MEAN: first.mean, MEDIAN: np.full_like(first.mean, np.nan) if first.median is None else first.median}
    judged = _judged(
        {name: counted.mean(_kept(one.scores[at[name]], shared[rows])) for name, one in said.items()},
        {name: counted.mean(_kept(some[at[plans[0].settings.name]], shared[rows])) for name, some in floors.items()},
        counted,
        manifest,
    )
    settings = _settings(plans)
    return SideBySide(
        manifest=str(manifest.path),
        trait_schema=manifest.schema.to_dict(),
        unit=manifest.schema.rated,
        protocol=first.protocol,
        clips=len(rows),
        persons=len(set(counted.persons)),
        units=len(counted.ids),
        systems=[
            Side(
                name=plan.settings.name,
                source=plan.source,
                streams=list(one.streams),
                members=len(one.about["members"]),
                unscored=int((~np.isfinite(one.scores)).all(axis=1).sum()),
                settings=settings[plan.settings.name],
                seeds=_spreads(
                    {s: _kept(some[at[plan.settings.name]], shared[rows]) for s, some in one.seeds.items()},
                    counted,
                    manifest,
                ),
                table=judged.tables[plan.settings.name],
            )
            for plan, one in zip(plans, said.values(), strict=True)
        ],
        floors=judged.floors,
        pairs=judged.pairs,
        floor_pairs=judged.floor_pairs,
        resamples=RESAMPLES,
        notes=_notes(plans, said, overrides) + _unjudged(shared, manifest),
        provenance=_provenance(plans, manifest, rows),
    )


def _scored(one: Scored, manifest: Manifest) -> NDArray[np.bool_]:
    """(N, K) of the manifest: what a system scored."""
    found = np.zeros(manifest.labels.shape, np.bool_)
    found[one.rows] = np.isfinite(one.scores)
    return found


def _kept(scores: Scores, shared: NDArray[np.bool_]) -> Scores:
    return np.where(shared, scores, np.nan)


def _unjudged(shared: NDArray[np.bool_], manifest: Manifest) -> list[str]:
    lost = [name for name, some in zip(manifest.schema.trait_names, shared.T, strict=True) if not some.any()]
    return [f"{', '.join(lost)}: no clip was scored by all systems; left out of every mean."] if lost else []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """Tables of the systems, the floors with theirs, and the differences among and to them."""

    tables: Mapping[str, Table]
    floors: list[System]
    pairs: list[Pair]
    floor_pairs: list[Pair]


def _judged(systems: Mapping[str, Scores], floors: Mapping[str, Scores], counted: Units, manifest: Manifest) -> _Judged:
    """All in units (U, K). Every system meets those after it and the floors, all on the same resamples."""
    names, every = list(systems), []
    for n, name in enumerate(names):
        judged = bootstrap.judge(
            {other: systems[other] for other in names[n:]} | dict(floors),
            counted.labels, counted.ids, counted.persons, manifest.schema,
            median=floors[MEDIAN], model=name, ranks_of=names if n == 0 else (),
            resamples=RESAMPLES["sums"], rank_resamples=RESAMPLES["ranks"],
        )  # fmt: skip
        every.append((name, judged))
    tables = every[0][1].tables
    pairs = [_pair(name, one) for name, judged in every for one in judged.comparisons]
    return _Judged(
        tables={name: tables[name] for name in names},
        floors=[
            System(name=name, kind="floor", about="of each member's training rows", table=_without_order(tables[name]))
            for name in floors
        ],
        pairs=corrected([pair for pair in pairs if pair.second not in floors]),
        floor_pairs=corrected([pair for pair in pairs if pair.second in floors]),
    )


def _pair(name: str, one: Comparison) -> Pair:
    return Pair(first=name, second=one.system, metric=one.metric, traits=one.traits, mean=one.mean)


def _without_order(table: Table) -> Table:
    """A constant has no correlation and no ranks; several folds' constants would seem to have them."""
    traits = {
        trait: row.model_copy(update={"metrics": {m: one for m, one in row.metrics.items() if m not in ORDERS}})
        for trait, row in table.traits.items()
    }
    return Table(
        traits=traits,
        mean={metric: one for metric, one in table.mean.items() if metric not in ORDERS},
        undefined={metric: count for metric, count in table.undefined.items() if metric not in ORDERS},
    )


def corrected(pairs: Sequence[Pair]) -> list[Pair]:
    """p_holm within each metric: of traits over all pairs and traits, of means over all pairs (Holm 1979)."""
    found = list(pairs)
    for metric in dict.fromkeys(pair.metric for pair in pairs):
        places = [n for n, pair in enumerate(pairs) if pair.metric == metric]
        keys = [(n, trait) for n in places for trait in pairs[n].traits]
        of_traits = dict(zip(keys, bootstrap.holm([pairs[n].traits[t].p for n, t in keys]), strict=True))
        of_means = bootstrap.holm([pairs[n].mean.p for n in places])
        for n, p in zip(places, of_means, strict=True):
            traits = {
                trait: one.model_copy(update={"p_holm": of_traits[n, trait]}) for trait, one in pairs[n].traits.items()
            }
            mean = pairs[n].mean.model_copy(update={"p_holm": p})
            found[n] = pairs[n].model_copy(update={"traits": traits, "mean": mean})
    return found


def _spreads(seeds: Mapping[str, Scores], counted: Units, manifest: Manifest) -> dict[str, Spread]:
    """Mean and standard deviation over the seeds of a system that has several, each judged alone."""
    means = {
        name: metrics.table(counted.labels, counted.mean(scores), counted.ids, manifest.schema)["mean"]
        for name, scores in seeds.items()
    }
    shown = [metric for metric in OF_SEEDS if metric in metrics.names(manifest.schema)]
    return {metric: _spread({name: mean[metric] for name, mean in means.items()}) for metric in shown if means}


def _spread(values: Mapping[str, float]) -> Spread:
    return Spread(
        values={name: types.number(value) for name, value in values.items()},
        mean=types.number(float(np.mean(list(values.values())))),
        sd=types.number(float(np.std(list(values.values()), ddof=1))),
    )


# ---------------------------------------------------------------------------------------------------- what is told


def _settings(plans: Sequence[_Planned]) -> dict[str, dict[str, str]]:
    """Per system the settings, as text, that are not the same in all."""
    skipped = _WHERE | {"name": True}
    every = {
        plan.settings.name: dict(views.flat(plan.settings.model_dump(mode="json", exclude=skipped))) for plan in plans
    }
    keys = sorted({key for settings in every.values() for key in settings})
    differ = [key for key in keys if len({settings.get(key) for settings in every.values()}) > 1]
    return {name: {key: settings.get(key, "–") for key in differ} for name, settings in every.items()}


def _notes(plans: Sequence[_Planned], said: Mapping[str, Scored], overrides: Sequence[str]) -> list[str]:
    notes = [f"{name}: {note}" for name, one in said.items() for note in one.notes]
    notes.append("Floors are the training mean and median alone; `mmtraits evaluate` has the others, for one system.")
    given = [plan.source for plan in plans if plan.given]
    if overrides and given:
        notes.append(f"{', '.join(overrides)}: not applied to {', '.join(given)}, trained before.")
    return notes


def _provenance(plans: Sequence[_Planned], manifest: Manifest, rows: NDArray[np.int64]) -> dict[str, Any]:
    prints = {plan.settings.name: fingerprint(plan.folder, manifest) for plan in plans}
    ids = sorted(manifest.clips[row].id for row in rows)
    return {
        "data_sha256": prints[plans[0].settings.name]["data_sha256"],
        "rows_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        "model_sha256": {name: one["model_sha256"] for name, one in prints.items()},
        "bootstrap_seed": 0,
        "versions": {"mmtraits": __version__, "numpy": np.__version__, "python": platform.python_version()},
    }
