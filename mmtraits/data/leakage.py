"""What evaluated rows share with training rows: persons and transcripts, and how far knowing the person alone goes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.manifest import Manifest
from mmtraits.data.texts import transcripts
from mmtraits.schema import TraitSchema

Rows = NDArray[np.int64]
Persons = Sequence[str | None]
Texts = Sequence[str | None]
Labels = NDArray[np.float64]

JACCARD = 0.8  # from here on two transcripts are nearly the same
MIN_WORDS = 8  # shorter texts are alike by chance
_SHINGLE_WORDS = 3
_SKETCH = 1000  # shingles kept of one text: up to so many the Jaccard index is exact, beyond it is estimated
_MOST = 20  # texts looked at per shingle: where every clip reads out the same words, any of them will do
_CJK = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")  # without spaces between words, a character counts as one


class Duplicate(NamedTuple):
    """A row whose transcript is nearly that of the row `of`: the nearest one found, by the Jaccard index."""

    row: int
    of: int
    jaccard: float


class LookUp(NamedTuple):
    """1 − MAE of `look_up` and of the training mean: the mean over traits on the unit scale, NaN without a scale."""

    score: float
    training_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """What rows outside training share with it, counted in rows outside; None where no row names its person.

    persons: the shared ones, sorted. look_ups: of each split that shares persons with training.
    """

    persons: tuple[str, ...] | None
    clips_shared: int | None
    duplicates: tuple[Duplicate, ...]
    look_ups: Mapping[str, LookUp]

    @property
    def persons_shared(self) -> int | None:
        """How many persons are both in training and outside."""
        return None if self.persons is None else len(self.persons)

    @property
    def near_duplicates(self) -> int:
        """How many rows outside say nearly what a training row says."""
        return len(self.duplicates)


def report(manifest: Manifest, rows: Mapping[str, Rows], *, texts: Texts | None = None) -> Leak:
    """Compare the rows under `train` with those under every other name; `texts` (N,): of all clips, if known."""
    ids = np.array([clip.id for clip in manifest.clips], np.str_)
    rows = {name: own[np.argsort(ids[own], kind="stable")] for name, own in rows.items()}
    train = rows["train"]
    outside = {name: own for name, own in rows.items() if name != "train"}
    others = np.concatenate([*outside.values(), train[:0]])
    persons = [clip.person for clip in manifest.clips]
    shared, clips = shared_rows(persons, train, others)
    texts = transcripts(manifest.clips) if texts is None else texts
    return Leak(
        persons=shared if any(persons) else None,
        clips_shared=len(clips) if any(persons) else None,
        duplicates=tuple(near_duplicates(texts, train, others)),
        look_ups={
            name: _judged(manifest, train, own)
            for name, own in outside.items()
            if len(shared_rows(persons, train, own)[1])
        },
    )


# ---------------------------------------------------------------------------------------------------- persons


def shared_rows(persons: Persons, train: Rows, rows: Rows) -> tuple[tuple[str, ...], Rows]:
    """The persons of `rows` who also occur in `train`, sorted, and their rows among `rows`."""
    trained = {persons[row] for row in train} - {None}
    found = np.array([row for row in rows if persons[row] in trained], np.int64)
    return tuple(sorted({str(persons[row]) for row in found})), found


def shared_persons(persons: Persons, rows: Mapping[str, Rows]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Who is in two splits, for each pair of splits that has anybody in common."""
    found = {(a, b): shared_rows(persons, rows[a], rows[b])[0] for a, b in combinations(rows, 2)}
    return {pair: who for pair, who in found.items() if who}


def between(manifest: Manifest, members: Sequence[Mapping[str, Rows]]) -> tuple[int | None, int | None]:
    """Persons both in training and outside, and the clips of theirs outside, of all members together.

    None, None where no row names its person: then nothing can tell.
    """
    persons = [clip.person for clip in manifest.clips]
    if not any(persons):
        return None, None
    who, clips = set[str](), set[int]()
    for rows in members:
        outside = np.concatenate([own for split, own in rows.items() if split != "train"])
        shared, found = shared_rows(persons, rows["train"], outside)
        who.update(shared)
        clips.update(found.tolist())
    return len(who), len(clips)


def refusal(manifest: Manifest, persons: int, clips: int | None) -> str:
    """Why nothing is trained on such a split, and what to do."""
    return (
        f"{counted(persons, 'person')} of {manifest.path} both in training and in validation or test, with "
        f"{counted(clips or 0, 'clip')} there: scores would tell who is recognised. Use protocol.split=kfold or "
        "holdout with protocol.by=person; to compare with papers that divided persons, protocol.allow_leakage=true"
    )


