"""Everything that scores the rows of an evaluation: the model, the model on one stream, its seeds, and the floors.

Rows are judged in sets: all, and those that have a stream which others lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits import baselines
from mmtraits.baselines import Corpus, Floor
from mmtraits.data.manifest import Manifest
from mmtraits.data.texts import transcripts
from mmtraits.evaluation import bootstrap
from mmtraits.evaluation.contents import Estimate, RowSet, System, Table
from mmtraits.evaluation.scored import Scored, Scores
from mmtraits.evaluation.units import Units

RESAMPLES = {"sums": 10_000, "ranks": 500}
MINORITY = 0.5  # share of the rows under which a set has floors of its own
COVERS = 0.95  # share of the model's units that a system must score to stand beside it
MODEL, MEAN, MEDIAN, WITH = "model", "training mean", "training median", "with "
ORDERS = ("pearson", "spearman", "c_index")  # a constant has none; several folds' constants would seem to have one


class _Entry(NamedTuple):
    """A system before it is judged; scores of units (U, K)."""

    kind: Literal["model", "streams", "seed", "floor"]
    about: str
    scores: Scores


def row_sets(source: Path, said: Scored, counted: Units, manifest: Manifest, *, is_run: bool) -> list[RowSet]:
    """Every set of rows with all that scores it, the model first."""
    found = []
    with _one_thread():
        floors = _floors(source, manifest, said, is_run=is_run)
        for name, keep in _sets(said).items():
            here = counted.any(keep)
            entries = _entries(said, counted, floors[name], here)
            found.append(_row_set(name, entries, said, counted, here, manifest))
    return found


def _one_thread() -> AbstractContextManager[object]:
    """Small regressions on several threads take longer than on one, and many times longer on a busy machine."""
    if not _installed("threadpoolctl"):
        return nullcontext()
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1)
    return limits


def _installed(library: str) -> bool:
    return find_spec(library) is not None


def _sets(said: Scored) -> dict[str, NDArray[np.bool_]]:
    """Sets of rows by name -> (n,). A stream that nearly all rows have makes no set of its own."""
    every = np.ones(len(said.rows), np.bool_)
    having = dict(zip(said.streams, said.present.T, strict=True))
    return {"all": every} | {f"{WITH}{s}": has for s, has in having.items() if 0 < has.mean() < COVERS}


# ---------------------------------------------------------------------------------------------------- floors


def _floors(source: Path, manifest: Manifest, said: Scored, *, is_run: bool) -> dict[str, dict[str, Floor]]:
    """The ladder per set of rows. A small set may differ from the others: floors are also fitted on its rows alone."""
    constant = {MEAN: Floor(about=f"the mean of {said.floor_of}", scores=_filled(said, manifest, said.mean))}
    if said.median is not None:
        median = _filled(said, manifest, said.median)
        constant[MEDIAN] = Floor(about=f"the median of {said.floor_of}", scores=median)
    if not (said.folds and _installed("sklearn")):  # a bundle may be evaluated where only the runtime is installed
        return {name: constant for name in _sets(said)}
    corpus = _corpus(source, manifest, is_run=is_run)
    # First in the list, and not the ladder's own: a bundle knows its training labels, not the manifest's rows `train`.
    ladder = constant | baselines.ladder(corpus, said.folds) | constant
    found = {}
    for name, keep in _sets(said).items():
        vectors = corpus.features.get(name.removeprefix(WITH))
        found[name] = ladder
        if vectors is not None and keep.mean() < MINORITY:
            among = np.asarray(np.isfinite(vectors).all(axis=1))
            found[name] = ladder | baselines.ladder(corpus, said.folds, among=among)
    return found


def _corpus(source: Path, manifest: Manifest, *, is_run: bool) -> Corpus:
    """What floors see of a manifest; a bundle's front-ends give no features."""
    features: Mapping[str, NDArray[np.float32]] = {}
    if is_run:
        from mmtraits.evaluation import scored_run  # brings torch in

        features = scored_run.features(source, manifest)
    return Corpus(
        ids=[clip.id for clip in manifest.clips],
        labels=manifest.labels,
        persons=[clip.whose for clip in manifest.clips],
        attributes=[clip.attributes for clip in manifest.clips],
        texts=transcripts(manifest.clips),
        features=features,
        schema=manifest.schema,
    )


def _filled(said: Scored, manifest: Manifest, values: Scores) -> Scores:
    found = np.full(manifest.labels.shape, np.nan)
    found[said.rows] = values
    return found


# ---------------------------------------------------------------------------------------------------- judging


def _entries(said: Scored, counted: Units, floors: Mapping[str, Floor], here: NDArray[np.bool_]) -> dict[str, _Entry]:
    """By name. Only systems that score nearly all units of `here` (U,) that the model scores."""
    every = {MODEL: _Entry("model", "all streams that a clip has", counted.mean(said.scores))}
    alone = [some for some in said.by_streams if len(some) == 1] if len(said.streams) > 1 else []
    for some in alone:
        (stream,) = some
        scores = counted.mean(said.by_streams[some])
        every[f"{stream} alone"] = _Entry("streams", f"the model given {stream} only", scores)
    for name, scores in said.seeds.items():
        every[name] = _Entry("seed", "the members of this seed alone", counted.mean(scores))
    for name, floor in floors.items():
        every[name] = _Entry("floor", floor.about, counted.mean(floor.scores[said.rows]))
    wanted = max(COVERS * _scored(every[MODEL].scores[here]), 1)
    return {name: one for name, one in every.items() if name == MODEL or _scored(one.scores[here]) >= wanted}


def _scored(scores: Scores) -> int:
    return int((~np.isnan(scores)).any(axis=1).sum())


def _row_set(
    name: str, entries: Mapping[str, _Entry], said: Scored, counted: Units, here: NDArray[np.bool_], manifest: Manifest
) -> RowSet:
    places = np.flatnonzero(here)
    persons, labels = [counted.persons[place] for place in places], counted.labels[here]
    judged = bootstrap.judge(
        {system: entry.scores[here] for system, entry in entries.items()},
        labels,
        [counted.ids[place] for place in places],
        persons,
        manifest.schema,
        median=np.full(labels.shape, np.nan) if said.median is None else counted.mean(said.median)[here],
        model=MODEL,
        ranks_of=[MODEL],
        resamples=RESAMPLES["sums"],
        rank_resamples=RESAMPLES["ranks"],
    )
    tables = {n: _without_order(table) if n in (MEAN, MEDIAN) else table for n, table in judged.tables.items()}
    return RowSet(
        name=name,
        clips=int(counted.clips[here].sum()),
        persons=len(set(persons)),
        units=len(places),
        systems=[System(name=n, kind=one.kind, about=one.about, table=tables[n]) for n, one in entries.items()],
        comparisons=judged.comparisons,
    )


def _without_order(table: Table) -> Table:
    """A constant's table: correlations and ranks are undefined, of every trait that has labels."""
    gone = dict.fromkeys(ORDERS, Estimate(value=None))
    traits = {name: row.model_copy(update={"metrics": row.metrics | gone}) for name, row in table.traits.items()}
    counted = sum(row.n + row.unscored > 0 for row in table.traits.values())
    undefined = table.undefined | (dict.fromkeys(ORDERS, counted) if counted else {})
    return table.model_copy(update={"traits": traits, "mean": table.mean | gone, "undefined": undefined})
