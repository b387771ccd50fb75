"""What is kept of a clip while its windows are scored and let go: a few numbers for each, until its row is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmtraits.media.assemble import Window
from mmtraits.media.load import Ending, LoadedClip
from mmtraits.media.sampling import time_covered
from mmtraits.schema import Status, join_reasons


@dataclass(slots=True)
class Heard:
    """The windows of one clip that hold anything: their times, streams and answers.

    names: of the P streams. present: (P,) bool each. answers: scores (K,) and distances (P,) each, None where there are
    none (yet). said: token ids of the stream that was asked for. The rest is that of the clip's `Ending`.
    """

    names: tuple[str, ...]
    spans: list[tuple[float, float]] = field(default_factory=list)
    present: list[NDArray[np.bool_]] = field(default_factory=list)
    answers: list[tuple[NDArray[np.float32], NDArray[np.float32]] | None] = field(default_factory=list)
    said: list[NDArray[np.int64]] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)
    duration_s: float = math.nan
    details: dict[str, Any] = field(default_factory=dict)
    refused: bool = False  # too little of the clip is there

    def add(self, window: Window, text: str | None) -> int | None:
        """Note a window and the ids of the stream `text`; its place, or None where it holds nothing."""
        present = np.array([window.streams[name].mask.any() for name in self.names], np.bool_)
        if not present.any():
            return None
        self.spans.append((window.start_s, window.end_s))
        self.present.append(present)
        self.answers.append(None)
        if text is not None:
            ids = window.streams[text]
            self.said.append(ids.data[ids.mask])
        return len(self.spans) - 1

    def end(self, ending: Ending | LoadedClip) -> None:
        """Note what is known of the clip as a whole."""
        self.reasons |= set(ending.reasons)
        self.duration_s = ending.duration_s
        self.details |= ending.details
        self.refused = bool(self.details.get("too_little_decoded"))

    def lost(self, error: BaseException) -> None:
        """One of its windows could not be scored."""
        self.reasons.add("out_of_memory")
        self.details["error"] = f"{type(error).__name__}: {error}"

    def averages(self, traits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores (K,) and distances (P,): means of the windows, of those that hold the stream, by the time covered.

        NaN without any.
        """
        scores, distances = np.full(traits, np.nan), np.full(len(self.names), np.nan)
        kept = [(n, answer) for n, answer in enumerate(self.answers) if answer is not None]
        if kept:
            seconds = time_covered([self.spans[n] for n, _ in kept])
            found = np.array([answer[0] for _, answer in kept], np.float64)
            scores = np.asarray(np.average(found, axis=0, weights=seconds))
            weights = np.array([self.present[n] for n, _ in kept]) * seconds[:, None]
            total = weights.sum(axis=0)
            far = (weights * np.array([answer[1] for _, answer in kept])).sum(axis=0)
            np.divide(far, total, out=distances, where=total > 0)
        return scores, distances

    def streams(self) -> NDArray[np.bool_]:
        """Which of the P streams had anything to say (P,), in the windows that were scored."""
        kept = [has for has, answer in zip(self.present, self.answers, strict=True) if answer is not None]
        return np.any(kept, axis=0) if kept and not self.refused else np.zeros(len(self.names), np.bool_)


def judge(scores: NDArray[Any], present: NDArray[np.bool_], found: set[str]) -> tuple[Status, str]:
    """Status and reason of one row: scores (K,), present (P,), and the reasons that were found."""
    if not present.any():
        return "failed", join_reasons(found) or "no_modality"
    found = found - {"no_modality"}  # vectors were given for a clip without media
    if not np.isfinite(scores).all() or "non_finite" in found:
        return "failed", join_reasons(found | {"non_finite"})
    return ("ok" if present.all() and not found else "degraded"), join_reasons(found)
