"""Decoding with a cache: what is in it is not decoded, in this process or in workers."""

from __future__ import annotations

from pathlib import Path

import clock
import numpy as np
import pytest

from mmtraits.media.assemble import Window
from mmtraits.media.clip_cache import ClipCache, recipe
from mmtraits.media.load import Ending, clip_from_file
from mmtraits.media.shelf import files
from mmtraits.schema import Raw, WaveSpec, Windowing
from mmtraits.workers import Job, decode

SPECS, WINDOWING = {"voice": WaveSpec(sample_rate=8000)}, Windowing(length_s=1.0, hop_s=1.0)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    cache = ClipCache(tmp_path / "cache", recipe(SPECS, WINDOWING, None), writers=2)
    for k in range(5):
        clock.write(tmp_path / f"{k}.wav", seconds=1.0 + k / 4, times_s=[], rate=8000)
    (tmp_path / "4.wav").write_bytes(b"no sound at all")
    clips = [clip_from_file(tmp_path / f"{k}.wav") for k in range(5)]
    return [Job(clip, SPECS, WINDOWING, cache=cache) for clip in clips]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_in_the_cache_is_given_as_it_is_there(jobs, workers):
    """An entry that no decoder would give shows where the windows come from."""
    told = Ending(reasons=("truncated",), duration_s=9.0, details={"from": "the cache"})
    loud = Window(start_s=0.0, end_s=1.0, streams={"voice": Raw(np.full(10, 0.7, np.float32), np.ones(10, np.bool_))})
    assert jobs[1].cache is not None
    list(jobs[1].cache.through(jobs[1].clip, lambda: [loud, told]))
    found = list(decode(jobs, workers))
    assert [item for number, item in found if number == 1][1:] == [told]
    assert np.array_equal(
        next(item for number, item in found if number == 1).streams["voice"].data, np.full(10, 0.7, "f4")
    )
    assert [number for number, item in found if isinstance(item, Ending)] == [0, 1, 2, 3, 4]
    assert found[-1][1].reasons[0] == "unreadable_container"


@pytest.mark.parametrize("workers", [0, 2])
def test_with_and_without_a_cache_the_same_comes_out(jobs, workers):
    plain, cold, warm = (
        list(decode(some, workers)) for some in ([job._replace(cache=None) for job in jobs], jobs, jobs)
    )
    for one, other, third in zip(plain, cold, warm, strict=True):
        if isinstance(one[1], Ending):
            assert repr(one) == repr(other) == repr(third)  # a NaN is no NaN's equal
        else:
            waves = [item.streams["voice"].data.tobytes() for _, item in (one, other, third)]
            assert one[0] == other[0] == third[0] and waves[0] == waves[1] == waves[2]
    assert jobs[0].cache is not None
    assert len(files(jobs[0].cache.folder)) == 5
