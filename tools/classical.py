"""Classical models on what a small corpus offers: nested cross-validation and a permutation test.

    python tools/classical.py configs/systems/personality_style.yaml [key=value ...] [--permutations 100] [--out FILE]

The config is that of a system: its manifest, its streams (their front-end outputs, averaged over time, are the feature
families, beside TF-IDF of what is said) and its protocol (folds, seed; persons are never divided). What is fitted, the
vocabulary and the penalty included, is fitted on training persons: the penalty in an inner cross-validation. Where
labels were given to persons (`rated: person`), a person is one row. The test permutes labels between rows and repeats
the whole nested procedure: p = (1 + as good by chance) / (1 + permutations) (Phipson & Smyth 2010). It is exact where a
row is a person; rows of one person that are alike make it too sure.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from mmtraits import config, parts
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.data.texts import transcripts
from mmtraits.errors import MMTraitsError
from mmtraits.extract import extract
from mmtraits.run import write_text

Labels = NDArray[np.float64]
WORDS = "words"
TOGETHER = "all"
FEWEST_ROWS = 10
INNER_FOLDS = 3
STRENGTHS = np.logspace(-3, 2, 6)


@dataclass(frozen=True, slots=True)
class Samples:
    """N rows: what each says, its vectors by family (N, D) with NaN where it has none, labels (N, K), whose it is."""

    texts: list[str]
    vectors: dict[str, NDArray[np.float64]]
    labels: Labels
    persons: NDArray[Any]

    def families(self) -> Iterator[tuple[str, list[str]]]:
        """Each family of features, then all together."""
        found = [*([WORDS] if any(self.texts) else []), *(n for n, v in self.vectors.items() if np.isfinite(v).any())]
        yield from ((name, [name]) for name in found)
        if len(found) > 1:
            yield TOGETHER, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, print a row per trait, family and model, write them all; 2 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--permutations", type=int, default=100, help="0: no test")
    parser.add_argument("--out", type=Path, default=Path("classical.json"))
    given = parser.parse_args(arguments)
    try:
        settings = config.load(given.config, given.overrides, check=parts.problems)
        manifest = manifests.read(settings.data.manifest)
        rows = []
        for row in results(settings, manifest, given.permutations):
            print("  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
            rows.append(row)
    except MMTraitsError as error:
        print(error, file=sys.stderr)
        return 2
    protocol = {"folds": settings.protocol.folds, "inner_folds": INNER_FOLDS, "seed": settings.protocol.seed}
    about = {"config": settings.name, "manifest": str(settings.data.manifest), "permutations": given.permutations}
    write_text(given.out, json.dumps({**about, "protocol": protocol, "rows": rows}, indent=1) + "\n")
    return 0


def results(settings: RunConfig, manifest: Manifest, permutations: int) -> Iterator[dict[str, Any]]:
    """A row per trait, family and model: macro-F1 of binary traits, Pearson's r of others, out of fold; p by chance."""
    samples = collect(settings, manifest)
    for k, trait in enumerate(manifest.schema.traits):
        binary, values = trait.kind == "binary", samples.labels[:, k]
        known = np.flatnonzero(np.isin(values, (0, 1)) if binary else np.isfinite(values))  # between: clips disagree
        if len(known) < max(FEWEST_ROWS, settings.protocol.folds):
            raise MMTraitsError(f"{manifest.path}: {trait.name}: {len(known)} labels; expected at least {FEWEST_ROWS}")
        for family, names in samples.families():
            for name, model in _models(binary=binary).items():
                judge = Nested(samples, names, model, known, settings, binary=binary)
                labels = values[known]
                score, error = judge(labels)
                row = {"trait": trait.name, "family": family, "model": name, "n": len(known)}
                row |= {judge.metric: score, "mae": error, "mae_of_mean": judge.blind(labels)}
                yield row | ({"p": judge.chance(labels, score, permutations)} if permutations else {})


# ---------------------------------------------------------------------------------------------------- rows


def collect(settings: RunConfig, manifest: Manifest) -> Samples:
    """Clips, or persons where those are rated, with the mean of each stream's front-end outputs."""
    vectors: dict[str, list[Any]] = {stream: [[] for _ in manifest.clips] for stream in settings.streams}
    for window in extract(settings, manifest).windows:
        for stream, held in window.streams.items():
            if held.present:
                raw = held.read()
                vectors[stream][window.row].append(raw.data[raw.mask].mean(0))
    texts = [text or "" for text in transcripts(manifest.clips)]
    persons = np.array([clip.person or clip.id for clip in manifest.clips])
    owners = persons if manifest.schema.rated == "person" else np.arange(len(persons))
    rows = [np.flatnonzero(owners == owner) for owner in dict.fromkeys(owners.tolist())]
    return Samples(
        texts=[" ".join(texts[n] for n in some if texts[n]) for some in rows],
        vectors={stream: _means(found, rows) for stream, found in vectors.items()},
        labels=np.stack([_mean_label(manifest.labels[some]) for some in rows]),
        persons=np.array([persons[some[0]] for some in rows]),
    )


