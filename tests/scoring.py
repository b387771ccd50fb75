"""Scoring a folder of faulty media among good ones, and what holds for every row whatever the media hold."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import bad_media
import pytest
from tiny_bundle import write_tiny_bundle

from mmtraits import predict
from mmtraits.media.probe import MEDIA_SUFFIXES
from mmtraits.schema import REASONS

GOOD = ("a_good.mp4", "z_good.mp4")
TRAITS = ("brightness", "loudness")
Row = dict[str, Any]


def with_neighbours(folder: Path) -> Path:
    """Put a good clip, whole in all three streams, at both ends of a folder's order."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in GOOD:
        if name == GOOD[0]:
            bad_media.talking(folder / name)
        else:
            shutil.copy(folder / GOOD[0], folder / name)
        (folder / name).with_suffix(".txt").write_text("hello world")
    return folder


def scored(folder: Path, bundle: Path | None = None, **options: Any) -> dict[str, Row]:
    """Score a folder made by `with_neighbours`, with the tiny bundle or another: clip -> its row of results.jsonl.

    Checks that every media file has one row in both tables, that a row is finite or empty as its status says, that its
    reasons are known ones, and that the good clips have the scores that they have alone.
    """
    bundle, out = bundle or write_tiny_bundle(folder.parent / "tiny"), folder.parent / "out"
    (alone,) = predict.run([folder / GOOD[0]], folder.parent / "alone", bundle=bundle).records
    predict.run([folder], out, bundle=bundle, fresh=True, **options)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["clip"] for row in rows] == sorted(_media(folder))
    with (out / "results.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["clip"].removeprefix("'") for row in csv.DictReader(file)] == [row["clip"] for row in rows]
    for row in rows:
        check(row)
    found = {row["clip"]: row for row in rows}
    for name in GOOD:
        assert found[name]["status"] == "ok", found[name]
        assert [found[name][trait] for trait in TRAITS] == pytest.approx([alone[trait] for trait in TRAITS], abs=1e-5)
    return found


def check(row: Row) -> None:
    """What holds for every row."""
    reasons = row["reason"].split(";") if row["reason"] else []
    present = [row[f"{stream}_present"] for stream in ("face", "voice", "text")]
    assert set(reasons) <= set(REASONS), row
    assert row["status"] in ("ok", "degraded", "failed")
    assert (row["status"] == "ok") == (all(present) and not reasons), row
    assert (row["status"] == "failed") == (not any(present)), row
    assert all((row[trait] is None) == (row["status"] == "failed") for trait in TRAITS), row
    assert row["not_for_decisions"] is True


def cause(row: Row) -> str:
    """The reasons of a row without those that say which streams are absent."""
    return ";".join(r for r in row["reason"].split(";") if r not in ("no_face", "no_sound", "no_transcript"))


def _media(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix.lower() in MEDIA_SUFFIXES and path.is_file()]
