"""Scores that users have seen do not move unannounced."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

TOOL = Path(__file__).parents[2] / "tools" / "make_golden.py"


def test_the_default_bundle_says_what_it_said() -> None:
    spec = importlib.util.spec_from_file_location("make_golden", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    golden = json.loads(tool.GOLDEN.read_text(encoding="utf-8"))
    found = tool.scores()
    assert list(found) == list(golden)
    np.testing.assert_allclose(list(found.values()), list(golden.values()), atol=1e-5)
