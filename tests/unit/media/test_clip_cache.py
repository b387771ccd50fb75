from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import clock
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mmtraits.media import clip_cache
from mmtraits.media.assemble import Window
from mmtraits.media.clip_cache import ClipCache, Item, recipe
from mmtraits.media.load import Ending, clip_from_file, stream
from mmtraits.media.shelf import files
from mmtraits.schema import Clip, FrameSpec, TextSpec, WaveSpec, Windowing

WINDOWING = Windowing(length_s=2.0, hop_s=2.0)
SCENE, VOICE = FrameSpec(frames=4, height_px=24, width_px=32, crop="full"), WaveSpec(sample_rate=16000)
WORDS = ("one", "two", "three")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    save_tokenizer(folder, WORDS)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    clock.write(folder / "a.mp4", seconds=5.0, fps=10)
    (folder / "a.txt").write_text("one two four")
    return folder


def save_tokenizer(folder: Path, words: tuple[str, ...]) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, **{word: k + 1 for k, word in enumerate(words)}}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


SPECS = {"voice": VOICE, "scene": SCENE, "text": TextSpec(tokenizer="tokenizer.json", max_ids=8)}


def cache_in(folder: Path, root: Path, **more) -> ClipCache:
    return ClipCache(folder, recipe(SPECS, WINDOWING, root), **more)


class Decoder:
    """Decodes for real, and counts how often it is asked to."""

    def __init__(self, clip: Clip, root: Path) -> None:
        self.clip, self.root, self.times = clip, root, 0

    def __call__(self) -> Iterator[Item]:
        self.times += 1
        yield from stream(self.clip, SPECS, WINDOWING, root=self.root)


def same(left: list[Item], right: list[Item]) -> bool:
    """Bit for bit."""
    if [type(item) for item in left] != [type(item) for item in right] or left[-1] != right[-1]:
        return False
    for a, b in zip(left[:-1], right[:-1], strict=True):
        assert isinstance(a, Window) and isinstance(b, Window)
        if (a.start_s, a.end_s, list(a.streams)) != (b.start_s, b.end_s, list(b.streams)):
            return False
        for name in a.streams:
            for one, other in zip(a.streams[name], b.streams[name], strict=True):
                if one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes():
                    return False
    return True


def entry(cache: ClipCache, clip: Clip) -> Path:
    content = cache.content(clip)
    assert content is not None
    return cache.folder / "clips" / content.key[:2] / f"{content.key}.zip"


def test_the_second_time_nothing_is_decoded_and_everything_is_the_same(media, root, tmp_path):
    clip, cache = clip_from_file(media / "a.mp4"), cache_in(tmp_path, root)
    decoder = Decoder(clip, root)
    fresh = list(decoder())
    first, second = list(cache.through(clip, decoder)), list(cache.through(clip, decoder))
    assert decoder.times == 2  # the fresh one and the first one
    assert len(fresh) == 4 and isinstance(fresh[-1], Ending)
    assert fresh[0].streams["text"].mask.sum() == 3
    assert same(fresh, first) and same(first, second)


def test_windows_come_as_they_are_made_and_the_entry_is_there_with_the_ending(media, root, tmp_path):
    clip, cache = clip_from_file(media / "a.mp4"), cache_in(tmp_path, root)
    made: list[Item] = []

    def make() -> Iterator[Item]:
        for item in Decoder(clip, root)():
            made.append(item)
            yield item

    items = cache.through(clip, make)
    for number in range(1, 4):
        assert isinstance(next(items), Window)
        assert len(made) == number
        assert not entry(cache, clip).exists()
    assert isinstance(next(items), Ending)
    assert entry(cache, clip).exists()


def test_a_reader_that_leaves_early_leaves_nothing(media, root, tmp_path):
    clip, cache = clip_from_file(media / "a.mp4"), cache_in(tmp_path, root)
    items = cache.through(clip, Decoder(clip, root))
    next(items)
    items.close()
    assert files(tmp_path) == []


