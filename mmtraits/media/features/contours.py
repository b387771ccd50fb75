"""Psycholinguistic measures over a sliding window of sentences: how a text goes on, as a series.

After the text contours of "Pushing on Personality Detection from Verbal Behavior" (WASSA 2022). Its 437 measures come
in part from closed dictionaries; these are open: lengths, diversity, readability, punctuation, word categories.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmtraits.media.features import Source, lexicon
from mmtraits.schema import Raw

SENTENCES = 3  # of one window; the next begins a sentence later
MAX_SENTENCES = 512  # of one text; what comes after is not read
LONGEST_WORDS = 60  # speech without punctuation: what is longer is cut
PIECE_WORDS = 20
LONG_LETTERS = 7
MTLD_THRESHOLD = 0.72  # McCarthy & Jarvis 2010

_MARKS = {
    "comma": ",",
    "question": "?",
    "exclamation": "!",
    "colon": ":;",
    "quote": '"“”«»',
    "bracket": "()[]",
    "dash": "–—-",
    "ellipsis": "…",
}
NAMES = (
    "words_per_sentence", "sentence_length_sd", "letters_per_word", "word_length_sd", "syllables_per_word",
    "long_word_share", "complex_word_share", "type_token_ratio", "root_type_token_ratio", "once_share", "mtld",
    "deflate_ratio", "flesch_reading_ease", "flesch_kincaid_grade", "gunning_fog", "automated_readability",
    "coleman_liau", "lix", *(f"{name}_per_word" for name in _MARKS), "capital_share", "digit_share",
    *(f"{name}_share" for name in lexicon.CATEGORIES),
)  # fmt: skip
REASON = "no_transcript"

_END = re.compile(r"(?<=[.!?…])\s+|(?<=[.!?…][\"”»')\]])\s+")
_SYLLABLE = re.compile(r"[aeiouyàâäéèêëîïôöùûü]+")


def vectors(source: Source) -> Raw:
    """A row per window of sentences, (T, len(NAMES)); T = 0 where nothing is said."""
    rows = series(source.text)
    return Raw(rows, np.ones(len(rows), np.bool_))


def series(text: str) -> NDArray[np.float32]:
    """A text -> its contour (T, len(NAMES)): T = sentences − 2, at least 1; 0 for a text without a word."""
    found = sentences(text)
    starts = range(max(1, len(found) - SENTENCES + 1)) if found else range(0)
    rows = [measures(found[start : start + SENTENCES]) for start in starts]
    return np.asarray(rows, np.float32).reshape(-1, len(NAMES))


def sentences(text: str) -> list[str]:
    """Sentences that hold a word, cut after . ! ? …; longer ones than speech has are cut every `PIECE_WORDS` words."""
    found: list[str] = []
    for sentence in _END.split(text.strip()):
        spaced = sentence.split()
        step = PIECE_WORDS if len(spaced) > LONGEST_WORDS else max(1, len(spaced))
        pieces = (" ".join(spaced[start : start + step]) for start in range(0, len(spaced), step))
        found += [piece for piece in pieces if lexicon.words(piece)]
        if len(found) >= MAX_SENTENCES:
            break
    return found[:MAX_SENTENCES]


def measures(window: Sequence[str]) -> list[float]:
    """The measures of some sentences, each with at least one word, in the order of `NAMES`."""
    per_sentence = [lexicon.words(sentence) for sentence in window]
    said = [word for words in per_sentence for word in words]
    text = " ".join(window)
    lengths = np.array([len(words) for words in per_sentence], float)
    letters = np.array([len(word.replace("'", "")) for word in said], float)
    beats = np.array([syllables(word) for word in said], float)
    n, shown = len(said), max(1, sum(not c.isspace() for c in text))
    return [
        float(lengths.mean()), float(lengths.std()), float(letters.mean()), float(letters.std()), float(beats.mean()),
        float((letters >= LONG_LETTERS).mean()), float((beats >= 3).mean()), *_diversity(said),
        _deflate_ratio(text), *_readability(n / len(window), letters, beats),
        *(sum(text.count(mark) for mark in marks) / n for marks in _MARKS.values()),
        sum(c.isupper() for c in text) / shown, sum(c.isdigit() for c in text) / shown,
        *lexicon.shares(said).tolist(),
    ]  # fmt: skip


def syllables(word: str) -> int:
    """Groups of vowels, a silent final e left out; at least 1."""
    count = len(_SYLLABLE.findall(word))
    silent = word.endswith("e") and not word.endswith(("le", "ee")) and count > 1
    return max(1, count - silent)


def mtld(said: Sequence[str]) -> float:
    """Mean length of stretches whose type-token ratio stays above .72, forwards and backwards (McCarthy & Jarvis 2010).

    At most the number of words: a text in which no word comes twice is one stretch.
    """
    return (_stretch(said) + _stretch(list(reversed(said)))) / 2


def _stretch(said: Sequence[str]) -> float:
    factors, types, tokens = 0.0, set[str](), 0
    for word in said:
        types.add(word)
        tokens += 1
        if len(types) / tokens < MTLD_THRESHOLD:
            factors, types, tokens = factors + 1, set(), 0
    if tokens:
        factors += (1 - len(types) / tokens) / (1 - MTLD_THRESHOLD)
    return len(said) / max(1.0, factors)


def _diversity(said: Sequence[str]) -> tuple[float, float, float, float]:
    """Type-token ratio, Guiraud's root of it, share of words met once, MTLD."""
    counts = Counter(said)
    once = sum(count == 1 for count in counts.values())
    return len(counts) / len(said), len(counts) / math.sqrt(len(said)), once / len(said), mtld(said)


def _deflate_ratio(text: str) -> float:
    """Compressed over plain size, as a measure of redundancy (Kolmogorov's complexity from above)."""
    plain = text.encode()
    return len(zlib.compress(plain, 9)) / len(plain)


def _readability(sentence_words: float, letters: NDArray[np.float64], beats: NDArray[np.float64]) -> tuple[float, ...]:
    """Flesch reading ease, Flesch-Kincaid grade, Gunning fog, automated readability index, Coleman-Liau, LIX."""
    mean_letters, mean_beats = float(letters.mean()), float(beats.mean())
    return (
        206.835 - 1.015 * sentence_words - 84.6 * mean_beats,
        0.39 * sentence_words + 11.8 * mean_beats - 15.59,
        0.4 * (sentence_words + 100 * float((beats >= 3).mean())),
        4.71 * mean_letters + 0.5 * sentence_words - 21.43,
        5.88 * mean_letters - 29.6 / sentence_words - 15.8,
        sentence_words + 100 * float((letters >= LONG_LETTERS).mean()),
    )
