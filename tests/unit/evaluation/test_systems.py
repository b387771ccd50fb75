"""Which systems stand beside a model on which rows, and what their tables say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import SCHEMA, corpus, saying

from mmtraits import baselines, metrics
from mmtraits.baselines import Fold
from mmtraits.data.manifest import Manifest
from mmtraits.evaluation import scored_run, systems, units
from mmtraits.evaluation.contents import RowSet, System
from mmtraits.evaluation.scored import Scored
from mmtraits.schema import Clip

ROWS = 40
TRAIN, TEST = np.arange(20), np.arange(20, ROWS)
DRAW = np.random.default_rng(1)
LABELS = DRAW.uniform(size=(ROWS, 2))
SAID = DRAW.uniform(size=(ROWS, 2))
WORDS = ["one", "two", "three", "four", "five", "six"]


def manifest(**changes: Any) -> Manifest:
    """Two clips per person, all of them with words and an attribute; the second half is tested."""
    draw = np.random.default_rng(2)
    clips = tuple(
        Clip(
            id=f"c{n:02d}",
            person=f"p{n // 2}",
            text=" ".join(draw.choice(WORDS, 4 + n % 5)),
            attributes={"town": ["york", "bath"][n % 2]},
        )
        for n in range(ROWS)
    )
    given = Manifest(path=Path("clips.csv"), schema=SCHEMA, clips=clips, labels=LABELS, splits=(None,) * ROWS)
    return replace(given, **changes)


def scored(by_streams: dict[str, Any] | None = None, **changes: Any) -> Scored:
    """The tested half as scored from stream a; `by_streams`: other (20, 2) by the letters of streams."""
    said = {frozenset(some): scores for some, scores in (by_streams or {"a": SAID[TEST]}).items()}
    streams = tuple(sorted(set().union(*said)))
    present = np.stack([np.isfinite(said[frozenset(s)]).any(axis=1) for s in streams], axis=1)
    mean, median = (np.tile(value, (len(TEST), 1)) for value in ([0.4, 0.5], [0.45, 0.55]))
    given: dict[str, Any] = {
        "rows": TEST, "streams": streams, "by_streams": said, "present": present, "status": ("ok",) * 20,
        "protocol": "", "low": np.zeros(2), "high": np.ones(2), "mean": mean, "median": median, "floor_of": "nowhere",
    }  # fmt: skip
    return Scored(**given | changes)


def row_sets(said: Scored, given: Manifest | None = None, source: Path | None = None) -> dict[str, RowSet]:
    given = given or manifest()
    found = systems.row_sets(source or Path(), said, units.of(given, said.rows), given, is_run=source is not None)
    return {rows.name: rows for rows in found}


def by_name(rows: RowSet) -> dict[str, System]:
    return {system.name: system for system in rows.systems}


def absent(*rows: int) -> np.ndarray:
    """Scores of the tested rows but for these."""
    found = SAID[TEST].copy()
    found[list(rows)] = np.nan
    return found


# ---------------------------------------------------------------------------------------------------- rows


def test_a_stream_that_nearly_all_rows_have_makes_no_set() -> None:
    one = scored({"a": SAID[TEST], "b": absent(3), "c": absent(3, 4), "d": absent(*range(20))})
    found = row_sets(one)
    assert list(found) == ["all", "with c"]  # 20, 19, 18 and none of 20
    assert [(rows.clips, rows.units, rows.persons) for rows in found.values()] == [(20, 20, 10), (18, 18, 10)]


def test_the_models_table_is_what_metrics_say_of_the_rows() -> None:
    one = scored({"a": SAID[TEST], "b": absent(1, 2)})
    ids = np.array([clip.id for clip in manifest().clips])
    for rows, kept in zip(row_sets(one).values(), (TEST, np.delete(TEST, [1, 2])), strict=True):
        model = rows.systems[0]
        assert (model.name, model.kind, model.about) == ("model", "model", "all streams that a clip has")
        wanted = metrics.table(LABELS[kept], SAID[kept], ids[kept], SCHEMA, median=np.array([0.45, 0.55]))
        for trait, row in model.table.traits.items():
            assert row.n == len(kept)
            for name, estimate in row.metrics.items():
                assert estimate.value == pytest.approx(wanted["traits"][trait][name])
                assert estimate.lower is not None and estimate.lower <= estimate.value <= (estimate.upper or -9)
        assert model.table.mean["skill"].value == pytest.approx(wanted["mean"]["skill"])


def test_only_the_model_has_intervals_of_ranks_and_is_compared_with_all_others() -> None:
    (rows,) = row_sets(scored()).values()
    model, mean = rows.systems[:2]
    assert model.table.mean["spearman"].lower is not None and mean.table.mean["mae"].lower is not None
    assert [(one.system, one.metric) for one in rows.comparisons] == [
        (name, metric) for name in ("training mean", "training median") for metric in ("mae", "ccc")
    ]
    wanted = np.abs(SAID[TEST] - LABELS[TEST]).mean() - np.abs(LABELS[TEST] - [0.4, 0.5]).mean()
    assert rows.comparisons[0].mean.value == pytest.approx(wanted)


def test_persons_are_counted_where_the_corpus_rates_them() -> None:
    """The scores of a person's clips are averaged, and one with the stream in any of them is in its set."""
    rated = manifest(schema=replace(SCHEMA, rated="person"), labels=np.repeat(LABELS[::2], 2, axis=0))
    found = row_sets(scored({"a": SAID[TEST], "b": absent(0, 1, 2)}), rated)
    assert [(rows.clips, rows.units, rows.persons) for rows in found.values()] == [(20, 10, 10), (18, 9, 9)]
    means = SAID[TEST].reshape(10, 2, 2).mean(axis=1)
    wanted = np.abs(means - LABELS[TEST][::2]).mean()
    table = found["all"].systems[0].table
    assert table.mean["mae"].value == pytest.approx(wanted) and table.traits["calm"].n == 10
    assert by_name(found["all"])["training mean"].table.mean["mae"].value == pytest.approx(
        np.abs(LABELS[TEST][::2] - [0.4, 0.5]).mean()
    )


