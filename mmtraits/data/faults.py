"""What is wrong with a corpus that can be read: scales, signs, turned labels, duplicates, too little of something."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.data.leakage import MIN_WORDS, Texts, words
from mmtraits.data.manifest import SPLITS, Manifest
from mmtraits.schema import Clip, Trait

Rows = NDArray[np.int64]

FEW = 50  # clips or persons
_FOLDS, _CALIBRATED, _GROUP = 5, 10, 30  # what folds, a 90 % interval and a group of an audit need at least
_STABLE = (
    "extraversion",
    "agreeableness",
    "conscientiousness",
    "emotional_stability",
)  # neuroticism is opposed to them
_SIGN = 0.2
_SURE = 3.29  # standard errors from nothing: one time in a thousand by chance
_SCALES = ((0.0, 1.0), (1.0, 5.0), (1.0, 7.0), (0.0, 10.0), (0.0, 100.0))


class Fault(NamedTuple):
    """`serious`: figures would be wrong, or nothing can be computed. Else: what cannot be concluded."""

    serious: bool
    text: str


def find(manifest: Manifest, texts: Texts) -> list[Fault]:
    """Every fault of labels, splits, persons and attributes. `texts` (N,): what is said in each clip."""
    looks = (_scales, _signs, _turned, _unlabelled, _rated, _same_media, _attributes, _few)
    return [fault for look in looks for fault in look(manifest)] + list(_same_words(manifest, texts))


def rows_by_split(manifest: Manifest) -> dict[str, Rows]:
    """The rows of each split that the manifest names."""
    found = {name: np.flatnonzero([own == name for own in manifest.splits]) for name in SPLITS}
    return {name: rows for name, rows in found.items() if len(rows)}


def line_of(manifest: Manifest, row: int) -> str:
    """`clips.csv:12`, or the file alone where it was not read from one."""
    return f"{manifest.path}:{manifest.lines[row]}" if manifest.lines else str(manifest.path)


# ---------------------------------------------------------------------------------------------------- scales


def _scales(manifest: Manifest) -> Iterator[Fault]:
    for trait, column in zip(manifest.schema.traits, manifest.labels.T, strict=True):
        where, values = _declared(manifest, trait), _finite(column)
        if not len(values):
            yield Fault(True, f"{where}: {trait.name} has no label at all; take it out")
        elif values.min() == values.max():
            yield Fault(
                True, f"{where}: {trait.name} is {values[0]:g} in every row; nothing can be learned, take it out"
            )
        elif wrong := _off_scale(trait, float(values.min()), float(values.max())):
            yield Fault(True, f"{where}: {trait.name} has {len(values):,} labels from {wrong}")


def _off_scale(trait: Trait, low: float, high: float) -> str:
    """What is wrong with labels from `low` to `high`, if anything."""
    if trait.kind == "binary" or trait.low is None or trait.high is None:
        return ""
    scale = f"the scale {trait.low:g} to {trait.high:g}"
    if low < trait.low or high > trait.high:
        return f"{low:g} to {high:g}, outside {scale}; {_guess(low, high)}"
    if high - low < 0.1 * (trait.high - trait.low):
        return f"{low:g} to {high:g}, within a tenth of {scale}; {_guess(low, high)}"
    return ""


def _guess(low: float, high: float) -> str:
    for bottom, top in _SCALES:
        if bottom <= low and high <= top:
            percent = " (percent)" if top == 100 else ""
            return f"that looks like {bottom:g} to {top:g}{percent}: declare it as low and high, or convert the labels"
    return "declare the labels' own scale as low and high, or convert them"


def _declared(manifest: Manifest, trait: Trait) -> str:
    """Where schema.yaml names the trait, with the line."""
    path = manifest.folder / "schema.yaml"
    lines = path.read_text("utf-8-sig").splitlines() if path.is_file() else []
    named = re.compile(rf"\bname:\s*['\"]?{re.escape(trait.name)}\b")
    return next((f"{path}:{n}" for n, line in enumerate(lines, 1) if named.search(line)), str(path))


# ---------------------------------------------------------------------------------------------------- signs


def _signs(manifest: Manifest) -> Iterator[Fault]:
    """Traits that run against their name, or with what they are declared to be the opposite of."""
    names = manifest.schema.trait_names
    r, sure = _correlations(manifest, np.arange(len(manifest.clips)))
    for k, trait in enumerate(manifest.schema.traits):
        where = _declared(manifest, trait)
        if trait.opposite_of in names and sure[k, j := names.index(trait.opposite_of)] and r[k, j] > 0:
            told = f"{trait.name} is declared the opposite of {trait.opposite_of} and correlates {r[k, j]:+.2f} with it"
            yield Fault(True, f"{where}: {told}; turn one of the two round, or take opposite_of out")
        sign, other = _DIRECTIONS.get(trait.name, (0, ""))
        others = [j for j, name in enumerate(names) if name in _STABLE and j != k and sure[k, j]]
        if others and sign * float(np.mean(r[k, others])) > _SIGN:
            shown = ", ".join(f"{r[k, j]:+.2f} with {names[j]}" for j in others)
            yield Fault(True, f"{where}: {trait.name} correlates {shown}, as {other} does; rename it or turn it round")


_DIRECTIONS = {"neuroticism": (1, "emotional_stability"), "emotional_stability": (-1, "neuroticism")}


def _turned(manifest: Manifest) -> Iterator[Fault]:
    """Traits that run the other way in another split than in training."""
    rows = rows_by_split(manifest)
    for split in [name for name in rows if name != "train" and "train" in rows]:
        (r, sure), (other, sure_there) = (_correlations(manifest, rows[name]) for name in ("train", split))
        flips = sure & sure_there & (r * other < 0)
        for k, name in enumerate(manifest.schema.trait_names):
            if 2 * flips[k].sum() > (sure & sure_there)[k].sum():
                pairs = [
                    f"{r[k, j]:+.2f} and {other[k, j]:+.2f} with {manifest.schema.trait_names[j]}"
                    for j in np.flatnonzero(flips[k])
                ]
                told = f"the labels of {name} are turned round between train and {split}: they correlate"
                yield Fault(
                    True, f"{manifest.path}: {told} {', '.join(pairs)}; look where the splits were put together"
                )
            else:
                yield from _mirrored(manifest, k, split, rows)


def _mirrored(manifest: Manifest, k: int, split: str, rows: Mapping[str, Rows]) -> Iterator[Fault]:
    """A mean that lies where it would lie if the scale were turned round."""
    trait, own = manifest.schema.traits[k], {name: _finite(manifest.labels[rows[name], k]) for name in ("train", split)}
    if trait.low is None or trait.high is None or min(map(len, own.values())) < _CALIBRATED:
        return
    mean, there = own["train"].mean(), own[split].mean()
    mirror = trait.low + trait.high - mean
    error = np.sqrt(sum(own[name].var() / _people(manifest, rows[name]) for name in own))
    if abs(there - mirror) < 0.25 * abs(mean - mirror) and abs(there - mean) > 1.5 * _SURE * error:
        told = f"the mean of {trait.name} is {mean:.3g} in train and {there:.3g} in {split}"
        yield Fault(False, f"{manifest.path}: {told}, as if its scale were turned round there")


def _correlations(manifest: Manifest, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Pearson's r of every two traits (K, K), 0 where undefined, and whether it is surely not 0."""
    labels = manifest.labels[rows]
    traits = labels.shape[1]
    r: NDArray[np.float64] = np.zeros((traits, traits))
    sure = np.zeros((traits, traits), np.bool_)
    for j, k in combinations(range(traits), 2):
        known = np.isfinite(labels[:, [j, k]]).all(axis=1)
        pair = labels[known][:, [j, k]]
        if len(pair) > 3 and (pair.max(axis=0) > pair.min(axis=0)).all():
            x, y = ((pair - pair.mean(axis=0)) / pair.std(axis=0)).T
            r[j, k] = r[k, j] = np.mean(x * y)
            sure[j, k] = sure[k, j] = _surely(x, y, _owners(manifest, rows[known]))
    return r, sure


