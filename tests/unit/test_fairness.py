"""Audits against scipy, plain loops and groups whose gaps were planted."""

from __future__ import annotations

import numpy as np
import pytest
from audited import ONE, SCHEMA, Corpus, group, of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmtraits import fairness, metrics
from mmtraits.evaluation import group_findings
from mmtraits.evaluation.contents import Estimate, Group

# ---------------------------------------------------------------------------------------------------- values


def test_attributes_come_first_then_their_pairs() -> None:
    audits = Corpus().audit()
    assert [audit.attributes for audit in audits] == [["age"], ["gender"], ["age", "gender"]]
    assert [tuple(g.values.values()) for g in audits[2].groups] == [
        ("old", "f"), ("old", "m"), ("young", "f"), ("young", "m")
    ]  # fmt: skip
    assert group(audits[2], "old", "f").values == {"age": "old", "gender": "f"}


def test_values_are_those_of_metrics_and_scipy() -> None:
    corpus = Corpus(gap=0.05)
    found = group(of(corpus.audit(), "gender"), "f")
    inside = corpus.gender == "f"
    assert (found.units, found.clips) == (inside.sum(), inside.sum())
    for k, name in enumerate(SCHEMA.trait_names):
        row, y, p = found.traits[name], corpus.labels[:, k], corpus.scores[:, k]
        assert row.n == inside.sum()
        assert row.mae.value == pytest.approx(metrics.mae(y[inside], p[inside]), rel=1e-12)
        assert row.ccc.value == pytest.approx(metrics.ccc(y[inside], p[inside]), rel=1e-9)
        assert row.signed_error.value == pytest.approx(np.mean(p[inside] - y[inside]), abs=1e-12)
        assert row.ks_scores == pytest.approx(stats.ks_2samp(p[inside], p).statistic, abs=1e-12)
        assert row.ks_labels == pytest.approx(stats.ks_2samp(y[inside], y).statistic, abs=1e-12)
        assert row.wasserstein_scores == pytest.approx(stats.wasserstein_distance(p[inside], p), abs=1e-12)
        assert row.wasserstein_labels == pytest.approx(stats.wasserstein_distance(y[inside], y), abs=1e-12)
        assert row.scoring_rate == pytest.approx(np.mean(p[inside] > np.median(p)), abs=1e-12)
        other = np.mean(p[~inside] > np.median(p))
        assert row.impact_ratio == pytest.approx(row.scoring_rate / max(row.scoring_rate, other))
        of_labels = [np.mean(y[g] > np.median(y)) for g in (inside, ~inside)]
        assert row.label_impact_ratio == pytest.approx(of_labels[0] / max(of_labels))
        assert row.coverage == pytest.approx(np.mean(np.abs(y[inside] - p[inside]) <= 0.1))


@given(
    st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=30),
    st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=30),
)
def test_distances_equal_scipy(part: list[float], rest: list[float]) -> None:
    whole = np.array(part + rest)
    ks, wasserstein = fairness.distances(np.array(part), whole)
    assert ks == pytest.approx(stats.ks_2samp(part, whole, method="asymp").statistic, abs=1e-12)
    assert wasserstein == pytest.approx(stats.wasserstein_distance(part, whole), abs=1e-9)


def test_intervals_equal_a_plain_loop_over_persons() -> None:
    """Persons with rows in both groups included; the same draws for every group."""
    corpus = Corpus(rows=150, gap=0.1, seed=3)
    mixed = np.random.default_rng(1).integers(2, size=150)
    attributes = [{"side": "ab"[side]} for side in mixed]
    labels = corpus.labels + 0.1 * mixed[:, None]  # so that the labels' own gap is no chance
    labels[::7, 0] = np.nan
    audit = corpus.audit(labels=labels, attributes=attributes, resamples=100, seed=5)[0]
    names, person = np.unique(corpus.persons, return_inverse=True)
    draw = np.random.default_rng(5)
    said: dict[str, list[float]] = {"mae": [], "signed": [], "ccc": [], "ba": [], "gap": [], "mae_gap": []}
    for _ in range(100):
        picked = np.concatenate([np.flatnonzero(person == p) for p in draw.integers(len(names), size=len(names))])
        y, p, side = labels[picked, 0], corpus.scores[picked, 0], mixed[picked]
        known = ~np.isnan(y)
        y, p, side = y[known], p[known], side[known]
        a, b = side == 0, side == 1
        said["mae"].append(metrics.mae(y[a], p[a]))
        said["signed"].append(np.mean(p[a] - y[a]))
        said["ccc"].append(metrics.ccc(y[a], p[a]))
        said["ba"].append((p[a].mean() - p.mean()) / (y[a].mean() - y.mean()))
        said["gap"].append(np.mean((p - y)[a]) - np.mean((p - y)[b]))
        said["mae_gap"].append(metrics.mae(y[a], p[a]) - metrics.mae(y[b], p[b]))
    row, gap = group(audit, "a").traits["warm"], audit.gaps["warm"]
    found = {"mae": row.mae, "signed": row.signed_error, "ccc": row.ccc, "ba": row.bias_amplification}
    found |= {"gap": gap.signed_error, "mae_gap": gap.mae_difference}
    for name, estimate in found.items():
        low, high = np.percentile(said[name], [2.5, 97.5])
        if name.endswith("gap") and np.mean(said[name]) < 0:  # a gap is counted from the lower group
            low, high = -high, -low
        assert (estimate.lower, estimate.upper) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9)), name


