import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtraits.data.manifest import Manifest
from mmtraits.data.splits import assign
from mmtraits.errors import ManifestError
from mmtraits.evaluation.scored import official
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(name="one", traits=(Trait(name="calm", low=0.0, high=1.0),), construct="apparent", judged_by="us")


def corpus(persons: list[str | None], splits: list[str | None] | None = None, **columns: list[str]) -> Manifest:
    clips = tuple(
        Clip(id=f"c{i}", text="x", person=p, attributes={n: v[i] for n, v in columns.items()})
        for i, p in enumerate(persons)
    )
    own = tuple(splits or [None] * len(clips))
    return Manifest(
        path=Path("clips.csv"), schema=SCHEMA, clips=clips, labels=np.full((len(clips), 1), 0.5), splits=own
    )


groups = st.lists(st.one_of(st.none(), st.integers(0, 30).map(str)), min_size=40, max_size=200).filter(
    lambda persons: len(set(persons) - {None}) >= 10
)


@given(groups, st.sampled_from(["holdout", "kfold"]), st.integers(2, 6), st.integers(0, 3))
def test_parts_are_disjoint_cover_and_never_divide_a_person(persons, split, folds, seed) -> None:
    manifest = corpus(persons)
    for member in range(folds):
        parts = assign(manifest, split=split, folds=folds, seed=seed, member=member)
        assert sorted(np.concatenate(list(parts.values()))) == list(range(len(persons)))
        owners = [{persons[row] for row in rows} - {None} for rows in parts.values()]
        assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
        assert all(len(rows) for rows in parts.values())


@given(groups, st.integers(2, 6))
def test_every_row_is_tested_once(persons, folds) -> None:
    manifest = corpus(persons)
    tested = [assign(manifest, split="kfold", folds=folds, member=member)["test"] for member in range(folds)]
    assert sorted(np.concatenate(tested)) == list(range(len(persons)))


@given(groups, st.integers(0, 2**31), st.sampled_from(["holdout", "kfold"]))
def test_the_order_of_rows_does_not_matter(persons, shuffle, split) -> None:
    manifest = corpus(persons)
    order = list(range(len(persons)))
    random.Random(shuffle).shuffle(order)
    moved = Manifest(
        path=manifest.path,
        schema=SCHEMA,
        clips=tuple(manifest.clips[i] for i in order),
        labels=manifest.labels,
        splits=manifest.splits,
    )
    before, after = assign(manifest, split=split, member=1), assign(moved, split=split, member=1)
    for name in before:
        assert {f"c{row}" for row in before[name]} == {moved.clips[row].id for row in after[name]}


def test_folds_are_balanced_and_val_is_a_tenth() -> None:
    draw = random.Random(0)
    manifest = corpus([str(draw.randrange(300)) for _ in range(1000)])
    for member in range(5):
        parts = assign(manifest, split="kfold", member=member)
        assert abs(len(parts["test"]) - 200) <= 1
        assert 80 <= len(parts["val"]) <= 90
        assert all((np.diff(rows) > 0).all() and rows.dtype == np.int64 for rows in parts.values())