def test_an_error_on_the_way_is_passed_on_and_nothing_is_kept(media, root, tmp_path):
    clip, cache = clip_from_file(media / "a.mp4"), cache_in(tmp_path, root)

    def make() -> Iterator[Item]:
        yield next(Decoder(clip, root)())
        raise MemoryError("too much")

    with pytest.raises(MemoryError, match="too much"):
        list(cache.through(clip, make))
    assert files(tmp_path) == []


@pytest.mark.parametrize("reason", sorted(clip_cache.TRANSIENT))
def test_what_tells_of_the_machine_is_not_kept(media, root, tmp_path, reason):
    clip, cache = clip_from_file(media / "a.mp4"), cache_in(tmp_path, root)
    ending = Ending(reasons=("truncated", reason), duration_s=1.0, details={})
    assert list(cache.through(clip, lambda: [ending])) == [ending]
    assert files(tmp_path) == []
    lasting = replace(ending, reasons=("truncated",))
    assert list(cache.through(clip, lambda: [lasting])) == [lasting]
    assert list(cache.through(clip, lambda: [ending])) == [lasting]


@pytest.mark.parametrize("part", ["first", "last", "tail", "empty"])
def test_a_damaged_entry_is_made_again_without_a_window_twice(media, root, tmp_path, part, caplog):
    clip, cache = clip_from_file(media / "a.mp4"), cache_in(tmp_path, root)
    decoder = Decoder(clip, root)
    fresh = list(cache.through(clip, decoder))
    path = entry(cache, clip)
    content = bytearray(path.read_bytes())
    place = {"first": 0, "last": 2}.get(part)
    if place is not None:
        content[content.index(fresh[place].streams["scene"].data.tobytes()) + 100] ^= 1
    path.write_bytes(content if place is not None else content[: {"tail": -5, "empty": 0}[part]])
    assert same(list(cache.through(clip, decoder)), fresh)
    assert "damaged" in caplog.text
    assert decoder.times == 2
    assert same(list(cache.through(clip, decoder)), fresh)
    assert decoder.times == 2


# ---------------------------------------------------------------------------------------------------- names


def key(cache: ClipCache, clip: Clip) -> str:
    content = cache.content(clip)
    assert content is not None
    return content.key


def test_a_moved_clip_is_known_and_a_changed_one_is_not(media, root, tmp_path):
    cache, first = cache_in(tmp_path / "cache", root), clip_from_file(media / "a.mp4")
    moved = tmp_path / "moved"
    shutil.copytree(media, moved)
    (moved / "a.mp4").rename(moved / "b.mp4")
    (moved / "a.txt").rename(moved / "b.txt")
    clip = clip_from_file(moved / "b.mp4", "another id")
    assert key(cache, clip) == key(cache, first)
    (moved / "b.txt").write_text("one two fouR")
    os.utime(moved / "b.txt", (media / "a.txt").stat()[7:9])  # same size, same time
    assert key(cache, clip) != key(cache, first)


def test_every_part_of_a_clip_counts(media, root, tmp_path):
    cache, clip = cache_in(tmp_path / "cache", root), clip_from_file(media / "a.mp4")
    clock.write(tmp_path / "b.wav", seconds=1.0, times_s=[])
    shutil.copy(media / "a.mp4", tmp_path / "a.mkv")
    shutil.copytree(media, tmp_path / "beside")
    (tmp_path / "beside" / "a.rttm").write_text("SPEAKER a 1 0 1 <NA> <NA> x <NA>")
    others = [
        replace(clip, video=None), replace(clip, audio=tmp_path / "b.wav"), replace(clip, transcript=None),
        replace(clip, video=tmp_path / "a.mkv"), replace(clip, video=None, audio=clip.video),
        replace(clip, text="one"), replace(clip, text=""), replace(clip, start_s=1.0), replace(clip, end_s=1.0),
        replace(clip, speaker="x"), replace(clip, question="Why?"), clip_from_file(tmp_path / "beside" / "a.mp4"),
    ]  # fmt: skip
    keys = {key(cache, other) for other in [clip, *others]}
    assert len(keys) == len(others) + 1
    unlike = replace(clip, id="x", person="y", attributes={"a": "b"}, features={"voice": "v.npy"})
    assert key(cache, unlike) == key(cache, clip)


