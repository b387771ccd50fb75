from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtraits.data import faults
from mmtraits.data.faults import Fault
from mmtraits.data.manifest import Manifest
from mmtraits.data.schema_file import write_schema
from mmtraits.schema import Clip, Trait, TraitSchema

BIG = ("openness", "conscientiousness", "extraversion", "agreeableness", "emotional_stability")
WORDS = "these are more than eight words that somebody says"


def schema(*traits: str | Trait, **changes) -> TraitSchema:
    named = tuple(Trait(name=one, low=0.0, high=1.0) if isinstance(one, str) else one for one in traits)
    return TraitSchema(**{"name": "x", "traits": named, "construct": "apparent", "judged_by": "us", **changes})


def corpus(labels, *, of: TraitSchema, splits=None, **columns) -> Manifest:
    """One clip of one person per row of labels, all without splits, unless columns say otherwise."""
    known = np.asarray(labels, np.float64)
    columns = {"text": ["x"] * len(known), "person": [f"p{n}" for n in range(len(known))], **columns}
    return Manifest(
        path=Path("clips.csv"),
        schema=of,
        clips=tuple(
            Clip(id=f"c{n}", **{name: values[n] for name, values in columns.items()}) for n in range(len(known))
        ),
        labels=known,
        splits=tuple(splits or [None] * len(known)),
        lines=tuple(range(2, len(known) + 2)),
    )


def big(count: int = 200, *, names=BIG, seed: int = 0, **columns) -> Manifest:
    """Labels as impressions have them: all five go together."""
    draw = np.random.default_rng(seed)
    labels = 0.6 + 0.1 * (draw.normal(size=(count, 1)) + draw.normal(size=(count, len(names))))
    return corpus(np.clip(labels, 0, 1), of=schema(*names), **columns)


def found(manifest: Manifest, *texts: str) -> list[Fault]:
    return faults.find(manifest, texts or [""] * len(manifest.clips))


def one(manifest: Manifest, word: str, *texts: str) -> Fault:
    """The only fault whose text holds the word."""
    (fault,) = [fault for fault in found(manifest, *texts) if word in fault.text]
    return fault


SPLIT = ["train"] * 120 + ["val"] * 30 + ["test"] * 50


def test_a_corpus_in_order_has_no_fault() -> None:
    assert found(big(splits=SPLIT)) == []


# ---------------------------------------------------------------------------------------------------- scales


@pytest.mark.parametrize(
    ("trait", "labels", "told"),
    [
        (
            Trait(name="warm", low=1.0, high=5.0),
            np.linspace(0.1, 0.9, 60),
            "warm has 60 labels from 0.1 to 0.9, outside the scale 1 to 5; that looks like 0 to 1: declare it as low",
        ),
        (
            Trait(name="warm", low=0.0, high=100.0),
            np.linspace(0, 1, 60),
            "warm has 60 labels from 0 to 1, within a tenth of the scale 0 to 100; that looks like 0 to 1",
        ),
        (
            Trait(name="warm", low=0.0, high=1.0),
            np.linspace(3, 97, 60),
            "from 3 to 97, outside the scale 0 to 1; that looks like 0 to 100 (percent)",
        ),
        (
            Trait(name="warm", low=0.0, high=1.0),
            np.linspace(-40, 400, 60),
            "from -40 to 400, outside the scale 0 to 1; declare the labels' own scale as low and high",
        ),
        (Trait(name="warm", low=0.0, high=1.0), np.full(60, 0.5), "warm is 0.5 in every row; nothing can be learned"),
        (Trait(name="warm"), np.full(60, 0.5), "warm is 0.5 in every row"),
        (Trait(name="warm", kind="binary"), np.ones(60), "warm is 1 in every row"),
        (Trait(name="warm", low=0.0, high=1.0), np.full(60, np.nan), "warm has no label at all; take it out"),
    ],
)
def test_wrong_scales_are_named_with_what_they_look_like(trait, labels, told) -> None:
    fault = one(corpus(labels[:, None], of=schema(trait)), "warm")
    assert fault.serious
    assert told in fault.text


