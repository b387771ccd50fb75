from pathlib import Path

import numpy as np
import pytest

from mmtraits.data import leakage, survey
from mmtraits.data.manifest import Manifest
from mmtraits.schema import Clip, Trait, TraitSchema

NEAR = "these are more than eight words that somebody says"


def corpus(labels, traits, splits=None, **columns) -> Manifest:
    known = np.asarray(labels, np.float64)
    columns = {"text": ["x"] * len(known), **columns}
    return Manifest(
        path=Path("clips.csv"),
        schema=TraitSchema(name="x", traits=traits, construct="apparent", judged_by="us"),
        clips=tuple(
            Clip(id=f"c{n}", **{name: values[n] for name, values in columns.items()}) for n in range(len(known))
        ),
        labels=known,
        splits=tuple(splits or [None] * len(known)),
    )


def test_labels_are_counted_in_tenths_of_the_scale() -> None:
    traits = (Trait(name="warm", low=1, high=5), Trait(name="free"), Trait(name="yes", kind="binary"), Trait(name="no"))
    labels = [[1, -2, 0, np.nan], [1.5, 0, 1, np.nan], [5, 2, 1, np.nan], [np.nan, 2, np.nan, np.nan]]
    warm, free, yes, nothing = survey.labels(corpus(labels, traits))
    assert (warm["known"], warm["lowest"], warm["mean"], warm["highest"]) == (3, 1, 2.5, 5)
    assert (warm["from"], warm["histogram"], warm["to"]) == (1, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1], 5)
    assert (free["from"], free["histogram"], free["to"]) == (-2, [1, 0, 0, 0, 0, 1, 0, 0, 0, 2], 2)
    assert yes["histogram"] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert nothing == {"trait": "no", "known": 0}
    assert warm["sd"] == pytest.approx(np.std([1, 1.5, 5]))


def test_labels_outside_the_scale_are_in_the_last_tenth_and_infinite_ones_nowhere() -> None:
    (row,) = survey.labels(corpus([[0.5], [7], [np.inf]], (Trait(name="warm", low=0, high=1),)))
    assert sum(row["histogram"]) == 2 == row["known"]
    assert row["histogram"][-1] == 1
    assert row["highest"] == 7


def test_counts_by_split() -> None:
    manifest = corpus(
        [[0.1], [0.2], [np.nan], [0.4]],
        (Trait(name="warm", low=0, high=1),),
        ["train", "train", "test", None],
        person=["a", "a", "b", None],
        video=[Path("x.mp4"), None, None, None],
        features=[{}, {"voice": "v.npz#1"}, {}, {}],
        attributes=[{"tongue": "de"}, {"tongue": "fr"}, {}, {"tongue": "de"}],
    )
    assert [tuple(row.values()) for row in survey.counts(manifest)] == [
        ("clips", 4, 2, 1, 1),
        ("persons", 2, 1, 1, 0),
        ("video", 1, 1, 0, 0),
        ("text", 4, 2, 1, 1),
        ("feature_voice", 1, 1, 0, 0),
        ("warm known", 3, 2, 0, 1),
        ("tongue = de", 2, 1, 0, 1),
        ("tongue = fr", 1, 1, 0, 0),
        ("tongue = unknown", 1, 0, 1, 0),
    ]
    assert list(survey.counts(manifest)[0]) == ["", "all", "train", "test", "no split"]


def test_without_splits_and_persons_there_is_one_column() -> None:
    rows = survey.counts(corpus([[0.1], [0.2]], (Trait(name="warm"),)))
    assert rows == [{"": "clips", "all": 2}, {"": "text", "all": 2}, {"": "warm known", "all": 2}]


def test_attributes_with_many_values_are_cut() -> None:
    manifest = corpus(np.zeros((40, 1)), (Trait(name="w"),), attributes=[{"town": str(n // 2)} for n in range(40)])
    rows = [row for row in survey.counts(manifest) if row[""].startswith("town")]
    assert len(rows) == 9
    assert rows[-1] == {"": "town: 12 more values", "all": 24}


def leaky(**columns) -> Manifest:
    return corpus(
        [[0.1], [0.9], [0.1], [0.9]], (Trait(name="warm", low=0, high=1),), ["train", "train", "test", "val"], **columns
    )


def test_what_is_shared_is_said_in_figures_and_in_words() -> None:
    manifest = leaky(person=["a", "b", "a", "c"], text=[NEAR, "x", NEAR + ".", "y"])
    rows = {"train": np.array([0, 1]), "val": np.array([3]), "test": np.array([2])}
    leak = leakage.report(manifest, rows)
    val, test = survey.leakage(manifest, leak)
    assert val == {
        "split": "val",
        "persons of train": 0,
        "clips of them": 0,
        "of clips": 1,
        "near transcripts": 0,
        "1-MAE look-up": None,
        "1-MAE train mean": None,
    }
    assert (test["persons of train"], test["clips of them"], test["near transcripts"]) == (1, 1, 1)
    assert (test["1-MAE look-up"], test["1-MAE train mean"]) == (pytest.approx(0.8), pytest.approx(0.6))
    persons, words = survey.leaks(manifest, leak)
    assert not persons.serious
    assert persons.text.startswith("clips.csv: 1 person of train also in val or test, with 1 of the 2 clips there")
    assert "has 1-MAE 0.8000 in test (training mean 0.6000); split by person" in persons.text
    assert (
        words.text
        == "clips.csv: 1 clip of val or test nearly in the words of a training clip: 'c2' and 'c0' (Jaccard 1.00)"
    )


def test_persons_of_val_and_test_alone_are_said() -> None:
    manifest = leaky(person=["a", "b", "c", "c"])
    rows = {"train": np.array([0, 1]), "val": np.array([3]), "test": np.array([2])}
    (fault,) = survey.leaks(manifest, leakage.report(manifest, rows))
    assert fault.text == "clips.csv: 1 person both in val and in test: what is chosen on val is not new to test"
    apart = leaky(person=list("abcd"))
    assert survey.leaks(apart, leakage.report(apart, rows)) == []


def test_without_persons_the_table_says_nothing_of_them() -> None:
    manifest = leaky()
    rows = {"train": np.array([0, 1]), "val": np.array([3]), "test": np.array([2])}
    table = survey.leakage(manifest, leakage.report(manifest, rows))
    assert [row["persons of train"] for row in table] == [None, None]
    assert survey.leaks(manifest, leakage.report(manifest, rows)) == []


def test_equal_words_of_two_persons() -> None:
    near = [leakage.Duplicate(2, 0, 0.9), leakage.Duplicate(3, 1, 1.0)]
    (fault,) = survey.two_names(leaky(person=["a", "b", "a", "c"]), near)
    assert "1 clip nearly in the words of another person's clip: 'c3' and 'c1' (Jaccard 1.00)" in fault.text
    assert survey.two_names(leaky(person=["a", "b", None, "b"]), near) == []


def test_labels_off_the_scale_are_unknown_to_the_look_up() -> None:
    traits = (Trait(name="warm", low=0, high=1), Trait(name="free"), Trait(name="half", low=0.0))
    found = survey.on_scale(corpus([[0.0, -9, 0], [7, 9, -1], [1, np.nan, 5]], traits))
    np.testing.assert_array_equal(found.labels, [[0, -9, 0], [np.nan, 9, np.nan], [1, np.nan, 5]])
