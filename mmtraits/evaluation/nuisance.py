"""What changes in the input that should not matter do to scores: clips are disturbed, read and scored again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits import metrics
from mmtraits.errors import MediaError
from mmtraits.evaluation.contents import Change, Nuisance, number
from mmtraits.media.assemble import Window
from mmtraits.media.disturb import DEFAULT, Disturbance, Stream, disturb, word_errors
from mmtraits.media.load import LoadedClip, load
from mmtraits.runtime import Predictor, usable_cores
from mmtraits.schema import Clip, Raw

Matrix = NDArray[np.float64]

FEWEST_LABELLED = 10  # concordance of fewer clips says nothing
LONGEST_S = 600.0  # files are disturbed from their beginning on: clips that end later are left out
_KINDS: dict[Stream, str] = {"face": "frames", "voice": "wave", "text": "text"}  # of the specs that see a stream
_log = logging.getLogger(__name__)


def sensitivity(
    predictor: Predictor,
    clips: Sequence[Clip],
    labels: NDArray[np.floating[Any]] | None = None,
    *,
    disturbances: Iterable[Disturbance] = DEFAULT,
    most: int = 64,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Nuisance]:
    """Score clips as they are and with one thing disturbed at a time; one entry per disturbance, in their order.

    Of the clips with media or text at most `most` are used, evenly chosen in the order of their ids. A disturbance
    skips clips in which the model does not find the stream that it touches; `lost` counts clips in which that stream is
    found no more, or that have no score any more. labels: (N, K), NaN = unknown; concordance needs ten labelled clips.
    A clip's noise and words depend on its id alone. workers: threads (None: one per core). progress: called with the
    clips done and all. Disturbed files are temporary. Never raises for what a clip contains.
    """
    wanted = tuple(disturbances)
    shape = (len(clips), len(predictor.schema.traits))
    known = np.full(shape, np.nan) if labels is None else np.asarray(labels, np.float64)
    if known.shape != shape:
        raise ValueError(f"labels {known.shape} beside {shape[0]} clips and {shape[1]} traits; expected (N, K)")
    chosen = _evenly([place for place in _by_id(clips) if _has_source(clips[place])], most)
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        answers = []
        for answer in pool.map(partial(_answer, predictor, wanted), [clips[place] for place in chosen]):
            answers.append(answer)
            if progress is not None:
                progress(len(answers), len(chosen))
    names = predictor.schema.trait_names
    return [_nuisance(d, n, answers, known[chosen], names) for n, d in enumerate(wanted)]


def _by_id(clips: Sequence[Clip]) -> list[int]:
    return sorted(range(len(clips)), key=lambda place: clips[place].id)


def _has_source(clip: Clip) -> bool:
    return any(source is not None for source in (clip.video, clip.audio, clip.transcript, clip.text))


def _evenly(places: Sequence[int], most: int) -> list[int]:
    """At most so many, from the first to the last."""
    count = min(most, len(places))
    return [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)] if count else []


# ---------------------------------------------------------------------------------------------------- one clip


class _Answer(NamedTuple):
    """One clip's scores before, (K,), and after each of D disturbances, (D, K); whether they touched or cost it."""

    before: Matrix
    after: Matrix
    touched: NDArray[np.bool_]
    lost: NDArray[np.bool_]


def _answer(predictor: Predictor, disturbances: Sequence[Disturbance], clip: Clip) -> _Answer:
    base = predictor.load(clip)
    before, present = _scored(predictor, clip, base)
    after = np.full((len(disturbances), len(before)), np.nan)
    touched, lost = np.zeros((2, len(disturbances)), np.bool_)
    if not clip.start_s + base.duration_s > LONGEST_S:  # NaN where nothing tells how long it is
        for n, disturbance in enumerate(disturbances):
            seen_by = [s for s, spec in predictor.specs.items() if spec.kind == _KINDS[disturbance.stream]]
            if not present & set(seen_by):
                continue
            try:
                changed = _disturbed(predictor, clip, base, disturbance, seen_by)
            except MediaError as error:
                _log.warning("%s: not disturbed: %s", clip.id, error)
                continue
            after[n], found = _scored(predictor, clip, changed)
            touched[n] = True
            lost[n] = np.isfinite(before).all() and not (np.isfinite(after[n]).all() and found & set(seen_by))
    return _Answer(before, after, touched, lost)


def _scored(predictor: Predictor, clip: Clip, loaded: LoadedClip) -> tuple[Matrix, set[str]]:
    found = predictor.assess([clip.id], [loaded])
    return found.values[0].astype(np.float64), {
        s for s, has in zip(found.streams, found.present[0], strict=True) if has
    }


