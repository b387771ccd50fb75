"""Labels by a model for clips that have none: `pseudo_labels.py SOURCE MODEL OUT`, after EmoPerso (arXiv 2509.02450).

MODEL, a finished run or a bundle, scores the clips of SOURCE without any label, those of val and test apart; where it
is sure, its scores become labels in OUT, with `attr_made: pseudo_label`. Such a row is only ever trained on, however a
run divides clips. Sure means: of a run, trait by trait, the share --keep of clips on which its members differ least (it
needs two or more that say the trait); of a bundle, whose members are one graph, a clip that is not unlike those of its
training. A binary trait is labelled 0 or 1 where the score also gives that answer --certain at least.

Members agree most where they say what is usual: such labels are narrower than people's, and a model that learns from
them spreads its scores less. A label carries what MODEL learned: judge what is trained on OUT on clips that MODEL never
learned from (SOURCE's own val and test), since folds would test some that it did.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.data.prepare import Dropped, finish, run
from mmtraits.data.splits import MADE
from mmtraits.errors import ConfigError, ManifestError
from mmtraits.evaluation.scored import check_traits
from mmtraits.schema import TraitSchema

Scores = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, label, print the report; 2 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="a prepared folder, with clips whose cells of labels are empty")
    parser.add_argument("model", type=Path, help="a finished run folder, or a bundle, of the same traits")
    parser.add_argument("out", type=Path, help="another folder")
    parser.add_argument("--keep", type=float, default=0.5, help="share of clips, per trait, that members agree on most")
    parser.add_argument("--certain", type=float, default=0.9, help="of binary traits: how sure a score must be")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return run(prepare, parser.parse_args(arguments))


def prepare(
    source: Path, model: Path, out: Path, *, keep: float = 0.5, certain: float = 0.9, device: str = "cpu"
) -> str:
    """Write OUT, whole or not at all; return the report. Raises MMTraitsError."""
    if not 0 < keep <= 1 or not 0.5 <= certain <= 1:
        raise ManifestError(f"--keep {keep} --certain {certain}; expected above 0 up to 1, and 0.5 to 1")
    corpus, dropped = manifests.read(source), Dropped()
    rows = _unlabelled(corpus, dropped)
    if not len(rows):
        raise ManifestError(f"{corpus.path}: no clip outside val and test is without any label; nothing was written")
    if (model / "bundle.json").is_file():
        scores, sure = _by_bundle(corpus, rows, model, device)
    else:
        scores, sure = _by_run(corpus, rows, model, keep, device)
    scores, sure = _answered(corpus.schema, scores, sure, certain)
    for row, some in zip(rows, sure, strict=True):
        if not some.any():
            dropped.add(corpus.clips[row].id, "not labelled: the model is not sure of any trait")
    if not sure.any():
        raise ManifestError(f"{model}: not sure of any trait of any clip; nothing was written")
    report = finish(_labelled(corpus, out, rows, np.where(sure, scores, np.nan)), dropped, corpus.folder)
    return "\n".join([report, *_told(corpus, scores, sure)])


def _unlabelled(corpus: Manifest, dropped: Dropped) -> NDArray[np.int64]:
    """Rows without any label that may be trained on."""
    found = []
    for row, (clip, split) in enumerate(zip(corpus.clips, corpus.splits, strict=True)):
        if np.isfinite(corpus.labels[row]).any() or MADE in clip.attributes:
            continue
        if split in ("val", "test"):
            dropped.add(clip.id, "not labelled: clips of val and test")
        else:
            found.append(row)
    return np.array(found, np.int64)


def _by_run(
    corpus: Manifest, rows: NDArray[np.int64], folder: Path, keep: float, device: str
) -> tuple[Scores, NDArray[np.bool_]]:
    """Means over members (n, K), and where their standard deviation is among the `keep` smallest of a trait."""
    from mmtraits import run as runs

    about = runs.read_run(folder)
    check_traits(TraitSchema.from_dict(about["schema"]), corpus, folder)
    names, place = corpus.schema.trait_names, {int(row): n for n, row in enumerate(rows)}
    said = np.full((0, len(rows), len(names)), np.nan)
    for member in runs.members_of(folder):
        one = about["members"][member.name]
        asked = runs.rows_asked(corpus, rows.tolist(), one.get("question"))
        own = np.full((len(rows), len(names)), np.nan)
        traits = [names.index(one["trait"])] if one.get("trait") else range(len(names))
        own[np.ix_([place[int(row)] for row in asked], traits)] = runs.predict(member, corpus, asked, device=device)
        said = np.concatenate([said, own[None]])
    count = np.isfinite(said).sum(axis=0)
    few = [name for name, most in zip(names, count.max(axis=0), strict=True) if most < 2]
    if few:
        raise ConfigError(
            f"{folder}: fewer than two finished members say {', '.join(few)} of the clips without labels; "
            "expected several, such as runs.over=fold, whose agreement can be told"
        )
    known = count > 1
    mean = np.where(known, np.nansum(said, axis=0) / np.maximum(count, 1), np.nan)
    spread = np.sqrt(np.nansum((said - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    spread[~known] = np.inf
    order = spread.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    return mean, known & (order < np.round(keep * known.sum(axis=0)))


def _by_bundle(
    corpus: Manifest, rows: NDArray[np.int64], folder: Path, device: str
) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores (n, K), and which clips were scored and are not unlike those that the bundle learned from."""
    from mmtraits.runtime import Predictor

    predictor = Predictor(folder, device="cuda" if device == "cuda" else "cpu")
    check_traits(predictor.schema, corpus, folder)
    if predictor.ranges is None:
        raise ConfigError(f"{folder}: it cannot tell clips unlike its training; expected a bundle exported from a run")
    found = predictor.predict([corpus.clips[row] for row in rows])
    alike = np.array([status != "failed" and odd == "" for status, odd in zip(found.status, found.unlike, strict=True)])
    return found.values.astype(np.float64), alike[:, None] & np.isfinite(found.values)


