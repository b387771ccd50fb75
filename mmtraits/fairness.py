"""How scores treat groups of people: audits by attributes and their pairs.

Rows are units: clips, or persons whose clips were averaged. Everything about a trait is counted on rows that have both
its label and its score, so that what scores do stands beside what labels do on the same rows. Intervals are 95 %
percentile bootstraps over persons: all rows of a person are drawn together, wherever they lie, and every group is
estimated on the same resamples, so that differences between groups are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmtraits.evaluation.contents import Audit, Estimate, Gap, Group, GroupRow, number
from mmtraits.schema import TraitSchema

Matrix = NDArray[np.float64]
Places = NDArray[np.intp]  # indices of rows
Values = tuple[str, ...]  # of the audited attributes, in their order
Groups = Mapping[Values, Places]

FEWEST_PERSONS = 5  # resampling fewer says nothing about other persons: no interval
MOST_GROUPS = 60  # in one audit; beyond it the suppressed ones are only counted
_BLOCKS = 10  # resamples are made into float64 in so many parts
_ROUNDING = 1e-12  # a variance below this share of the mean square is one of equal values


def audit(
    labels: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
    lower: NDArray[np.floating[Any]] | None,
    upper: NDArray[np.floating[Any]] | None,
    ids: Sequence[str],
    persons: Sequence[str],
    attributes: Sequence[Mapping[str, str]],
    status: Sequence[str] | None,
    schema: TraitSchema,
    *,
    clips: Sequence[int] | None = None,
    min_group: int = 30,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Audit]:
    """Audit N rows by every attribute, then by every pair of attributes that have several values.

    labels, scores, lower, upper: (N, K) on the schema's scale, NaN = unknown or failed; without intervals both are
    None. attributes: per row; a missing or empty value is unknown. status: ok, degraded or failed per row. clips: how
    many clips each row stands for (None: one). A group of fewer than `min_group` rows is suppressed: counted, nothing
    else; so is a trait in a group with fewer labelled and scored rows. Raises ValueError for shapes that do not agree.

    ks, wasserstein: greatest and integrated distance between the distribution functions of the group and of all rows
    (Chzhen et al. 2020). bias_amplification: (E[score|g] - E[score]) / (E[label|g] - E[label]), null where the interval
    of the denominator holds 0. scoring_rate: share of the group above the median of all rows; impact_ratio: that rate
    over the highest of all shown groups (29 CFR 1607.4(D); New York City Local Law 144).
    """
    tables = {"labels": labels, "scores": scores, "lower": lower, "upper": upper}
    columns = {"persons": persons, "attributes": attributes, "status": status, "clips": clips}
    rows = _rows(tables, columns, ids, schema)
    names = sorted({name for row in rows.attributes for name, value in row.items() if value})
    several = [name for name in names if len(_groups(rows, (name,))) > 1]
    if not names:
        return []
    counts = _draw(rows, resamples, seed)
    everyone = _drawn(rows, np.arange(len(ids)), counts)
    audited = [*((name,) for name in names), *combinations(several, 2)]
    return [_audit(rows, counts, everyone, attribute, min_group) for attribute in audited]


# ---------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What is audited, in the order of ids; `person`: (N,) number of the person; `known`: (N, K) label and score."""

    labels: Matrix
    scores: Matrix
    lower: Matrix
    upper: Matrix
    known: NDArray[np.bool_]
    person: Places
    attributes: list[Mapping[str, str]]
    status: NDArray[Any]  # of None where it is unknown
    clips: NDArray[np.int64]
    traits: tuple[str, ...]