@pytest.mark.parametrize("trait", [Trait(name="z"), Trait(name="z", low=0.0), Trait(name="z", kind="binary")])
def test_scales_without_two_bounds_are_not_judged(trait) -> None:
    labels = np.tile([0.0, 1.0], 30) if trait.kind == "binary" else np.linspace(50, 99, 60)
    assert found(corpus(labels[:, None], of=schema(trait))) == []


def test_a_narrow_range_of_a_tenth_and_more_is_fine() -> None:
    assert found(corpus(np.linspace(0.5, 0.601, 60)[:, None], of=schema("warm"))) == []


def test_the_line_of_schema_yaml_is_told(tmp_path) -> None:
    manifest = corpus(np.full((60, 2), [[0.5, 0.2]]), of=schema("warm", "warmer"))
    write_schema(tmp_path / "schema.yaml", manifest.schema)
    lines = (tmp_path / "schema.yaml").read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "warmer" in line)
    moved = replace(manifest, path=tmp_path / "clips.csv")
    assert one(moved, "warmer is").text.startswith(f"{tmp_path / 'schema.yaml'}:{number}: warmer")
    assert one(moved, "warm is").text.startswith(f"{tmp_path / 'schema.yaml'}:{number - 1}: warm")


# ---------------------------------------------------------------------------------------------------- signs


def test_a_neuroticism_that_is_stability_is_named() -> None:
    fault = one(big(names=(*BIG[:4], "neuroticism")), "neuroticism")
    assert fault.serious
    assert "neuroticism correlates +0." in fault.text
    assert "as emotional_stability does; rename it or turn it round" in fault.text


def test_a_stability_that_is_neuroticism_is_named() -> None:
    manifest = big()
    manifest.labels[:, 4] = 1 - manifest.labels[:, 4]
    fault = one(manifest, "as neuroticism does")
    assert fault.serious
    assert "emotional_stability correlates -0." in fault.text


def test_openness_says_nothing_of_signs() -> None:
    manifest = big(names=("openness", "neuroticism"))
    assert found(manifest) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_declared_opposite_must_run_against(sign) -> None:
    draw = np.random.default_rng(0)
    calm = draw.uniform(size=100)
    other = calm if sign == 1 else 1 - calm
    of = schema(Trait(name="calm", low=0, high=1, opposite_of="tense"), "tense")
    labels = np.stack([calm, np.clip(other + draw.normal(0, 0.1, 100), 0, 1)], 1)
    wrong = [fault for fault in found(corpus(labels, of=of)) if "declared the opposite of tense" in fault.text]
    assert len(wrong) == (sign == 1)
    assert all(fault.serious and "correlates +0.9" in fault.text for fault in wrong)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("trait", range(5))
def test_labels_turned_round_in_a_split_are_named_and_no_others(split, trait) -> None:
    manifest = big(splits=SPLIT)
    rows = [own == split for own in SPLIT]
    manifest.labels[rows, trait] = 1 - manifest.labels[rows, trait]
    turned = [fault for fault in found(manifest) if "turned round" in fault.text]
    if split == "test":
        (fault,) = turned
        assert fault.serious
        assert f"the labels of {BIG[trait]} are turned round between train and test: they correlate +0." in fault.text
    else:  # thirty clips are few: what is sure is told, and of no other trait
        assert all(BIG[trait] in fault.text.split(" turned round")[0] for fault in turned)


def test_a_mean_on_the_other_side_is_a_hint_where_nothing_correlates() -> None:
    draw = np.random.default_rng(0)
    labels = np.clip(draw.normal(0.7, 0.1, (200, 2)), 0, 1)
    labels[150:, 0] = 1 - labels[150:, 0]
    fault = one(corpus(labels, of=schema("warm", "calm"), splits=SPLIT), "turned round")
    assert not fault.serious
    assert "the mean of warm is 0.686 in train and 0.29 in test, as if its scale were turned round" in fault.text


