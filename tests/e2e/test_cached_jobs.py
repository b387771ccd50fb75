"""Jobs with a cache: it saves decoding and scoring and changes no byte of a result, whatever happens to it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from jobs import Server, leaky_bundle, sound, sounds, vector_bundle

from mmtraits import predict
from mmtraits.errors import ConfigError
from mmtraits.media.cache_survey import damaged

CLIPS = 40


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return leaky_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def work(tmp_path_factory, bundle) -> Path:
    """Clips, one of them broken; a run without a cache, and the cache that a run with one left."""
    folder = tmp_path_factory.mktemp("cached")
    sounds(folder / "media", CLIPS)
    (folder / "media" / "3" / "broken.mp4").write_bytes(b"this is no video")
    predict.run([folder / "media"], folder / "without", bundle=bundle, batch=4)
    predict.run([folder / "media"], folder / "cold", bundle=bundle, batch=4, cache=folder / "cache")
    return folder


@pytest.fixture
def cache(work, tmp_path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(work / "cache", tmp_path / "cache"))


def results(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in predict.OUTPUTS]


def scored(folder: Path, media: Path, bundle: Path, **more) -> list[bytes]:
    predict.run([media], folder, bundle=bundle, **{"batch": 4, **more})
    return results(folder)


def rows(cache: Path) -> list[Path]:
    return sorted(cache.glob("rows/*/*.zip"))


def clips(cache: Path) -> list[Path]:
    return sorted(cache.glob("clips/*/*.zip"))


def spoil_scores(cache: Path) -> None:
    """Every kept row says something that no model said."""
    for path in rows(cache):
        with zipfile.ZipFile(path) as entry:
            found = json.loads(entry.read("value.json"))
        with zipfile.ZipFile(path, "w") as entry:
            entry.writestr("value.json", json.dumps([{**row, "loudness": 0.987654} for row in found]))


def test_a_warm_run_gives_the_rows_that_are_kept_and_opens_no_graph(work, bundle, cache, tmp_path):
    assert results(work / "cold") == results(work / "without")
    assert len(rows(cache)) == 6 and len(clips(cache)) == CLIPS + 1
    assert scored(tmp_path / "warm", work / "media", bundle, cache=cache) == results(work / "without")
    spoil_scores(cache)
    shutil.rmtree(cache / "clips")
    other = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (table, *_) = scored(tmp_path / "spoilt", work / "media", other, cache=cache)
    assert table.count(b"0.987654") == CLIPS + 1 and not clips(cache)


def test_without_rows_windows_are_scored_again(work, bundle, cache, tmp_path):
    shutil.rmtree(cache / "rows")
    before = {path: path.stat().st_mtime_ns for path in clips(cache)}
    assert scored(tmp_path / "out", work / "media", bundle, workers=2, cache=cache) == results(work / "without")
    assert {path for path in clips(cache) if path.stat().st_mtime_ns > before[path]} == set(before)
    assert len(rows(cache)) == 6


def test_groups_that_moved_or_changed_are_scored_anew_and_the_others_are_not(work, bundle, cache, tmp_path):
    """A clip more in the third of six groups moves all that follow; the leaky bundle would tell of stale mates."""
    media = Path(shutil.copytree(work / "media", tmp_path / "moved" / "media"))
    assert scored(tmp_path / "a", media, bundle, cache=cache) == scored(tmp_path / "a without", media, bundle)
    assert len(rows(cache)) == 6
    names = sorted(path.relative_to(media).as_posix() for path in media.rglob("*.*"))
    sound(media / f"{names[17]}.wav", 0.33)
    assert scored(tmp_path / "b", media, bundle, cache=cache) == scored(tmp_path / "c", media, bundle)
    assert len(rows(cache)) == 6 + 4
    sound(media / names[0], 0.77)
    assert scored(tmp_path / "d", media, bundle, cache=cache) == scored(tmp_path / "e", media, bundle)
    assert len(rows(cache)) == 6 + 4 + 1
    assert len(clips(cache)) == CLIPS + 1 + 2


@pytest.mark.parametrize("more", [{"batch": 2}, {"batch": 1}, {"max_duration_s": 1.0}])
def test_other_options_take_no_rows_of_these(work, bundle, cache, tmp_path, more):
    with_cache = scored(tmp_path / "a", work / "media", bundle, cache=cache, **more)
    assert with_cache == scored(tmp_path / "b", work / "media", bundle, **more)
    assert len(rows(cache)) > 6


def test_another_bundle_takes_the_windows_alone(work, bundle, cache, tmp_path):
    other = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    facts = json.loads((other / "bundle.json").read_text())
    (other / "bundle.json").write_text(json.dumps({**facts, "name": "other"}))
    with_cache = scored(tmp_path / "a", work / "media", other, cache=cache)
    assert with_cache == scored(tmp_path / "b", work / "media", other)
    assert (len(rows(cache)), len(clips(cache))) == (12, CLIPS + 1)


def test_the_batch_size_that_was_found_is_kept(work, bundle, cache, tmp_path):
    first = scored(tmp_path / "a", work / "media", bundle, cache=cache, batch=None)
    spoil_scores(cache)
    (table, *_) = scored(tmp_path / "b", work / "media", bundle, cache=cache, batch=None)
    assert first[0] != table and table.count(b"0.987654") == CLIPS + 1


def test_a_damaged_cache_costs_time_alone(work, bundle, cache, tmp_path):
    for path in (*rows(cache)[::2], *clips(cache)[::3]):
        path.write_bytes(path.read_bytes()[:-30])
    assert scored(tmp_path / "out", work / "media", bundle, cache=cache) == results(work / "without")
    assert [path.name for path in rows(cache)] == [path.name for path in rows(work / "cache")]
    assert not [path for path in damaged(cache) if path in rows(cache)]  # clips of groups that were kept are not needed


def test_another_engine_is_not_started_for_rows_that_are_kept(work, bundle, cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    found = scored(tmp_path / "warm", work / "media", bundle, cache=cache, engine="ray")
    assert found == results(work / "without")
    with pytest.raises(ConfigError, match=r"--engine ray: .*; pip install 'mmtraits\[ray\]'"):
        predict.run([work / "media"], tmp_path / "out", bundle=bundle, batch=4, engine="ray")


def test_a_small_cache_keeps_what_was_used_last(work, bundle, tmp_path):
    out = scored(tmp_path / "out", work / "media", bundle, cache=tmp_path / "cache", cache_mb=1)
    assert out == results(work / "without")
    assert 0 < sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.zip")) <= 10**6


def test_vectors_count(tmp_path):
    bundle = vector_bundle(tmp_path / "bundle")
    (tmp_path / "clips.csv").write_text("id,text,feature_emotion\na,x,v.npy\nb,y,w.npy\n")
    for name, value in (("v", 0.1), ("w", 0.2)):
        np.save(tmp_path / f"{name}.npy", np.full((1, 2), value, np.float32))

    def run(out: str, **more) -> list[bytes]:
        predict.run([], tmp_path / out, manifest=tmp_path / "clips.csv", bundle=bundle, batch=2, **more)
        return results(tmp_path / out)

    assert run("cold", cache=tmp_path / "cache") == run("warm", cache=tmp_path / "cache") == run("without")
    np.save(tmp_path / "w.npy", np.full((1, 2), 0.3, np.float32))
    assert run("changed", cache=tmp_path / "cache") == run("changed without")
    assert b"0.300000" in results(tmp_path / "changed")[0]
    (tmp_path / "w.npy").unlink()
    assert run("gone", cache=tmp_path / "cache") == run("gone without")


def test_a_cache_that_cannot_be_made_is_said(work, bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--cache .*file: .*expected a folder that can be written"):
        predict.run([work / "media"], tmp_path / "out", bundle=bundle, cache=tmp_path / "file")


@pytest.mark.slow
def test_killed_jobs_with_a_cache_go_on_to_the_same_bytes(work, bundle, tmp_path):
    """The cache outlives every job; results are made anew each time, out of what killed jobs left there."""
    moments, codes = random.Random(5), []
    with Server() as server:
        for number in range(8):
            out = tmp_path / f"{number}"
            fixed = ("--model", bundle, "--out", out, "--batch", 4, "--workers", 0, "--speech-to-text", "none")
            for patience_s in (*moments.sample((0.02, 0.05, 0.1, 0.15, 0.2), 4), 60.0):
                process = server.start("predict", work / "media", *fixed, "--cache", tmp_path / "cache")
                timer = threading.Timer(patience_s, os.kill, (process, signal.SIGKILL))
                timer.start()
                codes.append(server.ended())
                timer.cancel()
            assert results(out) == results(work / "without")
            if number % 2:
                shutil.rmtree(tmp_path / "cache" / "rows", ignore_errors=True)
    assert codes.count(-9) > 4 and set(codes) == {0, -9}