def _surely(x: NDArray[np.float64], y: NDArray[np.float64], owner: Rows) -> bool:
    """Whether standardised x and y (n,) go together beyond chance, by an error that is robust to clips of one person.

    The sandwich of the slope, summed within persons (Liang & Zeger 1986); with few persons more is asked of it.
    """
    slope = np.mean(x * y)
    freedom = owner.max()
    if freedom < 9:
        return False
    scores = np.bincount(owner, x * (y - slope * x))
    error = np.sqrt((scores @ scores) * (freedom + 1) / freedom) / len(x)
    return bool(abs(slope) > _SURE * (1 + 3 / freedom) * error)


# ---------------------------------------------------------------------------------------------------- rows


def _unlabelled(manifest: Manifest) -> Iterator[Fault]:
    """Splits without any row or label, or with one label only."""
    rows, path = rows_by_split(manifest), manifest.path
    if rows and "train" not in rows:
        yield Fault(True, f"{path}: no row has split train; fill the column, or train with holdout or kfold")
    if rows and "test" not in rows:
        yield Fault(False, f"{path}: no row has split test; nothing could be said of the corpus's own split")
    for split, own in rows.items():
        for name, column in zip(manifest.schema.trait_names, manifest.labels.T, strict=True):
            values, elsewhere = _finite(column[own]), _finite(column)
            if len(elsewhere) and not len(values):
                told = "it cannot be learned" if split == "train" else "its metrics are undefined there"
                yield Fault(split == "train", f"{path}: {name} has no label in {split}; {told}")
            elif len(values) > 1 and np.ptp(values) == 0 < np.ptp(elsewhere):
                told = f"{name} is {values[0]:g} in every row of {split}"
                yield Fault(False, f"{path}: {told}; what needs variance (CCC, r, R²) is undefined there")


