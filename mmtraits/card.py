"""The model card of a bundle, in Markdown (the sections of Mitchell et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmtraits.report import STATEMENT, environment
from mmtraits.schema import TraitSchema
from mmtraits.views import label

METRICS = {"one_minus_mae": "1 − MAE", "mae": "MAE", "ccc": "CCC", "pearson": "r", "r2": "R²"}
_UNKNOWN = dict.fromkeys(("data", "citations", "protocol", "members", "config", "floors"))


def render(info: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown from what bundle.json says and one `metrics.table` per group of rows; a group's name says which rows.

    `provenance` may hold `data` (a line), `citations` (lines), `protocol`, `members`, `config`, and `floors` (a
    `metrics.table` of the training mean per group); what it does not hold is said to be unknown.
    """
    schema = TraitSchema.from_dict(info["schema"])
    return environment().get_template("MODEL_CARD.md").render(
        info=info, schema=schema, provenance=_UNKNOWN | info["provenance"], statement=STATEMENT, label=label,
        metrics=metrics, columns=METRICS, number=_number, sets=_sets(info["calibration"]),
    )  # fmt: skip


def _sets(calibration: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of the table of intervals."""
    if calibration is None:
        return []
    return [
        {
            "present": " + ".join(entry["present"]),
            "rows": max(entry["rows"]),
            "half": [
                f"{half:.3f}{' *' if borrowed else ''}"
                for half, borrowed in zip(entry["half_width"], entry["borrowed"], strict=True)
            ],
            "borrowed": any(entry["borrowed"]),
        }
        for entry in calibration["sets"]
    ]


def _number(value: Any) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"
