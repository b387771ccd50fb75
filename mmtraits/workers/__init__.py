"""Clips decoded, in order, in this process or in supervised ones: what breaks a decoder costs one clip."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from mmtraits.media.assemble import Window
from mmtraits.media.load import Ending
from mmtraits.workers.job import Job, Task, decode_one, failure, with_features

__all__ = ["Job", "decode", "decode_one", "failure", "with_features"]


def decode(
    jobs: Iterable[Job],
    workers: int = 0,
    *,
    ahead: int | None = None,
    memory_mb: int = 3072,
    patience_s: float = 30.0,
) -> Iterator[tuple[int, Window | Ending]]:
    """Decode jobs, each to its windows and then exactly one Ending, in job order, with the job's number in front.

    Never raises for what a clip holds: its Ending says it. Raises BundleError or ConfigError where a bundle's tokenizer
    or producer is not there, and MMTraitsError where no process can be started. `jobs` are taken as they are needed.

    workers: processes that decode, at most; 0 = this one, without limits of memory and time. More than there are cores
    are started only while most of those wait for a disk. ahead: windows decoded and not yet taken, at most (None: four
    per worker). memory_mb: that a worker may ask for beyond what it has at its start and what a recogniser of speech
    needs; more is `out_of_memory`. A worker that dies is replaced: its clip is tried once more, then `decoder_crash`;
    where it was killed from outside five times more, then `out_of_memory`. A clip that takes a worker longer than
    `patience_s` and four times its own length is given up as `timeout`.
    """
    if workers == 0 or os.name != "posix":
        for number, job in enumerate(jobs):
            for item in with_features(job, decode_one(job)):
                yield number, item
        return
    from mmtraits.workers.pool import Pool  # needs what only POSIX systems have

    room = ahead or 4 * workers
    rest, begun = enumerate(jobs), deque[Task]()
    with Pool(workers, room, memory_mb, patience_s) as pool:
        while True:
            begun.extend(pool.put(Task(*numbered)) for numbered in islice(rest, 4 * room - len(begun)))
            if not begun:
                return
            task = begun.popleft()
            for item in with_features(task.job, pool.items(task)):
                yield task.number, item
