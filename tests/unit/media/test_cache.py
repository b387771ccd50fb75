"""The store of raw arrays."""

from __future__ import annotations

import logging
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmtraits.media.cache import Cache, clip_digest, file_digest, key
from mmtraits.schema import Clip, FrameSpec, Raw, TextSpec, WaveSpec

STREAMS = {
    "face": Raw(np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), np.array([True, False])),
    "voice": Raw(np.linspace(-1, 1, 7, dtype=np.float32), np.ones(7, np.bool_)),
    "text": Raw(np.array([101, 5, 102], np.int64), np.ones(3, np.bool_)),
    "absent": FrameSpec().empty(),
    "a.dotted.name": Raw(np.zeros((3, 4), np.float16), np.array([True, True, False])),
}


def equal(one: dict[str, Raw] | None, other: dict[str, Raw]) -> None:
    assert one is not None
    assert set(one) == set(other)
    for stream, raw in other.items():
        for found, expected in zip(one[stream], raw, strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_what_is_put_comes_back_bit_for_bit(tmp_path: Path) -> None:
    cache, name = Cache(tmp_path / "cache"), key("abc", WaveSpec(sample_rate=16000))
    assert cache.get(name) is None
    cache.put(name, STREAMS)
    equal(cache.get(name), STREAMS)
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [f"{name}.safetensors"]
    cache.put(name, {"voice": STREAMS["voice"]})
    equal(Cache(tmp_path / "cache").get(name), {"voice": STREAMS["voice"]})


def test_arrays_that_are_not_contiguous(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    turned = Raw(np.arange(12, dtype=np.float32).reshape(3, 4).T, np.ones(8, np.bool_)[::2])
    cache.put("00", {"a": turned})
    equal(cache.get("00"), {"a": turned})


def test_damage_anywhere_reads_as_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path)
    cache.put("ab", STREAMS)
    whole = cache.path("ab").read_bytes()
    for at in [*range(0, len(whole), 37), len(whole) - 1]:
        cache.path("ab").write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with caplog.at_level(logging.WARNING):
            assert cache.get("ab") is None, at
    for length in [0, 5, 100, len(whole) - 1]:
        cache.path("ab").write_bytes(whole[:length])
        assert cache.get("ab") is None, length
    assert "absent" in caplog.text
    cache.put("ab", STREAMS)
    equal(cache.get("ab"), STREAMS)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    cache.put("ab", STREAMS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        cache.put("ab", {"voice": STREAMS["voice"]})
    monkeypatch.undo()
    equal(cache.get("ab"), STREAMS)
    assert len(list(tmp_path.rglob("*.tmp"))) == 0


def _put_many(folder: Path, seed: int) -> None:
    for _ in range(20):
        Cache(folder).put("ab", {"a": Raw(np.full(5000, seed, np.float32), np.ones(5000, np.bool_))})


def test_writers_of_one_key_never_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put_many, args=(tmp_path, seed)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    seen = set()
    while any(worker.is_alive() for worker in workers):
        found = Cache(tmp_path).get("ab")
        if found is not None:
            assert len(set(found["a"].data.tolist())) == 1
            seen.add(float(found["a"].data[0]))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    final = Cache(tmp_path).get("ab")
    assert final is not None
    assert float(final["a"].data[0]) in {1.0, 2.0}


def test_a_key_follows_its_parts() -> None:
    assert key("abc", FrameSpec(), 1) == key("abc", FrameSpec(), 1)
    others = {key("abc"), key("abd"), key("abc", FrameSpec()), key("abc", FrameSpec(frames=8)), key("abc", 1, 2),
              key("abc", "1, 2"), key("abc", TextSpec(tokenizer="t"))}  # fmt: skip
    assert len(others) == 7


def test_a_clips_digest_is_that_of_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "b.mp4").write_bytes(b"x")
    (tmp_path / "t.txt").write_text("hello")
    clip = Clip(id="1", video=tmp_path / "a.mp4")
    assert clip_digest(clip) == clip_digest(Clip(id="2", video=tmp_path / "b.mp4", person="p"))
    changed = [
        replace(clip, start_s=1.0), replace(clip, end_s=1.0), replace(clip, text="x"), replace(clip, speaker="A"),
        replace(clip, transcript=tmp_path / "t.txt"), replace(clip, video=None, audio=tmp_path / "a.mp4"),
        replace(clip, video=tmp_path / "t.txt"), replace(clip, video=tmp_path / "none.mp4"),
    ]  # fmt: skip
    assert len({clip_digest(one) for one in [clip, *changed]}) == 9
    assert file_digest(tmp_path / "none") == "unreadable"
