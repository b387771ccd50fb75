"""Write the published JSON Schema of evaluation.json: `python tools/make_schema.py` after a change of its types."""

import json
from pathlib import Path

from mmtraits import evaluation

TARGET = Path(__file__).parents[1] / "mmtraits/templates/evaluation.schema.json"

if __name__ == "__main__":
    TARGET.write_text(json.dumps(evaluation.json_schema(), indent=1) + "\n", encoding="utf-8")