def counted(count: int, noun: str) -> str:
    """`1 clip`, `2,000 clips`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def look_up(labels: Labels, persons: Persons, train: Rows, rows: Rows) -> Labels:
    """What other training labels of the same person say of `rows`, without any content: (n, K).

    (sum of the person's training labels but the row's own + training mean) / (their number + 1) per trait: a person
    whom training does not know gets the training mean. labels (N, K), NaN = unknown; NaN for a trait that training
    does not know.
    """
    names = [f"clip {row}" if person is None else f"person {person}" for row, person in enumerate(persons)]
    _, owner = np.unique(names, return_inverse=True)
    known = np.isfinite(labels)
    values = np.where(known, labels, 0.0)
    sums, counts = np.zeros((2, len(persons), labels.shape[1]))
    np.add.at(sums, owner[train], values[train])
    np.add.at(counts, owner[train], known[train])
    trained = counts.sum(axis=0)
    mean = np.where(trained > 0, sums.sum(axis=0) / np.maximum(trained, 1), np.nan)
    own = np.isin(rows, train)[:, None] & known[rows]
    found: Labels = (sums[owner[rows]] - values[rows] * own + mean) / (counts[owner[rows]] - own + 1)
    return found


def _judged(manifest: Manifest, train: Rows, rows: Rows) -> LookUp:
    """The look-up, and the same where nobody is known: the training mean."""
    persons = [clip.person for clip in manifest.clips]
    scores = (look_up(manifest.labels, who, train, rows) for who in (persons, [None] * len(persons)))
    return LookUp(*(_one_minus_mae(manifest.labels[rows] - each, manifest.schema) for each in scores))


def _one_minus_mae(errors: Labels, schema: TraitSchema) -> float:
    found = []
    for trait, error in zip(schema.traits, np.abs(errors).T, strict=True):
        low, high = (0.0, 1.0) if trait.kind == "binary" else (trait.low, trait.high)
        width = np.nan if low is None or high is None else high - low
        if np.isfinite(error).any():
            found.append(1 - float(np.nanmean(error)) / width)
    return float(np.mean(found)) if found else float("nan")


# ---------------------------------------------------------------------------------------------------- transcripts


def words(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


def near_duplicates(texts: Texts, train: Rows, rows: Rows, jaccard: float = JACCARD) -> list[Duplicate]:
    """The rows whose text is nearly that of another row in `train`: Jaccard index of sets of three words (Broder 1997).

    A row that is in `train` is compared with the others. Texts of fewer than `MIN_WORDS` words are left out. A text can
    only be near if it shares one of a row's rarest shingles (prefix filter, Chaudhuri et al. 2006), so 10,000
    transcripts take seconds.
    """
    sketches = _sketches(texts, np.union1d(train, rows))
    everything = np.concatenate([np.zeros(0, np.uint64), *sketches.values()])
    shingles, counts = np.unique(everything, return_counts=True)
    rare = {row: _rarest(one, shingles, counts, jaccard) for row, one in sketches.items()}
    holders: dict[int, list[int]] = {}
    for row in (int(row) for row in train if row in sketches):
        for shingle in rare[row]:
            holders.setdefault(shingle, []).append(row)
    nearest = (_nearest(int(row), sketches, rare[row], holders) for row in rows if row in sketches)
    return [found for found in nearest if found is not None and found.jaccard >= jaccard]


def _sketches(texts: Texts, rows: Rows) -> dict[int, NDArray[np.uint64]]:
    """Hashes of runs of three words, ascending, for each row whose text is long enough."""
    known: dict[str, int] = {}
    found = {}
    for row in rows.tolist():
        if len(said_words := words(texts[row] or "")) >= MIN_WORDS:
            codes = np.array([_code(word, known) for word in said_words], np.uint64)
            runs = len(codes) - _SHINGLE_WORDS + 1
            mixed = codes[:runs]
            for step in range(1, _SHINGLE_WORDS):
                mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15) + codes[step : step + runs]
            found[row] = np.unique(mixed)[:_SKETCH]
    return found


def _code(word: str, known: dict[str, int]) -> int:
    if word not in known:
        known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
    return known[word]


def _rarest(
    sketch: NDArray[np.uint64], shingles: NDArray[np.uint64], counts: NDArray[np.int64], jaccard: float
) -> list[int]:
    """So many of the rarest shingles that a near text must share one of them; those that nobody shares left out."""
    place = np.searchsorted(shingles, sketch)
    order = np.lexsort((place, counts[place]))
    prefix = place[order][: len(sketch) - int(np.ceil(jaccard * len(sketch))) + 1]
    rare: list[int] = prefix[counts[prefix] > 1].tolist()
    return rare


def _nearest(
    row: int, sketches: Mapping[int, NDArray[np.uint64]], rare: Sequence[int], holders: Mapping[int, Sequence[int]]
) -> Duplicate | None:
    votes = Counter(other for shingle in rare for other in holders.get(shingle, ())[: _MOST + 1] if other != row)
    best: Duplicate | None = None
    for other, _ in votes.most_common(_MOST):
        found = Duplicate(row, other, _jaccard(sketches[row], sketches[other]))
        best = found if best is None or found.jaccard > best.jaccard else best
        if best.jaccard == 1:
            break
    return best


def _jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Of the smallest hashes of both, the share that is in both (bottom-k sketch); exact where a text is short."""
    union = np.union1d(a, b)[:_SKETCH]
    both = np.intersect1d(a, b, assume_unique=True)
    return float(np.isin(both, union, assume_unique=True).sum() / len(union))
