"""Sentences on audits: of planted gaps, and at each threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from audited import ONE, SCHEMA, Corpus, of

from mmtraits.evaluation import group_findings
from mmtraits.evaluation.contents import Audit, Estimate, Gap, Group, GroupRow
from mmtraits.schema import TraitSchema


def kinds(audits: Sequence[Audit], schema: TraitSchema = SCHEMA) -> list[str]:
    return [finding.kind for finding in group_findings.of(audits, schema)]


def test_planted_bias_is_named_with_its_size() -> None:
    corpus = Corpus(rows=1200, gap=0.0)
    corpus.scores[corpus.gender == "f", 0] += 0.08
    audits = [of(corpus.audit(), "gender")]
    bias = next(f for f in group_findings.of(audits, SCHEMA) if f.kind == "group_bias")
    assert bias.level == "warn"
    size = audits[0].gaps["warm"].signed_error
    rows = {g.values["gender"]: g.traits["warm"] for g in audits[0].groups}
    assert bias.text == (
        "Warm: measured against their labels, gender = f is scored higher than gender = m: score minus label averages "
        f"{rows['f'].signed_error.value:+.3f} and {rows['m'].signed_error.value:+.3f}, "
        f"{size.value:.3f} (95 % {size.lower:.3f} to {size.upper:.3f}) apart."
    )
    impact = next(f for f in group_findings.of(audits, SCHEMA) if f.kind == "impact_ratio")
    assert impact.level == "warn"
    assert impact.text == (
        f"Warm: impact ratio {rows['m'].impact_ratio:.2f}, the share of gender = m scored above the median "
        f"({rows['m'].scoring_rate:.0%}) over that of gender = f ({rows['f'].scoring_rate:.0%}); "
        f"the labels' own ratio is {rows['m'].label_impact_ratio:.2f}."
    )
    assert not any("Calm" in f.text for f in group_findings.of(audits, SCHEMA) if f.kind == "group_bias")


def test_a_fair_model_is_seldom_accused() -> None:
    """Three audits of each of 15 corpora, every one of them wrong once in twenty; most gaps are under 2 % too."""
    accused = sum(kinds(Corpus(seed=seed, rows=300).audit()).count("group_bias") for seed in range(15))
    assert accused <= 4


def hand(**changes: Any) -> GroupRow:
    plain = Estimate(value=0.1, lower=0.09, upper=0.11)
    given: dict[str, Any] = {
        "n": 200, "mae": plain, "signed_error": Estimate(value=0.0, lower=-0.01, upper=0.01), "ccc": plain,
        "ks_scores": 0.1, "ks_labels": 0.1, "wasserstein_scores": 0.1, "wasserstein_labels": 0.1,
        "bias_amplification": Estimate(value=1.0, lower=0.9, upper=1.05), "scoring_rate": 0.5, "impact_ratio": 1.0,
        "label_impact_ratio": 1.0, "coverage": 0.9,
    }  # fmt: skip
    return GroupRow(**(given | changes))


def audit_of(
    one: GroupRow, other: GroupRow, gap: Estimate | None = None, failed: tuple[float, float] = (0, 0)
) -> Audit:
    groups = [
        Group(values={"g": name}, clips=200, units=200, suppressed=False, failed_rate=rate, degraded_rate=0.0,
              traits={"warm": row})
        for name, row, rate in zip("ab", (one, other), failed, strict=True)
    ]  # fmt: skip
    gap = gap or Estimate(value=0.0, lower=-0.01, upper=0.01)
    none = Gap(signed_error=gap, mae_difference=gap, mae_ratio=1.0, max_ks=0.1, min_impact_ratio=1.0)
    return Audit(attributes=["g"], unknown=0, groups=groups, gaps={"warm": none})


@pytest.mark.parametrize(
    ("gap", "accused"),
    [
        (Estimate(value=0.05, lower=0.01, upper=0.09), True),
        (Estimate(value=0.05, lower=-0.01, upper=0.11), False),
        (Estimate(value=0.019, lower=0.01, upper=0.03), False),  # under 2 % of the scale
        (Estimate(value=0.05), False),  # too few persons for an interval
    ],
)
def test_group_bias_needs_size_and_certainty(gap: Estimate, accused: bool) -> None:
    assert kinds([audit_of(hand(), hand(), gap)], ONE) == (["group_bias"] if accused else [])


def test_group_bias_pays_for_its_many_pairs() -> None:
    gap = Estimate(value=0.05, lower=0.005, upper=0.095)  # 2.2 standard errors
    two = audit_of(hand(), hand(), gap)
    many = two.model_copy(update={"groups": [
        g.model_copy(update={"values": {"g": f"{n}"}}) for n, g in enumerate(two.groups * 5)
    ]})  # fmt: skip
    assert kinds([two], ONE) == ["group_bias"]
    assert kinds([many], ONE) == []
    groups = [g.model_copy(update={"traits": {**g.traits, "calm": g.traits["warm"]}}) for g in two.groups]
    assert kinds([two.model_copy(update={"groups": groups})], SCHEMA) == []  # chosen from two traits


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"impact_ratio": 0.7, "scoring_rate": 0.35}, [("impact_ratio", "warn")]),
        ({"impact_ratio": 0.7, "scoring_rate": 0.35, "n": 30}, [("impact_ratio", "info")]),
        ({"impact_ratio": 0.7, "scoring_rate": 0.35, "label_impact_ratio": 0.75}, [("impact_ratio", "warn")]),
        ({"impact_ratio": 0.7, "scoring_rate": 0.35, "label_impact_ratio": 0.74}, []),
        ({"impact_ratio": 0.7, "scoring_rate": 0.35, "label_impact_ratio": 0.6}, []),
        ({"impact_ratio": 0.7, "scoring_rate": 0.35, "label_impact_ratio": 0.75, "n": 30}, [("impact_ratio", "info")]),
        ({"impact_ratio": 0.79, "scoring_rate": 0.395, "label_impact_ratio": 0.8}, [("impact_ratio", "warn")]),
        ({"impact_ratio": 0.0, "scoring_rate": 0.0}, [("impact_ratio", "warn")]),
        ({"impact_ratio": 0.8, "scoring_rate": 0.4}, []),
        ({"bias_amplification": Estimate(value=1.4, lower=1.11, upper=1.7)}, [("bias_amplification", "warn")]),
        ({"bias_amplification": Estimate(value=1.4, lower=1.05, upper=1.7)}, []),
        ({"coverage": 0.86}, [("group_coverage", "warn")]),
        ({"coverage": 0.86, "n": 99}, []),
        ({"coverage": None}, []),
    ],
)
def test_each_finding_at_its_threshold(changes: dict[str, Any], found: list[tuple[str, str]]) -> None:
    findings = group_findings.of([audit_of(hand(), hand(**changes))], ONE)
    assert [(f.kind, f.level) for f in findings] == found
    assert all("g = b" in f.text and f.text.startswith("Warm: ") for f in findings)


@pytest.mark.parametrize(("failed", "found"), [((0.01, 0.029), []), ((0.01, 0.04), ["group_failures"])])
def test_failures_two_points_apart(failed: tuple[float, float], found: list[str]) -> None:
    audit = audit_of(hand(), hand(), failed=failed)
    assert kinds([audit], ONE) == found
    if found:
        assert (
            "4.0% of the rows of g = b have no score (failed), but 1.0% of" in group_findings.of([audit], ONE)[0].text
        )


# The bundled model on First Impressions: the lowest group's ratio beside its labels' own.
@pytest.mark.parametrize(("ratio", "own"), [(0.60, 0.73), (0.55, 0.68), (0.78, 0.83)])
def test_ratios_of_real_audits_that_must_be_named(ratio: float, own: float) -> None:
    low = hand(impact_ratio=ratio, scoring_rate=0.5 * ratio, label_impact_ratio=own, n=900)
    (found,) = group_findings.of([audit_of(hand(n=900), low)], ONE)
    assert (found.kind, found.level) == ("impact_ratio", "warn")
    assert f"impact ratio {ratio:.2f}, the share of g = b" in found.text
    assert f"over that of g = a (50%); the labels' own ratio is {own:.2f}." in found.text


def test_a_certain_ratio_comes_before_a_lower_one_that_may_be_chance() -> None:
    certain = hand(impact_ratio=0.7, scoring_rate=0.35)
    small = hand(impact_ratio=0.66, scoring_rate=0.33, n=30)
    two = audit_of(hand(), certain)
    third = Group(values={"g": "c"}, clips=30, units=30, suppressed=False, traits={"warm": small})
    (found,) = group_findings.of([two.model_copy(update={"groups": [third, *two.groups]})], ONE)
    assert found.level == "warn" and "share of g = b" in found.text
    (alone,) = group_findings.of([two.model_copy(update={"groups": [two.groups[0], third]})], ONE)
    assert alone.level == "info" and alone.text.endswith("In groups of this size that may be chance.")
