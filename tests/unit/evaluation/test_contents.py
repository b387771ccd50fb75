from __future__ import annotations

import json
from pathlib import Path

import evaluations
import pytest

from mmtraits.errors import ConfigError
from mmtraits.evaluation import contents

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "mmtraits/templates/evaluation.schema.json"


@pytest.mark.parametrize("make", [evaluations.full, evaluations.small])
def test_json_round_trip(tmp_path, make):
    found = make()
    (tmp_path / "evaluation.json").write_text(contents.to_json(found), encoding="utf-8")
    assert contents.read(tmp_path / "evaluation.json") == found


def test_what_is_undefined_is_null(tmp_path):
    table = json.loads(contents.to_json(evaluations.small()))["rows"][0]["systems"][0]["table"]
    assert table["mean"]["pearson"] == {"value": None, "lower": None, "upper": None}
    assert contents.number(float("nan")) is None and contents.number(float("inf")) is None
    assert contents.number(0.25) == 0.25


def test_published_schema_is_that_of_the_types():
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == contents.json_schema(), "run tools/make_schema.py"


def test_schema_names_every_part():
    schema = contents.json_schema()
    assert set(schema["properties"]) == set(contents.Evaluation.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "expected what this version"), ('{"format_version": 1, "groups": {}}', "expected what this version")],
)
def test_another_file_is_refused(tmp_path, text, says):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        contents.read(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing.json"):
        contents.read(tmp_path / "nothing.json")
