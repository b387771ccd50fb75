import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import linalg
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmtraits import baselines, metrics
from mmtraits.baselines import Corpus, Floor, Fold, ladder
from mmtraits.data import manifest as manifests
from mmtraits.data.splits import assign
from mmtraits.data.texts import transcripts
from mmtraits.schema import Trait, TraitSchema

ROOT = Path(__file__).parents[2]
UNIT = tuple(Trait(name=name, low=0.0, high=1.0) for name in "ab")
FREE = tuple(Trait(name=name) for name in "ab")
NAN = np.nan


def corpus(labels: Any, *, traits: tuple[Trait, ...] = FREE, **parts: Any) -> Corpus:
    """Each row its own person, without attributes, texts and features, where `parts` do not say otherwise."""
    labels = np.asarray(labels, np.float64).reshape(-1, len(traits))
    rows = len(labels)
    plain = {"persons": [f"p{i}" for i in range(rows)], "attributes": [{}] * rows, "texts": [None] * rows}
    schema = TraitSchema(name="s", traits=traits, construct="apparent", judged_by="us")
    return Corpus(labels=labels, schema=schema, **{**plain, "features": {}, **parts})


def fold(train: Any, test: Any) -> Fold:
    return Fold(train=np.asarray(train, np.int64), test=np.asarray(test, np.int64))


ONE = FREE[:1]


# ---------------------------------------------------------------------------------------------------- constants


def test_mean_and_median_per_trait_over_known_labels() -> None:
    y = [[0.0, 1.0], [0.0, NAN], [3.0, 3.0], [9.0, 9.0]]
    found = ladder(corpus(y), [fold([0, 1, 2], [3])])
    assert list(found) == ["training mean", "training median"]
    np.testing.assert_allclose(found["training mean"].scores[3], [1.0, 2.0])
    np.testing.assert_allclose(found["training median"].scores[3], [0.0, 2.0])
    assert np.isnan(found["training mean"].scores[:3]).all()


def test_a_trait_without_training_labels_has_no_score() -> None:
    found = ladder(corpus([[1.0, NAN], [2.0, NAN], [3.0, 3.0]]), [fold([0, 1], [2])])
    np.testing.assert_array_equal(found["training mean"].scores[2], [1.5, NAN])


def test_a_row_that_several_folds_test_gets_the_mean() -> None:
    found = ladder(corpus([0.0, 2.0, 9.0], traits=ONE), [fold([0], [2]), fold([1], [2])])
    assert found["training mean"].scores[2] == pytest.approx(1.0)
    assert found["training mean"].about == (
        "sees nothing: the mean of the labels; fitted on 1 training rows in each of 2 folds"
    )


def test_without_training_rows_there_is_no_floor() -> None:
    assert ladder(corpus([1.0, 2.0], traits=ONE), [fold([], [0, 1])]) == {}
    assert ladder(corpus([1.0, 2.0], traits=ONE), []) == {}


# ---------------------------------------------------------------------------------------------------- who it is


def demographics(attributes: list[dict[str, str]], labels: list[float], train: list[int], test: list[int]) -> Any:
    return ladder(corpus(labels, traits=ONE, attributes=attributes), [fold(train, test)])["demographics"].scores[:, 0]


def test_one_attribute_gives_the_means_of_its_groups_and_unknown_is_a_group() -> None:
    attributes: list[dict[str, str]] = [{"sex": "f"}] * 6 + [{"sex": "m"}] * 7 + [{}] * 5
    attributes += [{"sex": "m"}, {"sex": "f"}, {}, {"sex": "x"}]
    y = [*np.random.default_rng(0).normal(size=18), 0.0, 0.0, 0.0, 0.0]
    means = [np.mean(y[:6]), np.mean(y[6:13]), np.mean(y[13:18])]
    found = demographics(attributes, y, list(range(18)), [18, 19, 20, 21])
    np.testing.assert_allclose(found[18:21], [means[1], means[0], means[2]])
    assert found[21] == pytest.approx(np.mean(means)), "a level that training does not have"


def test_small_groups_are_put_together() -> None:
    names = ["f"] * 6 + ["m"] * 6 + ["x", "x", "y", "y", "y", "f", "x", "unseen"]
    y = [*np.arange(17.0), 0.0, 0.0, 0.0]
    found = demographics([{"sex": n} for n in names], y, list(range(17)), [17, 18, 19])
    np.testing.assert_allclose(found[17:], [2.5, 14.0, 14.0])


