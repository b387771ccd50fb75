"""What any model must beat, fitted on the same training rows: from a constant to ridge regressions on every stream.

Nothing here is tuned on a row that it scores: regularisation is chosen on the training rows alone. A missing label is
left out of the fits of its trait, never filled; a row without the input of a floor gets no score from it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.schema import TraitSchema

Rows = NDArray[np.int64]
Matrix = NDArray[np.float64]
# (rows to fit on, rows to score, traits (k,) that all rows to fit on have labels of) -> scores (rows to score, k)
Fit = Callable[[Rows, Rows, NDArray[np.intp]], Matrix]

TOGETHER = " + "  # between the streams that a floor sees
LENGTH = "length"  # of the transcript; stands beside the streams
FEWEST_ROWS = 5  # with a label; a regression on fewer says nothing
FEWEST_ROWS_FOR_TREES = 100
WIDEST_FOR_TREES = 64
MANY_STREAMS = 4  # with more, pairs are left out: alone and together are enough
LARGE_FIT = 512  # from here on single precision: half the time and memory, and metrics agree to four decimals
PENALTIES = np.logspace(-1, 6, 29)  # ridge on standardised inputs
TEXT_PENALTIES = (1.0, 2.0, 4.0, 8.0, 16.0)  # ridge on TF-IDF rows of unit length


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """N clips as floors see them.

    labels: (N, K) float64 on the schema's scale, NaN = unknown. texts: None = no transcript. features: per stream
    (N, D), one vector per clip; a row that is not all finite = absent. ids (N,) put rows in order before anything is
    summed, so that the same clips in any order give identical bytes; without them the given order counts.
    """

    labels: Matrix
    persons: Sequence[str]
    attributes: Sequence[Mapping[str, str]]
    texts: Sequence[str | None]
    features: Mapping[str, NDArray[np.float32]]
    schema: TraitSchema
    ids: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Row indices of a corpus: what is fitted on `train` scores `test`."""

    train: Rows
    test: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """One baseline: what it sees and what it was fitted on; scores (N, K) float64, NaN where it scores nothing."""

    about: str
    scores: Matrix


def ladder(corpus: Corpus, folds: Sequence[Fold], *, among: NDArray[np.bool_] | None = None) -> dict[str, Floor]:
    """Every floor that these rows allow, by name, the plainest first: fitted on each fold's train, scored on its test.

    A row that several folds test gets the mean of its scores; scores are clipped to the schema's bounds. `among` (N,):
    only the floors that see one stream, or the words, fitted on these rows of train alone, with " (these rows)" behind
    their names; those that this leaves as they were are left out. Raises ValueError where the parts of the corpus
    differ in length.
    """
    _check(corpus, among)
    folds = [_ordered(fold, corpus.ids) for fold in folds]
    found = {}
    for name, rung in _rungs(corpus, folds):
        if among is not None:
            if not rung.content or TOGETHER in name or _unchanged(rung.usable, among, folds):
                continue
            name, rung = f"{name} (these rows)", replace(rung, among=among)
        floor = _climb(corpus, folds, rung)
        if floor is not None:
            found[name] = floor
    return found


# ---------------------------------------------------------------------------------------------------- folds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rung:
    """A floor before it is fitted; `usable` (N,): the rows that have what it sees."""

    about: str
    fit: Fit
    usable: NDArray[np.bool_]
    among: NDArray[np.bool_]  # rows that may be fitted on
    content: bool = True  # whether it sees what is said or shown
    fewest: int = FEWEST_ROWS


def _check(corpus: Corpus, among: NDArray[np.bool_] | None) -> None:
    parts: dict[str, Any] = {n: getattr(corpus, n) for n in ("labels", "persons", "attributes", "texts", "ids")}
    parts |= {f"features {stream}": values for stream, values in corpus.features.items()} | {"among": among}
    sizes = {name: len(part) for name, part in parts.items() if part is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"rows: {', '.join(f'{name} {n}' for name, n in sizes.items())}; expected the same number")


def _ordered(fold: Fold, ids: Sequence[str] | None) -> Fold:
    train, test = np.asarray(fold.train, np.int64), np.asarray(fold.test, np.int64)
    if ids is None:
        return Fold(train=train, test=test)
    place = np.empty(len(ids), np.int64)
    place[np.argsort(np.asarray(ids, dtype=np.str_), kind="stable")] = np.arange(len(ids))
    return Fold(train=train[np.argsort(place[train])], test=test[np.argsort(place[test])])


def _unchanged(usable: NDArray[np.bool_], among: NDArray[np.bool_], folds: Sequence[Fold]) -> bool:
    return all(bool(among[fold.train][usable[fold.train]].all()) for fold in folds)


