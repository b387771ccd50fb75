from __future__ import annotations

import re

import evaluations
import numpy as np
import pytest
from tiny_bundle import SCHEMA, SPECS

from mmtraits import calibrate, card, report
from mmtraits.errors import ConfigError
from mmtraits.evaluation import views

ROWS = np.linspace(0, 1, 40).reshape(20, 2)


def calibration(method: str = "split_conformal") -> dict:
    face, voice = np.clip(ROWS + 0.2, 0, 1), np.full_like(ROWS, np.nan)
    voice[:3] = 0.5
    rows = calibrate.Rows(
        ids=[f"{n}" for n in range(20)],
        persons=[f"p{n}" for n in range(20)],
        labels=ROWS,
        scores={frozenset({"face"}): face, frozenset({"voice"}): voice},
    )
    fitted = calibrate.fit(("face", "voice", "text"), rows, low=np.zeros(2), high=np.ones(2), method=method)
    return fitted.to_dict()


@pytest.fixture
def info():
    return {
        "name": "tiny",
        "schema": SCHEMA.to_dict(),
        "streams": dict.fromkeys(SPECS),
        "windowing": {"length_s": 15.0, "hop_s": 15.0},
        "calibration": calibration(),
        "licence": "CC BY-NC 4.0",
        "provenance": {"data": "40 clips of nobody", "citations": ["Nobody 2020"], "protocol": "5-fold by person."},
    }


@pytest.fixture(scope="module")
def full():
    return evaluations.full()


def section(text: str, name: str) -> str:
    return text.split(f"\n## {name}\n")[1].split("\n## ")[0]


def pipes(line: str) -> int:
    return line.replace(r"\|", "").count("|")


def check_tables(text: str) -> int:
    """Every line of a table has as many cells as its first; how many tables there are."""
    blocks = [b for b in re.split(r"\n(?!\|)", f"\n{text}") if b.startswith("|") or "\n|" in b]
    for block in blocks:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({pipes(line) for line in lines}) == 1, block[:500]
        assert re.fullmatch(r"\|(---\|)+", lines[1])
    return len(blocks)


def test_sections_of_a_model_card(info):
    text = card.render(info, None)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(card.SECTIONS)
    card.check(text)
    assert report.STATEMENT in text
    assert "CC BY-NC 4.0" in text
    assert "- Nobody 2020" in text
    assert "40 clips of nobody" in text
    assert "accuracy of this model is unknown" in text


def test_borrowed_intervals_are_marked(info):
    text = card.render(info, None)
    face = next(line for line in text.splitlines() if line.startswith("| face |"))
    assert "borrowed" not in face and "*" not in face
    both = next(line for line in text.splitlines() if line.startswith("| face + voice |"))
    assert "(borrowed)" in both and both.count(" *") == 2
    assert "Split-conformal" in text


def test_quantile_intervals_are_named(info):
    info["calibration"] = calibration("cqr")
    intervals = section(card.render(info, None), "Intervals")
    assert "CQR" in intervals and "Mean half widths" in intervals and "Split-conformal" not in intervals


def test_what_is_unknown_is_said(info):
    bare = {name: info[name] for name in ("name", "schema", "streams")}
    text = card.render(bare, None)
    card.check(text)
    assert "not calibrated" in text
    assert "accuracy of this model is unknown" in text
    assert "Not stated by the run." in text
    assert "not stated; the terms of the training data hold" in text
    assert "Not measured" in section(text, "Leakage")


def test_flag_of_clips_unlike_training(info):
    assert "unlike_training" not in card.render(info, None)
    unlike = {"ranges": {"duration": [1, 20]}, "rows": {"duration": 60, "voice_distance": 52}, "vocabulary": None}
    said = section(card.render({**info, "unlike": unlike}, None), "Intervals")
    assert "unlike_training" in said
    assert "duration (60 training clips), voice distance (52 training clips)." in said