def _rows(
    tables: Mapping[str, NDArray[Any] | None], columns: Mapping[str, Any], ids: Sequence[str], schema: TraitSchema
) -> _Rows:
    shape = (len(ids), len(schema.traits))
    arrays = {name: np.full(shape, np.nan) if t is None else np.asarray(t, np.float64) for name, t in tables.items()}
    wrong = {name: array.shape for name, array in arrays.items() if array.shape != shape}
    wrong |= {name: (len(c),) for name, c in columns.items() if c is not None and len(c) != len(ids)}
    if wrong:
        raise ValueError(f"audit: {wrong} beside {len(ids)} ids and {len(schema.traits)} traits; expected (N, K) and N")
    order = np.argsort(np.asarray(ids, np.str_), kind="stable")
    arrays = {name: array[order] for name, array in arrays.items()}
    status, clips = columns["status"], columns["clips"]
    return _Rows(
        **arrays,
        known=np.isfinite(arrays["labels"]) & np.isfinite(arrays["scores"]),
        person=np.unique(np.asarray(columns["persons"], np.str_)[order], return_inverse=True)[1].reshape(-1),
        attributes=[columns["attributes"][i] for i in order],
        status=np.asarray([None] * len(ids) if status is None else status, object)[order],
        clips=np.ones(len(ids), np.int64) if clips is None else np.asarray(clips, np.int64)[order],
        traits=schema.trait_names,
    )


def _groups(rows: _Rows, columns: Values) -> dict[Values, Places]:
    """Rows per combination of values, in the order of the values; a row that lacks one is in none."""
    places: dict[Values, list[int]] = {}
    for place, row in enumerate(rows.attributes):
        places.setdefault(tuple(row.get(name, "") for name in columns), []).append(place)
    return {values: np.array(places[values], np.intp) for values in sorted(places) if all(values)}


# ---------------------------------------------------------------------------------------------------- resamples


class _Drawn(NamedTuple):
    """Estimates of some rows, each (1 + R, K): on the rows themselves, then on every resample. NaN = undefined."""

    mae: Matrix
    signed_error: Matrix
    ccc: Matrix
    score: Matrix
    label: Matrix


