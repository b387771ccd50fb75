"""Run an exported bundle on clips: numpy and onnxruntime, no torch.

>>> predictor = Predictor("bundle")            # or Predictor() for the default bundle
>>> scores = predictor.predict(["talk.mp4"])   # scores.values (1, K) on the schema's own scale
>>> scores = predictor.predict([{"voice": wave}])  # what another program decoded, one window per clip
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mmtraits import unlike
from mmtraits.bundle import GRAPH, default_bundle, read
from mmtraits.errors import BundleError, ConfigError
from mmtraits.heard import Heard, judge
from mmtraits.media.decoded import from_arrays
from mmtraits.media.load import LoadedClip, clip_from_file, load
from mmtraits.schema import Clip, Raw, TextSpec, TraitScores, stack

Decoded = Mapping[str, NDArray[Any]]  # stream -> array, one window
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Predictor:
    """A verified bundle, ready to score clips. One instance may be shared by threads.

    Raises BundleError for a bundle that is missing, incomplete, altered or of another version, and ConfigError for a
    device that this installation of onnxruntime cannot use. `threads`: of one forward pass; None = all cores. `later`:
    open the graph at the first forward pass, which takes seconds that a run out of the cache does not need.
    """

    def __init__(
        self,
        bundle: Path | str | None = None,
        *,
        threads: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        later: bool = False,
    ) -> None:
        _check_device(device)
        found = read(default_bundle() if bundle is None else Path(bundle))
        self.root, self.info, self.name = found.root, found.info, str(found.info["name"])
        self.schema, self.specs, self.windowing = found.schema, found.specs, found.windowing
        self.calibration, self.ranges = found.calibration, found.ranges
        self._inputs, self._outputs, self._fixed_steps = found.inputs, list(found.outputs), found.fixed_steps
        self._open = partial(_open_session, found.files[GRAPH], found.root / GRAPH, threads, device)
        self._opened: onnxruntime.InferenceSession | None = None
        self._lock = Lock()
        self.in_caller = device == "cpu" and threads == 1  # a pass computes in the thread that asks for it
        if not later:
            self.open()

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
        scores, *more = self.open().run(self._outputs, feeds)
        return scores, more[0] if more else np.full((len(raws), len(self.streams)), np.nan, np.float32)

    def predict(self, clips: Iterable[Clip | Path | str | Decoded], batch: int = 8) -> TraitScores:
        """Score clips, one row each, in order; never raises for what a file contains. `batch`: windows per pass.

        A clip is a media file, a `Clip`, or what another program decoded: one window as {stream: array}, whose id is
        its place. Raises ConfigError, before anything is scored, for arrays that are not what the bundle takes
        (`media.decoded.from_arrays`).
        """
        wanted = [
            from_arrays(clip, self.specs, self.windowing) if isinstance(clip, Mapping) else as_clip(clip)
            for clip in clips
        ]
        named = [(clip.id if isinstance(clip, Clip) else str(n), clip) for n, clip in enumerate(wanted)]
        parts = []
        for group in _groups(named, batch):
            loaded = [self.load(clip) if isinstance(clip, Clip) else clip for _, clip in group]
            parts.append(self.assess([name for name, _ in group], loaded, batch))
        return concatenate(parts) if parts else self.assess([], [])

    def assess(self, clip_ids: Sequence[str], loaded: Sequence[LoadedClip], batch: int = 8) -> TraitScores:
        """Score clips that are already decoded; windows are averaged by the time they cover."""
        heard = [Heard(self.streams) for _ in loaded]
        places = []
        for one, clip in zip(heard, loaded, strict=True):
            one.end(clip)
            for window in clip.windows:
                if (place := one.add(window, self.text_stream)) is not None:
                    places.append((one, place, window.streams))
        for group in _groups(places, batch):
            scores, distances = self.examine([streams for _, _, streams in group])
            for (one, place, _), *answer in zip(group, scores, distances, strict=True):
                one.answers[place] = (answer[0], answer[1])
        return self.verdict(clip_ids, heard)

    def verdict(self, clip_ids: Sequence[str], heard: Sequence[Heard]) -> TraitScores:
        """The rows of clips whose windows are scored."""
        rows = [one.averages(len(self.schema.traits)) for one in heard]
        values = np.array([scores for scores, _ in rows], np.float32).reshape(len(heard), len(self.schema.traits))
        present = np.array([one.streams() for one in heard], np.bool_).reshape(len(heard), len(self.streams))
        judged = [judge(row, has, one.reasons) for row, has, one in zip(values, present, heard, strict=True)]
        status = tuple(status for status, _ in judged)
        unlike = [self._unlike(one, far) for one, (_, far) in zip(heard, rows, strict=True)]
        values = np.where((np.array(status) == "failed")[:, None], np.float32(np.nan), values)
        lower, upper = self._interval(values, present)
        return TraitScores(
            schema=self.schema, clip_ids=tuple(clip_ids), values=values, lower=lower, upper=upper, streams=self.streams,
            present=present, status=status, reasons=tuple(reason for _, reason in judged),
            unlike=tuple(None if s == "failed" else names for s, names in zip(status, unlike, strict=True)),
        )  # fmt: skip

    def open(self) -> onnxruntime.InferenceSession:
        """Open the graph, unless it is; raises BundleError where onnxruntime refuses it."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
                del self._open  # and the bytes of the graph
                _give_back()
            return self._opened

    @property
    def text_stream(self) -> str | None:
        """The stream whose token ids tell how familiar a clip's language is; None where that is not judged."""
        if self.ranges is None or self.ranges.vocabulary is None:
            return None
        return next((stream for stream, spec in self.specs.items() if isinstance(spec, TextSpec)), None)

    def _unlike(self, heard: Heard, distances: NDArray[np.float64]) -> str | None:
        """What of a clip is unlike training; distances (P,), NaN where a stream is absent."""
        if self.ranges is None:
            return None
        found = unlike.of_media(heard.duration_s, heard.details)
        if self.text_stream is not None and self.ranges.vocabulary is not None:
            found["language"] = self.ranges.vocabulary.familiarity(unlike.said(heard.said))
        found |= {f"{s}_distance": float(far) for s, far in zip(self.streams, distances, strict=True)}
        return self.ranges.unlike(found)

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


def _check_device(device: str) -> None:
    if _PROVIDERS.get(device) not in onnxruntime.get_available_providers():
        offered = ", ".join(onnxruntime.get_available_providers())
        raise ConfigError(f"device {device!r}: onnxruntime offers {offered}; cuda needs the package onnxruntime-gpu")


def _open_session(
    graph: bytes, path: Path, threads: int | None, device: Literal["cpu", "cuda"]
) -> onnxruntime.InferenceSession:
    """Open from the verified bytes: what is run is what was hashed."""
    provider = _PROVIDERS[device]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # one for every shape that comes: 30 MB here, and no pass is quicker for it
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


def _give_back() -> None:
    """Return to the system what opening a graph took and needs no more (80 MB here): glibc keeps it otherwise."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