def _rated(manifest: Manifest) -> Iterator[Fault]:
    """Labels of one person that differ where persons were rated, or never differ where clips were."""
    clips = [(clip.person, row) for row, clip in enumerate(manifest.clips) if clip.person]
    several = [rows for rows in _grouped(clips) if len(rows) > 1]
    differing = [(rows[0], row) for rows in several if (row := _other_labels(manifest, rows)) is not None]
    if manifest.schema.rated == "person":
        for first, row in differing:
            told = f"person {manifest.clips[row].person!r} has other labels than in {manifest.clips[first].id!r}"
            why = f"({_difference(manifest, first, row)}), and schema.yaml says `rated: person`"
            yield Fault(True, f"{line_of(manifest, row)}: {told} {why}; give all clips of a person the same")
    elif len(several) >= _CALIBRATED and not differing:
        told = f"each of {len(several):,} persons has the same labels in all of the person's clips"
        yield Fault(False, f"{manifest.folder / 'schema.yaml'}: {told}; if persons were rated, say `rated: person`")


def _same_media(manifest: Manifest) -> Iterator[Fault]:
    """One stretch of media under two ids."""
    keys = [(_stretch(clip), row) for row, clip in enumerate(manifest.clips) if clip.video or clip.audio]
    for first, *others in _grouped(keys):
        for row in others:
            told, serious = f"the same stretch of media as {manifest.clips[first].id!r}", False
            if manifest.splits[first] != manifest.splits[row]:
                told, serious = f"{told}, which is in another split", True
            if difference := _difference(manifest, first, row):
                told, serious = f"{told}, with other labels ({difference})", True
            yield Fault(serious, f"{line_of(manifest, row)}: {manifest.clips[row].id!r} is {told}; keep one of them")


