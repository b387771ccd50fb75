"""Overlaps counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmtraits.media.features.overlap import FEATURES, NAMES, UNITS, WIDTH, overlap_features
from mmtraits.media.turns import turns_of

# A speaks 0-10, B backchannels 4-4.6, B takes over at 9 (won: 9-20), A comes in at 19.8 after a lost try at 15-16.
TALK = turns_of(
    [(0, 10, "A"), (4, 4.6, "B"), (9, 20, "B"), (15, 16, "A"), (19.8, 30, "A"), (31, 36, "A"), (38, 60, "B")]
)


def of(speaker, turns=TALK):
    values = overlap_features(turns, speaker)
    assert values is not None
    assert values.shape == (WIDTH,)
    assert np.isfinite(values).all()
    return dict(zip(NAMES, values.tolist(), strict=True))


def test_names_are_unique_and_each_has_a_unit():
    assert len(set(NAMES)) == WIDTH == len(UNITS) == len(FEATURES)
    assert all(UNITS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("interlocutors", 1),
        ("own_speech_share", 26.2 / 60),
        ("initiated_count", 2),  # 15-16 inside B's turn, 19.8
        ("received_count", 2),  # 4-4.6 and 9
        ("initiated_per_own_min", 2 / (26.2 / 60)),
        ("received_per_min", 2),
        ("initiated_between_per_min", 1),
        ("initiated_within_per_min", 1),
        ("initiated_backchannel_per_min", 1),  # of one second: at most
        ("received_between_share", 0.5),
        ("received_won_share", 0.5),  # the backchannel's end leaves A speaking; the takeover does not
        ("initiated_won_share", 0.5),
        ("overlapped_share", (0.6 + 1 + 1 + 0.2) / 26.2),
        ("overlap_mean", 0.7),
        ("overlap_sd", float(np.std([0.6, 1, 1, 0.2]))),
        ("overlap_max", 1.0),
        ("others_at_once_mean", 1),
        ("others_at_once_max", 1),
        ("interrupted_entropy", 0),  # one interlocutor: nothing to choose
        ("before_received_mean", (4 + 9) / 2),
        ("after_overlap_mean", (5.4 + 10) / 2),  # after the backchannel and after the takeover at 19.8
        ("transfer_per_min", 1),
        ("offset_mean", -0.2),
        ("offset_p50", -0.2),
        ("offset_negative_share", 1),
        ("gap_per_min", 0),
        ("pause_per_own_min", 1 / (26.2 / 60)),
        ("pause_mean", 1),
    ],
)
def test_values_by_hand(name, value):
    assert of("A")[name] == pytest.approx(value)


def test_the_other_side_of_the_same_talk():
    a, b = of("A"), of("B")
    for what in ("count", "per_min", "between_per_min", "within_per_min", "backchannel_per_min"):
        assert a[f"initiated_{what}"] == pytest.approx(b[f"received_{what}"])
    assert b["transfer_per_min"] == 2  # at 9, and at 38 after A's second turn
    assert b["offset_p90"] > 0 > b["offset_p10"]
    assert b["offset_mean"] == pytest.approx((-1 + 2) / 2)
    assert b["gap_mean"] == pytest.approx(2)


def test_several_interlocutors():
    turns = turns_of([(0, 10, "b"), (0, 10, "c"), (2, 5, "a"), (20, 30, "b"), (21, 22, "a"), (50, 60, "c")])
    found = of("a", turns)
    assert found["others_at_once_mean"] == pytest.approx((3 * 2 + 1) / 4)
    assert found["others_at_once_max"] == 2
    assert found["overlapped_share"] == pytest.approx(1)
    assert found["initiated_count"] == 3
    assert found["initiated_per_min"] == pytest.approx(3 / 2)  # for each of two
    share = np.array([2 / 3, 1 / 3])
    assert found["interrupted_entropy"] == pytest.approx(-(share * np.log(share)).sum() / math.log(2))


def test_nobody_initiates_what_begins_together():
    found = of("a", turns_of([(0, 2, "a"), (0, 3, "b")]))
    assert found["initiated_count"] == found["received_count"] == 0
    assert found["overlap_mean"] == 2


def test_scale_and_order_do_not_matter():
    spoken = [(0, 2, "a"), (1, 4, "b"), (3.5, 6, "a"), (7, 8, "b")]
    once, again = of("a", turns_of(spoken)), of("a", turns_of(spoken[::-1]))
    assert once == again
    twice = of("a", turns_of([*spoken, *((start + 8, end + 8, who) for start, end, who in spoken)]))
    assert twice["initiated_per_min"] == pytest.approx(once["initiated_per_min"])
    assert twice["overlapped_share"] == pytest.approx(once["overlapped_share"])


def test_missing_where_one_speaks_alone_or_the_speaker_is_unknown():
    assert overlap_features(turns_of([(0, 2, "a")]), "a") is None
    assert overlap_features(TALK, None) is None
    assert overlap_features(TALK, "C") is None
    assert overlap_features(None, "a") is None