def test_everything_that_is_asked_for_counts(root, tmp_path, monkeypatch):
    turned = dict(reversed(SPECS.items()))
    larger = {**SPECS, "scene": replace(SCENE, frames=5)}
    save_tokenizer(tmp_path, (*WORDS, "four"))
    recipes = [
        recipe(SPECS, WINDOWING, root), recipe(turned, WINDOWING, root), recipe(larger, WINDOWING, root),
        recipe(SPECS, Windowing(length_s=2.0, hop_s=1.0), root), recipe(SPECS, WINDOWING, tmp_path),
        recipe(SPECS, WINDOWING, root, max_duration_s=3.0), recipe(SPECS, WINDOWING, root, max_duration_s=4.0),
    ]  # fmt: skip
    (tmp_path / "model").mkdir()
    for content in ("a", "bb"):
        (tmp_path / "model" / "weights").write_text(content)
        recipes.append(recipe(SPECS, WINDOWING, root, speech_to_text=str(tmp_path / "model")))
    recipes.append(recipe(SPECS, WINDOWING, root, speech_to_text="moonshine"))
    monkeypatch.setattr(clip_cache, "_code", lambda: "other code")
    assert len({*recipes, recipe(SPECS, WINDOWING, root)}) == len(recipes) + 1


def test_a_tokenizer_counts_by_its_content_wherever_it_lies(root, tmp_path):
    shutil.copy(root / "tokenizer.json", tmp_path / "other.json")
    digest = hashlib.sha256((root / "tokenizer.json").read_bytes()).hexdigest()
    named = ("other.json", str(root / "tokenizer.json"), f"absent.json#sha256={digest}")
    found = [recipe({**SPECS, "text": TextSpec(tokenizer=name, max_ids=8)}, WINDOWING, tmp_path) for name in named]
    assert set(found) == {recipe(SPECS, WINDOWING, root)}


def test_the_code_is_part_of_the_recipe():
    code, versions = json.loads(clip_cache._code())
    assert len(code) == 64
    assert versions["av"] and versions["numpy"] == np.__version__


def test_what_is_no_file_is_known_by_that(root, tmp_path):
    cache = cache_in(tmp_path / "cache", root)
    os.mkfifo(tmp_path / "pipe.mp4")  # whoever opened it would wait for ever
    (tmp_path / "folder.mp4").mkdir()
    clips = [Clip(id=name, video=tmp_path / name) for name in ("pipe.mp4", "folder.mp4", "absent.mp4", "new.mp4")]
    keys = [key(cache, clip) for clip in clips]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    clock.write(tmp_path / "new.mp4", seconds=1.0)
    assert key(cache, clips[3]) not in keys


def test_a_file_that_cannot_be_read_is_not_kept(root, tmp_path):
    cache = cache_in(tmp_path / "cache", root)
    clip = Clip(id="a", video=Path("/proc/self/mem"))  # a regular file whose first byte is an input/output error
    assert cache.content(clip) is None and cache.rows([clip], {}) is None
    ending = Ending(reasons=("unreadable_container",), duration_s=float("nan"), details={})
    assert list(cache.through(clip, lambda: [ending])) == [ending]
    assert not (tmp_path / "cache").exists()


def test_a_file_that_changes_while_it_is_decoded_is_not_kept(media, root, tmp_path):
    shutil.copytree(media, tmp_path / "media")
    clip, cache = clip_from_file(tmp_path / "media" / "a.mp4"), cache_in(tmp_path / "cache", root)

    def make() -> Iterator[Item]:
        for item in Decoder(clip, root)():
            (tmp_path / "media" / "a.txt").write_text("three")
            yield item

    assert len(list(cache.through(clip, make))) == 4
    assert files(tmp_path / "cache") == []


