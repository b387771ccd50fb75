"""What a reader of a comparison must know: which systems differ clearly, which do not, and what is not alike."""

from __future__ import annotations

from collections.abc import Iterator

from mmtraits.evaluation.contents import Difference, Finding
from mmtraits.evaluation.side_by_side import Pair, Side, SideBySide
from mmtraits.evaluation.views import METRICS, by_level, label, number, p_value, verdict

FEW_UNITS = 50


def of(found: SideBySide, persons_shared: int | None) -> list[Finding]:
    """The worst first. persons_shared: in training and outside of it, the same for all; None: persons have no names."""
    every = [*_leaks(persons_shared), *_rows(found), *_seeds(found.systems), *_floors(found), *_pairs(found)]
    return by_level(every)


def _leaks(persons: int | None) -> Iterator[Finding]:
    if persons is None:
        text = "No clip names its person: whether training and the compared rows share persons cannot be checked."
        yield Finding(level="warn", kind="persons_unknown", text=text)
    elif persons:
        text = (
            f"{persons} persons are in training and outside of it: the figures count recognising a person as reading "
            "an impression, for some systems more than for others."
        )
        yield Finding(level="warn", kind="persons_shared", text=text)


def _rows(found: SideBySide) -> Iterator[Finding]:
    if found.units < FEW_UNITS:
        text = (
            f"{found.units} {found.unit}s of {found.persons} persons: too few for figures that anybody should rely on."
        )
        yield Finding(level="warn", kind="few_units", text=text)
    if lost := [f"{side.unscored} by {side.name}" for side in found.systems if side.unscored]:
        text = f"Clips without a score: {', '.join(lost)}. They are left out for every system."
        yield Finding(level="warn", kind="unscored", text=text)


def _seeds(systems: list[Side]) -> Iterator[Finding]:
    members = {side.name: side.members for side in systems}
    if len(set(members.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in members.items())
        text = f"Not alike in members ({told}): an average over more seeds is better by that alone."
        yield Finding(level="warn", kind="members_differ", text=text)


def _floors(found: SideBySide) -> Iterator[Finding]:
    """Systems whose mean absolute error does not clearly beat a constant's."""
    for pair in found.floor_pairs:
        if pair.metric != "mae" or pair.mean.value is None:
            continue
        if (known := verdict("mae", pair.mean, holm=True)) != "better":
            how = "worse" if known == "worse" else "not clearly better"
            text = f"{pair.first}: {how} than the {pair.second} (MAE {_told(pair.mean)})."
            yield Finding(level="warn", kind="floor_not_beaten", text=text)


def _pairs(found: SideBySide) -> Iterator[Finding]:
    """Per pair of systems: where either is clearly better, then where they do not clearly differ."""
    for first, second in dict.fromkeys((pair.first, pair.second) for pair in found.pairs):
        own = [pair for pair in found.pairs if (pair.first, pair.second) == (first, second)]
        outcome = {pair.metric: verdict(pair.metric, pair.mean, holm=True) for pair in own}
        for which, who, whom in (("better", first, second), ("worse", second, first)):
            if clear := [pair for pair in own if outcome[pair.metric] == which]:
                text = f"{who} is better than {whom} on average ({first} minus {second}: {_metrics(clear)})."
                yield Finding(level="info", kind="clear_difference", text=text)
        if unclear := [pair for pair in own if outcome[pair.metric] == "unclear"]:
            text = f"{first} and {second}: no clear difference on average ({_metrics(unclear)}){_but(unclear)}."
            yield Finding(level="info", kind="no_clear_difference", text=text)


def _metrics(pairs: list[Pair]) -> str:
    return "; ".join(f"{METRICS[pair.metric].label} {_told(pair.mean)}" for pair in pairs)


def _but(pairs: list[Pair]) -> str:
    """Traits that differ where the mean over traits does not."""
    traits = {
        METRICS[pair.metric].label: [
            label(name) for name, one in pair.traits.items() if verdict(pair.metric, one, holm=True) != "unclear"
        ]
        for pair in pairs
    }
    told = [f"{', '.join(names)} in {metric}" for metric, names in traits.items() if names]
    return f"; single traits differ clearly: {'; '.join(told)}" if told else ""


def _told(found: Difference) -> str:
    if found.lower is None or found.upper is None:
        return f"{number(found.value, 4)}, no interval"
    p = p_value(found.p_holm)
    return (
        f"{number(found.value, 4)}, 95 % {number(found.lower, 4)} to {number(found.upper, 4)}, "
        f"p {p if p.startswith('<') else '= ' + p}"
    )
