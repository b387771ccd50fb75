"""What the clips that a run was trained on were like: the ranges of the unlike-training flag, fitted at export."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mmtraits import graph, unlike
from mmtraits.config import RunConfig
from mmtraits.data.batch import collate
from mmtraits.data.dataset import Window, WindowDataset
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ManifestError
from mmtraits.extract import extract
from mmtraits.media.load import load
from mmtraits.model import TraitModel
from mmtraits.schema import Clip, TextSpec, Windowing
from mmtraits.unlike import Ranges, Vocabulary

log = logging.getLogger(__name__)

MOST_DECODED = 200  # clips whose media are read again: half a second each
MOST_EXTRACTED = (2000, 500)  # clips whose front-end outputs are read: of features and text alone, and of media


def fit(config: RunConfig, manifest: Manifest, rows: Sequence[int], members: Sequence[TraitModel]) -> Ranges | None:
    """Ranges from training rows of the manifest; None where too little of the training data is there.

    Duration, face share and loudness come from media, decoded again for a part of the clips; distances from front-end
    outputs, read from the cache of `train` or made again for a part of the clips; language from all texts.
    """
    clips = sorted((manifest.clips[row] for row in rows), key=lambda clip: clip.id)
    windowing = Windowing(**config.data.windowing.model_dump())
    specs = members[0].specs
    media = []
    for clip in _spread([clip for clip in clips if clip.video or clip.audio], MOST_DECODED):
        loaded = load(clip, specs, windowing, backend=config.data.backend)
        media.append(unlike.of_media(loaded.duration_s, loaded.details))
    texts = _texts(clips, {name: spec for name, spec in specs.items() if isinstance(spec, TextSpec)}, windowing)
    vocabulary, familiarity = Vocabulary.fit(texts) if texts else (None, np.zeros(0))
    values = {check: np.array([one[check] for one in media]) for check in (media[0] if media else ())}
    values |= {"language": familiarity, **_distances(config, manifest, rows, members)}
    return Ranges.fit(values, vocabulary)


def _spread(items: Sequence[Clip], most: int) -> list[Clip]:
    """At most so many, evenly from the whole sequence."""
    places = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[place] for place in places]


def _texts(clips: Sequence[Clip], specs: dict[str, TextSpec], windowing: Windowing) -> list[NDArray[np.int64]]:
    """Token ids of every clip that says anything, for the first text stream; media stay closed."""
    if not specs:
        return []
    name, spec = next(iter(specs.items()))
    texts = []
    for clip in clips:
        words = Clip(id=clip.id, text=clip.text, transcript=clip.transcript, speaker=clip.speaker,
                     start_s=clip.start_s, end_s=clip.end_s)  # fmt: skip
        windows = load(words, {name: spec}, windowing).windows if clip.text or clip.transcript else ()
        ids = unlike.said([window.streams[name].data for window in windows])
        texts += [ids] if len(ids) else []
    return texts


def _distances(
    config: RunConfig, manifest: Manifest, rows: Sequence[int], members: Sequence[TraitModel]
) -> dict[str, NDArray[np.float64]]:
    """Distances of training clips per stream that has any: what the graph says of them, from front-end outputs."""
    by_id = sorted((manifest.clips[row] for row in rows), key=lambda clip: clip.id)
    row_of = {manifest.clips[row].id: row for row in rows}
    heavy = [clip for clip in by_id if clip.video or clip.audio]
    light = [clip for clip in by_id if not (clip.video or clip.audio)]
    chosen = [*_spread(light, MOST_EXTRACTED[0]), *_spread(heavy, MOST_EXTRACTED[1])]
    try:
        windows = extract(config, manifest, sorted(row_of[clip.id] for clip in chosen)).windows
    except ManifestError as error:
        log.warning("export: no distances from training, whose features cannot be read: %s", error)
        return {}
    far = np.concatenate([np.zeros((0, len(members[0].streams))), *_batches(windows, manifest, members)])
    seconds = np.array([window.seconds for window in windows], np.float64)
    of_row = np.array([window.row for window in windows], np.int64)
    found = {}
    for stream, column in zip(members[0].streams, far.T, strict=True):
        weight = np.where(column > 0, seconds, 0.0)  # 0: absent, or an encoder that gives none
        total, sums = (np.bincount(of_row, w) for w in (weight, weight * column))
        found[f"{stream}_distance"] = sums[total > 0] / total[total > 0]
    return found


def _batches(windows: Sequence[Window], manifest: Manifest, members: Sequence[TraitModel]) -> list[NDArray[np.float64]]:
    dataset = WindowDataset(windows, manifest.labels)
    states = [member.state_dict() for member in members]
    found = []
    for start in range(0, len(dataset), 64):
        batch = collate([dataset[n] for n in range(start, min(start + 64, len(dataset)))])
        with torch.inference_mode():
            far = torch.stack([graph.distances(batch.features, state) for state in states]).mean(0)
        found.append(far.double().numpy())
    return found