def test_errors_name_the_file_where_it_is_now(root, tmp_path):
    cache = cache_in(tmp_path / "cache", root)
    for name in ("old.mp4", "new.mp4"):
        (tmp_path / name).write_bytes(b"this is no video")
    endings = []
    for name in ("old.mp4", "new.mp4"):
        clip = Clip(id=name, video=tmp_path / name)
        decoder = Decoder(clip, root)
        (ending,) = cache.through(clip, decoder)
        endings.append((decoder.times, ending.reasons, str(ending.details["error"]).replace(name, "?")))
        assert str(tmp_path / name) in str(ending.details["error"])
    (old, *rest), (new, *others) = endings
    assert (old, new) == (1, 0) and rest == others


# ---------------------------------------------------------------------------------------------------- room


def test_a_full_disk_costs_no_window(media, root, tmp_path, caplog):
    clip, cache = clip_from_file(media / "a.mp4"), cache_in(tmp_path, root)
    decoder = Decoder(clip, root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        found = list(cache.through(clip, decoder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(found, list(decoder()))
    assert caplog.text.count("not kept") == 1
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_costs_no_window(media, root, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file, no folder")
    clip, cache = clip_from_file(media / "a.mp4"), cache_in(tmp_path / "cache", root)
    decoder = Decoder(clip, root)
    assert same(list(cache.through(clip, decoder)), list(decoder()))
    assert "not kept" in caplog.text


def test_a_clip_of_half_the_cache_is_not_kept(media, root, tmp_path, caplog):
    clip = clip_from_file(media / "a.mp4")
    cache = cache_in(tmp_path, root, max_bytes=200_000)
    assert len(list(cache.through(clip, Decoder(clip, root)))) == 4
    assert "at most half" in caplog.text
    assert files(tmp_path) == []


# ---------------------------------------------------------------------------------------------------- rows


def rows_of(*clips: Clip, reason: str = "") -> list[dict[str, object]]:
    return [
        {"clip": clip.id, "speaker": clip.speaker, "question": clip.question, "reason": reason, "openness": 0.123456,
         "details": {"windows": 1, "error": f"{clip.video}: odd"}}
        for clip in clips
    ]  # fmt: skip


def test_rows_come_back_for_the_same_group_and_model_only(media, root, tmp_path):
    cache = cache_in(tmp_path / "cache", root)
    a = clip_from_file(media / "a.mp4")
    b = replace(a, id="b", start_s=1.0)
    model = {"bundle": "1" * 64, "batch": 8}
    entry = cache.rows([a, b], model)
    assert entry is not None and entry.read() is None
    entry.write(rows_of(a, b))
    assert cache.rows([a, b], dict(reversed(model.items()))).read() == rows_of(a, b)
    for clips, other in (([b, a], model), ([a], model), ([a, b, a], model), ([a, b], {**model, "batch": 4})):
        assert cache.rows(clips, other).read() is None


def test_rows_are_named_after_the_clips_as_they_are_now(media, root, tmp_path):
    cache = cache_in(tmp_path / "cache", root)
    shutil.copytree(media, tmp_path / "moved")
    old = clip_from_file(media / "a.mp4")
    new = clip_from_file(tmp_path / "moved" / "a.mp4", "new")
    cache.rows([old], {}).write(rows_of(old))
    assert cache.rows([new], {}).read() == rows_of(new)
    assert str(media).encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("cache/rows/*/*"))


def test_rows_that_tell_of_the_machine_are_not_kept(media, root, tmp_path):
    cache, clip = cache_in(tmp_path, root), clip_from_file(media / "a.mp4")
    entry = cache.rows([clip, clip], {})
    entry.write([*rows_of(clip), *rows_of(clip, reason="no_face;out_of_memory")])
    assert entry.read() is None


def test_values_are_kept_by_their_facts(root, tmp_path):
    cache = cache_in(tmp_path, root)
    cache.remember("batch", {"bundle": "1", "cores": 2}, 16)
    assert cache.recall("batch", {"cores": 2, "bundle": "1"}) == 16
    assert cache.recall("batch", {"cores": 4, "bundle": "1"}) is None
