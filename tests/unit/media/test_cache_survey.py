from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmtraits.errors import ConfigError
from mmtraits.media.cache import Store
from mmtraits.media.cache_survey import damaged, prune, survey, to_text
from mmtraits.media.shelf import Shelf, put_array
from mmtraits.schema import Raw

DAY_S = 86400.0


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three clips of 1 MB, unused for 1, 2 and 3 days, one row, and a pack with the entries of two clips."""
    shelf = Shelf(tmp_path, 10**9)
    for age in (1, 2, 3):
        with closing(shelf.draft("clips", f"{age:064x}")) as draft:
            put_array(draft.entry, "x", np.full(10**6, age, np.uint8))
            draft.keep()
        os.utime(shelf.path("clips", f"{age:064x}"), (0, time.time() - age * DAY_S))
    shelf.remember("rows", "a" * 64, [{"clip": "a"}])
    store = Store(tmp_path)
    for key in ("b" * 64, "c" * 64):
        store.add(key, [(0.0, 1.0)], [Raw(np.zeros((2, 3), np.float32), np.ones(2, np.bool_))])
    store.flush()
    return tmp_path


def clips(folder: Path) -> list[int]:
    return sorted(int(path.stem, 16) for path in folder.glob("clips/*/*.zip"))


def test_survey_counts_files_entries_and_age(folder):
    found = {holding.kind: holding for holding in survey(folder)}
    assert {kind: (holding.files, holding.entries) for kind, holding in found.items()} == {
        "clips": (3, 3), "rows": (1, 1), "packs": (1, 2)
    }  # fmt: skip
    assert found["clips"].size_mb == pytest.approx(3.0, abs=0.01)
    assert found["clips"].unused_days == pytest.approx(3.0, abs=0.01)
    assert found["rows"].unused_days == pytest.approx(0.0, abs=0.01)
    assert to_text(survey(folder)).splitlines()[1].split() == ["clips", "3", "3", "3.0", "3.0"]


def test_a_new_folder_holds_nothing(tmp_path):
    assert survey(tmp_path) == [] and list(damaged(tmp_path)) == []
    assert to_text([]) == "nothing"
    assert prune(tmp_path, max_mb=0).files == 0


def test_verify_names_what_is_not_whole(folder):
    assert list(damaged(folder)) == []
    bad = [*folder.glob("clips/*/*2.zip"), *folder.glob("rows/*/*.zip"), *folder.glob("packs/*")]
    for path in bad:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert list(damaged(folder)) == sorted(bad)
    (pack,) = folder.glob("packs/*")
    pack.write_bytes(pack.read_bytes()[:20])
    assert {holding.kind: holding.entries for holding in survey(folder)}["packs"] == -1


def test_prune_by_age_and_by_size_takes_the_oldest_and_no_pack(folder):
    removed = prune(folder, unused_days=2.5)
    assert clips(folder) == [1, 2]
    assert removed.files == 1 and removed.size_mb == pytest.approx(1.0, abs=0.01)
    assert prune(folder, max_mb=1.5).files == 1
    assert clips(folder) == [1]
    assert prune(folder).files == 0
    prune(folder, max_mb=0)
    assert [holding.kind for holding in survey(folder)] == ["packs"]


def test_partial_files_show_and_go_once_nobody_can_be_writing_them(folder):
    partial = folder / "clips" / "00" / ".1.partial"
    partial.write_bytes(b"half")
    assert "partial" in {holding.kind for holding in survey(folder)}
    assert list(damaged(folder)) == []
    assert prune(folder, unused_days=0.5).files == 3 and partial.exists()
    os.utime(partial, (0, time.time() - 2 * DAY_S))
    assert prune(folder).files == 1 and not partial.exists()


@pytest.mark.parametrize("call", [survey, prune, lambda folder: list(damaged(folder))])
def test_no_folder_is_said(tmp_path, call):
    with pytest.raises(ConfigError, match="absent: no such folder; expected the one of predict --cache"):
        call(tmp_path / "absent")