def test_a_split_of_other_people_is_no_flip() -> None:
    draw = np.random.default_rng(0)
    labels = np.clip(draw.normal(0.7, 0.1, (200, 1)), 0, 1)
    labels[150:] -= 0.15
    assert found(corpus(labels, of=schema("warm"), splits=SPLIT)) == []


@given(st.integers(0, 10_000))
def test_chance_turns_nothing_round(seed) -> None:
    draw = np.random.default_rng(seed)
    manifest = corpus(draw.uniform(size=(200, 4)), of=schema(*"abcd"), splits=SPLIT)
    assert not found(manifest)


def test_the_evidence_of_few_persons_is_not_overrated() -> None:
    """Twelve persons, six clips each, two traits that have nothing to do with each other."""
    draw = np.random.default_rng(0)
    owner = np.repeat(np.arange(12), 6)
    sure = 0
    for _ in range(1000):
        x, y = (np.repeat(draw.normal(size=12), 6) + 0.3 * draw.normal(size=72) for _ in range(2))
        sure += faults._surely((x - x.mean()) / x.std(), (y - y.mean()) / y.std(), owner)
    assert sure < 25  # by clips it would be hundreds, by a normal error forty


def test_many_clips_of_few_persons_are_little_evidence() -> None:
    """Ten persons, twenty clips each: what looks sure by clips is chance by persons."""
    draw = np.random.default_rng(3)
    owners = [f"p{n // 20}" for n in range(200)]
    labels = np.repeat(draw.uniform(size=(10, 2)), 20, axis=0) + draw.uniform(0, 0.01, (200, 2))
    labels[:, 1] = 0.7 * labels[:, 1] + 0.3 * labels[:, 0]
    of = schema(Trait(name="a", low=0, high=1.1, opposite_of="b"), Trait(name="b", low=0, high=1.1))
    by_person = corpus(labels, of=of, person=owners)
    by_clip = corpus(labels, of=of)
    assert len([f for f in found(by_clip) if "opposite" in f.text]) == 1
    assert not [f for f in found(by_person) if "opposite" in f.text]


# ---------------------------------------------------------------------------------------------------- splits


def test_a_trait_without_labels_in_a_split() -> None:
    manifest = big(splits=SPLIT)
    manifest.labels[150:, 1] = np.nan
    fault = one(manifest, "conscientiousness")
    assert fault == (False, "clips.csv: conscientiousness has no label in test; its metrics are undefined there")
    manifest = big(splits=SPLIT)
    manifest.labels[:120, 1] = np.nan
    assert one(manifest, "in train") == (
        True,
        "clips.csv: conscientiousness has no label in train; it cannot be learned",
    )


def test_a_trait_that_is_constant_in_a_split() -> None:
    manifest = big(splits=SPLIT)
    manifest.labels[150:, 1] = 0.5
    fault = one(manifest, "conscientiousness is 0.5 in every row of test")
    assert not fault.serious and "undefined" in fault.text


def test_splits_that_lack_train_or_test() -> None:
    assert one(big(splits=["val"] * 100 + ["test"] * 100), "no row has split train").serious
    assert not one(big(splits=["train"] * 150 + ["val"] * 50), "no row has split test").serious


# ---------------------------------------------------------------------------------------------------- persons


def test_persons_that_were_rated_once_have_one_label() -> None:
    manifest = big(person=[f"p{n // 2}" for n in range(200)])
    rated = replace(manifest, schema=replace(manifest.schema, rated="person"))
    rated.labels[1::2] = rated.labels[::2]
    assert found(rated) == []
    rated.labels[7, 2] = 0.25
    rated.labels[6, 2] = 0.75
    fault = one(rated, "rated: person")
    assert fault.serious
    assert fault.text.startswith("clips.csv:9: person 'p3' has other labels than in 'c6' (extraversion 0.75 and 0.25)")


def test_equal_labels_in_all_clips_of_everybody_look_like_rated_persons() -> None:
    manifest = big(person=[f"p{n // 2}" for n in range(200)])
    assert found(manifest) == []
    manifest.labels[1::2] = manifest.labels[::2]
    fault = one(manifest, "rated")
    assert not fault.serious
    assert "each of 100 persons has the same labels" in fault.text and "say `rated: person`" in fault.text


