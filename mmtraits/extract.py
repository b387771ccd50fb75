"""What front-ends make of every clip of a manifest, computed once and kept: training meets only the trainable rest.

An entry of the store is one stream of one clip. Its key is the content of the clip's files, how it is cut, what the
stream asks of media, the front-end's options and weights, and the source code of both: a changed file, option or line
is extracted again, everything else is read. What is stored is what is read back, bit for bit; computing a clip again in
another batch may differ in the last bits.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmtraits import parts, workers
from mmtraits.config import Part, RunConfig
from mmtraits.data.batch import to_tokens
from mmtraits.data.dataset import Held, Window
from mmtraits.data.features import read_features
from mmtraits.data.manifest import Manifest
from mmtraits.errors import ManifestError, MMTraitsError, joined
from mmtraits.media import turns
from mmtraits.media.cache import Store, Stored, file_digest
from mmtraits.media.clip_cache import TRANSIENT
from mmtraits.media.load import Ending, LoadedClip
from mmtraits.media.sampling import time_covered
from mmtraits.schema import Clip, FrameSpec, InputSpec, Raw, VectorSpec, WaveSpec, Windowing, join_reasons
from mmtraits.tokens import Tokens

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
CHUNK_WINDOWS, CHUNK_BYTES = 2048, 256 << 20  # what is decoded before front-ends run: sorting by length needs many
BATCH_WINDOWS = 64
# Elements of input per pass. On a CPU forty windows of faces together take three times as long as one by one.
BATCH_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 23}
ADAPT_ONLY = {"width", "dropout"}  # options that shape what follows the front-end, in every encoder


@dataclass(frozen=True, slots=True)
class Extraction:
    """The windows of the rows asked for, in row order; why clips lack streams; the clips in which nothing was found."""

    windows: tuple[Window, ...]
    reasons: Mapping[str, str]
    dropped: tuple[str, ...]

    def of(self, rows: Iterable[int]) -> list[Window]:
        """The windows of some rows, in row order."""
        wanted = {int(row) for row in rows}
        return [window for window in self.windows if window.row in wanted]


@dataclass(slots=True)
class _Job:
    config: RunConfig
    manifest: Manifest
    encoders: Mapping[str, Any]
    device: torch.device
    store: Store
    keys: dict[tuple[int, str], str] = field(default_factory=dict)  # (row, stream) that media must give
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def windowing(self) -> Windowing:
        return Windowing(**self.config.data.windowing.model_dump())


def extract(
    config: RunConfig,
    manifest: Manifest,
    rows: Iterable[int] | None = None,
    *,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Extraction:
    """Front-end outputs of these rows (default: all) from the store, computing what it lacks.

    A `feature_<stream>` of the manifest enters as it is. A clip that cannot be read is logged, and its streams are
    absent; windows in which nothing is present are left out. Raises ManifestError for features of the wrong width.
    """
    wanted = list(range(len(manifest.clips)) if rows is None else rows)
    encoders = {stream: parts.encoder(part).eval().to(device) for stream, part in config.streams.items()}
    job = _Job(config, manifest, encoders, torch.device(device), Store(config.data.cache))
    blanks = {stream: absent(encoder, job.device) for stream, encoder in encoders.items()}
    given = _given(manifest, wanted, blanks)
    _name_entries(job, wanted, given)
    _fill(job, progress, blanks)
    windows, dropped = _assemble(job, wanted, given, blanks)
    for clip_id in dropped:
        logger.warning("clip %s: nothing to train on or to score (%s)", clip_id, job.reasons.get(clip_id, "no stream"))
    return Extraction(tuple(_in_memory(windows, config.data.in_memory_mb << 20)), job.reasons, tuple(dropped))


# ---------------------------------------------------------------------------------------------------- names


def _name_entries(job: _Job, rows: Sequence[int], given: Mapping[tuple[int, str], Raw]) -> None:
    digests = _Digests(job.config.data.cache / "digests.json")
    prints = {s: fingerprint(job.config.streams[s], encoder) for s, encoder in job.encoders.items()}
    cut = json.dumps([asdict(job.windowing), job.config.data.backend, _media_code()])
    for row in rows:
        clip = job.manifest.clips[row]
        streams = [s for s, e in job.encoders.items() if (row, s) not in given and _possible(clip, e.spec)]
        content = _content(clip, digests) if streams else ""
        for stream in streams:
            job.keys[row, stream] = hashlib.sha256(f"{content}{cut}{prints[stream]}".encode()).hexdigest()
    digests.save()


def _possible(clip: Clip, spec: InputSpec) -> bool:
    """Whether the clip names a file that could hold the stream."""
    if isinstance(spec, FrameSpec):
        return clip.video is not None
    if isinstance(spec, WaveSpec):
        return bool(clip.video or clip.audio)
    if isinstance(spec, VectorSpec) and spec.producer == "external":
        return False
    return bool(clip.video or clip.audio or clip.transcript or clip.text)


def _content(clip: Clip, digests: _Digests) -> str:
    files = [None if path is None else digests.of(path) for path in (clip.video, clip.audio, clip.transcript)]
    beside = turns.sidecar(clip)
    spoken = [digests.of(beside)] if beside else []
    return json.dumps([*files, clip.text, clip.start_s, clip.end_s, clip.speaker, *spoken])


class _Digests:
    """sha256 of files, remembered by path, size and time of change: a corpus is read for them once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list[Any]] = json.loads(path.read_text()) if path.is_file() else {}
        self.changed = False

    def of(self, file: Path) -> str:
        """As `file_digest`: what is wrong with a file, media code says of the clip."""
        try:
            stat = file.stat()
        except OSError:
            return file_digest(file)
        name, state = str(file.absolute()), [stat.st_size, stat.st_mtime_ns]
        if self.known.get(name, [])[:2] != state:
            self.known[name] = [*state, file_digest(file)]
            self.changed = True
        return str(self.known[name][2])

    def save(self) -> None:
        """Write atomically."""
        if self.changed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial_file = self.path.with_suffix(".partial")
            partial_file.write_text(json.dumps(self.known))
            partial_file.replace(self.path)