def _answered(
    schema: TraitSchema, scores: Scores, sure: NDArray[np.bool_], certain: float
) -> tuple[Scores, NDArray[np.bool_]]:
    """Binary traits as 0 or 1, sure where the score says so clearly."""
    binary = np.array([trait.kind == "binary" for trait in schema.traits])
    clear = ~binary | (np.abs(scores - 0.5) >= certain - 0.5)
    return np.where(binary, scores >= 0.5, scores), sure & clear


def _labelled(corpus: Manifest, out: Path, rows: NDArray[np.int64], scores: Scores) -> Manifest:
    """The corpus, as a manifest in OUT, with these labels (n, K) of these rows."""
    labels, clips, splits = corpus.labels.copy(), list(corpus.clips), list(corpus.splits)
    labels[rows] = scores
    for row in rows[np.isfinite(scores).any(axis=1)]:
        clips[row] = replace(clips[row], attributes={**clips[row].attributes, MADE: "pseudo_label"})
        splits[row] = "train" if any(corpus.splits) else None
    own = [
        replace(clip, features={s: str((corpus.folder / one).resolve()) for s, one in clip.features.items()})
        for clip in clips
    ]
    return replace(corpus, path=out / "clips.csv", clips=tuple(own), labels=labels, splits=tuple(splits), lines=())


def _told(corpus: Manifest, scores: Scores, sure: NDArray[np.bool_]) -> list[str]:
    """Per trait how many labels, and their mean and spread beside people's."""
    lines = ["labels by the model (mean, sd) beside people's:"]
    for k, name in enumerate(corpus.schema.trait_names):
        own, people = scores[sure[:, k], k], corpus.labels[np.isfinite(corpus.labels[:, k]), k]
        both = [
            f"{len(some)} ({np.mean(some):.3g}, {np.std(some):.3g})" if len(some) else "0" for some in (own, people)
        ]
        lines.append(f"  {name}: {both[0]} beside {both[1]}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