def test_seeds_differ_and_repeat() -> None:
    manifest = corpus([str(i // 2) for i in range(100)])
    first, second = assign(manifest, split="holdout", seed=0), assign(manifest, split="holdout", seed=1)
    assert set(first["test"]) != set(second["test"])
    np.testing.assert_array_equal(first["test"], assign(manifest, split="holdout", seed=0, member=3)["test"])


def test_a_value_of_another_row_is_not_an_id() -> None:
    """Person `c1` and the clip `c1` without a person are two groups."""
    manifest = corpus(["c1", None, *map(str, range(8))])
    together = [
        len({0, 1} & set(assign(manifest, split="kfold", folds=10, member=member)["test"])) for member in range(10)
    ]
    assert max(together) == 1


def test_official_keeps_the_column() -> None:
    parts = assign(corpus(["a"] * 5, ["test", "train", None, "val", "train"]))
    assert {name: rows.tolist() for name, rows in parts.items()} == {"train": [1, 4], "val": [3], "test": [0]}
    unnamed = assign(corpus([None] * 5, ["test", "train", None, "val", "train"]))  # nothing is left to group
    assert {name: rows.tolist() for name, rows in unnamed.items()} == {"train": [1, 4], "val": [3], "test": [0]}


def test_official_without_val_carves_whole_persons() -> None:
    persons = [str(i // 4) for i in range(80)]
    parts = assign(corpus(persons, ["train"] * 72 + ["test"] * 8))
    assert parts["test"].tolist() == list(range(72, 80)) and len(parts["val"]) == 8
    assert not {persons[row] for row in parts["val"]} & {persons[row] for row in parts["train"]}


def test_one_person_alone_stays_in_train() -> None:
    parts = assign(corpus(["a"] * 5, ["train"] * 5))
    assert len(parts["train"]) == 5 and len(parts["val"]) == 0


def test_groups_by_an_attribute_or_the_clip() -> None:
    colours = [str(i % 7) for i in range(70)]
    parts = assign(corpus(["a"] * 70, colour=colours), split="kfold", folds=7, by="colour", member=2)
    assert len({colours[row] for row in parts["test"]}) == 1 and len(parts["test"]) == 10
    assert len(assign(corpus(["a"] * 70), split="holdout", by="id")["test"]) == 14


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, r"clips\.csv: no row has split `train`; fill the column or use holdout or kfold"),
        ({"split": "kfold", "folds": 4}, r"clips\.csv: by person: 3 groups; 4 folds need at least 4"),
        ({"split": "kfold", "folds": 3, "member": 3}, r"clips\.csv: fold 3 of 3; expected 0 to 2"),
        ({"split": "holdout", "by": "age"}, r"clips\.csv: no row has a 'age' to group by"),
    ],
)
def test_what_cannot_be_split(options, message) -> None:
    with pytest.raises(ManifestError, match=message):
        assign(corpus(["a", "b", "c", "c"]), **options)


# ---------------------------------------------------------------------------------------------------- stratified


def uneven(seed: int, persons: int = 150) -> Manifest:
    """Persons of one to five clips; labels depend on the person, a rare value of `tongue` on chance."""
    draw = np.random.default_rng(seed)
    owners = [f"p{n}" for n in range(persons) for _ in range(draw.integers(1, 6))]
    level = {f"p{n}": draw.normal(0.5, 0.2) for n in range(persons)}
    tongue = {f"p{n}": str(draw.choice(["a", "b", "c"], p=[0.7, 0.2, 0.1])) for n in range(persons)}
    manifest = corpus(owners, tongue=[tongue[one] for one in owners])
    labels = np.array([[level[one] + draw.normal(0, 0.05)] for one in owners])
    labels[draw.random(len(owners)) < 0.1] = np.nan
    return replace(manifest, labels=labels)


def imbalance(manifest: Manifest, seed: int, stratify: tuple[str, ...]) -> np.ndarray:
    """How far folds are apart in mean label, share of the rare `tongue` c, mean label of their val rows, and size."""
    parts = [assign(manifest, split="kfold", member=n, seed=seed, stratify=stratify) for n in range(5)]
    is_c = np.array([clip.attributes["tongue"] == "c" for clip in manifest.clips])
    return np.array(
        [
            np.std([np.nanmean(manifest.labels[part["test"]]) for part in parts]),
            np.std([is_c[part["test"]].mean() for part in parts]),
            np.std([np.nanmean(manifest.labels[part["val"]]) for part in parts]),
            np.std([len(part["test"]) for part in parts]),
        ]
    )


def test_stratified_folds_are_alike_in_labels_and_attributes_and_size() -> None:
    found = {
        how: np.mean([imbalance(uneven(seed), seed, how) for seed in range(8)], axis=0)
        for how in ((), ("label",), ("tongue",), ("label", "tongue"))
    }
    plain, label, tongue, both = found.values()
    assert label[0] < 0.5 * plain[0] and both[0] < 0.5 * plain[0]
    assert tongue[1] < 0.15 * plain[1] and both[1] < 0.12 * plain[1]
    assert both[2] < 0.8 * plain[2]
    assert both[3] < 0.02 * 450 / 5  # clips


@given(groups, st.sampled_from(["holdout", "kfold"]), st.integers(2, 6), st.integers(0, 3), st.integers(0, 2**31))
def test_stratified_parts_divide_nobody_and_do_not_depend_on_the_order_of_rows(
    persons, split, folds, seed, shuffle
) -> None:
    draw = random.Random(shuffle)
    manifest = corpus(persons, colour=[draw.choice(["", "red", "blue"]) for _ in persons[1:]] + ["red"])
    labels = np.array([[draw.choice([np.nan, draw.random()])] for _ in persons])
    manifest = replace(manifest, labels=labels)
    order = list(range(len(persons)))
    draw.shuffle(order)
    moved = replace(manifest, clips=tuple(manifest.clips[i] for i in order), labels=labels[order])
    options = {"split": split, "folds": folds, "seed": seed, "member": 1, "stratify": ("label", "colour")}
    parts, after = assign(manifest, **options), assign(moved, **options)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(persons)))
    owners = [{persons[row] for row in rows} - {None} for rows in parts.values()]
    assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
    assert all(len(rows) for rows in parts.values())
    for name in parts:
        assert {f"c{row}" for row in parts[name]} == {moved.clips[row].id for row in after[name]}


