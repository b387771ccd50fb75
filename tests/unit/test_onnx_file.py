"""What an ONNX file asks for is known, and refused, from its bytes alone."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tiny_bundle import GRAPH, WITH_DISTANCE, refused, write_tiny_bundle

from mmtraits import bundle, onnx_file
from mmtraits.errors import BundleError
from mmtraits.runtime import Predictor

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


@pytest.fixture
def no_session(monkeypatch) -> None:
    """Whoever opens a session fails."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("a session was opened"))


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


def test_a_graph_that_is_cut_or_has_a_field_beyond_protobufs():
    """A parser that keeps 32 bits of a tag would take the last one for a second graph."""
    whole = graph()
    for content in (whole[:-1], whole[: len(whole) // 2], whole + varint(8 << 3 | 2) + b"\x7f"):
        with pytest.raises(ValueError, match="no ONNX, or cut short"):
            onnx_file.examine(content)
    with pytest.raises(ValueError, match="no ONNX: a field 549755813895 of wire type 2"):
        onnx_file.examine(whole + varint((1 << 39 | 7) << 3 | 2) + b"\x00")


def test_an_address_beside_weights_that_claim_to_be_inside(tmp_path, no_session):
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4))
    made.external_data.add(key="location", value="/etc/passwd")
    refused(tmp_path, "weights 'w' refer to memory outside", graph=changed(lambda m: m.graph.initializer.append(made)))


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
