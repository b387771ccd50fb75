"""Rows of whole groups that an earlier run left in the cache: such a group is neither decoded nor scored.

Windows share passes with their neighbours, which moves scores in the seventh decimal. So a group's rows are kept under
the contents of all its clips, in order, and everything else that they depend on: a cache changes no byte of a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from mmtraits.jobs.batches import group_size
from mmtraits.jobs.inputs import Inputs
from mmtraits.jobs.journal import Done, File, paths_of, sealed, stamps_of
from mmtraits.media.clip_cache import ClipCache, RowsEntry
from mmtraits.runtime import usable_cores
from mmtraits.schema import Clip

_BATCH = "batch"


@dataclass(slots=True)
class Kept:
    """The rows of a job's groups in the cache, if there is one.

    facts: what rows depend on beside the clips and the batch size.
    """

    cache: ClipCache | None
    inputs: Inputs
    facts: Mapping[str, str]
    _entries: dict[int, RowsEntry | None] = field(default_factory=dict)  # by the number of the group's first clip

    def tuned(self) -> int | None:
        """The batch size that was best at an earlier run: another one would make other groups."""
        found = self.cache and self.cache.recall(_BATCH, [self.facts, usable_cores()])
        return found if isinstance(found, int) and found > 0 else None

    def tune(self, batch: int) -> None:
        """Keep the batch size that was found best."""
        if self.cache is not None:
            self.cache.remember(_BATCH, [self.facts, usable_cores()], batch)

    def others(self, todo: Iterable[int], batch: int | None, take: Callable[[list[Done]], None]) -> Iterator[int]:
        """The clips of groups of which nothing is kept; rows of the other groups are handed to `take` on the way.

        While the batch size is not known, neither are the groups, and these are all clips.
        """
        if self.cache is None or batch is None:
            yield from todo
            return
        for _, some in groupby(todo, key=lambda place: place // group_size(batch)):
            group = list(some)
            entry = self._entry(group, batch)
            rows = entry.read() if entry is not None else None
            if rows is None:
                self._entries[group[0]] = entry
                yield from group
            else:
                files = [self._files(place) for place in group]
                take([Done(place=p, record=r, files=f) for p, r, f in zip(group, rows, files, strict=True)])

    def put(self, done: Sequence[Done], batch: int) -> None:
        """Keep the rows of a group that was scored."""
        group = [one.place for one in done]
        entry = self._entries.pop(group[0]) if group[0] in self._entries else self._entry(group, batch)
        if entry is not None and all(file is None or file.sha256 for one in done for file in one.files):
            entry.write([one.record for one in done])

    def _entry(self, group: Sequence[int], batch: int) -> RowsEntry | None:
        if self.cache is None:
            return None
        clips = [self.inputs.clips[place] for place in group]
        vectors = [_vectors(self.inputs, clip, self._files(place)) for clip, place in zip(clips, group, strict=True)]
        return self.cache.rows(clips, {**self.facts, _BATCH: batch, "vectors": vectors})

    def _files(self, place: int) -> list[File | None]:
        paths = paths_of(self.inputs.clips[place], self.inputs.folder)
        return sealed(paths, stamps_of(paths))


def _vectors(inputs: Inputs, clip: Clip, files: Sequence[File | None]) -> list[list[str]]:
    """Of every stream given as vectors: where, as that is told of a file that is wrong, and the sha256 of the file."""
    named = sorted(clip.features)
    last = files[len(files) - len(named) :]
    return [
        [stream, str(inputs.folder), clip.features[stream], file.sha256 if file else ""]
        for stream, file in zip(named, last, strict=True)
    ]
