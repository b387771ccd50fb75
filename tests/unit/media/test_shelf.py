from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmtraits.media import shelf
from mmtraits.media.shelf import DAMAGE, Shelf, files, get_array, is_whole, put_array, trim

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def put(place: Shelf, digest: str, size: int) -> Path:
    with closing(place.draft("clips", digest)) as draft:
        put_array(draft.entry, "x", np.arange(size, dtype=np.uint8))
        draft.keep()
    return place.path("clips", digest)


def size_of(folder: Path) -> int:
    return sum(file.size for file in files(folder))


def test_a_value_comes_back_and_an_unknown_one_does_not(tmp_path):
    place = Shelf(tmp_path / "new" / "cache", 10**6)
    value = {"scores": [0.1, None], "name": "ü"}
    place.remember("rows", A, value)
    assert place.recall("rows", A) == value
    assert place.recall("rows", B) is None
    assert place.recall("clips", A) is None
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("array", [np.zeros((0, 4, 4, 3), np.uint8), np.arange(7, dtype=np.int64), np.eye(3)[:, ::-1]])
def test_arrays_come_back_bit_for_bit_and_numpy_reads_the_file(tmp_path, array):
    place = Shelf(tmp_path, 10**6)
    with closing(place.draft("clips", A)) as draft:
        put_array(draft.entry, "0/face/data", array)
        draft.keep()
    with place.reading("clips", A) as entry:
        found = get_array(entry, "0/face/data")
    assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array)
    assert np.array_equal(np.load(place.path("clips", A))["0/face/data"], array)


def test_a_draft_that_is_not_kept_leaves_nothing(tmp_path):
    place = Shelf(tmp_path, 10**6)
    with pytest.raises(RuntimeError), closing(place.draft("clips", A)) as draft:
        put_array(draft.entry, "x", np.zeros(100))
        assert len(files(tmp_path)) == 1
        raise RuntimeError
    assert files(tmp_path) == []
    with pytest.raises(FileNotFoundError), place.reading("clips", A):
        pass


def test_every_flipped_byte_of_an_array_is_noticed(tmp_path):
    place = Shelf(tmp_path, 10**6)
    path = put(place, A, 64)
    whole = path.read_bytes()
    start = whole.index(np.arange(64, dtype=np.uint8).tobytes())
    for offset in range(start - 128, start + 64):  # its header, too
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :])
        assert not is_whole(path), offset
        with pytest.raises(DAMAGE), place.reading("clips", A) as entry:
            get_array(entry, "x")
    path.write_bytes(whole)
    assert is_whole(path)


def test_no_flipped_byte_anywhere_gives_another_value_or_an_error(tmp_path):
    place = Shelf(tmp_path, 10**6)
    place.remember("rows", A, list(range(20)))
    path = place.path("rows", A)
    whole, found = path.read_bytes(), []
    for offset in range(len(whole)):
        for bit in (1, 32):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ bit]) + whole[offset + 1 :])
            found.append(place.recall("rows", A))
    assert all(value in (None, list(range(20))) for value in found)
    assert found.count(None) > len(found) / 2


@pytest.mark.parametrize("keep", [0, 10, 100, 200])
def test_a_cut_or_foreign_file_is_dropped_and_forgotten(tmp_path, keep, caplog):
    place = Shelf(tmp_path, 10**6)
    place.remember("rows", A, list(range(50)))
    path = place.path("rows", A)
    path.write_bytes(path.read_bytes()[:keep])
    assert place.recall("rows", A) is None
    assert not path.exists() and "damaged" in caplog.text
    place.remember("rows", A, 1)
    assert place.recall("rows", A) == 1


def test_the_least_recently_used_go_first(tmp_path):
    place = Shelf(tmp_path, 10**6)
    paths = [put(place, digest, 1000) for digest in (A, B, C)]
    for age, path in enumerate(paths):
        os.utime(path, (0, 1000.0 - age))
    with place.reading("clips", C):  # the oldest by far, until now
        pass
    trim(tmp_path, size_of(tmp_path) - 1)
    assert [path.exists() for path in paths] == [True, False, True]
    trim(tmp_path, 0)
    assert files(tmp_path) == []


def test_the_cap_holds_whatever_is_written(tmp_path):
    place, largest = Shelf(tmp_path, 100_000, writers=2), 0
    other = Shelf(tmp_path, 100_000, writers=2)
    for n in range(60):
        put((place, other)[n % 2], f"{n:064x}", 4000)
        largest = max(largest, size_of(tmp_path))
    assert 80_000 < largest <= 100_000
    assert place.path("clips", f"{59:064x}").exists()  # the last one written is there


def test_only_abandoned_partial_files_are_swept(tmp_path):
    place = Shelf(tmp_path, 10**6)
    with closing(place.draft("clips", A)) as draft:
        old = place.path("clips", A).with_name(".1.partial")
        old.write_bytes(b"half")
        os.utime(old, (0, time.time() - shelf.ABANDONED_S - 60))
        trim(tmp_path, 10**6)
        assert not old.exists()
        draft.keep()
    assert place.path("clips", A).exists()


def test_a_writer_that_is_killed_leaves_no_entry(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; import numpy as np\n"
        "from mmtraits.media.shelf import Shelf, put_array\n"
        "draft = Shelf(Path(sys.argv[1]), 10**9).draft('clips', 'a' * 64)\n"
        "put_array(draft.entry, 'x', np.zeros(10**6)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -9
    assert not Shelf(tmp_path, 10**9).path("clips", A).exists()
    assert [file.path.suffix for file in files(tmp_path)] == [".partial"]


def test_a_full_disk_costs_the_entry_alone(tmp_path, caplog):
    place = Shelf(tmp_path, 10**9)
    place.remember("rows", A, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # Python ignores SIGXFSZ: writing raises OSError
        place.remember("rows", B, list(range(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "not kept" in caplog.text
    assert place.recall("rows", A) == 1 and place.recall("rows", B) is None
    assert [file.path.name for file in files(tmp_path)] == [f"{A}.zip"]


def test_a_foreign_value_is_no_value(tmp_path):
    place = Shelf(tmp_path, 10**6)
    with closing(place.draft("rows", A)) as draft:
        draft.entry.writestr("other.json", json.dumps(1))
        draft.keep()
    assert place.recall("rows", A) is None
