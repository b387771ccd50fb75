#!/usr/bin/env bash
# Style and types, as CI sees them. Usage: tools/check.sh  (PYTHON=... to name an interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
