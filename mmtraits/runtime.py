"""Run an exported bundle on clips: numpy and onnxruntime, no torch.

>>> predictor = Predictor("bundle")            # or Predictor() for the default bundle
>>> scores = predictor.predict(["talk.mp4"])   # scores.values (1, K) on the schema's own scale
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mmtraits import unlike
from mmtraits.bundle import GRAPH, default_bundle, read
from mmtraits.errors import BundleError, ConfigError
from mmtraits.media.load import LoadedClip, clip_from_file, load
from mmtraits.media.sampling import time_covered
from mmtraits.schema import (
    Clip,
    Raw,
    Status,
    TextSpec,
    TraitScores,
    join_reasons,
    stack,
)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Predictor:
    """A verified bundle, ready to score clips. One instance may be shared by threads.

    Raises BundleError for a bundle that is missing, incomplete, altered or of another version, and ConfigError for a
    device that this installation of onnxruntime cannot use. `threads`: of one forward pass; None = all cores.
    """

    def __init__(
        self,
        bundle: Path | str | None = None,
        *,
        threads: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        found = read(default_bundle() if bundle is None else Path(bundle))
        self.root, self.info, self.name = found.root, found.info, str(found.info["name"])
        self.schema, self.specs, self.windowing = found.schema, found.specs, found.windowing
        self.calibration, self.ranges = found.calibration, found.ranges
        self._inputs, self._outputs, self._fixed_steps = found.inputs, list(found.outputs), found.fixed_steps
        self._session = _open_session(found.files[GRAPH], found.root / GRAPH, threads, device)

    @property
    def streams(self) -> tuple[str, ...]:
        """The P stream names, in column order."""
        return tuple(self.specs)

    def load(self, clip: Clip | Path | str) -> LoadedClip:
        """Decode one clip as the bundle's streams want it; what is wrong with a file is in `reasons`, never raised."""
        return load(as_clip(clip), self.specs, self.windowing, root=self.root)

    def score(self, raws: Sequence[Mapping[str, Raw]]) -> NDArray[np.float32]:
        """Score windows in one forward pass: N x {stream: Raw} -> (N, K) on the schema's own scale.

        A row without any stream gets the model's answer to nothing, which is no score: `predict` reports it as failed.
        """
        return self.examine(raws)[0]

    def examine(self, raws: Sequence[Mapping[str, Raw]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores (N, K) as `score`, and the distance (N, P) of every stream from those of training (`mmtraits.unlike`).

        0 where a stream is absent, NaN where the bundle gives no distance.
        """
        feeds: dict[str, NDArray[Any]] = {}
        for stream, (data, mask) in self._inputs.items():
            feeds[data], feeds[mask] = stack([raw[stream] for raw in raws], min_steps=self._fixed_steps[stream])
        scores, *more = self._session.run(self._outputs, feeds)
        return scores, more[0] if more else np.full((len(raws), len(self.streams)), np.nan, np.float32)

    def predict(self, clips: Iterable[Clip | Path | str], batch: int = 8) -> TraitScores:
        """Score clips, one row each, in order; never raises for what a clip contains. `batch`: windows per pass."""
        wanted = [as_clip(clip) for clip in clips]
        parts = [
            self.assess([clip.id for clip in group], [self.load(clip) for clip in group], batch)
            for group in _groups(wanted, batch)
        ]
        return concatenate(parts) if parts else self.assess([], [])

    def assess(self, clip_ids: Sequence[str], loaded: Sequence[LoadedClip], batch: int = 8) -> TraitScores:
        """Score clips that are already decoded; windows are averaged by the time they cover."""
        heard = [_windows_present(clip, self.streams) for clip in loaded]  # per clip (W, P) bool
        windows = [w.streams for clip, has in zip(loaded, heard, strict=True) for w in _spoken(clip, has)]
        passes = [self.examine(group) for group in _groups(windows, batch)]
        ends = np.cumsum([has.any(axis=1).sum() for has in heard])[:-1]
        sizes = (len(self.schema.traits), len(self.streams))
        nothing = [np.zeros((0, size), np.float32) for size in sizes]
        of_windows = [np.concatenate(part) for part in zip(nothing, *passes, strict=True)]
        scores, distances = ((np.split(part, ends) if loaded else []) for part in of_windows)
        rows = [_average(clip, has, found) for clip, has, found in zip(loaded, heard, scores, strict=True)]
        values = np.array(rows, np.float32).reshape(len(loaded), sizes[0])
        present = np.array([has.any(axis=0) for has in heard], np.bool_).reshape(len(loaded), sizes[1])
        far = [_average_of_present(*found) for found in zip(loaded, heard, distances, strict=True)]
        found_unlike = [self._unlike(clip, row) for clip, row in zip(loaded, far, strict=True)]
        return self._verdict(tuple(clip_ids), values, present, [clip.reasons for clip in loaded], found_unlike)

    def _unlike(self, clip: LoadedClip, distances: NDArray[np.float64]) -> str | None:
        """What of a clip is unlike training; distances (P,), NaN where a stream is absent."""
        if self.ranges is None:
            return None
        found = unlike.of_media(clip.duration_s, clip.details)
        text = next((stream for stream, spec in self.specs.items() if isinstance(spec, TextSpec)), None)
        if text is not None and self.ranges.vocabulary is not None:
            ids = [window.streams[text] for window in clip.windows]
            found["language"] = self.ranges.vocabulary.familiarity(unlike.said([raw.data[raw.mask] for raw in ids]))
        found |= {f"{s}_distance": float(far) for s, far in zip(self.streams, distances, strict=True)}
        return self.ranges.unlike(found)

    def _verdict(
        self,
        clip_ids: tuple[str, ...],
        values: NDArray[np.float32],
        present: NDArray[np.bool_],
        found: Sequence[Sequence[str]],
        found_unlike: Sequence[str | None],
    ) -> TraitScores:
        judged = [_judge(*row) for row in zip(values, present, found, strict=True)]
        status = tuple(status for status, _ in judged)
        values = np.where((np.array(status) == "failed")[:, None], np.float32(np.nan), values)
        lower, upper = self._interval(values, present)
        return TraitScores(
            schema=self.schema, clip_ids=clip_ids, values=values, lower=lower, upper=upper, streams=self.streams,
            present=present, status=status, reasons=tuple(reason for _, reason in judged),
            unlike=tuple(None if s == "failed" else names for s, names in zip(status, found_unlike, strict=True)),
        )  # fmt: skip

    def _interval(
        self, values: NDArray[np.float32], present: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.calibration is None or not len(values):
            unknown = np.full_like(values, np.nan)
            return unknown, unknown.copy()
        lower, upper = self.calibration.interval(values, present)
        return lower.astype(np.float32), upper.astype(np.float32)


def as_clip(clip: Clip | Path | str) -> Clip:
    """A media file becomes the clip of that file, with the transcript that lies beside it."""
    return clip if isinstance(clip, Clip) else clip_from_file(Path(clip))


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def concatenate(parts: Sequence[TraitScores]) -> TraitScores:
    """Rows of several results of the same bundle, one after the other."""
    first = parts[0]
    return TraitScores(
        schema=first.schema,
        clip_ids=tuple(clip_id for part in parts for clip_id in part.clip_ids),
        values=np.concatenate([part.values for part in parts]),
        lower=np.concatenate([part.lower for part in parts]),
        upper=np.concatenate([part.upper for part in parts]),
        streams=first.streams,
        present=np.concatenate([part.present for part in parts]),
        status=tuple(status for part in parts for status in part.status),
        reasons=tuple(reason for part in parts for reason in part.reasons),
        unlike=tuple(names for part in parts for names in part.unlike),
    )


# ---------------------------------------------------------------------------------------------------- the session


def _open_session(
    graph: bytes, path: Path, threads: int | None, device: Literal["cpu", "cuda"]
) -> onnxruntime.InferenceSession:
    """Open from the verified bytes: what is run is what was hashed."""
    provider = _PROVIDERS.get(device)
    if provider not in onnxruntime.get_available_providers():
        offered = ", ".join(onnxruntime.get_available_providers())
        raise ConfigError(f"device {device!r}: onnxruntime offers {offered}; cuda needs the package onnxruntime-gpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # else it starves torch and the decoders
    # Weights in other files were refused; were one overlooked, it would be sought below a file, where nothing is.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.absolute()))
    chosen: Any = ("CUDAExecutionProvider", {"use_tf32": "0"}) if device == "cuda" else provider
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[chosen])
    except Exception as error:  # onnxruntime's exceptions share no public base
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path}: onnxruntime {onnxruntime.__version__} refuses it ({reason})") from error
    if session.get_providers()[0] != provider:
        raise ConfigError(f"device {device!r}: {provider} could not start; check the CUDA and cuDNN libraries")
    return session


# ---------------------------------------------------------------------------------------------------- windows to rows


def _groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _windows_present(clip: LoadedClip, streams: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([[window.streams[s].mask.any() for s in streams] for window in clip.windows], np.bool_)


def _spoken(clip: LoadedClip, present: NDArray[np.bool_]) -> list[Any]:
    return [window for window, has in zip(clip.windows, present, strict=True) if has.any()]


def _average(clip: LoadedClip, present: NDArray[np.bool_], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of the windows that hold anything (W, K) -> (K,), by time covered; NaN without any."""
    windows = _spoken(clip, present)
    if not windows:
        return np.full(scores.shape[1], np.nan)
    weights = time_covered([(window.start_s, window.end_s) for window in windows])
    return np.asarray(np.average(scores.astype(np.float64), axis=0, weights=weights))


def _average_of_present(
    clip: LoadedClip, present: NDArray[np.bool_], distances: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Mean distance of each stream (W, P) -> (P,) over the windows that hold it, by time covered; NaN without any."""
    has = present[present.any(axis=1)]
    windows = _spoken(clip, present)
    seconds = time_covered([(window.start_s, window.end_s) for window in windows])[:, None] if windows else 0.0
    weights = has * seconds
    total, mean = weights.sum(axis=0), np.full(present.shape[1], np.nan)
    np.divide((weights * distances).sum(axis=0), total, out=mean, where=total > 0)
    return mean


def _judge(values: NDArray[np.float32], present: NDArray[np.bool_], found: Sequence[str]) -> tuple[Status, str]:
    """Status and reason of one row."""
    if not present.any():
        return "failed", join_reasons(found) or "no_modality"
    found = [reason for reason in found if reason != "no_modality"]  # vectors were given for a clip without media
    if not np.isfinite(values).all():
        return "failed", join_reasons([*found, "non_finite"])
    return ("ok" if present.all() and not found else "degraded"), join_reasons(found)
