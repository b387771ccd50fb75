"""Write the published JSON Schema of evaluation.json: `python tools/make_schema.py` after a change of its types."""

import json
from pathlib import Path

from mmtraits.evaluation import contents

TARGET = Path(__file__).parents[1] / "mmtraits/templates/evaluation.schema.json"

if __name__ == "__main__":
    TARGET.write_text(json.dumps(contents.json_schema(), indent=1) + "\n", encoding="utf-8")