# ---------------------------------------------------------------------------------------------------- who stands there


def test_the_model_on_single_streams_where_they_score_nearly_all_of_its_rows() -> None:
    said = {"a": SAID[TEST], "b": absent(0, 1), "ab": absent(0, 1) + 0.01, "c": absent(0)}
    found = row_sets(scored(said))
    alone = {name: [s.name for s in rows.systems if s.kind == "streams"] for name, rows in found.items()}
    assert alone == {"all": ["a alone", "c alone"], "with b": ["a alone", "b alone", "c alone"]}
    one = by_name(found["with b"])["b alone"]
    assert one.about == "the model given b only"
    assert one.table.mean["mae"].value == pytest.approx(np.abs(SAID[TEST][2:] - LABELS[TEST][2:]).mean())
    assert one.table.mean["mae"] != by_name(found["with b"])["model"].table.mean["mae"]


def test_a_model_of_one_stream_is_not_beside_itself() -> None:
    assert [s.name for s in row_sets(scored())["all"].systems] == ["model", "training mean", "training median"]


def test_seeds_stand_for_themselves() -> None:
    found = row_sets(scored(seeds={"seed 0": SAID[TEST] - 0.1, "seed 1": SAID[TEST] + 0.1}))["all"]
    seeds = [system for system in found.systems if system.kind == "seed"]
    assert [one.name for one in seeds] == ["seed 0", "seed 1"]
    for one, shift in zip(seeds, (-0.1, 0.1), strict=True):
        wanted = np.abs(SAID[TEST] + shift - LABELS[TEST]).mean()
        assert one.table.mean["mae"].value == pytest.approx(wanted) and one.table.mean["mae"].lower is not None
        assert one.table.mean["spearman"].value is not None and one.table.mean["spearman"].lower is None


def test_a_model_that_scores_nothing_stands_alone() -> None:
    nothing = absent(*range(20))
    found = row_sets(scored({"a": nothing, "b": nothing}, status=("failed",) * 20))["all"]
    model = found.systems[0].table
    assert model.traits["calm"].n == 0 and model.traits["calm"].unscored == 20 and model.mean["mae"].value is None
    assert [system.name for system in found.systems] == ["model", "training mean", "training median"]
    assert all(one.mean.value is None for one in found.comparisons)


# ---------------------------------------------------------------------------------------------------- constants


def test_constants_have_no_correlation_and_that_is_counted() -> None:
    """Constants of several folds differ: what seems a correlation is that of the folds' sizes and means."""
    several = np.where(np.arange(20)[:, None] < 10, 0.3, 0.6) * np.ones((20, 2))
    found = by_name(row_sets(scored(mean=several, median=several))["all"])
    for name in ("training mean", "training median"):
        table = found[name].table
        for row in (table.mean, *(one.metrics for one in table.traits.values())):
            assert all(row[order].value is None and row[order].lower is None for order in systems.ORDERS)
            assert row["mae"].value is not None and row["ccc"].value is not None
        assert table.undefined == dict.fromkeys(systems.ORDERS, 2)
    assert found["model"].table.undefined == {} and found["model"].table.mean["pearson"].value is not None


