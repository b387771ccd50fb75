import numpy as np
import pytest

from mmtraits.calibrate import Rows
from mmtraits.evaluation.coverage import coverage, fullest, held_out, proportion

STREAMS = ("text", "voice")
TEXT, VOICE, BOTH = frozenset(["text"]), frozenset(["voice"]), frozenset(["text", "voice"])
SCALE = {"low": np.zeros(1), "high": np.ones(1)}


def corpus(n: int = 1200, seed: int = 0) -> Rows:
    """Three clips of a person. Text tells half of the label, voice a quarter; the last third of rows has no voice."""
    draw = np.random.default_rng(seed)
    parts = draw.normal(0, 0.1, (3, n))
    labels = (0.5 + parts.sum(0))[:, None]
    text, both = 0.5 + parts[0], 0.5 + parts[0] + parts[1]
    both[2 * n // 3 :] = np.nan
    persons = [f"p{k // 3}" for k in range(n)]
    scores = {TEXT: text[:, None], BOTH: both[:, None]}
    return Rows(ids=[f"c{k:04d}" for k in range(n)], persons=persons, labels=labels, scores=scores)


@pytest.fixture(scope="module")
def found():
    rows = corpus()
    groups = {"first": np.arange(1200) < 600, "second": np.arange(1200) >= 600, "nobody": np.zeros(1200, bool)}
    return coverage(STREAMS, rows, ["calm"], groups=groups, **SCALE)


def test_every_set_is_measured_by_both_methods(found) -> None:
    sets, groups = found
    names = ["all", "text + voice", "text", "text, others masked"]
    assert [(one.method, one.name) for one in sets] == [
        *(("split_conformal", name) for name in names),
        *(("cqr", name) for name in names),
    ]
    assert [one.traits["calm"].n for one in sets[:4]] == [1200, 800, 400, 1200]
    assert [one.name for one in groups] == ["first", "second", "nobody"] * 2
    assert not any(one.borrowed for one in sets)


def test_coverage_is_the_level_and_width_falls_with_what_is_known(found) -> None:
    sets, groups = found
    for one in sets + groups[:2]:
        row = one.traits["calm"]
        assert row.coverage.value == pytest.approx(0.9, abs=0.03)
        assert row.coverage.lower < row.coverage.value < row.coverage.upper
        # errors of sd .1 and .1·√2, the constant's of .1·√3: 2 · 1.645 · sd
    both, text = sets[1].traits["calm"], sets[2].traits["calm"]
    assert both.width == pytest.approx(3.29 * 0.1, rel=0.06)
    assert text.width == pytest.approx(3.29 * 0.1414, rel=0.06)
    assert both.constant_width == pytest.approx(3.29 * 0.1732, rel=0.06)


def test_a_group_without_rows_has_no_coverage(found) -> None:
    row = found[1][2].traits["calm"]
    assert (row.n, row.coverage.value, row.width, row.constant_width) == (0, None, None, None)


def test_any_order_of_rows_gives_the_same(found) -> None:
    rows = corpus()
    order = np.random.default_rng(1).permutation(1200)
    moved = Rows(
        ids=[rows.ids[n] for n in order],
        persons=[rows.persons[n] for n in order],
        labels=rows.labels[order],
        scores={key: scores[order] for key, scores in rows.scores.items()},
    )
    groups = {"first": order < 600, "second": order >= 600, "nobody": np.zeros(1200, bool)}
    assert coverage(STREAMS, moved, ["calm"], groups=groups, **SCALE) == found


def test_a_row_never_calibrates_its_own_interval() -> None:
    """One person whose labels lie far off: that person's own intervals are those of the others, narrow."""
    rows = corpus(300)
    rows.labels[:3] = 0.99
    rows.scores[TEXT][:3], rows.scores[BOTH][:3] = 0.01, 0.01
    held = held_out(STREAMS, rows, **SCALE)[TEXT]
    assert (held.upper[:3] < 0.4).all()


def test_five_calibrations_each_on_other_persons() -> None:
    """Rows of one person get their intervals from the same calibration."""
    held = held_out(STREAMS, corpus(300), **SCALE)[TEXT]
    widths = np.round(held.constant[:, 0], 12)
    assert all(len(set(widths[k : k + 3])) == 1 for k in range(0, 300, 3))
    assert len(set(widths)) == 5


def test_fullest_takes_the_largest_set() -> None:
    held = held_out(STREAMS, corpus(300), **SCALE)
    best = fullest(held)
    np.testing.assert_array_equal(best.lower[:200], held[BOTH].lower[:200])
    np.testing.assert_array_equal(best.lower[200:], held[TEXT].lower[200:])


def test_few_rows_are_said_to_borrow() -> None:
    rows = corpus(300)
    rows.scores[VOICE] = np.full((300, 1), np.nan)
    rows.scores[VOICE][:4] = 0.5
    sets, _ = coverage(STREAMS, rows, ["calm"], **SCALE)
    assert {one.name for one in sets if one.borrowed} == {"voice, others masked"}
    assert next(one for one in sets if one.borrowed).traits["calm"].n == 4


def test_unknown_labels_are_not_counted() -> None:
    rows = corpus(300)
    rows.labels[::2] = np.nan
    sets, _ = coverage(STREAMS, rows, ["calm"], **SCALE)
    assert sets[0].traits["calm"].n == 150


def test_nothing_scored_is_nothing_measured() -> None:
    rows = Rows(ids=["a"], persons=["a"], labels=np.zeros((1, 1)), scores={})
    assert coverage(STREAMS, rows, ["calm"], **SCALE) == ([], [])


# ---------------------------------------------------------------------------------------------------- proportion


def test_independent_rows_have_wilsons_interval() -> None:
    """Wilson (1927) for 9 of 10: .5958 to .9821."""
    found = proportion(np.arange(10) > 0, [str(n) for n in range(10)])
    assert (found.value, found.lower, found.upper) == (
        0.9,
        pytest.approx(0.5958, abs=1e-4),
        pytest.approx(0.9821, abs=1e-4),
    )


def test_copies_count_once() -> None:
    inside = np.arange(10) > 0
    once = proportion(inside, [str(n) for n in range(10)])
    four = proportion(np.repeat(inside, 4), [str(n // 4) for n in range(40)])
    assert (four.lower, four.upper) == (pytest.approx(once.lower), pytest.approx(once.upper))


def test_all_inside_is_not_certainty() -> None:
    found = proportion(np.ones(6, bool), ["a", "a", "b", "b", "c", "c"])
    assert found.value == 1 and found.upper == 1
    assert found.lower == pytest.approx(3 / (3 + 1.959964**2))  # Wilson with three rows of three


def test_intervals_of_proportions_hold() -> None:
    """Persons with their own rates: in 600 simulated corpora the truth lies inside 95 ± 2.5 % of the time."""
    draw = np.random.default_rng(0)
    persons = [f"p{n // 4}" for n in range(800)]
    held = 0
    for _ in range(600):
        rates = np.repeat(draw.beta(9, 1, 200), 4)
        found = proportion(draw.random(800) < rates, persons)
        held += found.lower <= 0.9 <= found.upper
    assert held / 600 == pytest.approx(0.95, abs=0.025)