def _climb(corpus: Corpus, folds: Sequence[Fold], rung: _Rung) -> Floor | None:
    """Fit and score fold by fold; None where that scores nothing."""
    low, high = _bounds(corpus.schema)
    total, count = np.zeros(corpus.labels.shape), np.zeros(corpus.labels.shape)
    sizes = []
    for fold in folds:
        train = fold.train[rung.usable[fold.train] & rung.among[fold.train]]
        test = fold.test[rung.usable[fold.test]]
        for rows, traits in _labelled(corpus.labels, train):
            if len(rows) >= rung.fewest and len(test):
                scores = np.clip(rung.fit(rows, test, traits), low[traits], high[traits])
                total[np.ix_(test, traits)] += np.nan_to_num(scores)
                count[np.ix_(test, traits)] += np.isfinite(scores)
                sizes.append(len(rows))
    if not count.any():
        return None
    about = f"{rung.about}; fitted on {_range(sizes)} training rows{_of_folds(len(folds))}"
    return Floor(about=about, scores=np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _labelled(labels: Matrix, rows: Rows) -> Iterator[tuple[Rows, NDArray[np.intp]]]:
    """The traits by which of these rows have a label of them: usually all of both, in one go."""
    known = np.isfinite(labels[rows])
    traits_of: dict[bytes, list[int]] = {}
    for trait in range(labels.shape[1]):
        traits_of.setdefault(known[:, trait].tobytes(), []).append(trait)
    for traits in traits_of.values():
        yield rows[known[:, traits[0]]], np.array(traits, np.intp)


def _bounds(schema: TraitSchema) -> tuple[Matrix, Matrix]:
    binary = [trait.kind == "binary" for trait in schema.traits]
    low = [0.0 if b else -np.inf if t.low is None else t.low for b, t in zip(binary, schema.traits, strict=True)]
    high = [1.0 if b else np.inf if t.high is None else t.high for b, t in zip(binary, schema.traits, strict=True)]
    return np.array(low), np.array(high)


def _range(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _of_folds(folds: int) -> str:
    return f" in each of {folds} folds" if folds > 1 else ""


# ---------------------------------------------------------------------------------------------------- the ladder


def _rungs(corpus: Corpus, folds: Sequence[Fold]) -> Iterator[tuple[str, _Rung]]:
    every = np.ones(len(corpus.labels), np.bool_)
    blind = partial(_Rung, usable=every, among=every, content=False)
    y = corpus.labels
    yield "training mean", blind(about="sees nothing: the mean of the labels", fit=partial(_mean, y), fewest=1)
    yield "training median", blind(about="sees nothing: the median of the labels", fit=partial(_median, y), fewest=1)
    names = sorted({name for attributes in corpus.attributes for name in attributes})
    if names:
        about = f"sees {', '.join(names)}: least squares on one-hot levels"
        yield "demographics", blind(about=about, fit=partial(_demographics, corpus, names))
    persons = np.unique(np.asarray(corpus.persons, dtype=np.str_), return_inverse=True)[1]
    if _persons_shared(persons, folds):
        about = "sees who it is: (sum of the person's other training labels + training mean) / (their number + 1)"
        yield "identity look-up", blind(about=about, fit=partial(_look_up, y, persons), fewest=2)
    told = np.array([bool(text and text.strip()) for text in corpus.texts], np.bool_)
    if told.any():
        about = "sees the transcript: ridge regression on TF-IDF of words and pairs of words"
        yield "TF-IDF ridge", _Rung(about=about, fit=_tfidf_fit(corpus), usable=told, among=every)
    yield from _stream_rungs(corpus, every)


def _stream_rungs(corpus: Corpus, every: NDArray[np.bool_]) -> Iterator[tuple[str, _Rung]]:
    """Ridge on each stream, the transcript's length among them, and on those that rows have together; trees."""
    y, streams = corpus.labels, dict(corpus.features)
    if any(corpus.texts):
        streams.setdefault(LENGTH, _lengths(corpus.texts))
    present = {name: np.asarray(np.isfinite(values).all(axis=1)) for name, values in streams.items()}
    for names in _together(present):
        usable = np.logical_and.reduce([present[name] for name in names])
        seen = ", ".join(f"{name} ({streams[name].shape[1]} numbers)" for name in names)
        fit = partial(_ridge_fit, y, [streams[name] for name in names])
        yield (
            f"ridge: {' + '.join(names)}",
            _Rung(about=f"sees {seen}: ridge regression", fit=fit, usable=usable, among=every),
        )
    for name, values in corpus.features.items():
        if values.shape[1] <= WIDEST_FOR_TREES:
            inputs = [values, streams[LENGTH]] if name != LENGTH and LENGTH in streams else [values]
            title = TOGETHER.join([name, LENGTH][: len(inputs)])
            rung = partial(_Rung, about=f"sees {title}: gradient-boosted trees", fit=partial(_trees_fit, y, inputs))
            yield f"boosted trees: {title}", rung(usable=present[name], among=every, fewest=FEWEST_ROWS_FOR_TREES)


def _lengths(texts: Sequence[str | None]) -> NDArray[np.float32]:
    """Words of each transcript and the logarithm of their number, (N, 2); how much one says in a clip tells a lot."""
    words = np.array([len(text.split()) if text and text.strip() else np.nan for text in texts], np.float32)
    return np.stack([words, np.log1p(words)], axis=1)


def _together(present: Mapping[str, NDArray[np.bool_]]) -> list[tuple[str, ...]]:
    """Each stream; each pair, unless there are many streams; and each set that is all that some row has."""
    names = list(present)
    if not names:
        return []
    sets = {tuple(n for n, has in zip(names, row, strict=True) if has) for row in np.stack(list(present.values())).T}
    largest = {one for one in sets if not any(set(one) < set(other) for other in sets)}
    some = {pair for pair in combinations(names, 2) if any(set(pair) <= set(one) for one in sets)}
    wanted = {(n,) for n in names} | (some if len(names) <= MANY_STREAMS else set()) | (largest - {()})
    return sorted(wanted, key=lambda one: (len(one), [names.index(n) for n in one]))


def _persons_shared(persons: NDArray[np.intp], folds: Sequence[Fold]) -> bool:
    """Whether some fold tests a row of a person of whom it trains on another row."""
    for fold in folds:
        trained = np.bincount(persons[fold.train], minlength=persons.max(initial=0) + 1)
        if (trained[persons[fold.test]] > np.isin(fold.test, fold.train)).any():
            return True
    return False


# ---------------------------------------------------------------------------------------------------- without content


def _mean(labels: Matrix, train: Rows, test: Rows, traits: NDArray[np.intp]) -> Matrix:
    return np.tile(labels[train][:, traits].mean(axis=0), (len(test), 1))


def _median(labels: Matrix, train: Rows, test: Rows, traits: NDArray[np.intp]) -> Matrix:
    return np.tile(np.median(labels[train][:, traits], axis=0), (len(test), 1))


def _demographics(corpus: Corpus, names: Sequence[str], train: Rows, test: Rows, traits: NDArray[np.intp]) -> Matrix:
    """Least squares on one-hot levels: for one attribute the means of its groups. Unknown is a level of its own.

    Levels of under five rows share one; a level that training does not have gets the mean of the levels.
    """
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import OneHotEncoder

    cells = np.array([[attributes.get(name, "") for name in names] for attributes in corpus.attributes], dtype=object)
    levels = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=FEWEST_ROWS, max_categories=50, sparse_output=False
    )
    fitted = LinearRegression().fit(levels.fit_transform(cells[train]), corpus.labels[train][:, traits])
    return np.asarray(fitted.predict(levels.transform(cells[test])))


def _look_up(labels: Matrix, persons: NDArray[np.intp], train: Rows, test: Rows, traits: NDArray[np.intp]) -> Matrix:
    """The person's other training labels and the training mean, averaged; a row never sees its own label."""
    y = labels[train][:, traits]
    sums = np.zeros((persons.max() + 1, len(traits)))
    np.add.at(sums, persons[train], y)
    counts = np.bincount(persons[train], minlength=len(sums))
    trained = np.isin(test, train)[:, None]
    own = np.where(trained, labels[test][:, traits], 0.0)
    mean = (y.sum(axis=0) - own) / (len(train) - trained)
    who = persons[test]
    return np.asarray((sums[who] - own + mean) / (counts[who][:, None] - trained + 1))


# ---------------------------------------------------------------------------------------------------- words


def _tfidf_fit(corpus: Corpus) -> Fit:
    """TF-IDF ridge; words are counted once for all folds, everything that is fitted is fitted on training rows.

    Counting into hashed columns bounds memory where texts are long: a vocabulary of pairs of words would not.
    """

    @cache
    def counted() -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer

        counter = HashingVectorizer(ngram_range=(1, 2), norm=None, alternate_sign=False, dtype=np.float32)
        return counter.transform([text or "" for text in corpus.texts])

    def fit(train: Rows, test: Rows, traits: NDArray[np.intp]) -> Matrix:
        from sklearn.feature_extraction.text import TfidfTransformer

        counts = counted()
        clips_with = np.bincount(counts[train].indices, minlength=counts.shape[1])
        shared = np.flatnonzero(clips_with > 1)
        if not len(shared):
            return np.full((len(test), len(traits)), np.nan)
        weights = TfidfTransformer(sublinear_tf=True).fit(counts[train][:, shared])
        inputs, asked = (weights.transform(counts[rows][:, shared], copy=False) for rows in (train, test))
        y = corpus.labels[train][:, traits]
        held = np.array([zlib.crc32(corpus.persons[row].encode()) % 5 == 0 for row in train])
        return _sparse_ridge(inputs, y, asked, _text_penalties(inputs, y, held))

    return fit


def _text_penalties(inputs: Any, labels: Matrix, held: NDArray[np.bool_]) -> Matrix:
    """Per trait the penalty that is best on the fifth of the training persons that is held out, (k,)."""
    if min(held.sum(), (~held).sum()) < FEWEST_ROWS:
        return np.full(labels.shape[1], TEXT_PENALTIES[len(TEXT_PENALTIES) // 2])
    errors = []
    for penalty in TEXT_PENALTIES:
        scores = _sparse_ridge(inputs[~held], labels[~held], inputs[held], np.full(labels.shape[1], penalty))
        errors.append(((scores - labels[held]) ** 2).mean(axis=0))
    best: Matrix = np.array(TEXT_PENALTIES)[np.argmin(errors, axis=0)]
    return best


def _sparse_ridge(inputs: Any, labels: Matrix, asked: Any, penalties: Matrix) -> Matrix:
    from sklearn.linear_model import Ridge

    fitted = Ridge(penalties, solver="sparse_cg", tol=1e-4).fit(inputs, labels.astype(np.float32))
    return np.asarray(fitted.predict(asked), np.float64).reshape(-1, labels.shape[1])


# ---------------------------------------------------------------------------------------------------- streams


def _ridge_fit(
    labels: Matrix, inputs: Sequence[NDArray[np.float32]], train: Rows, test: Rows, traits: NDArray[np.intp]
) -> Matrix:
    from sklearn.preprocessing import StandardScaler

    size = min(len(train), sum(values.shape[1] for values in inputs))
    precision = np.float32 if size > LARGE_FIT else np.float64
    known, asked = (np.concatenate([values[rows] for values in inputs], 1, dtype=precision) for rows in (train, test))
    scaler = StandardScaler(copy=False)
    y = labels[train][:, traits]
    weights = _ridge(scaler.fit_transform(known), (y - y.mean(axis=0)).astype(precision))
    return np.asarray(scaler.transform(asked) @ weights + y.mean(axis=0))


def _ridge(inputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Ridge weights (D, k) of centred inputs (n, D) and labels (n, k), each trait with the best of `PENALTIES`.

    Best by generalised cross-validation (Golub, Heath and Wahba 1979), which one eigendecomposition gives for all
    penalties: of the smaller of X'X and XX', where a library's singular value decomposition takes several times longer.
    """
    from scipy import linalg

    n, width = inputs.shape
    wide = width > n
    squares, axes = linalg.eigh(inputs @ inputs.T if wide else inputs.T @ inputs, overwrite_a=True, driver="evd")
    real = squares > squares[-1] * 100 * np.finfo(inputs.dtype).eps
    squares, axes = squares[real, None], axes[:, real]
    along = axes.T @ labels if wide else axes.T @ (inputs.T @ labels) / np.sqrt(squares)  # (rank, k)
    beside = np.maximum((labels**2).sum(axis=0) - (along**2).sum(axis=0), 0.0)
    criteria = []
    for penalty in PENALTIES:
        left = penalty / (squares + penalty)
        freedom = n - 1 - (1 - left).sum()
        criteria.append((beside + ((left * along) ** 2).sum(axis=0)) / freedom**2)
    shrunk = along / (squares + PENALTIES[np.argmin(criteria, axis=0)].astype(inputs.dtype))
    return np.asarray(inputs.T @ (axes @ shrunk) if wide else axes @ (np.sqrt(squares) * shrunk))


def _trees_fit(
    labels: Matrix, inputs: Sequence[NDArray[np.float32]], train: Rows, test: Rows, traits: NDArray[np.intp]
) -> Matrix:
    from sklearn.ensemble import HistGradientBoostingRegressor

    known, asked = (np.concatenate([values[rows] for values in inputs], 1) for rows in (train, test))
    trees = partial(HistGradientBoostingRegressor, max_iter=60, max_leaf_nodes=8, early_stopping=False, random_state=0)
    return np.stack([trees().fit(known, labels[train, trait]).predict(asked) for trait in traits], axis=1)
