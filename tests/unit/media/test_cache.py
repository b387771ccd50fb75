import logging

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmtraits.media import cache
from mmtraits.media.cache import Store, file_digest
from mmtraits.schema import Raw

TIMES = [(0.0, 15.0), (15.0, 22.5)]


def raw(dtype: str, *shape: int) -> Raw:
    data = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    return Raw(data, np.arange(shape[0]) != 1)


ABSENT = Raw(np.zeros((0, 3), np.float32), np.zeros(0, np.bool_))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int64", "int32"])
def test_what_is_read_back_is_what_was_added_bit_for_bit(tmp_path, dtype) -> None:
    store = Store(tmp_path)
    store.add("odd", [(0.0, 1.0)], [raw("uint8", 3)])  # three bytes, that the next must not lie askew
    store.add("key", TIMES, [raw(dtype, 4, 3), raw(dtype, 2, 3)])
    store.flush()
    entry = Store(tmp_path).get("key")
    assert entry is not None
    assert list(entry.times) == TIMES
    for stored, wanted in zip(entry.windows, [raw(dtype, 4, 3), raw(dtype, 2, 3)], strict=True):
        found = stored.read()
        assert found.data.dtype == wanted.data.dtype
        np.testing.assert_array_equal(found.data, wanted.data)
        np.testing.assert_array_equal(found.mask, wanted.mask)
        assert (stored.steps, stored.nbytes) == (len(wanted.mask), wanted.data.nbytes + len(wanted.mask))


def test_an_absent_window_is_known_without_reading(tmp_path) -> None:
    store = Store(tmp_path)
    store.add("key", TIMES, [raw("float32", 2, 3), ABSENT])
    store.flush()
    entry = store.get("key")
    assert entry is not None
    assert [window.present for window in entry.windows] == [True, False]
    assert entry.windows[1].read().data.shape == (0, 3)


def test_a_pack_is_a_safetensors_file(tmp_path) -> None:
    store = Store(tmp_path)
    store.add("key", TIMES[:1], [raw("float32", 4, 3)])
    store.flush()
    (pack,) = (tmp_path / "packs").iterdir()
    tensors = load_file(pack)
    np.testing.assert_array_equal(tensors["key/0/data"], raw("float32", 4, 3).data)
    np.testing.assert_array_equal(tensors["key/0/mask"], raw("float32", 4, 3).mask)


def test_the_same_entries_are_one_file_and_nothing_partial_is_left(tmp_path) -> None:
    for _ in range(2):
        store = Store(tmp_path)
        store.add("key", TIMES[:1], [raw("float32", 4, 3)])
        store.flush()
        store.flush()
    assert len(list((tmp_path / "packs").iterdir())) == 1


def test_a_full_pack_is_written_without_being_asked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "PACK_BYTES", 100)
    store = Store(tmp_path)
    for n in range(10):
        store.add(f"key{n}", TIMES[:1], [raw("float32", 4, 3)])
    assert len(list((tmp_path / "packs").iterdir())) == 5
    assert store.get("key9") is not None


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_broken_pack_is_named_and_counts_as_missing(tmp_path, caplog, keep) -> None:
    store = Store(tmp_path)
    store.add("key", TIMES[:1], [raw("float32", 4, 3)])
    store.flush()
    (pack,) = (tmp_path / "packs").iterdir()
    pack.write_bytes(pack.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING):
        assert Store(tmp_path).get("key") is None
    assert f"{pack}: not a whole pack" in caplog.text


def test_a_file_is_known_by_its_bytes(tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "c").write_bytes(b"y")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
    assert file_digest(tmp_path / "none") == "unreadable"