def test_several_attributes_add_up_where_labels_do() -> None:
    draw = np.random.default_rng(1)
    sex, age = draw.integers(2, size=60), draw.integers(3, size=60)
    y = 0.3 * sex + np.array([0.0, 0.1, 0.4])[age]
    attributes = [{"sex": str(s), "age": str(a)} for s, a in zip(sex, age, strict=True)]
    found = demographics(attributes, y.tolist(), list(range(50)), list(range(50, 60)))
    np.testing.assert_allclose(found[50:], y[50:], atol=1e-9)


def test_look_up_by_hand() -> None:
    c = corpus([1.0, 3.0, 8.0, 0.0, 0.0], traits=ONE, persons=["a", "a", "b", "a", "c"])
    found = ladder(c, [fold([0, 1, 2], [3, 4])])["identity look-up"].scores[:, 0]
    np.testing.assert_allclose(found, [NAN, NAN, NAN, (1 + 3 + 4) / 3, 4.0])


def test_look_up_never_sees_the_row_s_own_label() -> None:
    labels, persons = np.array([1.0, 3.0, 8.0]), ["a", "a", "b"]
    every = [fold([0, 1, 2], [0, 1, 2])]
    found = ladder(corpus(labels, traits=ONE, persons=persons), every)["identity look-up"].scores[:, 0]
    np.testing.assert_allclose(found, [(3 + 5.5) / 2, (1 + 4.5) / 2, 2.0])
    for row in range(3):
        other = labels.copy()
        other[row] = -50.0
        changed = ladder(corpus(other, traits=ONE, persons=persons), every)["identity look-up"].scores[:, 0]
        assert changed[row] == pytest.approx(found[row])


def test_look_up_counts_known_labels_only() -> None:
    c = corpus([[1.0, NAN], [3.0, 6.0], [8.0, 2.0], [0.0, 0.0]], persons=["a", "a", "b", "a"])
    found = ladder(c, [fold([0, 1, 2], [0, 3])])["identity look-up"].scores
    np.testing.assert_allclose(found[3], [(1 + 3 + 4) / 3, (6 + 4) / 2])
    np.testing.assert_allclose(found[0], [(3 + 5.5) / 2, (6 + 4) / 2])


def test_no_look_up_where_no_fold_shares_a_person() -> None:
    c = corpus([1.0, 2.0, 3.0], traits=ONE, persons=["a", "b", "b"])
    assert "identity look-up" not in ladder(c, [fold([1, 2], [0])])
    assert "identity look-up" not in ladder(c, [fold([0, 1], [0, 1])]), "a row shares nothing with itself"
    assert "identity look-up" in ladder(c, [fold([1, 2], [0]), fold([0, 1], [2])])


# ---------------------------------------------------------------------------------------------------- streams