def fingerprint(part: Part, encoder: torch.nn.Module) -> str:
    """What decides a front-end's output: options, code, and every tensor that training does not change."""
    options = parts.options("encoders", part).model_dump(mode="json", exclude=ADAPT_ONLY)
    source = Path(parts.module("encoders", part.use).__file__ or "")
    digest = hashlib.sha256(json.dumps([part.use, options]).encode() + source.read_bytes())
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    for name, tensor in sorted(encoder.state_dict().items()):
        if name not in trained:
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def _media_code() -> str:
    package = Path(__file__).parent
    shared = (path for folder in ("media", "networks") for path in sorted((package / folder).rglob("*.py")))
    files = [*shared, package / "weights.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


# ---------------------------------------------------------------------------------------------------- computing


def _fill(job: _Job, progress: Progress | None, blanks: Mapping[str, Raw]) -> None:
    """Compute every entry that the store lacks."""
    missing: dict[int, list[str]] = {}
    for (row, stream), key in job.keys.items():
        if job.store.get(key) is None:
            missing.setdefault(row, []).append(stream)
    done = 0
    for chunk in _chunks(_load_all(job, missing)):
        _process(job, chunk, missing, blanks)
        done += len(chunk)
        if progress:
            progress(done, len(missing))
    job.store.flush()


def _load_all(job: _Job, missing: Mapping[int, Sequence[str]]) -> Iterator[tuple[int, LoadedClip]]:
    """Decode the clips, in order, in worker processes when the config asks for them.

    Raises MMTraitsError for what tells of the machine and not of the clip: training rows must not depend on that.
    """
    clips, data = job.manifest.clips, job.config.data
    rows = list(missing)
    jobs = (
        workers.Job(clips[row], {s: job.encoders[s].spec for s in missing[row]}, job.windowing, backend=data.backend)
        for row in rows
    )
    windows = []
    for number, item in workers.decode(jobs, data.workers if len(rows) > 1 else 0):
        if not isinstance(item, Ending):
            windows.append(item)
            continue
        if failed := TRANSIENT & set(item.reasons):
            told = f"{join_reasons(failed)} ({item.details.get('error')})"
            raise MMTraitsError(f"extract: clip {clips[rows[number]].id}: {told}; run again, or take its file out")
        found = tuple(windows)
        yield (
            rows[number],
            LoadedClip(windows=found, reasons=item.reasons, duration_s=item.duration_s, details=item.details),
        )
        windows = []


def _chunks(clips: Iterable[tuple[int, LoadedClip]]) -> Iterator[list[tuple[int, LoadedClip]]]:
    chunk: list[tuple[int, LoadedClip]] = []
    windows = size = 0
    for row, clip in clips:
        chunk.append((row, clip))
        windows += len(clip.windows)
        size += sum(raw.data.nbytes for window in clip.windows for raw in window.streams.values())
        if windows >= CHUNK_WINDOWS or size >= CHUNK_BYTES:
            yield chunk
            chunk, windows, size = [], 0, 0
    if chunk:
        yield chunk


def _process(
    job: _Job, chunk: Sequence[tuple[int, LoadedClip]], missing: Mapping[int, Sequence[str]], blanks: Mapping[str, Raw]
) -> None:
    for stream, encoder in job.encoders.items():
        clips = [(row, clip) for row, clip in chunk if stream in missing[row]]
        raws = [window.streams[stream] for _, clip in clips for window in clip.windows]
        outputs = iter(run_frontend(encoder, raws, blanks[stream], job.device))
        for row, clip in clips:
            times = [(window.start_s, window.end_s) for window in clip.windows]
            job.store.add(job.keys[row, stream], times, [next(outputs) for _ in times])
    for row, clip in chunk:
        if clip.reasons:
            clip_id = job.manifest.clips[row].id
            job.reasons[clip_id] = join_reasons(clip.reasons)
            logger.info("clip %s: %s", clip_id, job.reasons[clip_id])


@torch.inference_mode()
def run_frontend(encoder: Any, raws: Sequence[Raw], blank: Raw, device: torch.device) -> list[Raw]:
    """What the front-end gives for each window, in order; sorted by length inside, so that padding is small.

    An absent window is `blank`. A step that comes out non-finite is masked.
    """
    outputs = [blank] * len(raws)
    for batch in _batches(raws, BATCH_ELEMENTS["cuda" if device.type == "cuda" else "cpu"]):
        tokens = to_tokens([raws[i] for i in batch])
        data, mask = encoder.frontend(Tokens(tokens.data.to(device), tokens.mask.to(device)))
        for i, one, real in zip(batch, data.cpu().numpy(), mask.cpu().numpy(), strict=True):
            outputs[i] = _settled(one, real, keep_length=_steps(encoder) > 1)
    return outputs


def _batches(raws: Sequence[Raw], elements: int) -> Iterator[list[int]]:
    """Indices of the present windows, short ones first, with at most so many input elements at a time."""
    batch: list[int] = []
    for i in sorted((i for i, raw in enumerate(raws) if raw.mask.any()), key=lambda i: len(raws[i].mask)):
        if batch and (len(batch) == BATCH_WINDOWS or (len(batch) + 1) * raws[i].data.size > elements):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _settled(data: NDArray[Any], mask: NDArray[np.bool_], *, keep_length: bool) -> Raw:
    mask = mask & np.isfinite(data).reshape(len(mask), -1).all(axis=1)
    steps = len(mask) if keep_length else int(mask.nonzero()[0][-1]) + 1 if mask.any() else 0
    return Raw(data[:steps].copy(), mask[:steps].copy())


def absent(encoder: Any, device: torch.device) -> Raw:
    """What an absent window looks like behind the front-end."""
    empty = encoder.spec.empty()
    steps = _steps(encoder)
    data = np.zeros((1, steps, *empty.data.shape[1:]), empty.data.dtype)
    tokens = Tokens(torch.from_numpy(data).to(device), torch.zeros(1, steps, dtype=torch.bool, device=device))
    with torch.inference_mode():
        out = encoder.frontend(tokens)
    return _settled(out.data[0].cpu().numpy(), np.zeros(out.mask.shape[1], np.bool_), keep_length=steps > 1)


def _steps(encoder: Any) -> int:
    """The number of steps that an encoder of fixed length insists on; 1 = any."""
    fixed = encoder.lengths == "fixed" and isinstance(encoder.spec, FrameSpec)
    return int(encoder.spec.frames) if fixed else 1


# ---------------------------------------------------------------------------------------------------- windows


def _given(manifest: Manifest, rows: Sequence[int], blanks: Mapping[str, Raw]) -> dict[tuple[int, str], Raw]:
    """The `feature_<stream>` columns of the config's streams."""
    given: dict[tuple[int, str], Raw] = {}
    problems = []
    for stream, blank in blanks.items():
        having = [row for row in rows if stream in manifest.clips[row].features]
        arrays = read_features(manifest.folder, [manifest.clips[row].features[stream] for row in having])
        if arrays and arrays[0].shape[1:] != blank.data.shape[1:]:
            problems.append(
                f"{manifest.path}: feature_{stream} holds vectors of {arrays[0].shape[1]}; "
                f"the front-end of {stream} gives {'×'.join(map(str, blank.data.shape[1:]))}"
            )
        given |= {(row, stream): Raw(a, np.ones(len(a), np.bool_)) for row, a in zip(having, arrays, strict=True)}
    if problems:
        raise ManifestError(joined(problems))
    return given


def _assemble(
    job: _Job, rows: Sequence[int], given: Mapping[tuple[int, str], Raw], blanks: Mapping[str, Raw]
) -> tuple[list[Window], list[str]]:
    windows: list[Window] = []
    dropped = []
    for row in rows:
        found = _windows(job, row, given, blanks)
        windows += found
        if not found:
            dropped.append(job.manifest.clips[row].id)
    return windows, dropped


def _windows(job: _Job, row: int, given: Mapping[tuple[int, str], Raw], blanks: Mapping[str, Raw]) -> list[Window]:
    """The windows of one clip that hold anything. A feature of the manifest belongs to each of them.

    Streams are joined by the times of their windows: one that was extracted beside fewer others has no empty ones.
    """
    read: dict[str, dict[tuple[float, float], Stored]] = {}
    for stream in job.encoders:
        if (key := job.keys.get((row, stream))) is not None:
            entry = job.store.get(key)
            assert entry is not None, "every entry was filled"
            read[stream] = dict(zip(entry.times, entry.windows, strict=True))
    absent_or_given = {s: Held(given.get((row, s), blanks[s])) for s in job.encoders}
    times = sorted({time for windows in read.values() for time in windows}) or [(0.0, 0.0)]
    columns = [{s: read.get(s, {}).get(time, absent_or_given[s]) for s in job.encoders} for time in times]
    kept = [n for n, streams in enumerate(columns) if any(source.present for source in streams.values())]
    seconds = time_covered([times[n] for n in kept]).tolist() if kept else []
    return [Window(row, s, columns[n]) for n, s in zip(kept, seconds, strict=True)]


def _in_memory(windows: Sequence[Window], limit_bytes: int) -> list[Window]:
    """Read the streams that fit, the smallest first; the others are read from the store whenever they are met."""
    sizes: dict[str, int] = {}
    for stream, source in chain.from_iterable(window.streams.items() for window in windows):
        sizes[stream] = sizes.get(stream, 0) + (0 if isinstance(source, Held) else source.nbytes)
    fitting, left = set(), limit_bytes
    for stream, size in sorted(sizes.items(), key=lambda pair: pair[1]):
        left -= size
        if left >= 0:
            fitting.add(stream)
    return [
        Window(w.row, w.seconds, {s: Held(x.read()) if s in fitting else x for s, x in w.streams.items()})
        for w in windows
    ]
