"""Windows of labelled clips, held in memory or read from the cache, and the order in which training meets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from mmtraits.data.batch import Item
from mmtraits.media.cache import Stored
from mmtraits.schema import Raw

POOL = 16  # batches that are sorted by length together: padding falls by a half, and batches stay mixed


@dataclass(frozen=True, slots=True)
class Held:
    """A stream's front-end output in memory."""

    raw: Raw

    def read(self) -> Raw:
        """The output itself."""
        return self.raw

    @property
    def steps(self) -> int:
        """Length in time."""
        return len(self.raw.mask)

    @property
    def present(self) -> bool:
        """Whether any step is real."""
        return bool(self.raw.mask.any())


@dataclass(frozen=True, slots=True)
class Window:
    """What training knows of one window of one clip; `seconds` is the time that it stands for."""

    row: int
    seconds: float
    streams: Mapping[str, Held | Stored]

    @property
    def steps(self) -> int:
        """Length of the longest stream."""
        return max(stream.steps for stream in self.streams.values())

    @property
    def present(self) -> frozenset[str]:
        """The streams with anything to say."""
        return frozenset(name for name, stream in self.streams.items() if stream.present)


class WindowDataset(Dataset[Item]):
    """The windows of some rows, in the order given; labels (N, K) of the whole manifest, NaN = unknown.

    `keep` clears the mask of every stream that it does not name: the same clips, seen by fewer streams. `groups` (N,):
    the number of each clip's person; without them every clip is its own.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        labels: NDArray[np.floating[Any]],
        keep: frozenset[str] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.windows = tuple(windows)
        self.labels = np.asarray(labels, np.float32)
        self.keep = keep
        self.groups = np.arange(len(self.labels)) if groups is None else groups

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Item:
        window = self.windows[index]
        streams = {name: self._stream(name, source) for name, source in window.streams.items()}
        return Item(window.row, window.seconds, streams, self.labels[window.row], int(self.groups[window.row]))

    def _stream(self, name: str, source: Held | Stored) -> Raw:
        raw = source.read()
        return raw if self.keep is None or name in self.keep else Raw(raw.data, np.zeros_like(raw.mask))


class LengthBatches(Sampler[list[int]]):
    """Training batches of windows of similar length, in an order that depends on the seed and the epoch alone.

    Shuffled, cut into pools of `POOL` batches, sorted by length within a pool, cut into batches, batches shuffled. So a
    resumed run meets the batches that an uninterrupted one would have met. With several processes each takes its
    share; all take equally many. Only training uses it: every window is met once per epoch, or, where `persons` names
    the owner of each window, every person equally often (one more or less), by windows drawn anew in every epoch.
    `together` windows of a person then stand in one batch, the same one again where the person has fewer.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        processes: int = 1,
        persons: Sequence[str] | None = None,
        together: int = 1,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.owner = None if persons is None else np.unique(persons, return_inverse=True)[1]
        self.together = 1 if persons is None else together
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.processes = rank, processes
        self.epoch = 0
        self.sampler = self  # where Lightning looks for set_epoch on a batch sampler

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) // self.processes or 1

    def __iter__(self) -> Iterator[list[int]]:
        draw = np.random.default_rng((self.seed, self.epoch))
        order = (
            draw.permutation(len(self.lengths))[:, None]
            if self.owner is None
            else _by_owner(self.owner, draw, self.together)
        )
        pool = POOL * self.batch_size // self.together
        parts = [order[start : start + pool] for start in range(0, len(order), pool)]
        ordered = np.concatenate([part[np.argsort(self.lengths[part].max(1), kind="stable")].ravel() for part in parts])
        batches = [ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size)]
        turns = draw.permutation(len(batches))[self.rank :: self.processes][: len(self)]
        yield from (batches[turn].tolist() for turn in turns)


def _by_owner(owner: NDArray[np.int64], draw: np.random.Generator, together: int) -> NDArray[np.int64]:
    """As many windows as there are (rounded up), (N / together, together) of all owners in turn.

    None comes twice before all of its owner's were taken.
    """
    shuffled = draw.permutation(len(owner))
    grouped = shuffled[np.argsort(owner[shuffled], kind="stable")]
    counts = np.bincount(owner)
    starts = np.cumsum(counts) - counts
    turn, place = np.divmod(np.arange(-(-len(owner) // together)), len(counts))
    who = draw.permutation(len(counts))[place][:, None]
    return draw.permutation(grouped[starts[who] + (turn[:, None] * together + np.arange(together)) % counts[who]])
