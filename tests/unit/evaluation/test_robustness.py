"""Missing streams: subsets, the drop curve and Shapley shares, all from scores by set of streams."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from mmtraits import metrics
from mmtraits.evaluation import robustness
from mmtraits.schema import Trait, TraitSchema

SCHEMA = TraitSchema(
    name="x",
    traits=(Trait(name="warm", low=0.0, high=1.0), Trait(name="calm", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="us",
)
STREAMS = ("face", "voice", "text")
WORTH = {"face": 0.1, "voice": 0.04, "text": 0.0}  # how far each stream moves a score along its own cue
N = 400


def planted(absent: dict[str, np.ndarray] | None = None):
    """An additive model: its Shapley shares are known."""
    draw = np.random.default_rng(0)
    cues = {stream: draw.normal(size=(N, 2)) for stream in STREAMS}
    nothing = np.full((N, 2), 0.5)
    by_streams = {}
    for size in range(1, 4):
        for some in combinations(STREAMS, size):
            scores = nothing + sum(WORTH[stream] * cues[stream] for stream in some)
            for stream in some:
                if absent and stream in absent:
                    scores = np.where(absent[stream][:, None], np.nan, scores)
            by_streams[frozenset(some)] = scores
    labels = nothing + sum(WORTH[s] * cues[s] for s in STREAMS) + 0.05 * draw.normal(size=(N, 2))
    labels[::9, 1] = np.nan
    return by_streams, nothing, labels, [f"c{n:03d}" for n in range(N)]


def test_subsets_are_the_metrics_of_their_scores() -> None:
    by_streams, nothing, labels, ids = planted({"face": np.arange(N) % 4 == 0})
    found = robustness.measure(by_streams, nothing, labels, ids, SCHEMA, streams=STREAMS)
    assert len(found.subsets) == 7
    for subset in found.subsets:
        scores = by_streams[frozenset(subset.streams)]
        wanted = metrics.table(labels, scores, ids, SCHEMA)["mean"]
        assert subset.mean["ccc"].value == pytest.approx(wanted["ccc"])
        assert subset.clips == (300 if "face" in subset.streams else N)


def test_shares_of_an_additive_model_are_what_each_stream_adds() -> None:
    by_streams, nothing, labels, ids = planted()
    shares = robustness.measure(by_streams, nothing, labels, ids, SCHEMA, streams=STREAMS).shapley
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["face"] / shares["voice"] == pytest.approx(2.5, rel=0.15)
    assert shares["text"] == pytest.approx(0.0, abs=1e-12)


def test_the_drop_curve_starts_at_the_whole_model_and_falls() -> None:
    by_streams, nothing, labels, ids = planted({"voice": np.arange(N) % 2 == 0})
    curve = robustness.measure(by_streams, nothing, labels, ids, SCHEMA, streams=STREAMS).drop_curve
    assert [point.rate for point in curve] == list(robustness.RATES)
    best = np.where(np.isnan(by_streams[frozenset(STREAMS)]), by_streams[frozenset({"face", "text"})],
                    by_streams[frozenset(STREAMS)])  # fmt: skip
    assert curve[0].mean["ccc"].value == pytest.approx(metrics.table(labels, best, ids, SCHEMA)["mean"]["ccc"])
    values = [point.mean["ccc"].value for point in curve]
    assert all(a > b for a, b in zip(values, values[1:], strict=False))


def test_a_row_keeps_one_stream_however_many_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    by_streams, nothing, labels, ids = planted()
    monkeypatch.setattr(robustness, "RATES", (0.0, 0.999999))
    last = robustness.measure(by_streams, nothing, labels, ids, SCHEMA, streams=STREAMS).drop_curve[-1]
    assert last.mean["ccc"].value is not None  # no row lost its score: CCC would be null or of fewer rows
    alone = [metrics.table(labels, by_streams[frozenset([s])], ids, SCHEMA)["mean"]["one_minus_mae"] for s in STREAMS]
    assert min(alone) < last.mean["one_minus_mae"].value < max(alone)


def test_of_the_streams_that_a_row_has_one_is_kept() -> None:
    absent = {"face": np.arange(N) % 2 == 0, "text": np.arange(N) % 3 == 0}
    by_streams, *_ = planted(absent)
    present = np.stack([~absent["face"], np.ones(N, bool), ~absent["text"]], axis=1)
    scores = robustness._dropped(by_streams, STREAMS, present, 0.999999, (0, 0))
    alone = np.stack([by_streams[frozenset([stream])] for stream in STREAMS])
    assert (scores == alone).any(axis=0).all()


def test_draws_of_a_rate_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    by_streams, nothing, labels, ids = planted()
    monkeypatch.setattr(robustness, "RATES", (0.5,))
    (point,) = robustness.measure(by_streams, nothing, labels, ids, SCHEMA, streams=STREAMS).drop_curve
    draws = [
        robustness._dropped(by_streams, STREAMS, np.ones((N, 3), bool), 0.5, (0, n)) for n in range(robustness.DRAWS)
    ]
    values = [metrics.table(labels, scores, ids, SCHEMA)["mean"]["mae"] for scores in draws]
    assert point.mean["mae"].value == pytest.approx(np.mean(values)) and np.std(values) > 0


def test_shares_of_streams_that_need_each_other_equal_the_mean_over_all_orders() -> None:
    """Shapley's definition: what a stream adds when it comes, over every order of coming."""
    draw = np.random.default_rng(4)
    by_streams = {some: draw.uniform(size=(N, 2)) for some in planted()[0]}
    nothing, labels = np.full((N, 2), 0.5), draw.normal(size=(N, 2)) * [1.0, 9.0]
    values = {frozenset[str](): nothing, **by_streams}
    added = {stream: np.zeros((N, 2)) for stream in STREAMS}
    for order in permutations(STREAMS):
        for place, stream in enumerate(order):
            before = frozenset(order[:place])
            added[stream] += (values[before | {stream}] - values[before]) / 6
    moved = {stream: np.sum(np.abs(added[stream]) / labels.std(axis=0)) for stream in STREAMS}
    ids = [f"c{n:03d}" for n in range(N)]
    shares = robustness.measure(by_streams, nothing, labels, ids, SCHEMA, streams=STREAMS).shapley
    assert shares == pytest.approx({stream: moved[stream] / sum(moved.values()) for stream in STREAMS})


def test_the_order_of_rows_changes_nothing() -> None:
    by_streams, nothing, labels, ids = planted()
    order = np.random.default_rng(1).permutation(N)
    moved = {some: scores[order] for some, scores in by_streams.items()}
    one = robustness.measure(by_streams, nothing, labels, ids, SCHEMA, streams=STREAMS)
    two = robustness.measure(moved, nothing[order], labels[order], [ids[n] for n in order], SCHEMA, streams=STREAMS)
    assert one.model_dump_json() == two.model_dump_json()


def test_one_stream_has_no_curve_and_no_shares() -> None:
    by_streams, nothing, labels, ids = planted()
    alone = {frozenset(["face"]): by_streams[frozenset(["face"])]}
    found = robustness.measure(alone, nothing, labels, ids, SCHEMA, streams=("face",))
    assert not found.drop_curve and not found.shapley and len(found.subsets) == 1
