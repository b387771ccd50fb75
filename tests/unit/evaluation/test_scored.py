"""What runs and bundles have in common when they are asked about labelled rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data.manifest import Manifest
from mmtraits.errors import ManifestError
from mmtraits.evaluation import scored
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="x",
    traits=(Trait(name="warm", low=0.0, high=1.0), Trait(name="calm")),
    construct="apparent",
    judged_by="us",
)
LABELS = np.array([[0.1, 0.2], [0.3, np.nan], [0.5, 0.6]])


def manifest(*splits: str | None) -> Manifest:
    clips = tuple(Clip(id=f"c{n}", text="word", person=f"p{n}") for n in range(3))
    return Manifest(path=Path("clips.csv"), schema=SCHEMA, clips=clips, labels=LABELS, splits=splits or (None,) * 3)


def test_of_each_row_what_comes_from_the_most_streams() -> None:
    a, b, ab = (frozenset(some) for some in ("a", "b", "ab"))
    nothing = np.nan
    said = {
        ab: np.array([[7.0], [nothing], [nothing], [nothing]]),
        a: np.array([[1.0], [2.0], [nothing], [nothing]]),
        b: np.array([[3.0], [nothing], [4.0], [nothing]]),
    }
    np.testing.assert_array_equal(scored.largest(said), [[7.0], [2.0], [4.0], [nothing]])
    np.testing.assert_array_equal(scored.largest(dict(reversed(said.items()))), [[7.0], [2.0], [4.0], [nothing]])


def test_the_training_median_leaves_unknown_labels_out() -> None:
    labels = np.array([[1.0, np.nan], [2.0, np.nan], [9.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(scored.training_median(labels), [2.0, np.nan])
    assert np.isnan(scored.training_median(np.zeros((0, 2)))).all()


def test_rows_of_a_split() -> None:
    assert scored.official(manifest(), "val").tolist() == [0, 1, 2]  # divides nothing: every row
    assert scored.official(manifest("test", None, "test"), "test").tolist() == [0, 2]
    with pytest.raises(ManifestError, match=r"clips\.csv: no row has split 'val'; fill the column or name another"):
        scored.official(manifest("test", None, "test"), "val")
    assert scored.rows_of(manifest(), "test") == "all rows of the manifest, 3 clips in all."
    assert scored.rows_of(manifest("test", None, None), "test") == "the manifest's split `test`, 3 clips in all."


def test_other_traits_are_refused() -> None:
    scored.check_traits(replace(SCHEMA, name="y", judged_by="others"), manifest(), Path("run"))
    others = (
        replace(SCHEMA, traits=SCHEMA.traits[::-1]),
        replace(SCHEMA, traits=SCHEMA.traits[:1]),
        replace(SCHEMA, traits=(SCHEMA.traits[0], Trait(name="calm", low=1.0, high=7.0))),
    )
    for other in others:
        with pytest.raises(
            ManifestError, match=r"clips\.csv: traits warm, calm with their scales; run scores .* needs"
        ):
            scored.check_traits(other, manifest(), Path("run"))


def test_the_widest_ends_of_all_members() -> None:
    low, high = scored.bounds([{"low": [0.0, -2.0], "high": [1.0, 2.0]}, {"low": [0.0, -3.0], "high": [1.0, 1.0]}])
    assert low.tolist() == [0.0, -3.0] and high.tolist() == [1.0, 2.0]


def test_a_digest_is_of_the_table_in_any_order_and_of_nothing_else() -> None:
    one = manifest("train", "test", None)
    moved = replace(one, clips=one.clips[::-1], labels=one.labels[::-1], splits=one.splits[::-1])
    elsewhere = replace(one, path=Path("/other/clips.csv"))
    media = replace(one, clips=tuple(replace(clip, video=Path("v.mp4"), text=None) for clip in one.clips))
    assert scored.digest(one) == scored.digest(moved) == scored.digest(elsewhere) == scored.digest(media)
    labels = np.where(np.isnan(LABELS), 0.0, LABELS)
    changes = (
        replace(one, clips=(replace(one.clips[0], id="d"), *one.clips[1:])),
        replace(one, clips=(replace(one.clips[0], person="q"), *one.clips[1:])),
        replace(one, splits=("test", "test", None)),
        replace(one, labels=labels),  # an unknown label is no 0
        replace(one, labels=one.labels[[1, 0, 2]]),
    )
    assert len({scored.digest(one), *map(scored.digest, changes)}) == 6
