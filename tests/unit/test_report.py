from __future__ import annotations

import csv
import html
import json
import os
import re
from html.parser import HTMLParser

import evaluations
import numpy as np
import pytest
from tiny_bundle import SCHEMA

from mmtraits import report, views
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
    report.write_page(tmp_path / "r.html", found, SCHEMA, STREAMS, "tiny")
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
    report.write_page(tmp_path / "r.html", found, changes.get("schema", SCHEMA), STREAMS, "tiny")
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


# ---------------------------------------------------------------------------------------------------- evaluations


class _Seen(HTMLParser):
    """Tags balance; collects the text of table cells, charts' titles and links."""

    VOID = ("meta",)

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.charts = self.titles = 0
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert tag not in ("script", "link", "img", "iframe") and "src" not in given and "onclick" not in given
        if "href" in given:
            assert given["href"].startswith("#"), "the page loads and links nothing outside"
            self.links.add(given["href"][1:])
        if "id" in given:
            assert given["id"] not in self.ids
            self.ids.add(given["id"])
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        self.charts += tag == "svg"
        self.titles += tag == "title" and "svg" in self.open

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += " " + data


def evaluation_page(tmp_path, found) -> str:
    report.write_evaluation(tmp_path / "report.html", found)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def leaves(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


@pytest.fixture(scope="module")
def full():
    return evaluations.full()


@pytest.mark.parametrize("make", [evaluations.full, evaluations.small])
def test_evaluation_page_is_whole_and_loads_nothing(tmp_path, make):
    text = evaluation_page(tmp_path, make())
    seen = _Seen(text)
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    assert html.escape(report.STATEMENT, quote=False) in text
    assert seen.links <= seen.ids and seen.charts == seen.titles > 0
    assert not re.search(r"\b(nan|inf|None|null)\b", text)


@pytest.mark.parametrize("make", [evaluations.full, evaluations.small])
def test_every_number_in_a_table_is_of_the_evaluation(tmp_path, make):
    found = make()
    known = {"95"}  # "95 %", the percentile of a nuisance
    for leaf in leaves(found.model_dump(mode="json")):
        if isinstance(leaf, int | float) and not isinstance(leaf, bool):
            known |= {views.number(leaf, digits) for digits in range(5)} | {f"{leaf:g}"}
        elif isinstance(leaf, str):
            known |= set(re.findall(r"\d+(?:\.\d+)?", leaf))
    cells = _Seen(evaluation_page(tmp_path, found)).cells
    numbers = {n for cell in cells if "0 to 1" not in cell and "fewer than 30" not in cell for n in _numbers(cell)}
    assert len(numbers) > (400 if make is evaluations.full else 4)
    assert numbers <= known, sorted(numbers - known)[:10]


def _numbers(cell: str) -> list[str]:
    return re.findall(
        r"(?<![\w.-])−?\d+(?:\.\d+)?(?![\w.])", re.sub(r"C-index|W1 |R²|macro F1|(?<=\d)–(?=\d)", " ", cell)
    )


def test_model_stands_beside_training_mean_and_best_floor(full, tmp_path):
    text = evaluation_page(tmp_path, full)
    headline = text[text.index('<tbody class="headline">') :].split("</tbody>")[0]
    systems = {system.name: system.table.mean for system in full.rows[0].systems}
    for metric in ("one_minus_mae", "skill", "ccc", "pearson"):
        digits = views.METRICS[metric].digits
        for name in ("model", "training mean"):
            assert f">{views.number(systems[name][metric].value, digits)}<" in headline
        best = max(
            (s for s in full.rows[0].systems if s.kind == "floor"), key=lambda s: s.table.mean[metric].value or -9
        )
        assert views.number(best.table.mean[metric].value, digits) in headline
        assert views.number(best.table.mean[metric].lower, digits) in headline
        assert best.name.replace("_", " ") in headline


def test_findings_stand_on_top_by_level(full, tmp_path):
    text = evaluation_page(tmp_path, full)
    for finding in full.findings:
        assert html.escape(finding.text, quote=False).replace("'", "&#39;") in text
        assert f"<code>{finding.kind}</code>" in text
    order = [finding.kind for level in ("fail", "warn", "info") for finding in full.findings if finding.level == level]
    assert re.findall(r"<code>(\w+)</code>", text.split("</ul>")[0]) == order
    assert text.index("persons_shared") < text.index('id="systems"')


def test_what_is_undefined_is_a_dash_and_said(tmp_path):
    found = evaluations.small()
    text = evaluation_page(tmp_path, found)
    cells = " ".join(_Seen(text).cells)
    assert "undefined: 2" in cells and "–" in cells
    assert not re.search(r"\b0\.0+\b", cells)
    assert "Not measured:" in text and "subgroup audit" in text
    assert "no attribute column: no audit" in text
    for part in ("intervals", "audits", "robustness", "nuisances", "reliability", "leakage"):
        assert f'id="{part}"' not in text
    assert "persons, the scores of their clips averaged first" in text


def test_suppressed_groups_are_said_and_only_counted(full, tmp_path):
    text = evaluation_page(tmp_path, full)
    assert "Suppressed, for fewer than 30 units: 70+ (12)." in text
    row = re.search(r'<tr><th scope="row">70\+</th>(.*?)</tr>', text)[1]
    assert row.count("<td>–</td>") == 2 and "no: fewer than 30" in row
    assert text.count('<tr><th scope="row">70+</th>') == 1


def test_label_distances_stand_beside_those_of_scores(full, tmp_path):
    text = evaluation_page(tmp_path, full)
    row = full.audits[0].groups[0].traits["openness"]
    assert f"<td>{views.number(row.ks_scores)}</td><td>{views.number(row.ks_labels)}</td>" in text
    assert f"<td>{views.number(row.impact_ratio)}</td><td>{views.number(row.label_impact_ratio)}</td>" in text


def test_borrowed_intervals_are_said(full, tmp_path):
    text = evaluation_page(tmp_path, full)
    assert "split conformal, 0.90; borrowed: not claimed" in text
    assert ">not claimed<" in text


def test_names_in_an_evaluation_are_escaped(full, tmp_path):
    text = evaluation_page(tmp_path, full.model_copy(update={"name": "<script>alert(1)</script>"}))
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "Invented Corpus &lt;2&gt;" in text


def test_an_evaluation_without_rows_has_a_page(full, tmp_path):
    empty = full.model_copy(update={"rows": [], "pictures": {}, "audits": [], "findings": []})
    text = evaluation_page(tmp_path, empty)
    _Seen(text)
    assert "No rows were scored." in text
    assert "None: no check of this evaluation found anything to say." in text