def test_unnamed_persons_cannot_be_judged() -> None:
    fault = one(big(person=[None] * 200), "person")
    assert fault == (False, "clips.csv: no row names its person; nothing can tell whether a split divides one")


def test_ten_clips_say_what_will_not_work() -> None:
    fault = one(big(10), "10 clips of 10 persons")
    assert not fault.serious
    assert "one fold of 5 tests about 2 of them" in fault.text
    assert "90 % intervals need 10 or more outside training" in fault.text
    assert "an audit hides groups under 30 clips" in fault.text
    assert "5 folds need as many persons" in one(big(60, person=["a", "b"] * 30), "60 clips of 2 persons").text
    assert found(big(50)) == []


# ---------------------------------------------------------------------------------------------------- attributes


def attributes(*values: str) -> list[dict[str, str]]:
    return [{"tongue": value} if value else {} for value in values]


def test_an_attribute_with_one_value() -> None:
    fault = one(big(attributes=attributes(*["de"] * 150, *[""] * 50)), "attr_tongue")
    assert fault == (False, "clips.csv: attr_tongue is 'de' wherever it is known; no audit can use it")


def test_an_attribute_of_small_groups() -> None:
    fault = one(big(attributes=attributes(*(str(n % 9) for n in range(200)))), "attr_tongue")
    assert "no value of attr_tongue has 30 clips; an audit hides them all" in fault.text
    assert found(big(attributes=attributes(*["a", "b"] * 100))) == []


# ---------------------------------------------------------------------------------------------------- duplicates


def videos(**changes) -> Manifest:
    """c0 and c9 show the same file."""
    files: list[Path | None] = [Path(f"{n}.mp4") for n in range(200)]
    files[9] = files[0]
    return big(video=files, **changes)


def test_the_same_media_twice() -> None:
    manifest = videos()
    manifest.labels[9] = manifest.labels[0]
    assert one(manifest, "stretch") == (
        False,
        "clips.csv:11: 'c9' is the same stretch of media as 'c0'; keep one of them",
    )


def test_the_same_media_with_other_labels_or_in_another_split_is_serious() -> None:
    manifest = videos()
    manifest.labels[9] = manifest.labels[0]
    manifest.labels[9, 0], manifest.labels[0, 0] = 0.25, 0.5
    fault = one(manifest, "stretch")
    assert fault.serious and "with other labels (openness 0.5 and 0.25)" in fault.text
    manifest.labels[9] = np.nan  # unknown is not other
    split = replace(manifest, splits=("train",) * 9 + ("test",) * 100 + ("train",) * 91)
    fault = one(split, "stretch")
    assert fault.serious and "which is in another split; keep one" in fault.text


def test_other_stretches_and_speakers_of_one_file_are_other_clips() -> None:
    file = [Path("talk.mp4")] * 200
    assert found(big(video=file, start_s=[float(n) for n in range(200)])) == []
    assert found(big(video=file, speaker=[str(n) for n in range(200)])) == []


def test_the_same_words_twice() -> None:
    manifest = big()
    texts = [WORDS, WORDS.upper() + "!", *[""] * 198]
    assert (
        one(manifest, "same words", *texts).text == "clips.csv:3: 'c1' says the same words as 'c0', with other labels"
    )
    manifest.labels[1] = manifest.labels[0]
    fault = one(manifest, "same words", *texts)
    assert fault == (False, "clips.csv:3: 'c1' says the same words as 'c0'")
    assert found(manifest, "yes", "yes", *[""] * 198) == []


def test_one_file_twice_is_not_told_twice() -> None:
    manifest = videos()
    texts = [WORDS if n in (0, 9) else "" for n in range(200)]
    assert not [fault for fault in found(manifest, *texts) if "same words" in fault.text]


def test_rows_without_a_file_are_placed_by_it_alone() -> None:
    assert faults.line_of(replace(big(), lines=()), 3) == "clips.csv"
    assert faults.line_of(big(), 3) == "clips.csv:5"