def _draw(rows: _Rows, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each person counts, (1 + R, persons): once, then as drawn with replacement."""
    persons = len(np.unique(rows.person))
    rng = np.random.default_rng(seed)
    counts = np.ones((1 + resamples, persons), np.uint16)
    for row in counts[1:]:
        row[:] = np.bincount(rng.integers(persons, size=persons), minlength=persons)
    return counts


def _drawn(rows: _Rows, places: Places, counts: NDArray[np.uint16]) -> _Drawn:
    """Estimates from sums over persons, which a resample adds as often as it drew them: one matrix product."""
    known = rows.known[places]
    labels, scores = (np.where(known, values[places], 0) for values in (rows.labels, rows.scores))
    centre = labels.sum(axis=0) / np.maximum(known.sum(axis=0), 1)  # squares of distances from it lose no digits
    y, p = np.where(known, labels - centre, 0), np.where(known, scores - centre, 0)
    columns = np.stack([known, abs(p - y), y, p, y * y, p * p, y * p], axis=1, dtype=np.float64)  # (n, 7, K)
    members, of_member = np.unique(rows.person[places], return_inverse=True)
    sums = np.zeros((len(members), *columns.shape[1:]))
    np.add.at(sums, of_member.reshape(-1), columns)
    parts = np.array_split(counts[:, members], _BLOCKS)
    total = np.concatenate([np.tensordot(part.astype(np.float64), sums, axes=1) for part in parts])
    total[1:, :, (sums[:, 0] > 0).sum(axis=0) < FEWEST_PERSONS] = 0
    return _means(total, centre)


def _means(total: Matrix, centre: Matrix) -> _Drawn:
    """(1 + R, 7, K) sums of n and, from the centre, |error|, label, score, their squares and product."""
    n = np.where(total[:, 0] > 0, total[:, 0], np.nan)
    error, y, p, yy, pp, yp = (total[:, column] / n for column in range(1, 7))
    var_y, var_p = yy - y * y, np.maximum(pp - p * p, 0)
    apart = np.where(var_y > _ROUNDING * yy, var_y + var_p + (y - p) ** 2, np.nan)  # NaN where labels are equal
    shared = np.where(var_p > _ROUNDING * pp, yp - y * p, 0)
    return _Drawn(error, p - y, 2 * shared / apart, p + centre, y + centre)


def _estimate(drawn: Matrix) -> Estimate:
    """(1 + R,) value and resamples -> value and 95 % percentile interval; none where most resamples are undefined."""
    value, found = float(drawn[0]), drawn[1:][np.isfinite(drawn[1:])]
    if not np.isfinite(value) or 2 * len(found) <= len(drawn) - 1:
        return Estimate(value=number(value))
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value=value, lower=float(low), upper=float(high))


# ---------------------------------------------------------------------------------------------------- one audit


def _audit(rows: _Rows, counts: NDArray[np.uint16], everyone: _Drawn, columns: Values, min_group: int) -> Audit:
    found = _groups(rows, columns)
    large = {values: places for values, places in found.items() if len(places) >= min_group}
    drawn = {values: _drawn(rows, places, counts) for values, places in large.items()}
    by_trait = [_trait(rows, k, large, drawn, everyone, min_group) for k in range(len(rows.traits))]
    traits = {values: dict(zip(rows.traits, (table[values] for table in by_trait), strict=True)) for values in large}
    listed = found if len(found) <= MOST_GROUPS else large
    gaps = {trait: _gap(k, by_trait[k], drawn) for k, trait in enumerate(rows.traits)}
    shown = [row for table in by_trait for row in table.values() if row.mae.value is not None]
    return Audit(
        attributes=list(columns),
        unknown=len(rows.person) - sum(map(len, found.values())),
        groups=[
            _group(rows, places, dict(zip(columns, values, strict=True)), traits.get(values, {}))
            for values, places in listed.items()
        ],
        gaps={trait: gap for trait, gap in gaps.items() if gap is not None},
        notes=_notes(len(found), len(large), len(listed), shown, min_group),
    )


def _group(rows: _Rows, places: Places, values: dict[str, str], traits: dict[str, GroupRow]) -> Group:
    """Without traits it is suppressed."""
    known = ("failed", "degraded") if traits and rows.status[0] else ()
    shares = {f"{name}_rate": float(np.mean(rows.status[places] == name)) for name in known}
    clips = int(rows.clips[places].sum())
    return Group(values=values, clips=clips, units=len(places), suppressed=not traits, traits=traits, **shares)


def _notes(found: int, large: int, listed: int, shown: Sequence[GroupRow], min_group: int) -> list[str]:
    narrow = sum(row.mae.lower is None for row in shown)
    unmoved = sum(row.bias_amplification.value is None for row in shown)
    said = {
        "one value: nothing to compare": found == 1,
        f"fewer than two groups of {min_group}: nothing to compare": found > 1 and large < 2,
        f"{found - listed} groups of fewer than {min_group} are not listed": listed < found,
        f"{narrow} of {len(shown)} rows have no intervals: fewer than {FEWEST_PERSONS} persons": narrow > 0,
        f"bias amplification is undefined in {unmoved} of {len(shown)} rows: the interval of the labels' own gap "
        "includes 0 or is unknown": found > 1 and unmoved > 0,
    }
    return [note for note, holds in said.items() if holds]


def _trait(
    rows: _Rows, k: int, groups: Groups, drawn: Mapping[Values, _Drawn], everyone: _Drawn, min_group: int
) -> dict[Values, GroupRow]:
    """Trait number k in every group; only `n` where too few rows have a label and a score."""
    table: dict[Values, GroupRow] = {}
    known = np.flatnonzero(rows.known[:, k])
    places = {values: place[rows.known[place, k]] for values, place in groups.items()}
    shown = {values: place for values, place in places.items() if len(place) >= min_group}
    label, score = rows.labels[:, k], rows.scores[:, k]
    score_rates, label_rates = _rates(score, known, shown), _rates(label, known, shown)
    for values, place in places.items():
        if values not in shown:
            table[values] = _only_counted(len(place))
            continue
        means = drawn[values]
        of_scores, of_labels = distances(score[place], score[known]), distances(label[place], label[known])
        table[values] = GroupRow(
            n=len(place),
            mae=_estimate(means.mae[:, k]),
            signed_error=_estimate(means.signed_error[:, k]),
            ccc=_estimate(means.ccc[:, k]),
            ks_scores=of_scores[0],
            ks_labels=of_labels[0],
            wasserstein_scores=of_scores[1],
            wasserstein_labels=of_labels[1],
            bias_amplification=_amplification(
                means.score[:, k] - everyone.score[:, k], means.label[:, k] - everyone.label[:, k]
            ),
            scoring_rate=score_rates[values][0],
            impact_ratio=score_rates[values][1],
            label_impact_ratio=label_rates[values][1],
            coverage=_coverage(label[place], rows.lower[place, k], rows.upper[place, k]),
        )
    return table


def _only_counted(n: int) -> GroupRow:
    estimates = dict.fromkeys(("mae", "signed_error", "ccc", "bias_amplification"), Estimate(value=None))
    nothing: dict[str, Any] = dict.fromkeys(GroupRow.model_fields) | estimates | {"n": n}
    return GroupRow(**nothing)


def distances(part: Matrix, whole: Matrix) -> tuple[float, float]:
    """Kolmogorov-Smirnov and Wasserstein-1 distance between the distributions of (n,) and (N,) values."""
    points = np.unique(np.concatenate([part, whole]))
    of_part, of_whole = (
        np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (part, whole)
    )
    apart = np.abs(of_part - of_whole)
    return float(apart.max()), float(np.sum(apart[:-1] * np.diff(points)))


def _amplification(score_gap: Matrix, label_gap: Matrix) -> Estimate:
    """The scores' gap between a group and all over the labels' own, each (1 + R,)."""
    own = _estimate(label_gap)
    if own.lower is None or own.upper is None or own.lower <= 0 <= own.upper:
        return Estimate(value=None)
    return _estimate(score_gap / np.where(label_gap == 0, np.nan, label_gap))


def _rates(values: Matrix, known: Places, shown: Groups) -> dict[Values, tuple[float, float | None]]:
    """Share of each group above the median of all known values, and that over the highest share."""
    rates = {group: float(np.mean(values[places] > np.median(values[known]))) for group, places in shown.items()}
    highest = max(rates.values(), default=0.0)
    return {group: (rate, rate / highest if highest > 0 else None) for group, rate in rates.items()}


def _coverage(labels: Matrix, lower: Matrix, upper: Matrix) -> float | None:
    known = np.isfinite(lower) & np.isfinite(upper)
    return float(np.mean((lower <= labels)[known] & (labels <= upper)[known])) if known.any() else None


def _gap(k: int, table: Mapping[Values, GroupRow], drawn: Mapping[Values, _Drawn]) -> Gap | None:
    """Between the groups farthest apart; None where fewer than two are shown."""
    shown = [values for values, row in table.items() if row.mae.value is not None]
    if len(shown) < 2:
        return None
    mae = {values: drawn[values].mae[:, k] for values in shown}
    errors = sorted(float(found[0]) for found in mae.values())
    ratios = [found for values in shown if (found := table[values].impact_ratio) is not None]
    return Gap(
        signed_error=_farthest({values: drawn[values].signed_error[:, k] for values in shown}),
        mae_difference=_farthest(mae),
        mae_ratio=errors[-1] / errors[0] if errors[0] > 0 else None,
        max_ks=max(table[values].ks_scores or 0.0 for values in shown),
        min_impact_ratio=min(ratios, default=None),
    )


def _farthest(drawn: Mapping[Values, Matrix]) -> Estimate:
    """Highest minus lowest value, with the interval of the difference between these two groups."""
    ordered = sorted(drawn.values(), key=lambda values: float(values[0]))
    return _estimate(ordered[-1] - ordered[0])