def planted(rows: int, width: int, seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (rows, width), correlated and on odd scales, and two labels that are linear in them, plus noise."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(rows, width)) @ draw.normal(size=(width, width)) + draw.normal(size=width)
    inputs = (inputs * 10 ** draw.uniform(-2, 2, size=width)).astype(np.float32)
    unit = (inputs - inputs.mean(0)) / inputs.std(0)
    labels = unit @ draw.normal(size=(width, 2)) / width
    return inputs, labels + noise * draw.normal(size=(rows, 2))


@pytest.mark.parametrize("width", [3, 30, 200])
def test_ridge_equals_scikit_learn_at_the_penalty_that_it_chooses(width: int) -> None:
    x, y = planted(100, width)
    found = ladder(corpus(y, features={"voice": x}), [fold(range(80), range(80, 100))])["ridge: voice"].scores
    for trait in range(2):
        expected = [
            make_pipeline(StandardScaler(), Ridge(penalty)).fit(x[:80].astype(float), y[:80, trait]).predict(x[80:])
            for penalty in baselines.PENALTIES
        ]
        assert np.abs(np.array(expected) - found[80:, trait]).max(axis=1).min() < 1e-6


def test_ridge_weights_equal_generalised_cross_validation_written_out() -> None:
    x, y = planted(40, 8, seed=3)
    x, y = StandardScaler().fit_transform(x.astype(np.float64)), y - y.mean(axis=0)
    criteria, weights = [], []
    for penalty in baselines.PENALTIES:
        weights.append(linalg.solve(x.T @ x + penalty * np.eye(8), x.T @ y))
        hat = x @ linalg.solve(x.T @ x + penalty * np.eye(8), x.T) + 1 / 40
        criteria.append(((y - x @ weights[-1]) ** 2).sum(axis=0) / np.trace(np.eye(40) - hat) ** 2)
    best = np.argmin(criteria, axis=0)
    expected = np.stack([weights[best[k]][:, k] for k in range(2)], axis=1)
    assert best.min() > 0
    assert best.max() < len(baselines.PENALTIES) - 1
    np.testing.assert_allclose(baselines._ridge(x, y), expected, atol=1e-9)


def test_both_sides_of_ridge_agree() -> None:
    """With as many columns again that say the same, the fit goes through XX' and must predict the same."""
    x, y = planted(40, 30, seed=4)
    x = StandardScaler().fit_transform(x.astype(np.float64))
    twice = np.concatenate([x, x], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(twice @ baselines._ridge(twice, y), x @ baselines._ridge(x, y), atol=1e-8)


def test_ridge_is_as_good_as_leave_one_out_regularisation() -> None:
    x, y = planted(600, 40, seed=5, noise=0.1)
    found = ladder(corpus(y, features={"voice": x}), [fold(range(300), range(300, 600))])["ridge: voice"].scores[300:]
    other = make_pipeline(StandardScaler(), RidgeCV(baselines.PENALTIES, alpha_per_target=True)).fit(x[:300], y[:300])
    ours, theirs = (np.mean((y[300:] - scores) ** 2) for scores in (found, other.predict(x[300:])))
    assert ours == pytest.approx(theirs, rel=0.01)
    assert ours < 0.7 * np.var(y[300:])


def test_large_fits_in_single_precision_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = planted(150, 120, seed=6)
    c, folds = corpus(y, features={"face": x}), [fold(range(120), range(120, 150))]
    exact = ladder(c, folds)["ridge: face"].scores[120:]
    monkeypatch.setattr(baselines, "LARGE_FIT", 10)
    np.testing.assert_allclose(ladder(c, folds)["ridge: face"].scores[120:], exact, atol=2e-3)


def test_missing_labels_are_masked_per_trait() -> None:
    x, y = planted(60, 4, seed=7)
    holes = y.copy()
    holes[[1, 5, 9], 1] = NAN
    folds = [fold(range(50), range(50, 60))]
    with_holes = ladder(corpus(holes, features={"voice": x}), folds)["ridge: voice"].scores[50:]
    kept = [row for row in range(50) if row not in (1, 5, 9)]
    without = ladder(corpus(y, features={"voice": x}), [fold(kept, range(50, 60))])["ridge: voice"].scores[50:]
    whole = ladder(corpus(y, features={"voice": x}), folds)["ridge: voice"].scores[50:]
    np.testing.assert_allclose(with_holes[:, 0], whole[:, 0])
    np.testing.assert_allclose(with_holes[:, 1], without[:, 1])
    assert np.abs(whole[:, 1] - without[:, 1]).max() > 1e-6


def test_absent_rows_are_neither_fitted_on_nor_scored() -> None:
    x, y = planted(60, 4, seed=8)
    gone = x.copy()
    gone[[0, 3, 55]], gone[4, 2] = NAN, NAN
    found = ladder(corpus(y, features={"voice": gone}), [fold(range(50), range(50, 60))])["ridge: voice"]
    present = [row for row in range(50) if row not in (0, 3, 4)]
    expected = ladder(corpus(y, features={"voice": x}), [fold(present, range(50, 60))])["ridge: voice"].scores
    assert np.flatnonzero(np.isfinite(found.scores[:, 0])).tolist() == [50, 51, 52, 53, 54, 56, 57, 58, 59]
    np.testing.assert_allclose(np.delete(found.scores[50:], 5, axis=0), np.delete(expected[50:], 5, axis=0))
    assert found.about == "sees voice (4 numbers): ridge regression; fitted on 47 training rows"


def test_streams_are_put_together_where_rows_have_them_together() -> None:
    x, y = planted(60, 6, seed=9)
    voice, face, text = (x[:, some].copy() for some in (slice(0, 2), slice(2, 4), slice(4, 6)))
    voice[:30], face[30:] = NAN, NAN
    folds = [fold([*range(25), *range(30, 55)], [*range(25, 30), *range(55, 60)])]
    found = ladder(corpus(y, features={"voice": voice, "face": face, "text": text}), folds)
    names = [name.removeprefix("ridge: ") for name in found if name.startswith("ridge")]
    assert names == ["voice", "face", "text", "voice + text", "face + text"]
    both = ladder(corpus(y, features={"both": np.c_[voice, text]}), folds)["ridge: both"]
    np.testing.assert_allclose(found["ridge: voice + text"].scores, both.scores)


def test_with_many_streams_only_each_and_all() -> None:
    x, y = planted(40, 5)
    found = ladder(corpus(y, features={name: x[:, [i]] for i, name in enumerate("vwxyz")}), [fold(range(30), [30])])
    names = [name for name in found if name.startswith("ridge")]
    assert names == [*(f"ridge: {name}" for name in "vwxyz"), "ridge: v + w + x + y + z"]


def test_a_fold_without_the_needed_rows_scores_nothing() -> None:
    x, y = planted(40, 2)
    x[:30] = NAN
    folds = [fold(range(20), [38, 39]), fold(range(20, 38), [36, 37])]
    found = ladder(corpus(y, features={"voice": x}), folds)
    assert np.flatnonzero(np.isfinite(found["ridge: voice"].scores[:, 0])).tolist() == [36, 37]
    assert "ridge: voice" not in ladder(corpus(y, features={"voice": x}), folds[:1])
    assert "ridge: voice" not in ladder(corpus(y, features={"voice": x}), [fold(range(26, 34), [38])]), "4 of 5 rows"


def test_constant_columns_and_constant_labels_do_no_harm() -> None:
    x, y = planted(40, 3)
    x[:, 1], y[:, 1] = 0.1, 0.7
    found = ladder(corpus(y, features={"voice": x, "flat": x[:, [1]]}), [fold(range(30), range(30, 40))])
    expected = ladder(corpus(y, features={"voice": x[:, [0, 2]]}), [fold(range(30), range(30, 40))])
    np.testing.assert_allclose(found["ridge: voice"].scores, expected["ridge: voice"].scores)
    np.testing.assert_allclose(found["ridge: voice"].scores[30:, 1], 0.7)
    np.testing.assert_allclose(found["ridge: flat"].scores, found["training mean"].scores)


def test_scores_stay_inside_the_schema_s_bounds() -> None:
    x = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
    x[19], y = 30.0, np.clip(x[:, 0], 0, 1)
    folds = [fold(range(15), [19])]
    low = Trait(name="a", low=0.0, high=1.0), Trait(name="b", kind="binary"), Trait(name="c")
    scores = ladder(corpus(np.stack([y, y, y], 1), traits=low, features={"v": x}), folds)["ridge: v"].scores[19]
    assert scores[:2].tolist() == [1.0, 1.0]
    assert scores[2] > 5


def test_trees_find_what_a_line_cannot_and_need_enough_rows() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(700, 3)).astype(np.float32)
    y = np.abs(x[:, :2]) + 0.1 * draw.normal(size=(700, 2))
    words = ["word " * (1 + i % 9) for i in range(700)]
    found = ladder(corpus(y, features={"v": x}, texts=words), [fold(range(500), range(500, 700))])
    trees, line = (found[name].scores[500:] for name in ("boosted trees: v + length", "ridge: v"))
    assert np.corrcoef(trees[:, 0], y[500:, 0])[0, 1] > 0.9
    assert abs(np.corrcoef(line[:, 0], y[500:, 0])[0, 1]) < 0.3
    few = ladder(corpus(y, features={"v": x, "w": np.tile(x, (1, 22))}), [fold(range(99), range(500, 700))])
    assert [name for name in few if name.startswith("boosted")] == []
    wide = ladder(corpus(y, features={"v": x, "w": np.tile(x, (1, 22))}), [fold(range(100), range(500, 510))])
    assert [name for name in wide if name.startswith("boosted")] == ["boosted trees: v"]


# ---------------------------------------------------------------------------------------------------- words


def talkers(rows: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Transcripts of one length in which the share of one word decides the labels."""
    draw = np.random.default_rng(seed)
    share = draw.uniform(size=rows)
    filler = [f"word{i}" for i in range(50)]
    texts = [" ".join("great" if draw.uniform() < s else draw.choice(filler) for _ in range(30)) for s in share]
    return texts, np.stack([share, 1 - share], axis=1)


def test_tfidf_ridge_equals_scikit_learn_at_a_penalty_of_its_grid() -> None:
    texts, y = talkers(120)
    found = ladder(corpus(y, traits=UNIT, texts=texts), [fold(range(100), range(100, 120))])["TF-IDF ridge"].scores
    weights = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(texts[:100])
    known, asked = weights.transform(texts[:100]), weights.transform(texts[100:])
    for trait in range(2):
        expected = [
            Ridge(penalty, solver="sparse_cg", tol=1e-8).fit(known, y[:100, trait]).predict(asked)
            for penalty in baselines.TEXT_PENALTIES
        ]
        assert np.abs(np.clip(expected, 0, 1) - found[100:, trait]).max(axis=1).min() < 1e-3
    assert np.corrcoef(found[100:, 0], y[100:, 0])[0, 1] > 0.8


def test_penalty_of_words_is_the_best_on_held_out_persons() -> None:
    texts, y = talkers(150)
    words = TfidfVectorizer().fit_transform(texts)
    held = np.arange(150) >= 120
    errors = [
        ((Ridge(p, solver="sparse_cg").fit(words[~held], y[~held]).predict(words[held]) - y[held]) ** 2).mean(axis=0)
        for p in baselines.TEXT_PENALTIES
    ]
    expected = np.array(baselines.TEXT_PENALTIES)[np.argmin(errors, axis=0)]
    np.testing.assert_array_equal(baselines._text_penalties(words, y, held), expected)
    np.testing.assert_array_equal(baselines._text_penalties(words, y, np.arange(150) >= 146), [4.0, 4.0])


def test_penalty_of_words_is_chosen_over_persons() -> None:
    """Who repeats a text repeats its labels: dividing persons would choose to learn texts by heart."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice([f"word{i}" for i in range(200)], 30)) for _ in range(40)]
    rows, y = np.repeat(np.arange(40), 5), draw.uniform(size=(40, 2))
    said = [texts[row] for row in rows]
    c = corpus(y[rows], texts=said, persons=[f"p{row}" for row in rows])
    found = ladder(c, [fold(range(150), range(150, 200))])["TF-IDF ridge"].scores[150:]
    weights = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(said[:150])
    known, asked = weights.transform(said[:150]), weights.transform(said[150:])
    strongest = Ridge(baselines.TEXT_PENALTIES[-1], solver="sparse_cg", tol=1e-8).fit(known, y[rows][:150])
    np.testing.assert_allclose(found, strongest.predict(asked), atol=1e-3)


def test_clips_without_words_get_no_score_from_words() -> None:
    texts: list[str | None] = [*talkers(60)[0]]
    texts[2], texts[57], texts[58] = None, None, "  "
    found = ladder(corpus(talkers(60)[1], texts=texts), [fold(range(50), range(50, 60))])
    for name in ("TF-IDF ridge", "ridge: length"):
        assert np.flatnonzero(np.isfinite(found[name].scores[:, 0])).tolist() == [50, 51, 52, 53, 54, 55, 56, 59]
        assert "49 training rows" in found[name].about


def test_texts_that_share_no_word_are_no_floor() -> None:
    found = ladder(corpus(np.arange(24.0), texts=[f"only{i}" for i in range(12)]), [fold(range(10), [10, 11])])
    assert "TF-IDF ridge" not in found


def test_length_is_words_and_their_logarithm() -> None:
    draw = np.random.default_rng(0)
    words = draw.integers(1, 100, size=80)
    y = np.stack([0.01 * words, np.log1p(words)], axis=1)
    texts = ["a " * n for n in words]
    found = ladder(corpus(y, texts=texts), [fold(range(60), range(60, 80))])["ridge: length"].scores[60:]
    np.testing.assert_allclose(found, y[60:], atol=0.03)


# ---------------------------------------------------------------------------------------------------- among, order


def test_among_fits_single_inputs_on_these_rows_and_leaves_out_what_stays() -> None:
    x, y = planted(80, 4, seed=11)
    voice, text = x[:, :2].copy(), x[:, 2:]
    voice[40:60] = NAN
    has_voice = np.isfinite(voice).all(axis=1)
    texts, attributes = talkers(80)[0], [{"sex": "fm"[i % 2]} for i in range(80)]
    c = corpus(y, features={"voice": voice, "text": text}, texts=texts, attributes=attributes, persons=["p"] * 80)
    folds = [fold(range(60), range(60, 80))]
    found = ladder(c, folds, among=has_voice)
    assert sorted(found) == [
        "TF-IDF ridge (these rows)",
        "ridge: length (these rows)",
        "ridge: text (these rows)",
    ]
    alone = ladder(corpus(y, features={"text": text}), [fold(range(40), range(60, 80))])["ridge: text"]
    np.testing.assert_allclose(found["ridge: text (these rows)"].scores, alone.scores)
    assert "fitted on 40 training rows" in found["ridge: text (these rows)"].about
    assert ladder(c, folds, among=np.ones(80, np.bool_)) == {}


def everything(rows: int, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    x, y = planted(rows, 6, seed=seed)
    y[draw.choice(rows, 9), 0] = NAN
    voice = x[:, :3].copy()
    voice[draw.choice(rows, rows // 4, replace=False)] = NAN
    return {
        "labels": y,
        "persons": np.array([f"p{i // 3}" for i in range(rows)]),
        "attributes": np.array([{"sex": "fm"[i % 2]} for i in range(rows)]),
        "texts": np.array(talkers(rows, seed)[0], dtype=object),
        "voice": voice,
        "text": x[:, 3:],
        "ids": np.array([f"clip{i}" for i in range(rows)]),
    }


def climbed(parts: Mapping[str, Any], order: np.ndarray, trained: np.ndarray, *, ids: bool) -> dict[str, Floor]:
    """The ladder over rows put in `order`, scores back in the order of `parts`."""
    c = corpus(
        parts["labels"][order],
        features={name: parts[name][order] for name in ("voice", "text")},
        **{name: parts[name][order].tolist() for name in ("persons", "attributes", "texts", *(["ids"] if ids else []))},
    )
    found = ladder(c, [fold(np.flatnonzero(trained[order]), np.flatnonzero(~trained[order]))])
    back = np.argsort(order)
    return {name: Floor(about=floor.about, scores=floor.scores[back]) for name, floor in found.items()}


@pytest.mark.parametrize("ids", [True, False])
def test_the_order_of_rows_does_not_matter(ids: bool) -> None:
    parts = everything(180, seed=2)
    trained = np.random.default_rng(0).uniform(size=180) < 0.8
    plain = climbed(parts, np.arange(180), trained, ids=ids)
    mixed = climbed(parts, np.random.default_rng(1).permutation(180), trained, ids=ids)
    assert len(plain) == len(mixed) == 13
    for name, floor in plain.items():
        assert mixed[name].about == floor.about
        if ids:
            assert mixed[name].scores.tobytes() == floor.scores.tobytes(), name
        else:
            np.testing.assert_allclose(mixed[name].scores, floor.scores, atol=1e-4, err_msg=name)


def test_no_floor_sees_a_label_that_it_is_judged_by() -> None:
    parts = everything(150, seed=3)
    trained = np.arange(150) < 120
    plain = climbed(parts, np.arange(150), trained, ids=True)
    labels = np.where(trained[:, None], parts["labels"], 77.0)
    other = climbed({**parts, "labels": labels}, np.arange(150), trained, ids=True)
    for name, floor in plain.items():
        np.testing.assert_array_equal(other[name].scores, floor.scores, err_msg=name)


def test_parts_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows: labels 3, persons 2, .*expected the same number"):
        ladder(corpus([1.0, 2.0, 3.0], traits=ONE, persons=["a", "b"]), [])
    with pytest.raises(ValueError, match=r"labels 1, .*features voice 2"):
        ladder(corpus([1.0], traits=ONE, features={"voice": np.zeros((2, 1), np.float32)}), [])


def test_ten_clips_are_enough_for_a_ladder() -> None:
    parts = everything(10, seed=4)
    parts["labels"] = np.linspace(0, 1, 20).reshape(10, 2)
    found = climbed(parts, np.arange(10), np.arange(10) < 8, ids=True)
    assert {"training mean", "training median", "demographics", "TF-IDF ridge", "ridge: text"} <= found.keys()
    assert all(np.isfinite(floor.scores[8:]).any() for floor in found.values())


# ---------------------------------------------------------------------------------------------------- real labels


@pytest.fixture(scope="module")
def first_impressions(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> manifests.Manifest:
    """The corpus as its tool prepares it."""
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "tools" / "prepare_first_impressions.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    out = tmp_path_factory.mktemp("first_impressions")
    tool.prepare(real_data / "data" / "first_impressions", out)
    return manifests.read(out)


def real_corpus(found: manifests.Manifest, streams: tuple[str, ...]) -> Corpus:
    features = {}
    for stream in streams:
        rows = [row for row, clip in enumerate(found.clips) if stream in clip.features]
        arrays = manifests.read_features(found.folder, [found.clips[row].features[stream] for row in rows])
        features[stream] = np.full((len(found.clips), arrays[0].shape[1]), NAN, np.float32)
        features[stream][rows] = np.concatenate(arrays)
    return Corpus(
        labels=found.labels,
        persons=[clip.person or clip.id for clip in found.clips],
        attributes=[clip.attributes for clip in found.clips],
        texts=transcripts(found.clips),
        features=features,
        schema=found.schema,
        ids=[clip.id for clip in found.clips],
    )


def means(found: manifests.Manifest, floor: Floor, rows: np.ndarray) -> dict[str, float]:
    rows = rows[np.isfinite(floor.scores[rows, 0])]
    ids = [found.clips[row].id for row in rows]
    return dict(metrics.table(found.labels[rows], floor.scores[rows], ids, found.schema)["mean"])


def learnt(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([parts["train"], parts["val"]])


def test_real_labels_official_split(first_impressions: manifests.Manifest) -> None:
    """The corpus's own split leaks: who the person is beats what is said. Figures: the README beside the data."""
    parts = assign(first_impressions, split="official")
    c = real_corpus(first_impressions, ())
    published = {
        "val": {"training mean": 0.8834, "TF-IDF ridge": 0.8870, "identity look-up": 0.9094},
        "test": {"training mean": 0.8815, "TF-IDF ridge": 0.8851, "identity look-up": 0.9113},
    }
    for split, expected in published.items():
        found = ladder(c, [fold(parts["train"], parts[split])])
        for name, one_minus_mae in expected.items():
            mean = means(first_impressions, found[name], parts[split])
            assert mean["one_minus_mae"] == pytest.approx(one_minus_mae, abs=0.001), (split, name)


def test_real_labels_out_of_fold_over_persons(first_impressions: manifests.Manifest) -> None:
    c = real_corpus(first_impressions, ("voice",))
    parts = [assign(first_impressions, split="kfold", member=member) for member in range(5)]
    found = ladder(c, [fold(learnt(part), part["test"]) for part in parts])
    assert "identity look-up" not in found
    has_voice = np.flatnonzero(np.isfinite(c.features["voice"]).all(axis=1))
    assert len(has_voice) == 7998
    for name, published in {
        "training mean": {"one_minus_mae": 0.8809, "r2": 0.0},
        "ridge: voice": {"one_minus_mae": 0.8911, "pearson": 0.384, "ccc": 0.269, "r2": 0.149},
        "boosted trees: voice + length": {"one_minus_mae": 0.8923, "pearson": 0.406, "r2": 0.164},
    }.items():
        mean = means(first_impressions, found[name], has_voice)
        for metric, value in published.items():
            assert mean[metric] == pytest.approx(value, abs=0.001 if metric == "one_minus_mae" else 0.01), (
                name,
                metric,
            )


@pytest.mark.slow
def test_real_labels_faces(first_impressions: manifests.Manifest) -> None:
    c = real_corpus(first_impressions, ("face",))
    parts = [assign(first_impressions, split="kfold", member=member) for member in range(5)]
    found = ladder(c, [fold(learnt(part), part["test"]) for part in parts])["ridge: face"]
    mean = means(first_impressions, found, np.flatnonzero(np.isfinite(c.features["face"]).all(axis=1)))
    assert mean["one_minus_mae"] == pytest.approx(0.8891, abs=0.001)
    assert mean["pearson"] == pytest.approx(0.320, abs=0.01)
