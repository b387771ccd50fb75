"""Overlapping speech of one speaker of a session, as named numbers. NumPy only.

After Yu, Gilmartin & Litman (Interspeech 2019), whose list of features is not public: this set is ours, with overlap
between and within speakers and the floor-transfer offset as Heldner & Edlund (Journal of Phonetics, 2010) define them.

An *overlap* is the common stretch of one turn of the target and one of somebody else. Whose turn began later
*initiated* it (at the same moment: nobody did). It is *between* speakers where the initiator outlasts the other, so
that the floor changes, and *within* where not; within and at most a second it is like a *backchannel*. It is *won* by
a side that still speaks half a second after the other stopped. Turns inside somebody else's take no floor; of two
consecutive others a *transfer* joins two speakers (offset = start − end before, negative = overlap, positive = gap),
and a *pause* two turns of one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.errors import MediaError
from mmtraits.media.features import Source
from mmtraits.media.turns import Intervals, Turns, of_clip
from mmtraits.schema import Raw

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

BACKCHANNEL_S = 1.0
WON_S = 0.5

# Rates are per minute of the target's own speech (/own_min) or of the session (/min), and per interlocutor: an overlap
# with one of three people is as likely for each of them as with one of one. Means and ratios of nothing are 0.
FEATURES: tuple[tuple[str, str], ...] = (
    ("interlocutors", "persons"),
    ("own_speech_share", "of session"),
    *((f"{side}_{what}", unit) for side in ("initiated", "received") for what, unit in (
        ("count", "1"), ("per_own_min", "/own_min/interlocutor"), ("per_min", "/min/interlocutor"),
        ("between_per_min", "/min/interlocutor"), ("within_per_min", "/min/interlocutor"),
        ("backchannel_per_min", "/min/interlocutor"), ("between_share", "of overlaps"), ("won_share", "of overlaps"),
    )),
    ("overlapped_share", "of own speech"),
    ("overlap_mean", "s"), ("overlap_sd", "s"), ("overlap_max", "s"),
    ("others_at_once_mean", "persons"), ("others_at_once_max", "persons"),
    ("interrupted_entropy", "of its maximum"),
    ("before_received_mean", "s"), ("after_overlap_mean", "s"),
    ("transfer_per_min", "/min"),
    ("offset_mean", "s"), ("offset_sd", "s"), ("offset_p10", "s"), ("offset_p50", "s"), ("offset_p90", "s"),
    ("offset_negative_share", "of transfers"),
    ("gap_per_min", "/min"), ("gap_mean", "s"), ("pause_per_own_min", "/own_min"), ("pause_mean", "s"),
)  # fmt: skip
NAMES = tuple(name for name, _ in FEATURES)
UNITS = tuple(unit for _, unit in FEATURES)
WIDTH = len(FEATURES)
REASON = "no_speech"  # of two persons


class _Overlap(NamedTuple):
    """One turn of the target against one of somebody else."""

    own: tuple[float, float]
    other: tuple[float, float]
    who: str

    @property
    def length_s(self) -> float:
        return min(self.own[1], self.other[1]) - max(self.own[0], self.other[0])


def vectors(source: Source) -> Raw:
    """The features of the scored speaker over the clip's whole stretch (1, WIDTH), the same in each of its windows.

    A window of seconds holds too few overlaps to count. T = 0 where they are missing, or where the file of turns is
    none, which the log tells.
    """
    try:
        values = overlap_features(of_clip(source.clip), source.clip.speaker)
    except MediaError as error:
        log.warning("no turns: %s", error)
        values = None
    if values is None:
        return Raw(np.zeros((0, WIDTH), np.float32), np.zeros(0, np.bool_))
    return Raw(values.astype(np.float32)[None], np.ones(1, np.bool_))


def overlap_features(turns: Turns | None, speaker: str | None) -> Floats | None:
    """The `NAMES` of one speaker of a session, (WIDTH,); `UNITS` in the same order.

    None, the feature is missing, where nobody else speaks, or the speaker does not or is not known.
    """
    if turns is None or speaker is None or speaker not in turns.speakers or len(turns.speakers) < 2:
        return None
    own = turns.speakers[speaker]
    others = {name: theirs for name, theirs in turns.speakers.items() if name != speaker}
    found = _overlaps(own, others)
    own_min, session_min = _length_s(own) / 60, turns.duration_s / 60
    values: dict[str, float] = {"interlocutors": len(others), "own_speech_share": own_min / session_min}
    for side in ("initiated", "received"):
        of_side = [one for one in found if _starts(one, own=side == "initiated")]
        values |= {f"{side}_{k}": v for k, v in _side(of_side, side, own_min, session_min, len(others)).items()}
    values |= _durations(found) | _at_once(own, others) | _continuations(found)
    values["interrupted_entropy"] = _entropy([one.who for one in found if _starts(one, own=True)], len(others))
    values |= _transfers(turns, speaker, own_min, session_min)
    return np.array([values[name] for name in NAMES])


def _overlaps(own: Intervals, others: dict[str, Intervals]) -> list[_Overlap]:
    return [
        _Overlap((begin, until), (other[0], other[1]), who)
        for who, theirs in others.items()
        for begin, until in own.tolist()
        for other in theirs[(theirs[:, 0] < until) & (theirs[:, 1] > begin)].tolist()
    ]


def _starts(one: _Overlap, *, own: bool) -> bool:
    """Whether the target (`own`) or the other began it, speaking into the other's turn."""
    return one.own[0] > one.other[0] if own else one.other[0] > one.own[0]