def test_card_of_an_evaluation(full):
    text = card.of_evaluation(full)
    card.check(text)
    assert check_tables(text) == 2 + 3 * 2 + 1  # sets of rows, audits, coverage
    assert not re.search(r"\b(nan|None|inf)\b", text)
    results = section(text, "Metrics")
    model = full.rows[0].systems[0].table
    row = next(line for line in results.splitlines() if line.startswith("| Extraversion "))
    found = model.traits["extraversion"].metrics["ccc"]
    assert f"| {views.number(found.value)} [{views.number(found.lower)}, {views.number(found.upper)}] |" in row
    assert row.endswith(f"| {model.traits['extraversion'].n} |")
    assert results.count("| **mean** |") == results.count("| training mean, mean |") == len(full.rows)
    assert "(identity look-up)" in next(line for line in results.splitlines() if line.startswith("| best floor, mean"))


def test_card_shows_groups_apart_and_crossed(full):
    text = card.of_evaluation(full)
    apart, crossed = section(text, "Disaggregated results"), section(text, "Intersectional results")
    assert re.findall(r"^### (.+)$", apart, re.MULTILINE) == ["By gender", r"By age\_band"]
    assert re.findall(r"^### (.+)$", crossed, re.MULTILINE) == [r"By gender × age\_band"]
    assert "| 70+ (left out) | 12 | 12 | – | – |" in apart
    row = full.audits[0].groups[1].traits["openness"]
    assert f"| Openness | 2 | 4500 | {views.number(row.mae.value)} [" in apart
    assert f"| {views.number(row.ks_scores)} | {views.number(row.ks_labels)} |" in apart


def test_card_says_leakage_findings_and_provenance(full):
    text = card.of_evaluation(full)
    assert "1201 persons" in section(text, "Leakage")
    assert "Persons of test also in training: allowed by `allow_leakage`." in section(text, "Leakage")
    assert [line[:8] for line in section(text, "Findings").splitlines() if line] == [
        "- **fail",
        "- **warn",
        "- **warn",
        "- **info",
    ]
    assert r"the labels' \<gap\>" in text
    assert "a9" * 32 in section(text, "Evaluation data")
    assert "2 members: fold0, fold1" in text


def test_card_of_ten_clips():
    text = card.of_evaluation(evaluations.small())
    card.check(text)
    check_tables(text)
    assert "| Extraversion | – | – | – | – | – | 0 |" in text
    assert not re.search(r"\b0\.0+\b", text)
    assert "best floor, mean" not in text
    assert "carry no attribute" in section(text, "Factors")
    assert "no attribute column: no audit" in section(text, "Caveats")
    assert "subgroup audit" in section(text, "Caveats")


def test_names_cannot_break_the_card(full):
    text = card.of_evaluation(full.model_copy(update={"name": "a|b\n## Findings\n<script>"}))
    assert r"# Model card: a\|b ## Findings \<script\>" in text
    card.check(text)


@pytest.mark.parametrize("name", card.SECTIONS)
def test_check_names_a_missing_section(full, name):
    text = card.of_evaluation(full)
    with pytest.raises(ConfigError, match=f"CARD.md: section '{name}' is missing"):
        card.check(text.replace(f"## {name}\n", "", 1), "CARD.md")
    with pytest.raises(ConfigError, match=f"section '{name}' is empty"):
        card.check(text.replace(section(text, name), "\n\n", 1))


def test_check_names_every_problem_at_once():
    with pytest.raises(ConfigError) as caught:
        card.check("# Model card: nothing\n")
    assert len(str(caught.value).splitlines()) == len(card.SECTIONS)


def test_check_wants_the_table_of_every_audited_attribute(full):
    text = card.of_evaluation(full)
    tables = re.compile(r"(### By gender\n)(.*?)(?=### By age)", re.DOTALL)
    with pytest.raises(ConfigError, match="no table of groups by 'gender', which 'Factors' names"):
        card.check(tables.sub(r"\1\nSee elsewhere.\n", text, count=1))
    with pytest.raises(ConfigError, match="'gender × age"):
        card.check(text.replace(r"### By gender × age\_band", "### Crossed"))
