"""Measures of sentences against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mmtraits.media.features import contours, lexicon


def measured(*window: str) -> dict[str, float]:
    return dict(zip(contours.NAMES, contours.measures(window), strict=True))


def test_values_by_hand():
    """Six words, of 3, 3, 3, 9, 2, 2 letters and 1, 1, 1, 3, 1, 1 syllables (beau-ti-ful)."""
    found = measured("The cat was beautiful!", "Is it?")
    expected = {
        "words_per_sentence": 3, "sentence_length_sd": 1, "letters_per_word": 22 / 6, "syllables_per_word": 8 / 6,
        "long_word_share": 1 / 6, "complex_word_share": 1 / 6, "type_token_ratio": 1, "root_type_token_ratio": 6**0.5,
        "once_share": 1, "mtld": 6, "flesch_reading_ease": 206.835 - 1.015 * 3 - 84.6 * 8 / 6,
        "flesch_kincaid_grade": 0.39 * 3 + 11.8 * 8 / 6 - 15.59, "gunning_fog": 0.4 * (3 + 100 / 6),
        "automated_readability": 4.71 * 22 / 6 + 1.5 - 21.43, "coleman_liau": 5.88 * 22 / 6 - 29.6 / 3 - 15.8,
        "lix": 3 + 100 / 6, "exclamation_per_word": 1 / 6, "question_per_word": 1 / 6, "comma_per_word": 0,
        "capital_share": 2 / 24, "article_share": 1 / 6, "auxiliary_share": 2 / 6, "pronoun_impersonal_share": 1 / 6,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("word", "count"), [("make", 1), ("table", 2), ("see", 1), ("idea", 2), ("the", 1), ("rhythm", 1), ("hmm", 1)]
)
def test_syllables(word, count):
    assert contours.syllables(word) == count


def test_mtld_by_hand():
    """`a a` falls to a ratio of .5 after two words: every stretch is two words long."""
    assert contours.mtld(["a"] * 10) == 2
    assert contours.mtld(["a", "b", "c"]) == 3
    half = 0.5 * (10 + 10)  # ten words in which one comes twice: (1 - .9) / .28 of a stretch
    assert contours.mtld(list("abcdefghia")) == pytest.approx(half)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two. Three! \"Four?\" 'Five.' six", ["One two.", "Three!", '"Four?"', "'Five.'", "six"]),
        ("3.5 times 7 is nothing", ["3.5 times 7 is nothing"]),
        ("...! 12. Well…", ["Well…"]),
        ("  ", []),
    ],
)
def test_sentences(text, expected):
    assert contours.sentences(text) == expected


def test_speech_without_punctuation_is_cut():
    assert [len(s.split()) for s in contours.sentences("so " * 70)] == [20, 20, 20, 10]
    assert len(contours.sentences("so " * 60)) == 1
    assert len(contours.sentences("So. " * 1000)) == contours.MAX_SENTENCES


def test_a_contour_goes_on_by_one_sentence():
    text = "I ran. You sat down. It rained hard yesterday. We know."
    rows = contours.series(text)
    assert rows.shape == (2, len(contours.NAMES))
    np.testing.assert_array_equal(rows[1], np.float32(contours.measures(contours.sentences(text)[1:])))
    assert contours.series("I ran.").shape == (1, len(contours.NAMES))
    assert contours.series("").shape == (0, len(contours.NAMES))


def test_any_text_is_finite():
    for text in ("é", "a", "日本語。", "I'M 12 ((!!??", "x" * 5000, "don’t — “stop”; now: 5%"):
        assert np.isfinite(contours.series(text)).all(), text


def test_shares_of_words():
    said = lexicon.words("I don’t think we'll WIN the 2 games")
    assert said == ["i", "don't", "think", "we'll", "win", "the", "games"]
    found = dict(zip(lexicon.CATEGORIES, lexicon.shares(said).tolist(), strict=True))
    named = {name for name, share in found.items() if share}
    assert named == {
        "pronoun_i",
        "pronoun_we",
        "auxiliary",
        "negation",
        "cognitive",
        "achievement",
        "article",
        "future",
    }
    assert found["article"] == pytest.approx(1 / 7)
