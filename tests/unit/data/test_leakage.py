import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtraits.data import leakage
from mmtraits.data.manifest import Manifest
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(
    name="two",
    traits=(Trait(name="warm", low=1.0, high=5.0), Trait(name="calm", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="us",
)
LONG = "one two three four five six seven eight nine ten eleven twelve"


def corpus(persons, splits, labels=None, texts=None) -> Manifest:
    count = len(persons)
    clips = tuple(
        Clip(id=f"c{n:03d}", person=person, text=texts[n] if texts else f"{n}") for n, person in enumerate(persons)
    )
    known = np.full((count, 2), 0.5) if labels is None else np.asarray(labels, np.float64)
    return Manifest(path=Path("clips.csv"), schema=SCHEMA, clips=clips, labels=known, splits=tuple(splits))


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


# ---------------------------------------------------------------------------------------------------- persons


def test_shared_persons_are_named_with_their_rows() -> None:
    persons = ["a", "b", None, "a", None, "c", "b", "a"]
    who, found = leakage.shared_rows(persons, rows(0, 1, 2), rows(3, 4, 5, 6, 7))
    assert who == ("a", "b")
    assert found.tolist() == [3, 6, 7]


def test_every_pair_of_splits_is_looked_at() -> None:
    persons = ["a", "b", "c", "b", "c"]
    found = leakage.shared_persons(persons, {"train": rows(0, 1), "val": rows(2, 3), "test": rows(4)})
    assert found == {("train", "val"): ("b",), ("val", "test"): ("c",)}


def test_look_up_by_hand() -> None:
    labels = np.array([[1.0, 0.2], [3.0, np.nan], [5.0, 0.8], [2.0, 0.5], [4.0, 0.5], [4.0, 0.5]])
    persons = ["a", "a", "b", "a", "new", None]
    found = leakage.look_up(labels, persons, rows(0, 1, 2), rows(3, 2, 1, 4, 5))
    mean = [3.0, 0.5]
    expected = [
        [(1 + 3 + mean[0]) / 3, (0.2 + mean[1]) / 2],  # a: two labels of warm, one of calm
        mean,  # b's only label is the row's own
        [(1 + mean[0]) / 2, (0.2 + mean[1]) / 2],  # a's other label; the row's own calm is unknown
        mean,
        mean,
    ]
    np.testing.assert_allclose(found, expected)


def test_clips_without_a_person_are_nobodys() -> None:
    labels = np.array([[1.0, 0.0], [5.0, 1.0], [5.0, 1.0]])
    np.testing.assert_allclose(leakage.look_up(labels, [None] * 3, rows(0, 1), rows(2)), [[3.0, 0.5]])


def test_a_trait_without_training_labels_stays_undefined() -> None:
    labels = np.array([[1.0, np.nan], [5.0, 0.5]])
    found = leakage.look_up(labels, ["a", "a"], rows(0), rows(1))
    assert found[0, 0] == 1.0
    assert np.isnan(found[0, 1])


def test_members_together_count_each_person_and_clip_once() -> None:
    manifest = corpus(["a", "a", "b", "b"], [None] * 4)
    members = [{"train": rows(0, 2), "test": rows(1)}, {"train": rows(0, 2), "val": rows(3), "test": rows(1)}]
    assert leakage.between(manifest, members) == (2, 2)
    assert leakage.between(manifest, [{"train": rows(0, 1), "test": rows(2, 3)}]) == (0, 0)
    assert leakage.between(corpus([None, None], [None] * 2), [{"train": rows(0), "test": rows(1)}]) == (None, None)


# ---------------------------------------------------------------------------------------------------- transcripts


def test_case_and_punctuation_do_not_hide_a_duplicate() -> None:
    texts = [LONG, LONG.upper().replace(" ", ", ") + "!", "quite another text of more than eight words, it seems"]
    assert leakage.near_duplicates(texts, rows(0), rows(1, 2)) == [(1, 0, 1.0)]


def test_the_index_is_jaccards_over_three_words() -> None:
    changed = LONG.replace("twelve", "thirteen")  # 9 of 11 runs are equal
    (found,) = leakage.near_duplicates([LONG, changed], rows(0), rows(1))
    assert found.jaccard == pytest.approx(9 / 11)
    assert leakage.near_duplicates([LONG, LONG.replace("six", "sick")], rows(0), rows(1)) == []  # 7 of 13


def test_short_texts_are_alike_by_chance_and_left_out() -> None:
    assert leakage.near_duplicates(["yes i do", "yes i do", None, ""], rows(0, 2), rows(1, 3)) == []


def test_a_row_is_not_its_own_duplicate() -> None:
    texts = [LONG, LONG, "something else that is said at length by somebody else"]
    found = leakage.near_duplicates(texts, rows(0, 1, 2), rows(0, 1, 2))
    assert [(one.row, one.of) for one in found] == [(0, 1), (1, 0)]


def test_the_nearest_is_named() -> None:
    texts = [LONG + " and more", LONG, LONG]
    (found,) = leakage.near_duplicates(texts, rows(0, 1), rows(2))
    assert found == (2, 1, 1.0)


def test_languages_without_spaces_are_compared_by_characters() -> None:
    text = "我喜欢在早上喝一杯热咖啡然后去上班"
    assert leakage.words("我喜欢 coffee") == ["我", "喜", "欢", "coffee"]
    assert len(leakage.near_duplicates([text, text + "。"], rows(0), rows(1))) == 1


def test_the_same_words_read_out_by_everybody_are_found_quickly() -> None:
    count = 4000
    found = leakage.near_duplicates([LONG] * count, np.arange(count // 2), np.arange(count // 2, count))
    assert len(found) == count // 2


def test_long_texts_are_estimated() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{n}" for n in draw.integers(0, 5000, 6000)]
    near, far = words.copy(), words.copy()
    for place in draw.choice(6000, 100, replace=False):  # 100 of 6,000 words: about .90
        near[place] = "other"
    for place in draw.choice(6000, 900, replace=False):  # about .4
        far[place] = "other"
    texts = [" ".join(one) for one in (words, near, far)]
    (found,) = leakage.near_duplicates(texts, rows(0), rows(1, 2))
    assert found.row == 1
    assert found.jaccard == pytest.approx(_jaccard(words, near), abs=0.03)


def _jaccard(a: list[str], b: list[str]) -> float:
    x, y = ({tuple(one[n : n + 3]) for n in range(len(one) - 2)} for one in (a, b))
    return len(x & y) / len(x | y)


sentences = st.lists(st.lists(st.sampled_from("abcd"), min_size=6, max_size=14), min_size=2, max_size=25)


@given(sentences)
def test_every_near_duplicate_is_found(said) -> None:
    texts = [" ".join(one) for one in said]
    everything = np.arange(len(said))
    found = {one.row: one.jaccard for one in leakage.near_duplicates(texts, everything, everything)}
    for row, one in enumerate(said):
        nearest = max(
            (_jaccard(one, other) for n, other in enumerate(said) if n != row and len(other) >= leakage.MIN_WORDS),
            default=0.0,
        )
        if nearest >= leakage.JACCARD and len(one) >= leakage.MIN_WORDS:
            assert found[row] == pytest.approx(nearest)
        else:
            assert row not in found


# ---------------------------------------------------------------------------------------------------- report


def test_a_planted_leak_is_counted() -> None:
    texts = [LONG, "not said by anybody else in this corpus of few clips", LONG, "3", "4"]
    manifest = corpus(
        ["a", "b", "a", "c", None],
        ["train", "train", "test", "val", "test"],
        [[1, 0.1], [5, 0.9], [1, 0.1], [3, 0.5], [3, 0.5]],
        texts,
    )
    found = leakage.report(manifest, {"train": rows(0, 1), "val": rows(3), "test": rows(2, 4)})
    assert (found.persons, found.persons_shared, found.clips_shared) == (("a",), 1, 1)
    assert found.near_duplicates == 1
    assert found.duplicates[0][:2] == (2, 0)
    assert set(found.look_ups) == {"test"}
    # of person a: warm 1 and (1 + 3) / 2, calm .1 and (.1 + .5) / 2; of nobody: the training mean, which is right
    warm, calm = np.mean([1.0, 0.0]) / 4, np.mean([0.2, 0.0])
    assert found.look_ups["test"].score == pytest.approx(1 - np.mean([warm, calm]))
    assert found.look_ups["test"].training_mean == pytest.approx(1 - np.mean([np.mean([2, 0]) / 4, np.mean([0.4, 0])]))


def test_without_persons_nothing_is_claimed() -> None:
    found = leakage.report(corpus([None] * 3, ["train", "test", "test"]), {"train": rows(0), "test": rows(1, 2)})
    assert (found.persons, found.persons_shared, found.clips_shared, found.look_ups) == (None, None, None, {})


def test_rows_in_any_order_give_the_same_report() -> None:
    draw = np.random.default_rng(1)
    persons = [f"p{n}" for n in draw.integers(0, 12, 60)]
    said = [" ".join(draw.choice(list("abc"), 9)) for _ in range(10)]
    texts = [said[n] for n in draw.integers(0, 10, 60)]
    manifest = corpus(persons, [None] * 60, draw.uniform(0, 1, (60, 2)), texts)
    split = {"train": np.arange(40), "test": np.arange(40, 60)}
    shuffled = {name: draw.permutation(own) for name, own in split.items()}
    found = leakage.report(manifest, split)
    assert found == leakage.report(manifest, shuffled)
    assert found.near_duplicates > 10


def test_a_trait_without_scale_has_no_unit() -> None:
    schema = TraitSchema(name="one", traits=(Trait(name="z"),), construct="apparent", judged_by="us")
    clips = tuple(Clip(id=f"c{n}", person="a", text="x") for n in range(2))
    manifest = Manifest(
        path=Path("clips.csv"), schema=schema, clips=clips, labels=np.array([[1.0], [2.0]]), splits=(None, None)
    )
    found = leakage.report(manifest, {"train": rows(0), "test": rows(1)})
    assert np.isnan(found.look_ups["test"]).all()


def test_the_refusal_counts_and_says_what_to_do() -> None:
    told = leakage.refusal(corpus(["a"], [None]), 1, 2000)
    assert told.startswith("1 person of clips.csv both in training and in validation or test, with 2,000 clips there")
    assert "protocol.split=kfold or holdout with protocol.by=person" in told
    assert told.endswith("protocol.allow_leakage=true")


# ---------------------------------------------------------------------------------------------------- real labels


def test_first_impressions_leaks_what_its_readme_says(real_data) -> None:
    names = ("openness", "conscientiousness", "extraversion", "agreeableness", "emotional_stability")
    with gzip.open(real_data / "data" / "first_impressions" / "clips.csv.gz", "rt", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    schema = TraitSchema(
        name="fi",
        traits=tuple(Trait(name=n, low=0.0, high=1.0) for n in names),
        construct="apparent",
        judged_by="crowd",
    )
    manifest = Manifest(
        path=Path("clips.csv"),
        schema=schema,
        clips=tuple(Clip(id=one["clip"], person=one["person"], text=one["transcript"] or None) for one in table),
        labels=np.array([[float(one[n]) for n in names] for one in table]),
        splits=tuple(one["split"] for one in table),
    )
    split = {name: np.flatnonzero([own == name for own in manifest.splits]) for name in ("train", "val", "test")}
    found = leakage.report(manifest, split)
    assert found.look_ups["val"] == pytest.approx((0.9094, 0.8834), abs=5e-5)
    assert found.look_ups["test"] == pytest.approx((0.9113, 0.8815), abs=5e-5)
    assert (found.persons_shared, found.clips_shared, found.near_duplicates) == (1814, 3354, 3)