def _means(found: Sequence[list[Any]], rows: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    width = next((len(vector) for vectors in found for vector in vectors), 1)
    means = [[vector for n in some for vector in found[n]] for some in rows]
    return np.array([np.mean(vectors, 0) if vectors else np.full(width, np.nan) for vectors in means], float)


def _mean_label(labels: Labels) -> Labels:
    known = np.isfinite(labels)
    total = np.where(known, labels, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


# ---------------------------------------------------------------------------------------------------- models


def _models(*, binary: bool) -> Mapping[str, tuple[Any, str, Sequence[float]]]:
    """By name: an estimator, its penalty, and the values that are tried."""
    if binary:
        logistic = LogisticRegression(max_iter=1000, class_weight="balanced")
        return {
            "logistic": (logistic, "C", STRENGTHS),
            "svm": (LinearSVC(class_weight="balanced", random_state=0), "C", STRENGTHS),
        }
    return {
        "ridge": (Ridge(), "alpha", 10 / STRENGTHS),
        "svm": (LinearSVR(loss="squared_epsilon_insensitive", dual=False), "C", STRENGTHS / 10),
    }


class Nested:
    """Nested cross-validation of one model on some families: labels (n,) -> its score out of fold and its MAE."""

    def __init__(
        self,
        samples: Samples,
        names: Sequence[str],
        model: Any,
        rows: NDArray[Any],
        settings: RunConfig,
        *,
        binary: bool,
    ) -> None:
        blocks = {n: samples.vectors[n][rows] for n in names if n != WORDS}
        texts = np.array([samples.texts[row] for row in rows], dtype=object)[:, None]
        self.inputs = np.concatenate([texts, *blocks.values()], 1, dtype=object)
        self.persons = samples.persons[rows]
        self.metric = "macro_f1" if binary else "pearson"
        self.binary, self.settings = binary, settings
        estimator, penalty, values = model
        self.columns = _columns(names, blocks)
        self.models = [clone(estimator).set_params(**{penalty: value}) for value in values]

    def __call__(self, labels: Labels) -> tuple[float, float]:
        """(Score, MAE) of the labels, each row predicted by a model that saw none of its person's."""
        said = np.empty(len(labels))
        for train, test in self._splits(self.settings.protocol.folds, labels, self.persons):
            best = self.models[self._choice(labels, train)]
            said[test] = self._said([best], labels, train, test)[0]
        return self._score(labels, said), float(np.abs(labels - said).mean())

    def blind(self, labels: Labels) -> float:
        """MAE of the training mean; of a binary trait, of the more frequent class."""
        said = np.empty(len(labels))
        for train, test in self._splits(self.settings.protocol.folds, labels, self.persons):
            said[test] = np.round(labels[train].mean()) if self.binary else labels[train].mean()
        return float(np.abs(labels - said).mean())

    def chance(self, labels: Labels, score: float, permutations: int) -> float:
        """p: how often permuted labels are predicted as well."""
        draw = np.random.default_rng(self.settings.protocol.seed)
        as_good = sum(self(draw.permutation(labels))[0] >= score for _ in range(permutations))
        return (1 + as_good) / (1 + permutations)

    def _choice(self, labels: Labels, rows: NDArray[Any]) -> int:
        """The model that is best on these rows, out of inner folds."""
        said = np.empty((len(self.models), len(labels)))
        for train, test in self._splits(INNER_FOLDS, labels[rows], self.persons[rows]):
            said[:, rows[test]] = self._said(self.models, labels, rows[train], rows[test])
        found = said[:, rows]
        if self.binary:
            return int(np.argmax([self._score(labels[rows], one) for one in found]))
        return int(np.argmin(((found - labels[rows]) ** 2).mean(1)))

    def _said(self, models: Sequence[Any], labels: Labels, train: NDArray[Any], test: NDArray[Any]) -> Labels:
        """What models fitted on some rows predict of others, (models, rows)."""
        columns = clone(self.columns)
        known, asked = columns.fit_transform(self.inputs[train]), columns.transform(self.inputs[test])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest penalties, which are rarely chosen
            return np.stack([clone(model).fit(known, labels[train]).predict(asked) for model in models])

    def _splits(self, folds: int, labels: Labels, persons: NDArray[Any]) -> Iterator[tuple[Any, Any]]:
        seed = self.settings.protocol.seed
        kind = StratifiedGroupKFold if self.binary else GroupKFold
        yield from kind(folds, shuffle=True, random_state=seed).split(labels, labels, persons)

    def _score(self, labels: Labels, said: Labels) -> float:
        if self.binary:
            return float(f1_score(labels, said, average="macro"))
        return float(np.corrcoef(labels, said)[0, 1]) if said.std() > 0 else 0.0


def _columns(names: Sequence[str], blocks: Mapping[str, NDArray[Any]]) -> ColumnTransformer:
    """TF-IDF of the first column where words are asked for; means in gaps and standard units of the others."""
    width = sum(block.shape[1] for block in blocks.values())
    chosen: list[tuple[str, Any, Any]] = []
    if WORDS in names:
        chosen.append((WORDS, TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2), 0))
    if width:
        numbers: Pipeline = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
        chosen.append(("numbers", numbers, slice(1, 1 + width)))
    return ColumnTransformer(chosen)


if __name__ == "__main__":
    sys.exit(main())