def test_gap_is_between_the_groups_farthest_apart() -> None:
    audit = of(Corpus(gap=0.1).audit(), "age", "gender")
    for name in SCHEMA.trait_names:
        rows = [g.traits[name] for g in audit.groups]
        errors, maes = ([getattr(row, field).value for row in rows] for field in ("signed_error", "mae"))
        gap = audit.gaps[name]
        assert gap.signed_error.value == pytest.approx(max(errors) - min(errors))
        assert gap.mae_difference.value == pytest.approx(max(maes) - min(maes))
        assert gap.mae_ratio == pytest.approx(max(maes) / min(maes))
        assert gap.max_ks == max(row.ks_scores for row in rows)
        assert gap.min_impact_ratio == min(row.impact_ratio for row in rows)


@pytest.mark.parametrize("planted", [0.02, 0.05, 0.1])
def test_planted_gap_lies_in_its_interval(planted: float) -> None:
    inside, widths = 0, []
    for seed in range(20):
        gap = of(Corpus(gap=planted, seed=seed).audit(), "gender").gaps["warm"].signed_error
        assert gap.lower is not None and gap.upper is not None
        inside += gap.lower <= planted <= gap.upper
        widths.append(gap.upper - gap.lower)
    assert inside >= 17  # 19 expected; fewer than 17 happen once in 60
    assert max(widths) < 0.05


def test_intervals_are_wider_when_a_persons_errors_are_alike() -> None:
    corpus = Corpus(rows=600, per_person=6)
    alone = corpus.audit(persons=corpus.ids)
    together = corpus.audit()
    for audits, wide in ((alone, 0.021), (together, 0.03)):
        found = group(of(audits, "gender"), "f").traits["warm"].signed_error
        assert found.upper - found.lower == pytest.approx(wide, rel=0.35)


def test_amplification_of_a_known_factor() -> None:
    draw = np.random.default_rng(0)
    side = np.arange(400) % 2
    labels = (0.4 + 0.2 * side + draw.normal(0, 0.05, 400))[:, None]
    scores = labels.mean() + 1.5 * (labels - labels.mean())
    ids = [f"c{n:03d}" for n in range(400)]
    attributes = [{"side": "ab"[s]} for s in side]
    (audit,) = fairness.audit(labels, scores, None, None, ids, ids, attributes, None, ONE, resamples=200)
    for found in audit.groups:
        amplified = found.traits["warm"].bias_amplification
        assert (amplified.value, amplified.lower, amplified.upper) == pytest.approx((1.5, 1.5, 1.5))
        assert found.failed_rate is None and found.traits["warm"].coverage is None
    assert {f.kind for f in group_findings.of([audit], ONE)} == {"bias_amplification", "group_bias"}


def test_amplification_is_null_where_labels_do_not_differ() -> None:
    audit = of(Corpus(gap=0.1).audit(), "gender")
    assert all(row.bias_amplification == Estimate(value=None) for g in audit.groups for row in g.traits.values())
    assert any("bias amplification is undefined in 4 of 4 rows" in note for note in audit.notes)


# ---------------------------------------------------------------------------------------------------- order


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(90)))
def test_any_order_of_rows_gives_the_same_bytes(order: list[int]) -> None:
    corpus = Corpus(rows=90)
    shuffled = corpus.audit(
        resamples=20, labels=corpus.labels[order], scores=corpus.scores[order], lower=corpus.scores[order] - 0.1,
        upper=corpus.scores[order] + 0.1, ids=[corpus.ids[i] for i in order],
        persons=[corpus.persons[i] for i in order], attributes=[corpus.attributes[i] for i in order],
    )  # fmt: skip
    assert shuffled == corpus.audit(resamples=20)


def test_seed_decides_intervals_only() -> None:
    corpus = Corpus()
    one, other = (group(of(corpus.audit(seed=seed), "gender"), "f").traits["warm"].mae for seed in (0, 1))
    assert one.value == other.value
    assert one.lower != other.lower


# ---------------------------------------------------------------------------------------------------- small, missing


def test_small_groups_are_counted_and_nothing_else() -> None:
    corpus = Corpus()
    few = [{"group": "rare" if n < 29 else "common" if n < 300 else "usual"} for n in range(600)]
    audit = corpus.audit(attributes=few, clips=[2] * 600)[0]
    rare = group(audit, "rare")
    assert rare == Group(values={"group": "rare"}, clips=58, units=29, suppressed=True)
    assert not group(audit, "common").suppressed
    (exact,) = corpus.audit(attributes=few, min_group=29)
    assert not group(exact, "rare").suppressed


