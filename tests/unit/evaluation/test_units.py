"""What is counted: clips, or persons where the corpus rates persons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mmtraits.data.manifest import Manifest
from mmtraits.evaluation import units
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="x",
    traits=(Trait(name="warm", low=0.0, high=1.0), Trait(name="calm", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="us",
)
PEOPLE = ("bo", "al", "bo", None, "al", "bo")
LABELS = np.array([[0.1, 0.5], [0.4, np.nan], [0.1, 0.5], [0.9, 0.2], [0.4, 0.6], [0.1, 0.5]])


def corpus(rated: str) -> Manifest:
    clips = tuple(
        Clip(id=f"c{n}", text="word", person=person, attributes={"town": person or "none"})
        for n, person in enumerate(PEOPLE)
    )
    schema = replace(SCHEMA, rated=rated)
    return Manifest(path=Path("clips.csv"), schema=schema, clips=clips, labels=LABELS, splits=(None,) * 6)


def test_clips_are_counted_as_they_are() -> None:
    found = units.of(corpus("clip"), np.array([4, 0, 3]))
    assert found.ids == ("c4", "c0", "c3") and found.persons == ("al", "bo", "clip c3")
    np.testing.assert_array_equal(found.labels, LABELS[[4, 0, 3]])
    np.testing.assert_array_equal(found.mean(np.array([[1.0], [np.nan], [3.0]])), [[1.0], [np.nan], [3.0]])
    assert found.clips.tolist() == [1, 1, 1] and found.status(["failed", "ok", "degraded"])[0] == "failed"


def test_a_person_is_the_mean_of_what_is_known_of_the_clips() -> None:
    found = units.of(corpus("person"), np.arange(6))
    assert found.ids == ("bo", "al", "clip c3") == found.persons
    np.testing.assert_allclose(found.labels, [[0.1, 0.5], [0.4, 0.6], [0.9, 0.2]])
    scores = np.array([[1.0], [np.nan], [2.0], [7.0], [5.0], [6.0]])
    np.testing.assert_allclose(found.mean(scores), [[3.0], [5.0], [7.0]])
    assert np.isnan(found.mean(np.full((6, 1), np.nan))).all()
    assert found.clips.tolist() == [3, 2, 1]
    assert found.any(np.array([False, True, False, False, False, False])).tolist() == [False, True, False]
    assert [one["town"] for one in found.attributes] == ["bo", "al", "none"]


def test_a_person_is_as_well_off_as_the_best_clip() -> None:
    found = units.of(corpus("person"), np.arange(6))
    assert found.status(["failed", "failed", "degraded", "ok", "failed", "failed"]) == ["degraded", "failed", "ok"]


def test_the_order_of_rows_changes_no_bit() -> None:
    manifest, draw = corpus("person"), np.random.default_rng(0)
    scores = draw.normal(size=(6, 2)) * 10.0 ** draw.integers(-8, 8, (6, 2))
    one = units.of(manifest, np.arange(6))
    wanted = dict(zip(one.ids, one.mean(scores), strict=True))
    for _ in range(10):
        rows = draw.permutation(6)
        found = units.of(manifest, rows)
        for name, values in zip(found.ids, found.mean(scores[rows]), strict=True):
            np.testing.assert_array_equal(values, wanted[name])
