from __future__ import annotations

import csv
import html
import json
import os
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from tiny_bundle import SCHEMA

from mmtraits import report
from mmtraits.schema import REASONS, Clip, Trait, TraitScores

STREAMS = ("face", "voice")


def scores(n: int = 2) -> TraitScores:
    """The first clip is whole, the second failed."""
    nan = np.full((1, 2), np.nan, np.float32)
    return TraitScores(
        schema=SCHEMA,
        clip_ids=("a.mp4", "b.mp4")[:n],
        values=np.concatenate([np.float32([[0.25, 0.5]]), nan])[:n],
        lower=np.concatenate([np.float32([[0.125, 0.375]]), nan])[:n],
        upper=np.concatenate([np.float32([[0.375, 0.75]]), nan])[:n],
        streams=STREAMS,
        present=np.array([[True, False], [False, False]])[:n],
        status=("degraded", "failed")[:n],
        reasons=("no_sound", "no_face;no_sound")[:n],
    )


def rows(clips=None, details=None):
    clips = clips or [Clip(id="a.mp4"), Clip(id="b.mp4")]
    return report.records(scores(len(clips)), clips, [1.5, float("nan")], details or [{}, {}], "tiny")


def names(extra=()):
    return report.columns(SCHEMA, STREAMS, extra)


def test_columns_are_the_contract():
    assert names(["speaker", "question"]) == [
        "clip", "speaker", "question", "status", "reason", "brightness", "loudness", "brightness_lower",
        "loudness_lower", "brightness_upper", "loudness_upper", "face_present", "voice_present", "unlike_training",
        "duration_s", "model", "construct",
    ]  # fmt: skip


def test_csv_bytes(tmp_path):
    report.write_csv(tmp_path / "r.csv", rows(), names())
    assert (tmp_path / "r.csv").read_bytes().decode().splitlines()[1:] == [
        "a.mp4,degraded,no_sound,0.250000,0.500000,0.125000,0.375000,0.375000,0.750000,true,false,,1.500000,tiny,apparent",
        "b.mp4,failed,no_face;no_sound,,,,,,,false,false,,,tiny,apparent",
    ]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=cmd|' /C calc'!A0.mp4", "'=cmd|' /C calc'!A0.mp4"),
        ("+1.mp4", "'+1.mp4"),
        ("-1.mp4", "'-1.mp4"),
        ("@x.mp4", "'@x.mp4"),
        ("\tx.mp4", "'\tx.mp4"),
        ("a=b.mp4", "a=b.mp4"),
        ('quote" and, comma\nand line.mp4', 'quote" and, comma\nand line.mp4'),
        ("ünï😀.mp4", "ünï😀.mp4"),
    ],
)
def test_names_survive_csv_and_jsonl(tmp_path, name, cell):
    found = rows([Clip(id=name)])
    report.write_csv(tmp_path / "r.csv", found, names())
    report.write_jsonl(tmp_path / "r.jsonl", found, names())
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file))[0]["clip"] == cell
    assert json.loads((tmp_path / "r.jsonl").read_text())["clip"] == name


def test_a_name_that_is_no_unicode_survives(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    found = rows([Clip(id=name)])
    report.write_csv(tmp_path / "r.csv", found, names())
    report.write_jsonl(tmp_path / "r.jsonl", found, names())
    report.write_page(tmp_path / "r.html", found, {"degraded": 1}, SCHEMA, STREAMS, "tiny")
    assert b"caf\xe9.mp4," in (tmp_path / "r.csv").read_bytes()
    assert os.fsencode(json.loads((tmp_path / "r.jsonl").read_text())["clip"]) == b"caf\xe9.mp4"


def test_negative_scores_are_numbers_not_formulas(tmp_path):
    found = rows()
    found[0]["brightness"] = -0.5
    report.write_csv(tmp_path / "r.csv", found, names())
    assert ",-0.500000," in (tmp_path / "r.csv").read_text()


def test_jsonl(tmp_path):
    report.write_jsonl(tmp_path / "r.jsonl", rows(details=[{"frames": 3, "loudness_dbfs": float("-inf")}, {}]), names())
    first, second = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    assert list(first) == [*names(), "not_for_decisions", "details"]
    assert first["brightness"] == 0.25
    assert first["face_present"] is True
    assert first["not_for_decisions"] is True
    assert first["details"] == {"frames": 3, "loudness_dbfs": None}
    assert second["brightness"] is None and second["duration_s"] is None and second["unlike_training"] is None


def test_write_atomic_leaves_nothing_half(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(TypeError):
        report.write_atomic(target, 3)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


class _Balanced(HTMLParser):
    VOID = ("meta",)

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes):
        assert not {"src", "href"} & {name for name, _ in attributes}, "the page loads nothing"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(tmp_path, found, **changes) -> str:
    counts = Counter(row["status"] for row in found)
    report.write_page(tmp_path / "r.html", iter(found), counts, changes.get("schema", SCHEMA), STREAMS, "tiny")
    return (tmp_path / "r.html").read_text()


def test_page(tmp_path):
    text = page(tmp_path, rows())
    parser = _Balanced()
    parser.feed(text)
    assert parser.open == []
    assert html.escape(report.STATEMENT, quote=True).replace("&#x27;", "&#39;") in text
    assert "2 clips: 0 ok, 1 degraded, 1 failed" in text
    assert "no face found; no sound, or too quiet" in text
    assert text.count("<ul class") == 1  # a failed clip shows no number
    assert "0.25" in text and "0.12–0.38" in text
    assert re.search(r'absent">voice<', text) and not re.search(r'absent">face</span> <span class="stream">voice', text)


def test_page_escapes_names(tmp_path):
    text = page(tmp_path, rows([Clip(id="<script>alert(1)</script>.mp4", question="<b>?</b>")]))
    assert "<script" not in text and "<b>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.mp4" in text


def test_page_keeps_the_order_of_the_rows(tmp_path):
    found = rows()
    text = page(tmp_path, found[::-1])
    assert text.index("b.mp4") < text.index("a.mp4")


def test_page_is_capped(tmp_path):
    text = page(tmp_path, rows()[:1] * 2003)
    assert text.count("<article>") == 2000
    assert "3 more clips are in results.csv" in text
    assert "2003 clips" in text


def test_bar_places_score_and_whisker_on_the_scale():
    trait = Trait(name="x", low=1.0, high=5.0)
    svg = report.bar(trait, {"x": 2.0, "x_lower": 1.0, "x_upper": 4.0})
    assert 'class="score" x="0" y="5" width="25.0"' in svg
    assert "M0.0 8H75.0" in svg
    assert "whisker" not in report.bar(trait, {"x": 2.0, "x_lower": None, "x_upper": None})


def test_bar_of_a_trait_without_bounds():
    svg = report.bar(Trait(name="x"), {"x": 0.0, "x_lower": -1.0, "x_upper": 1.0})
    assert 'width="50.0" height="6"/>' in svg
    assert report.bar(Trait(name="x"), {"x": 3.0, "x_lower": None, "x_upper": None})


def test_every_reason_has_words():
    assert set(report.REASON_WORDS) == set(REASONS)