def _stretch(clip: Clip) -> Hashable:
    return clip.video, clip.audio, clip.start_s, clip.end_s, clip.speaker


def _same_words(manifest: Manifest, texts: Texts) -> Iterator[Fault]:
    """The same transcript under two ids, punctuation and case apart."""
    keys = [(tuple(said), row) for row, text in enumerate(texts) if len(said := words(text or "")) >= MIN_WORDS]
    for first, *others in _grouped(keys):
        for row in others:
            if _stretch(manifest.clips[first]) == _stretch(manifest.clips[row]) != _NO_MEDIA:
                continue
            difference = _difference(manifest, first, row)
            told = f"the same words as {manifest.clips[first].id!r}" + (", with other labels" if difference else "")
            yield Fault(False, f"{line_of(manifest, row)}: {manifest.clips[row].id!r} says {told}")


_NO_MEDIA = (None, None, 0.0, None, None)


def _attributes(manifest: Manifest) -> Iterator[Fault]:
    for name in sorted({name for clip in manifest.clips for name in clip.attributes}):
        counts = Counter(clip.attributes.get(name, "") for clip in manifest.clips)
        values = [value for value in counts if value]
        if len(values) == 1:
            yield Fault(
                False, f"{manifest.path}: attr_{name} is {values[0]!r} wherever it is known; no audit can use it"
            )
        elif max(counts[value] for value in values) < _GROUP:
            yield Fault(False, f"{manifest.path}: no value of attr_{name} has {_GROUP} clips; an audit hides them all")


def _few(manifest: Manifest) -> Iterator[Fault]:
    clips, path = len(manifest.clips), manifest.path
    if not any(clip.person for clip in manifest.clips):
        yield Fault(False, f"{path}: no row names its person; nothing can tell whether a split divides one")
    people = _people(manifest, np.arange(clips))
    if min(clips, people) >= FEW:
        return
    lacking = [f"one fold of {_FOLDS} tests about {max(1, people // _FOLDS)} of them, whose metrics are chance"]
    lacking += [f"{_FOLDS} folds need as many persons"] if people < _FOLDS else []
    lacking += [f"90 % intervals need {_CALIBRATED} or more outside training"] if people < 2 * _CALIBRATED else []
    lacking += [f"an audit hides groups under {_GROUP} clips"] if clips < 2 * _GROUP else []
    yield Fault(False, f"{path}: {clips} clips of {people} persons: {'; '.join(lacking)}")


# ---------------------------------------------------------------------------------------------------- helpers


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _owners(manifest: Manifest, rows: Rows) -> Rows:
    """Whose each row is, as numbers from 0 on; a row without a person is its own."""
    found: dict[str | int, int] = {}
    owner = (manifest.clips[row].person or int(row) for row in rows)
    return np.array([found.setdefault(one, len(found)) for one in owner], np.int64)


def _people(manifest: Manifest, rows: Rows) -> int:
    return len(np.unique(_owners(manifest, rows)))


def _grouped(keys: Iterable[tuple[Hashable, int]]) -> list[list[int]]:
    """Rows with equal keys, in their order."""
    found: dict[Hashable, list[int]] = {}
    for key, row in keys:
        found.setdefault(key, []).append(row)
    return list(found.values())


def _other_labels(manifest: Manifest, rows: Sequence[int]) -> int | None:
    """The first row whose labels are not those of the first, where both know them."""
    return next((row for row in rows[1:] if _difference(manifest, rows[0], row)), None)


def _difference(manifest: Manifest, one: int, other: int) -> str:
    """Traits whose labels differ between two rows, with both labels; empty where none does."""
    pairs = zip(manifest.schema.trait_names, manifest.labels[one], manifest.labels[other], strict=True)
    return ", ".join(f"{name} {a:g} and {b:g}" for name, a, b in pairs if a != b and np.isfinite(a) and np.isfinite(b))