def _disturbed(
    predictor: Predictor, clip: Clip, base: LoadedClip, disturbance: Disturbance, streams: Sequence[str]
) -> LoadedClip:
    """The clip as it was read, but for the streams that see the disturbance: these are read from the disturbed file."""
    specs = {stream: predictor.specs[stream] for stream in streams}
    with TemporaryDirectory() as folder:
        changed = _written(clip, base, disturbance, Path(folder))
        found = load(changed, specs, predictor.windowing, root=predictor.root)
    return _joined(base, found, {name: spec.empty() for name, spec in predictor.specs.items()}, streams)


def _written(clip: Clip, base: LoadedClip, disturbance: Disturbance, folder: Path) -> Clip:
    """The clip with its source of one modality replaced by a disturbed one; all times mean what they meant."""
    seed = int.from_bytes(hashlib.sha256(clip.id.encode()).digest()[:8])
    until_s = clip.start_s + base.duration_s if np.isfinite(base.duration_s) else LONGEST_S
    if clip.text is not None and disturbance.stream == "text":
        rng = np.random.default_rng(seed)
        return replace(clip, text=word_errors([clip.text], disturbance.amount, rng)[0])
    field, source, name = {
        "face": ("video", clip.video, "picture.mp4"),
        "voice": ("audio", clip.audio or clip.video, "sound.wav"),
        "text": ("transcript", clip.transcript, f"words{clip.transcript.suffix.lower() if clip.transcript else ''}"),
    }[disturbance.stream]
    if source is None:
        raise MediaError("no_modality", f"no file to apply {disturbance.name} to")
    disturb(source, folder / name, disturbance, seed=seed, until_s=until_s)
    changes: dict[str, Any] = {field: folder / name, "end_s": until_s}
    return replace(clip, **changes)


def _joined(base: LoadedClip, found: LoadedClip, empty: dict[str, Raw], streams: Sequence[str]) -> LoadedClip:
    """Windows of two readings of one clip: `streams` from `found`, all others from `base`."""
    blank = {stream: empty[stream] for stream in streams}
    windows = [replace(window, streams={**window.streams, **blank}) for window in base.windows]
    for window in found.windows:
        length_s = window.end_s - window.start_s
        near = [n for n, own in enumerate(windows) if abs(own.start_s - window.start_s) < 0.1 * length_s]
        if near:  # files written anew are a frame longer or shorter
            windows[near[0]] = replace(windows[near[0]], streams={**windows[near[0]].streams, **window.streams})
        else:
            windows.append(Window(start_s=window.start_s, end_s=window.end_s, streams={**empty, **window.streams}))
    return replace(base, windows=tuple(sorted(windows, key=lambda window: window.start_s)))


# ---------------------------------------------------------------------------------------------------- all clips


def _nuisance(
    disturbance: Disturbance, n: int, answers: Sequence[_Answer], labels: Matrix, traits: Sequence[str]
) -> Nuisance:
    """Disturbance number n over the clips that it touched."""
    rows = [row for row, answer in enumerate(answers) if answer.touched[n]]
    before = np.array([answers[row].before for row in rows]).reshape(len(rows), len(traits))
    after = np.array([answers[row].after[n] for row in rows]).reshape(len(rows), len(traits))
    return Nuisance(
        name=disturbance.name,
        strength=disturbance.strength,
        stream=disturbance.stream,
        clips=len(rows),
        lost=int(sum(answers[row].lost[n] for row in rows)),
        traits={name: _change(before[:, k], after[:, k], labels[rows, k]) for k, name in enumerate(traits)},
    )


def _change(before: Matrix, after: Matrix, labels: Matrix) -> Change:
    """One trait of n clips; only of clips that have a score before and after."""
    both = np.isfinite(before) & np.isfinite(after)
    if not both.any():
        return Change(mean=None, median_abs=None, p95_abs=None)
    moved = after[both] - before[both]
    known = both & np.isfinite(labels)
    own, left = (metrics.ccc(labels[known], scores[known]) if known.sum() >= FEWEST_LABELLED else np.nan
                 for scores in (before, after))  # fmt: skip
    return Change(
        mean=float(moved.mean()),
        median_abs=float(np.median(abs(moved))),
        p95_abs=float(np.percentile(abs(moved), 95)),
        ccc_before=number(own),
        ccc=number(left),
        ccc_retained=number(left / own) if own > 0 else None,
    )
