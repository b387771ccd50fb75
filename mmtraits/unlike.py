"""Whether a clip is unlike those that a model was trained on, check by check. NumPy only; the runtime applies it.

duration            seconds
face_share          of the frames in which a face was sought, those in which it was found
loudness            of the whole sound, dBFS
language            `Vocabulary.familiarity` of what is said
<stream>_distance   root mean square of a stream's standardised front-end features, from the graph (`graph.distances`)

A flag says that the model is asked about something that it has not met; it does not say that a score is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Limits = tuple[float, float]

TAIL = 0.005  # of the training clips outside of either limit
MARGIN = 0.05  # by which a limit is then moved outwards, of itself: equal clips would make a range of no width
FEWEST = 50  # training clips for a range
_FEWEST_TEXTS, _SHARE_OF_TEXTS = 3, 0.002  # that hold an id which counts as known


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The token ids that training texts share. Another language is cut into ids that few or none of them hold.

    known: ids of several training texts. everywhere: ids of all of them, such as special ones, which tell nothing.
    share: of a training text's ids, those known from other texts.
    """

    known: Ids
    everywhere: Ids
    share: float

    def familiarity(self, ids: Ids) -> float:
        """How far the share of known ids falls short of training's: standard errors, 0 or less; NaN for no ids."""
        ids = ids[~np.isin(ids, self.everywhere)]
        return self._below(float(np.isin(ids, self.known).sum()), len(ids))

    def _below(self, known: float, count: int) -> float:
        """A short text may miss by a word what a long one may not."""
        if not count:
            return math.nan
        return min(0.0, known / count - self.share) / math.sqrt(self.share * (1 - self.share) / count)

    @classmethod
    def fit(cls, texts: Sequence[Ids]) -> tuple[Vocabulary, Floats]:
        """The vocabulary of training texts, and the familiarity (n,) of each of them to all the others."""
        size = max(int(ids.max()) for ids in texts) + 1
        holding = np.zeros(size, np.int64)
        for ids in texts:
            holding[np.unique(ids)] += 1
        enough = max(_FEWEST_TEXTS, math.ceil(_SHARE_OF_TEXTS * len(texts)))
        everywhere = holding == len(texts)
        kept = [ids[~everywhere[ids]] for ids in texts]
        hits = np.array([np.sum(holding[ids] > enough) for ids in kept])  # more than enough: enough others
        counts = np.array([len(ids) for ids in kept])
        share = float((hits.sum() + 1) / (counts.sum() + 2))  # never 0 or 1 (Laplace)
        known = np.flatnonzero((holding >= enough) & ~everywhere)
        found = cls(known=known, everywhere=np.flatnonzero(everywhere), share=share)
        return found, np.array([found._below(h, n) for h, n in zip(hits, counts, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ids in one line of text."""
        ids = {name: " ".join(map(str, getattr(self, name))) for name in ("known", "everywhere")}
        return {"share": self.share, **ids}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vocabulary:
        """The inverse of `to_dict`."""
        ids = {name: np.array(data[name].split(), np.int64) for name in ("known", "everywhere")}
        return cls(share=float(data["share"]), **ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Where training clips lay: check -> (low, high), infinite where open; rows: how many clips each rests on."""

    limits: Mapping[str, Limits]
    rows: Mapping[str, int] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None

    @classmethod
    def fit(cls, values: Mapping[str, Sequence[float] | Floats], vocabulary: Vocabulary | None = None) -> Ranges | None:
        """Ranges of what training clips were found to be; a check with too few known values is left out.

        A distance can only be too large, a language only too little known. None where no check is left.
        """
        limits, rows = {}, {}
        for check, column in values.items():
            known = np.asarray(column, np.float64)
            known = known[np.isfinite(known)]
            if len(known) >= FEWEST:
                low, high = (_outwards(float(np.quantile(known, at)), at) for at in (TAIL, 1 - TAIL))
                limits[check] = (
                    -math.inf if check.endswith("_distance") else low,
                    math.inf if check == "language" else high,
                )
                rows[check] = len(known)
        return (
            cls(limits=limits, rows=rows, vocabulary=vocabulary if "language" in limits else None) if limits else None
        )

    def unlike(self, found: Mapping[str, float]) -> str | None:
        """Names of the checks that a clip fails, joined by `;`; None where none could be made."""
        made = {check: found[check] for check in self.limits if math.isfinite(found.get(check, math.nan))}
        outside = [
            check for check, value in made.items() if not self.limits[check][0] <= value <= self.limits[check][1]
        ]
        return ";".join(outside) if made else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an open limit is null."""
        limits = {check: [end if math.isfinite(end) else None for end in ends] for check, ends in self.limits.items()}
        vocabulary = self.vocabulary.to_dict() if self.vocabulary else None
        return {"ranges": limits, "rows": dict(self.rows), "vocabulary": vocabulary}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ranges:
        """The inverse of `to_dict`."""
        limits = {
            check: (-math.inf if low is None else float(low), math.inf if high is None else float(high))
            for check, (low, high) in data["ranges"].items()
        }
        vocabulary = Vocabulary.from_dict(data["vocabulary"]) if data["vocabulary"] else None
        return cls(limits=limits, rows=dict(data["rows"]), vocabulary=vocabulary)


def of_media(duration_s: float, details: Mapping[str, Any]) -> dict[str, float]:
    """What decoding found: duration in seconds, share of frames with a face, loudness in dBFS; NaN = unknown."""
    nothing = math.nan
    return {
        "duration": duration_s,
        "face_share": float(details.get("face_coverage", nothing)),
        "loudness": float(details.get("loudness_dbfs", nothing)),
    }


def said(windows: Sequence[Ids]) -> Ids:
    """The ids of a clip; an untimed transcript stands in every window and counts once."""
    return np.concatenate([np.zeros(0, np.int64), *{ids.tobytes(): ids for ids in windows}.values()])


def _outwards(end: float, at: float) -> float:
    return end + math.copysign(MARGIN * abs(end), at - 0.5)
