import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmtraits.data import probing
from mmtraits.data.manifest import Manifest
from mmtraits.media.probe import MediaInfo
from mmtraits.media.write import write_video
from mmtraits.schema import Clip, Trait, TraitSchema

SCHEMA = TraitSchema(name="one", traits=(Trait(name="calm", low=0.0, high=1.0),), construct="apparent", judged_by="us")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """a.mp4 and b.mp4: 2 s, with sound and without; bad.mp4 is no video; notes.txt."""
    folder = tmp_path_factory.mktemp("media")
    frames = [np.full((32, 48, 3), shade, np.uint8) for shade in range(0, 160, 20)]
    write_video(folder / "a.mp4", frames, 4, np.zeros(2 * 16000, np.float32), 16000)
    write_video(folder / "b.mp4", frames, 4)
    (folder / "bad.mp4").write_bytes(b"no video at all")
    (folder / "notes.txt").write_text("x")
    return folder


def corpus(*clips: Clip, splits: tuple[str | None, ...] | None = None) -> Manifest:
    count = len(clips)
    return Manifest(
        path=Path("clips.csv"),
        schema=SCHEMA,
        clips=clips,
        labels=np.full((count, 1), 0.5),
        splits=splits or (None,) * count,
        lines=tuple(range(2, count + 2)),
    )


def told(manifest: Manifest) -> list[tuple[bool, str]]:
    files = probing.named(manifest)
    return [tuple(fault) for fault in probing.find(manifest, files, probing.probe_all(list(files)))]


class Deadly(type(Path())):
    """Ends the process that unpickles it, as a decoder's crash does."""

    def __reduce__(self) -> tuple:
        return os._exit, (11,)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_file_is_answered_for_in_order(folder, workers) -> None:
    files = [folder / name for name in ("a.mp4", "bad.mp4", "b.mp4", "gone.mp4")]
    heard = []
    found = probing.probe_all(files, workers, lambda done, total: heard.append((done, total)))
    assert list(found) == files
    a, bad, b, gone = found.values()
    assert a.has_audio and a.has_video
    assert not b.has_audio and b.duration_s == pytest.approx(2.0)
    assert bad.startswith("unreadable_container: ") and str(folder / "bad.mp4") in bad
    assert "no such file" in gone
    assert heard == [(n, 4) for n in range(1, 5)]


def test_a_file_that_kills_its_process_is_named_and_costs_no_other(folder) -> None:
    files = [folder / "a.mp4", Deadly(folder / "deadly.mp4"), folder / "b.mp4", folder / "bad.mp4"]
    found = probing.probe_all(files, 2)
    assert set(found) == set(files)
    assert (
        found[files[1]].startswith("decoder_crash: ")
        and "deadly.mp4: ends the program that opens it" in found[files[1]]
    )
    assert isinstance(found[files[0]], MediaInfo) and isinstance(found[files[2]], MediaInfo)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
def test_a_file_that_never_ends_is_given_up() -> None:
    script = """
import time
from pathlib import Path
from mmtraits.data import probing

class Endless(type(Path())):
    def is_file(self):
        time.sleep(60)

probing.LIMIT_S = 1
probing._limited(Endless("x.mp4"))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=50)
    assert done.returncode == -signal.SIGALRM


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")
def test_the_alarm_is_for_one_file(folder) -> None:
    before = signal.getsignal(signal.SIGALRM)
    try:
        assert isinstance(probing._limited(folder / "a.mp4"), MediaInfo)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_summary_counts_what_is_lacking(folder) -> None:
    found = probing.probe_all([folder / name for name in ("a.mp4", "b.mp4", "bad.mp4")])
    (row,) = probing.summary(found)
    assert row == {
        "files": 3,
        "unreadable": 1,
        "without picture": 0,
        "without sound": 1,
        "shortest s": pytest.approx(2.0),
        "longest s": pytest.approx(2.0, abs=0.1),
        "hours": pytest.approx(4 / 3600, rel=0.05),
    }
    assert probing.summary({})[0]["shortest s"] is None


def test_unreadable_media_are_placed_by_their_row(folder) -> None:
    others = [folder / "a.mp4", folder / "b.mp4"]
    manifest = corpus(
        Clip(id="x", video=folder / "a.mp4"), Clip(id="y", video=folder / "bad.mp4"), Clip(id="z", audio=others[1])
    )
    ((serious, text),) = told(manifest)
    assert serious
    assert text.startswith("clips.csv:3: unreadable_container: ")


def test_stretches_beyond_the_end(folder) -> None:
    a = folder / "a.mp4"
    manifest = corpus(
        Clip(id="inside", video=a, start_s=0.5, end_s=2.0),
        Clip(id="long", video=a, start_s=1.0, end_s=15.0),
        Clip(id="late", video=a, start_s=3.0, end_s=4.0),
        Clip(id="b", video=folder / "b.mp4"),
        Clip(id="bad", audio=folder / "bad.mp4"),
    )
    first, second, _ = told(manifest)
    assert not first[0] and first[1].startswith("clips.csv:3: end_s 15 is after the end of ")
    assert first[1].endswith("2.0 s; the clip ends there")
    assert second[0] and second[1].startswith("clips.csv:4: start_s 3 is after the end of ")


def test_files_that_are_not_there_are_left_to_the_manifest(folder) -> None:
    manifest = corpus(Clip(id="x", video=folder / "gone.mp4"), Clip(id="y", text="words"))
    assert probing.named(manifest) == {}
    assert told(manifest) == []


def test_media_that_no_row_names(folder, tmp_path) -> None:
    for name in ("a.mp4", "b.mp4", "c.MP4", "d.mkv", "e.mp4"):
        shutil.copy(folder / "a.mp4", tmp_path / name)
    (tmp_path / "a.wav").write_bytes(b"the sound of a.mp4, taken out")
    (tmp_path / "readme.md").write_text("x")
    ((serious, text),) = told(corpus(Clip(id="x", video=tmp_path / "a.mp4")))
    assert not serious
    assert text == f"{tmp_path}: 4 media files that no row names: b.mp4, c.MP4, d.mkv and 1 more"


@pytest.mark.parametrize(("splits", "serious"), [((None, None), False), (("train", "test"), True)])
def test_the_same_bytes_under_two_names(folder, tmp_path, splits, serious) -> None:
    for name in ("a.mp4", "copy.mp4"):
        shutil.copy(folder / "a.mp4", tmp_path / name)
    manifest = corpus(Clip(id="x", video=tmp_path / "a.mp4"), Clip(id="y", video=tmp_path / "copy.mp4"), splits=splits)
    ((found, text),) = told(manifest)
    assert found == serious
    assert text.startswith(f"clips.csv:3: '{tmp_path / 'copy.mp4'}' holds the same bytes as '{tmp_path / 'a.mp4'}'")
    assert ("their rows are in several splits" in text) == serious


def test_files_of_equal_size_are_not_equal(tmp_path) -> None:
    for name, data in (("a", b"1234"), ("b", b"1235"), ("c", b"1234"), ("d", b"12")):
        (tmp_path / name).write_bytes(data)
    assert probing.same_content([tmp_path / name for name in "abcd"]) == [[tmp_path / "a", tmp_path / "c"]]
