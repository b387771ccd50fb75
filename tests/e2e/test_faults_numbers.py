"""Fault case 17: scores and vectors that are no numbers cost their own row, and are written nowhere."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict
from pathlib import Path

import bad_media as bad
import numpy as np
import onnx
import scoring
from tiny_bundle import GRAPH, SPECS, write_tiny_bundle

from mmtraits import predict
from mmtraits.schema import VectorSpec

NAN_WHERE_LOUD = GRAPH.replace(
    "  scores = Clip (sum, zero, one)",
    """  limit = Constant <value_float = 0.9> ()
  room = Sub (limit, loudness)
  root = Sqrt (room)
  nothing = Mul (root, zero)
  clipped = Clip (sum, zero, one)
  scores = Add (clipped, nothing)""",
)
WITH_VECTORS = GRAPH.replace("text_mask)", "text_mask,\n      float[B,V,2] emotion, bool[B,V] emotion_mask)", 1)


def graph(text: str) -> bytes:
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def test_a_score_that_is_no_number_is_an_empty_cell_in_its_own_row(tmp_path: Path) -> None:
    folder = scoring.with_neighbours(tmp_path / "media")
    bad.sounding(folder / "loud.wav", np.ones((1, 16000), np.float32), 8000, layout="mono")
    bundle = write_tiny_bundle(tmp_path / "bundle", graph=graph(NAN_WHERE_LOUD))
    out = tmp_path / "out"
    predict.run([folder], out, bundle=bundle, batch=8)
    rows = {row["clip"]: row for row in map(json.loads, (out / "results.jsonl").read_text().splitlines())}
    loud = rows["loud.wav"]
    assert (loud["status"], loud["reason"]) == ("failed", "no_face;no_transcript;non_finite")
    assert [loud[trait] for trait in scoring.TRAITS] == [None, None]
    assert [rows[name]["status"] for name in scoring.GOOD] == ["ok", "ok"]
    with (out / "results.csv").open(newline="") as file:
        cells = {row["clip"]: (row["brightness"], row["loudness"]) for row in csv.DictReader(file)}
    assert cells["loud.wav"] == ("", "")
    assert all(0 < float(cell) < 1 for name in scoring.GOOD for cell in cells[name])
    for name in ("results.csv", "results.jsonl", "report.html"):
        assert not re.search(r"\b(nan|inf)\b", (out / name).read_text(), re.IGNORECASE)


def test_vectors_that_are_no_numbers_fail_their_own_row(tmp_path: Path) -> None:
    folder = scoring.with_neighbours(tmp_path / "media")
    ids = ["good", "nan", "infinite", "absent"]
    table = np.zeros((4, 1, 2), np.float32)
    table[1], table[2] = np.nan, np.inf
    np.savez(folder / "emotion.npz", clip=np.array(ids), features=table)
    lines = ["id,video,text,feature_emotion"]
    lines += [f"{name},a_good.mp4,hello world,{'' if name == 'absent' else f'emotion.npz#{name}'}" for name in ids]
    (folder / "clips.csv").write_text("\n".join(lines))
    specs = {**SPECS, "emotion": VectorSpec(width=2)}
    streams = {name: {"spec": asdict(spec), "inputs": [name, f"{name}_mask"]} for name, spec in specs.items()}
    bundle = write_tiny_bundle(tmp_path / "bundle", graph=graph(WITH_VECTORS), streams=streams)
    rows = predict.run([], tmp_path / "out", manifest=folder / "clips.csv", bundle=bundle).records
    assert [row["clip"] for row in rows] == ids
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "degraded"]
    assert [row["reason"] for row in rows[:3]] == ["", "non_finite", "non_finite"]
    assert rows[1]["brightness"] is None and rows[2]["loudness"] is None
    assert rows[0]["brightness"] == rows[3]["brightness"]