def test_a_trait_without_labels_is_not_counted_as_undefined() -> None:
    labels = LABELS.copy()
    labels[:, 1] = np.nan
    found = by_name(row_sets(scored(), manifest(labels=labels))["all"])
    assert found["training mean"].table.undefined == dict.fromkeys(systems.ORDERS, 1)
    assert found["model"].table.undefined == {} and found["model"].table.traits["open"].n == 0
    labels[:] = np.nan
    found = by_name(row_sets(scored(), manifest(labels=labels))["all"])
    assert found["training mean"].table.undefined == {} and found["model"].table.mean["mae"].value is None


def test_without_a_median_skill_is_null() -> None:
    found = by_name(row_sets(scored(median=None))["all"])
    assert list(found) == ["model", "training mean"]
    table = found["model"].table
    assert table.mean["skill"].value is None and table.traits["calm"].metrics["skill"].value is None
    assert table.undefined == {"skill": 2} and table.mean["mae"].lower is not None


# ---------------------------------------------------------------------------------------------------- floors


def test_the_ladder_is_fitted_on_the_folds_and_constants_stay_what_they_are() -> None:
    folds = [Fold(train=TRAIN, test=TEST)]
    found = by_name(row_sets(scored(folds=folds))["all"])
    names = ["training mean", "training median", "demographics", "TF-IDF ridge", "ridge: length"]
    assert [name for name in found if name != "model"] == names
    assert found["training mean"].about == "the mean of nowhere" and found["training median"].about.endswith("nowhere")
    clips = manifest().clips
    given = baselines.Corpus(
        ids=[clip.id for clip in clips], labels=LABELS, persons=[str(clip.person) for clip in clips],
        attributes=[clip.attributes for clip in clips], texts=[clip.text for clip in clips], features={}, schema=SCHEMA,
    )  # fmt: skip
    ladder = baselines.ladder(given, folds)
    for name in names[2:]:
        wanted = np.abs(ladder[name].scores[TEST] - LABELS[TEST]).mean()
        assert found[name].table.mean["mae"].value == pytest.approx(wanted) and found[name].kind == "floor"
        assert found[name].about == ladder[name].about and "20 training rows" in found[name].about
        assert found[name].table.undefined.get("pearson", 0) == 0


def test_the_look_up_of_persons_stands_there_where_folds_share_them() -> None:
    shared = [Fold(train=np.arange(0, 21), test=TEST[1:])]
    assert "identity look-up" in by_name(row_sets(scored(folds=shared))["all"])
    nameless = manifest(clips=tuple(replace(clip, person=None) for clip in manifest().clips))
    assert "identity look-up" not in by_name(row_sets(scored(folds=shared), nameless)["all"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("ran")
    given = corpus(folder / "corpus")
    return saying(folder / "run", given, SAID), given


def test_a_runs_floors_see_its_features_on_each_set_of_rows(ran: tuple[Path, Manifest]) -> None:
    folder, given = ran
    said = scored_run.score(folder, given, "test")
    found = row_sets(said, given, folder)
    floors = {name: [s.name for s in rows.systems if s.kind == "floor"] for name, rows in found.items()}
    constants = ["training mean", "training median"]
    assert floors == {
        "all": [*constants, "ridge: a"],
        "with b": [*constants, "ridge: a", "ridge: b", "ridge: a + b", "ridge: a (these rows)"],
    }
    these = by_name(found["with b"])
    rows = np.arange(1, 39, 2)
    features = scored_run.features(folder, given)
    corpus_ = baselines.Corpus(
        ids=[clip.id for clip in given.clips], labels=given.labels, features=features, schema=SCHEMA,
        persons=[str(clip.person) for clip in given.clips], attributes=[{}] * ROWS, texts=[None] * ROWS,
    )  # fmt: skip
    among = np.isin(np.arange(ROWS), rows)
    for asked, name in ((None, "ridge: a"), (among, "ridge: a (these rows)")):
        floor = baselines.ladder(corpus_, said.folds, among=asked)[name]
        wanted = metrics.table(given.labels[rows], floor.scores[rows], [given.clips[row].id for row in rows], SCHEMA)
        assert these[name].table.mean["mae"].value == pytest.approx(wanted["mean"]["mae"])
    assert "fitted on 28 to 30 training rows in each of 4 folds" in these["ridge: a"].about
    assert these["ridge: a"].table.mean["mae"] != these["ridge: a (these rows)"].table.mean["mae"]
