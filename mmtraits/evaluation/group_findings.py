"""What a reader must know of an audit: biases between groups of people, one plain sentence each.

The kinds are stable names. What is judged is not the raters: a group is named where scores do more than labels did.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from statistics import NormalDist
from typing import NamedTuple

from mmtraits.evaluation.contents import Audit, Estimate, Finding, Group, GroupRow
from mmtraits.evaluation.views import label
from mmtraits.schema import Trait, TraitSchema

BIAS_OF_SCALE = 0.02
LOWEST_IMPACT_RATIO, BELOW_LABELS = 0.8, 0.05
HIGHEST_AMPLIFICATION = 1.1
LOWEST_COVERAGE, COVERAGE_ROWS = 0.87, 100
FAILURES_APART = 0.02
_ROUNDING = 1e-9  # 0.80 - 0.75 is not quite 0.05


def of(audits: Sequence[Audit], schema: TraitSchema) -> list[Finding]:
    """The biases that audits show.

    group_bias: a gap in mean signed error above 2 % of the scale whose interval, widened for the pairs and traits that
    it was chosen from (Bonferroni), excludes 0. impact_ratio: below .8 where the labels' own is not, or where it is at
    least .05 below the labels' own; for information where a two-proportion z-test allows chance. bias_amplification:
    interval above 1.1. group_coverage: below .87 on 100 rows or more. group_failures: shares of failed rows more than
    2 points apart.
    """
    of_traits = (_of_trait(audit, trait, len(schema.traits)) for audit in audits for trait in schema.traits)
    return [*chain.from_iterable(of_traits), *chain.from_iterable(map(_failures, audits))]


def _of_trait(audit: Audit, trait: Trait, traits: int) -> Iterator[Finding]:
    everyone = {_named(group): group.traits[trait.name] for group in audit.groups if not group.suppressed}
    shown = {name: row for name, row in everyone.items() if row.scoring_rate is not None}
    if trait.name in audit.gaps:
        yield from _bias(audit.gaps[trait.name].signed_error, shown, trait, traits)
    yield from _impact(shown, trait.name)
    for name, row in shown.items():
        coverage, grown = row.coverage, row.bias_amplification
        if grown.lower is not None and grown.lower > HIGHEST_AMPLIFICATION:
            text = (
                f"{label(trait.name)}: scores set {name} apart from the mean of all {_told(grown, '.2f')} times as far "
                "as labels do."
            )
            yield Finding(level="warn", kind="bias_amplification", text=text)
        if coverage is not None and coverage < LOWEST_COVERAGE and row.n >= COVERAGE_ROWS:
            text = f"{label(trait.name)}: only {coverage:.0%} of the {row.n} labels of {name} lie in their intervals."
            yield Finding(level="warn", kind="group_coverage", text=text)


def _bias(gap: Estimate, shown: Mapping[str, GroupRow], trait: Trait, traits: int) -> Iterator[Finding]:
    if gap.value is None or gap.lower is None or gap.upper is None or gap.lower <= 0:
        return
    normal, looks = NormalDist(), traits * len(shown) * (len(shown) - 1) / 2
    reach = normal.inv_cdf(1 - 0.025 / looks) / normal.inv_cdf(0.975) * (gap.upper - gap.lower) / 2
    scale = (trait.high - trait.low) if trait.high is not None and trait.low is not None else 0.0
    if gap.value > max(reach, BIAS_OF_SCALE * scale):
        low, *_, high = sorted(shown, key=lambda name: shown[name].signed_error.value or 0.0)
        errors = " and ".join(f"{shown[name].signed_error.value:+.3f}" for name in (high, low))
        text = (
            f"{label(trait.name)}: measured against their labels, {high} is scored higher than {low}: score minus "
            f"label averages {errors}, {_told(gap, '.3f')} apart."
        )
        yield Finding(level="warn", kind="group_bias", text=text)


class _Rate(NamedTuple):
    """Share of a group's `n` rows that is scored above the median, that over the highest share, and the labels' own."""

    n: int
    rate: float
    ratio: float
    own: float

    @property
    def unlike_labels(self) -> bool:
        """Whether scores fall under the four-fifths rule where labels do not, or clearly further than labels do."""
        further = self.own - self.ratio >= BELOW_LABELS - _ROUNDING
        return self.ratio < LOWEST_IMPACT_RATIO and (self.own >= LOWEST_IMPACT_RATIO or further)

    def certainly_below(self, other: _Rate) -> bool:
        """Two-proportion z-test, two-sided at .05."""
        pooled = (self.rate * self.n + other.rate * other.n) / (self.n + other.n)
        return other.rate - self.rate > 1.96 * math.sqrt(pooled * (1 - pooled) * (1 / self.n + 1 / other.n))


def _impact(shown: Mapping[str, GroupRow], trait: str) -> Iterator[Finding]:
    """The lowest ratio that labels do not explain; one beyond chance comes before one that is not."""
    known = {
        name: _Rate(row.n, row.scoring_rate, row.impact_ratio, row.label_impact_ratio)
        for name, row in shown.items()
        if row.scoring_rate is not None and row.impact_ratio is not None and row.label_impact_ratio is not None
    }
    below = [name for name, found in known.items() if found.unlike_labels]
    if not below:
        return
    highest = max(known, key=lambda name: known[name].rate)
    certain = {name for name in below if known[name].certainly_below(known[highest])}
    name = min(below, key=lambda name: (name not in certain, known[name].ratio))
    found, best = known[name], known[highest]
    text = (
        f"{label(trait)}: impact ratio {found.ratio:.2f}, the share of {name} scored above the median "
        f"({found.rate:.0%}) over that of {highest} ({best.rate:.0%}); the labels' own ratio is {found.own:.2f}."
    )
    aside = "" if name in certain else " In groups of this size that may be chance."
    yield Finding(level="warn" if name in certain else "info", kind="impact_ratio", text=text + aside)


def _failures(audit: Audit) -> Iterator[Finding]:
    rates = {_named(group): group.failed_rate for group in audit.groups if group.failed_rate is not None}
    low, high = (choose(rates.items(), key=lambda item: item[1], default=("", 0.0)) for choose in (min, max))
    if high[1] - low[1] > FAILURES_APART:
        text = f"{high[1]:.1%} of the rows of {high[0]} have no score (failed), but {low[1]:.1%} of those of {low[0]}."
        yield Finding(level="warn", kind="group_failures", text=text)


def _named(group: Group) -> str:
    return ", ".join(f"{name} = {value}" for name, value in group.values.items())


def _told(found: Estimate, form: str) -> str:
    return f"{found.value:{form}} (95 % {found.lower:{form}} to {found.upper:{form}})"
