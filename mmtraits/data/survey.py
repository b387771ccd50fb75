"""What a corpus holds, as tables: rows of plain numbers and strings, None where there is nothing to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmtraits.data.faults import Fault, Rows, rows_by_split
from mmtraits.data.leakage import Duplicate, Leak, counted, shared_persons, shared_rows
from mmtraits.data.manifest import Manifest

Table = list[dict[str, Any]]
BINS = 10
_VALUES = 8  # of an attribute that are told apart


def labels(manifest: Manifest) -> Table:
    """Per trait: how many labels are known, where they lie, and how many fall into each tenth of the scale.

    The tenths of a trait without bounds are those of its own range.
    """
    table: Table = []
    for trait, column in zip(manifest.schema.traits, manifest.labels.T, strict=True):
        values = column[np.isfinite(column)]
        row: dict[str, Any] = {"trait": trait.name, "known": len(values)}
        if len(values):
            low, high = (0.0, 1.0) if trait.kind == "binary" else (trait.low, trait.high)
            low, high = (float(values.min()) if low is None else low), (float(values.max()) if high is None else high)
            inside = np.clip(values, low, high)
            row |= {"lowest": float(values.min()), "mean": float(values.mean()), "highest": float(values.max())}
            row |= {
                "sd": float(values.std()),
                "from": low,
                "histogram": np.histogram(inside, BINS, (low, high))[0].tolist(),
            }
            row |= {"to": high}
        table.append(row)
    return table


def counts(manifest: Manifest) -> Table:
    """Clips, persons, clips with each input, known labels and values of attributes: in all, and in each split."""
    parts: dict[str, Rows] = {"all": np.arange(len(manifest.clips)), **rows_by_split(manifest)}
    unsplit = np.flatnonzero([split is None for split in manifest.splits])
    if len(parts) > 1 and len(unsplit):
        parts["no split"] = unsplit
    table: Table = [{"": "clips", **{name: len(rows) for name, rows in parts.items()}}]
    people = {name: {manifest.clips[row].person for row in rows} - {None} for name, rows in parts.items()}
    if people["all"]:
        table.append({"": "persons", **{name: len(found) for name, found in people.items()}})
    table += [
        {"": name, **{part: sum(has[row] for row in rows) for part, rows in parts.items()}}
        for name, has in _inputs(manifest).items()
    ]
    for trait, column in zip(manifest.schema.trait_names, manifest.labels.T, strict=True):
        known = {part: int(np.isfinite(column[rows]).sum()) for part, rows in parts.items()}
        table.append({"": f"{trait} known", **known})
    return table + _attributes(manifest, parts)


def on_scale(manifest: Manifest) -> Manifest:
    """The same with labels outside their scale unknown: what they are worth on the unit scale cannot be said."""
    low, high = (
        np.array([default if one is None else one for one in bounds])
        for default, bounds in (
            (-np.inf, [trait.low for trait in manifest.schema.traits]),
            (np.inf, [trait.high for trait in manifest.schema.traits]),
        )
    )
    inside = (manifest.labels >= low) & (manifest.labels <= high)
    return replace(manifest, labels=np.where(inside, manifest.labels, np.nan))


def leakage(manifest: Manifest, leak: Leak) -> Table:
    """Per split: what it shares with training, and 1 − MAE of looking the person up beside the training mean's."""
    rows = rows_by_split(manifest)
    persons = [clip.person for clip in manifest.clips]
    split_of = Counter(manifest.splits[found.row] for found in leak.duplicates)
    table: Table = []
    for split in (name for name in rows if name != "train"):
        who, clips = shared_rows(persons, rows["train"], rows[split])
        known = any(persons)
        look_up = leak.look_ups.get(split)
        table.append(
            {
                "split": split,
                "persons of train": len(who) if known else None,
                "clips of them": len(clips) if known else None,
                "of clips": len(rows[split]),
                "near transcripts": split_of[split],
                "1-MAE look-up": look_up.score if look_up else None,
                "1-MAE train mean": look_up.training_mean if look_up else None,
            }
        )
    return table


def leaks(manifest: Manifest, leak: Leak) -> list[Fault]:
    """What the other splits share with training, in sentences, and what is worth doing."""
    rows, path = rows_by_split(manifest), manifest.path
    outside = sum(len(own) for split, own in rows.items() if split != "train")
    seen = []
    if leak.persons:
        told = f"{counted(len(leak.persons), 'person')} of train also in val or test"
        clips = f"with {leak.clips_shared:,} of the {counted(outside, 'clip')} there"
        worth = ", ".join(
            f"{one.score:.4f} in {split} (training mean {one.training_mean:.4f})"
            for split, one in leak.look_ups.items()
        )
        what = f"looking them up, without any content, has 1-MAE {worth}"
        seen.append(Fault(False, f"{path}: {told}, {clips}: {what}; split by person: protocol.split=kfold or holdout"))
    elif both := shared_persons([clip.person for clip in manifest.clips], rows):
        told = f"{counted(len(next(iter(both.values()))), 'person')} both in val and in test"
        seen.append(Fault(False, f"{path}: {told}: what is chosen on val is not new to test"))
    if leak.duplicates:
        told = f"{counted(len(leak.duplicates), 'clip')} of val or test nearly in the words of a training clip"
        seen.append(Fault(False, f"{path}: {told}: {_pair(manifest, leak.duplicates[0])}"))
    return seen


def two_names(manifest: Manifest, near: Sequence[Duplicate]) -> list[Fault]:
    """Transcripts nearly those of another person: perhaps one person under two names, whom no split keeps together."""
    clips = manifest.clips
    found = [one for one in near if clips[one.row].person and clips[one.of].person not in (None, clips[one.row].person)]
    if not found:
        return []
    told = f"{counted(len(found), 'clip')} nearly in the words of another person's clip: {_pair(manifest, found[0])}"
    return [Fault(False, f"{manifest.path}: {told}; if it is one person, give both clips the same name")]


def _pair(manifest: Manifest, found: Duplicate) -> str:
    one, other = (manifest.clips[row].id for row in (found.row, found.of))
    return f"{one!r} and {other!r} (Jaccard {found.jaccard:.2f})"


def _inputs(manifest: Manifest) -> dict[str, list[bool]]:
    """Which clips have what: columns of the manifest that hold anything."""
    found = {
        name: [getattr(clip, name) is not None for clip in manifest.clips]
        for name in ("video", "audio", "transcript", "text")
    }
    streams = sorted({stream for clip in manifest.clips for stream in clip.features})
    found |= {f"feature_{stream}": [stream in clip.features for clip in manifest.clips] for stream in streams}
    return {name: has for name, has in found.items() if any(has)}


def _attributes(manifest: Manifest, parts: Mapping[str, Rows]) -> Table:
    table: Table = []
    for name in sorted({name for clip in manifest.clips for name in clip.attributes}):
        values = [clip.attributes.get(name, "unknown") for clip in manifest.clips]
        common = [value for value, _ in Counter(values).most_common(_VALUES)]
        for value in sorted(common):
            table.append({"": f"{name} = {value}", **_times(values, {value}, parts)})
        if rest := set(values) - set(common):
            table.append({"": f"{name}: {len(rest)} more values", **_times(values, rest, parts)})
    return table


def _times(values: Sequence[str], wanted: set[str], parts: Mapping[str, Rows]) -> dict[str, int]:
    return {part: sum(values[row] in wanted for row in rows) for part, rows in parts.items()}