def test_without_stratify_the_assignment_is_what_it_was() -> None:
    """Runs in the field say which rows they trained on: these figures may not move."""
    manifest = corpus([str(i // 2) for i in range(40)])
    parts = assign(manifest, split="kfold", folds=4, member=2, seed=7)
    assert parts["test"].tolist() == [16, 17, 18, 19, 32, 33, 34, 35, 38, 39]
    assert parts["val"].tolist() == [10, 11, 24, 25]


def test_stratified_val_of_the_official_split() -> None:
    manifest = uneven(0)
    official = replace(manifest, splits=("train",) * len(manifest.clips))
    parts = assign(official, stratify=("label", "tongue"))
    assert 0.08 < len(parts["val"]) / len(manifest.clips) < 0.12
    owners = [{official.clips[row].person for row in parts[name]} for name in ("train", "val")]
    assert not owners[0] & owners[1]
    is_a = np.array([clip.attributes["tongue"] == "a" for clip in official.clips])
    assert abs(is_a[parts["val"]].mean() - is_a.mean()) < 0.05


def test_an_unknown_attribute_cannot_be_stratified_by() -> None:
    with pytest.raises(ManifestError, match=r"clips\.csv: no row has attr_age to stratify by; name `label` or an attr"):
        assign(corpus(["a", "b", "c"]), split="holdout", folds=2, stratify=("label", "age"))


# ---------------------------------------------------------------------------------------------------- made rows


def with_made(manifest: Manifest, made: list[Clip], splits: list[str | None]) -> Manifest:
    return replace(
        manifest,
        clips=manifest.clips + tuple(made),
        labels=np.concatenate([manifest.labels, np.full((len(made), 1), 0.5)]),
        splits=manifest.splits + tuple(splits),
    )


def copy_of(clip: Clip) -> Clip:
    return replace(clip, id=f"{clip.id}~1", attributes={"made": "augmented", "made_from": clip.id})


@pytest.mark.parametrize("by", ["person", "id"])
@pytest.mark.parametrize("split", ["kfold", "holdout"])
def test_what_was_made_is_only_trained_on_and_moves_nobody(split: str, by: str) -> None:
    """A copy stands where its clip stands; a labelled stranger is always trained on; folds are those without them."""
    manifest = corpus([*(str(n // 3) for n in range(90)), *[None] * 10])
    copies = [copy_of(clip) for clip in manifest.clips]
    stranger = Clip(id="new", text="x", person="someone", attributes={"made": "pseudo_label"})
    whole = with_made(manifest, [*copies, stranger], [None] * (len(copies) + 1))
    for member in range(5):
        alone = assign(manifest, split=split, by=by, member=member)
        parts = assign(whole, split=split, by=by, member=member)
        for name in ("val", "test"):
            np.testing.assert_array_equal(parts[name], alone[name])
        expected = [*alone["train"], *(alone["train"] + 100), 200]
        np.testing.assert_array_equal(parts["train"], expected)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "test")])
def test_made_rows_of_the_corpus_s_own_split(names: tuple[str, ...]) -> None:
    manifest = corpus([str(n) for n in range(30)], [names[n % len(names)] for n in range(30)])
    whole = with_made(manifest, [copy_of(clip) for clip in manifest.clips], list(manifest.splits))
    alone, parts = assign(manifest), assign(whole)
    assert all((parts[name] == alone[name]).all() for name in ("val", "test"))
    assert parts["train"].tolist() == [*alone["train"], *(alone["train"] + 30)]
    nobody = corpus([None] * 30, [names[n % len(names)] for n in range(30)])
    own = ["train" if n % 2 else None for n in range(30)]
    found = assign(with_made(nobody, [copy_of(clip) for clip in nobody.clips], own), by="id")
    trained = {f"c{n}" for n in found["train"] if n < 30}
    assert {f"c{n - 30}" for n in found["train"] if n >= 30} == {c for c in trained if int(c[1:]) % 2}


def test_a_foreign_manifest_is_judged_on_what_is_real() -> None:
    manifest = corpus(["a", "b"], ["test", "test"])
    whole = with_made(manifest, [copy_of(manifest.clips[0])], ["test"])
    assert official(whole, "test").tolist() == [0, 1]
    assert official(replace(whole, splits=(None,) * 3), "test").tolist() == [0, 1]
