from __future__ import annotations

import numpy as np
import pytest
from tiny_bundle import SCHEMA, SPECS

from mmtraits import calibrate, card, metrics, report

ROWS = np.linspace(0, 1, 40).reshape(20, 2)


@pytest.fixture
def info():
    residuals = [({"face"}, ROWS - 0.5), ({"voice"}, ROWS[:3])]
    calibration = calibrate.fit(("face", "voice", "text"), residuals, low=np.zeros(2), high=np.ones(2))
    return {
        "name": "tiny",
        "schema": SCHEMA.to_dict(),
        "streams": dict.fromkeys(SPECS),
        "windowing": {"length_s": 15.0, "hop_s": 15.0},
        "calibration": calibration.to_dict(),
        "licence": "CC BY-NC 4.0",
        "provenance": {"data": "40 clips of nobody", "citations": ["Nobody 2020"], "protocol": "5-fold by person."},
    }


def table(shift):
    return metrics.table(ROWS, ROWS[:, ::-1] + shift, [str(n) for n in range(20)], SCHEMA)


def test_sections_of_a_model_card(info):
    text = card.render(info, {"rows with a face": table(0.1)})
    for section in (
        "Model", "Intended use", "Out of scope", "Training data", "Metrics", "Intervals", "Caveats",
    ):  # fmt: skip
        assert f"\n## {section}\n" in text
    assert report.STATEMENT in text
    assert "CC BY-NC 4.0" in text
    assert "- Nobody 2020" in text
    assert "40 clips of nobody" in text


def test_metrics_stand_beside_the_training_mean(info):
    found, floor = table(0.1), table(0.3)
    info["provenance"]["floors"] = {"rows with a face": floor}
    text = card.render(info, {"rows with a face": found})
    row = next(line for line in text.splitlines() if line.startswith("| Brightness"))
    assert f"{found['traits']['brightness']['mae']:.3f}" in row
    assert row.endswith("| 20 |")
    below = text.splitlines().index(row) + 3
    assert text.splitlines()[below].startswith("| training mean, mean |")
    assert f"{floor['mean']['mae']:.3f}" in text.splitlines()[below]


def test_borrowed_intervals_are_marked(info):
    text = card.render(info, {})
    face = next(line for line in text.splitlines() if line.startswith("| face |"))
    assert "borrowed" not in face and "*" not in face
    both = next(line for line in text.splitlines() if line.startswith("| face + voice |"))
    assert "(borrowed)" in both and both.count(" *") == 2


def test_what_is_unknown_is_said(info):
    info["calibration"], info["provenance"] = None, {}
    text = card.render(info, {})
    assert "not calibrated" in text
    assert "accuracy of this bundle is unknown" in text
    assert "Not stated by the run." in text


def test_markdown_tables_are_whole(info):
    text = card.render(info, {"all": table(0.0)})
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for block in blocks:
        assert len({line.replace(r"\|", "").count("|") for line in block}) == 1, block