def test_a_trait_with_few_labels_in_a_group_is_counted_only() -> None:
    corpus = Corpus()
    labels = corpus.labels.copy()
    labels[np.flatnonzero(corpus.gender == "f")[29:], 1] = np.nan
    audit = of(corpus.audit(labels=labels), "gender")
    row = group(audit, "f").traits["calm"]
    assert row.n == 29
    assert row.model_dump(exclude={"n"}, exclude_none=True) == {
        name: {} for name in ("mae", "signed_error", "ccc", "bias_amplification")
    }
    assert group(audit, "f").traits["warm"].mae.value is not None
    assert "calm" not in audit.gaps and "warm" in audit.gaps
    assert group(audit, "m").traits["calm"].impact_ratio == 1.0


def test_unknown_values_are_counted() -> None:
    corpus = Corpus()
    attributes: list[dict[str, str]] = [dict(row) for row in corpus.attributes]
    for n in range(100):
        del attributes[n]["gender"]
    for n in range(50, 150):
        attributes[n]["age"] = ""
    audits = corpus.audit(attributes=attributes)
    assert [audit.unknown for audit in audits] == [100, 100, 150]
    assert sum(g.units for g in audits[2].groups) == 450


def test_one_value_is_nothing_to_compare() -> None:
    corpus = Corpus()
    audits = corpus.audit(attributes=[{"site": "here", **row} for row in corpus.attributes], lower=None, upper=None)
    audit = of(audits, "site")
    assert audit.gaps == {} and "one value: nothing to compare" in audit.notes
    assert group(audit, "here").traits["warm"].ks_scores == 0
    assert ["site", "gender"] not in [a.attributes for a in audits]
    assert ["gender", "site"] not in [a.attributes for a in audits]
    assert group_findings.of([audit], SCHEMA) == []


def test_ten_clips_in_all() -> None:
    audits = Corpus(rows=10, per_person=1).audit()
    assert all(g.suppressed and not g.traits for audit in audits for g in audit.groups)
    assert "fewer than two groups of 30: nothing to compare" in of(audits, "gender").notes
    assert group_findings.of(audits, SCHEMA) == []


def test_no_rows_and_no_attributes() -> None:
    nothing = np.zeros((0, 2))
    assert fairness.audit(nothing, nothing, None, None, [], [], [], None, SCHEMA) == []
    corpus = Corpus(rows=40)
    assert corpus.audit(attributes=[{}] * 40) == []


def test_too_few_persons_give_no_interval() -> None:
    corpus = Corpus(rows=240, per_person=60)
    audit = corpus.audit(attributes=[{"half": "ab"[n % 2]} for n in range(240)])[0]
    row = group(audit, "a").traits["warm"]
    assert row.mae.value is not None and row.mae.lower is None and row.mae.upper is None
    assert audit.gaps["warm"].signed_error.lower is None
    assert any(note.startswith("4 of 4 rows have no intervals: fewer than 5 persons") for note in audit.notes)


def test_many_values_list_only_large_groups() -> None:
    corpus = Corpus()
    attributes = [{"age": str(n)} if n < 80 else {"age": "grown"} for n in range(600)]
    audit = corpus.audit(attributes=attributes)[0]
    assert [g.values["age"] for g in audit.groups] == ["grown"]
    assert "80 groups of fewer than 30 are not listed" in audit.notes


def test_failed_rows_and_constant_scores() -> None:
    corpus = Corpus()
    scores = corpus.scores.copy()
    scores[:, 1] = 0.5
    failed = (corpus.gender == "f") & (np.arange(600) % 10 == 0)
    scores[failed] = np.nan
    status = ["failed" if bad else "degraded" if n % 2 else "ok" for n, bad in enumerate(failed)]
    audit = of(corpus.audit(scores=scores, status=status), "gender")
    found = group(audit, "f")
    assert found.failed_rate == pytest.approx(failed.sum() / found.units)
    assert found.degraded_rate == pytest.approx(np.mean(np.array(status)[corpus.gender == "f"] == "degraded"))
    assert found.traits["warm"].n == found.units - failed.sum()
    constant = found.traits["calm"]
    assert constant.ccc.value == 0
    assert constant.scoring_rate == 0 and constant.impact_ratio is None
    assert audit.gaps["calm"].min_impact_ratio is None


def test_constant_labels_have_no_concordance() -> None:
    corpus = Corpus()
    labels = corpus.labels.copy()
    labels[:, 1] = 0.3
    row = group(of(corpus.audit(labels=labels), "gender"), "f").traits["calm"]
    assert row.ccc == Estimate(value=None)
    assert row.mae.lower is not None


def test_wrong_shapes_are_named() -> None:
    corpus = Corpus(rows=60)
    with pytest.raises(ValueError, match=r"'scores': \(60, 1\).* 60 ids and 2 traits; expected \(N, K\) and N"):
        corpus.audit(scores=corpus.scores[:, :1])
    with pytest.raises(ValueError, match=r"'status': \(59,\)"):
        corpus.audit(status=["ok"] * 59)