def _side(found: Sequence[_Overlap], side: str, own_min: float, session_min: float, others: int) -> dict[str, float]:
    """Counts, rates and shares of the overlaps that one side initiated; what is won is won by the target."""
    ahead_s = np.array([one.own[1] - one.other[1] for one in found])  # by how much the target outlasts the other
    lengths_s = np.array([one.length_s for one in found])
    between = (ahead_s if side == "initiated" else -ahead_s) > 0
    counts = {
        "per_min": len(found),
        "between_per_min": int(between.sum()),
        "within_per_min": int((~between).sum()),
        "backchannel_per_min": int((~between & (lengths_s <= BACKCHANNEL_S)).sum()),
    }
    shares = {"between_share": _mean(between), "won_share": _mean(ahead_s >= WON_S)}
    rates = {name: count / session_min / others for name, count in counts.items()}
    return {"count": len(found), "per_own_min": len(found) / own_min / others, **rates, **shares}


def _durations(found: Sequence[_Overlap]) -> dict[str, float]:
    lengths_s = np.array([one.length_s for one in found] or [0.0])
    return {
        "overlap_mean": float(lengths_s.mean()),
        "overlap_sd": float(lengths_s.std()),
        "overlap_max": float(lengths_s.max()),
    }


def _at_once(own: Intervals, others: dict[str, Intervals]) -> dict[str, float]:
    """How much of the own speech is overlapped, and by how many others at once (mean over that time, and most)."""
    edges = np.unique(np.concatenate([own.ravel(), *(theirs.ravel() for theirs in others.values())]))
    middles, lengths_s = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    speaking = _inside(middles, own)
    count = np.sum([_inside(middles, theirs) for theirs in others.values()], axis=0)
    overlapped = speaking & (count > 0)
    total_s = float(lengths_s[overlapped].sum())
    return {
        "overlapped_share": total_s / _length_s(own),
        "others_at_once_mean": float((lengths_s * count)[overlapped].sum()) / total_s if total_s else 0.0,
        "others_at_once_max": float(count[overlapped].max(initial=0)),
    }


def _inside(times_s: Floats, turns: Intervals) -> NDArray[np.bool_]:
    place = np.searchsorted(turns[:, 0], times_s, side="right") - 1
    return np.asarray((place >= 0) & (times_s < turns[np.maximum(place, 0), 1]))


def _continuations(found: Sequence[_Overlap]) -> dict[str, float]:
    """How long the target had spoken when interrupted, and goes on after an overlap that it outlasts."""
    before = [one.other[0] - one.own[0] for one in found if _starts(one, own=False)]
    after = [one.own[1] - one.other[1] for one in found if one.own[1] > one.other[1]]
    return {"before_received_mean": _mean(np.array(before)), "after_overlap_mean": _mean(np.array(after))}


def _entropy(who: Sequence[str], others: int) -> float:
    """Of whom the target interrupts, 0 = always the same person, 1 = all alike; 0 where there is one to choose."""
    if others < 2 or not who:
        return 0.0
    share = np.unique(who, return_counts=True)[1] / len(who)
    return float(-(share * np.log(share)).sum() / np.log(others)) + 0.0


def _transfers(turns: Turns, speaker: str, own_min: float, session_min: float) -> dict[str, float]:
    floor = _floor(turns)
    pairs = [(before, after) for before, after in zip(floor, floor[1:], strict=False) if after[2] == speaker]
    offsets_s = np.array([after[0] - before[1] for before, after in pairs if before[2] != speaker])
    pauses_s = np.array([after[0] - before[1] for before, after in pairs if before[2] == speaker])
    gaps_s = offsets_s[offsets_s > 0]
    low, middle, high = np.percentile(offsets_s, (10, 50, 90)).tolist() if len(offsets_s) else (0.0, 0.0, 0.0)
    return {
        "transfer_per_min": len(offsets_s) / session_min,
        "offset_mean": _mean(offsets_s),
        "offset_sd": float(offsets_s.std()) if len(offsets_s) else 0.0,
        "offset_p10": low,
        "offset_p50": middle,
        "offset_p90": high,
        "offset_negative_share": _mean(offsets_s < 0),
        "gap_per_min": len(gaps_s) / session_min,
        "gap_mean": _mean(gaps_s),
        "pause_per_own_min": len(pauses_s) / own_min,
        "pause_mean": _mean(pauses_s),
    }


def _floor(turns: Turns) -> list[tuple[float, float, str]]:
    """Turns in order, without those that end inside one that began before: starts and ends both rise."""
    spoken = sorted(
        ((begin, until, name) for name, own in turns.speakers.items() for begin, until in own.tolist()),
        key=lambda turn: (turn[0], -turn[1]),
    )
    floor: list[tuple[float, float, str]] = []
    for turn in spoken:
        if not floor or turn[1] > floor[-1][1]:
            floor.append(turn)
    return floor


def _length_s(turns: Intervals) -> float:
    return float((turns[:, 1] - turns[:, 0]).sum())


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
