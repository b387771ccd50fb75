"""Measure what is claimed, print one line per figure, and write results.json beside this file.

    python tools/bench/run.py [--only P1 P2] [--rounds 5] [--clips FOLDER] [--out results.json]

Figures are ratios of two things measured in turn in the same run, medians over the rounds. Claims about work are in
CPU seconds, claims about waiting in wall time: for those leave the machine alone. With --only, the other claims in
results.json stay as they were. The clips are written on the first run (make_clips.py), which takes minutes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

MODULES = {
    "P1": "p1_decode",
    "P2": "p2_plan",
    "P3": "p3_overlap",
    "P4": "p4_batch",
    "P5": "p5_cache",
    "P8": "p8_onnx",
    "P11": "p11_workers",
    "P12": "p12_memory",
    "P14": "p14_faces",
    "P15": "p15_resume",
}
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Run the claims one after the other; one that fails is told and does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES), metavar="CLAIM")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=Path, default=Path(tempfile.gettempdir()) / "mmtraits_bench")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    from measuring import machine

    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {"figures": []}
    figures = [one for one in known["figures"] if one["claim"] not in options.only]
    print(json.dumps(machine(), indent=1))
    failed = []
    for claim in options.only:
        try:
            figures += _measured(claim, options.clips, options.rounds)
        except Exception as error:  # noqa: BLE001  (a claim that cannot be measured must not cost the others)
            print(f"{claim:4} not measured: {type(error).__name__}: {error}")
            failed.append(claim)
        content = {"machine": machine(), "figures": sorted(figures, key=lambda one: list(MODULES).index(one["claim"]))}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    missed = [one["what"] for one in figures if one["held"] is False]
    print(f"missed: {'; '.join(missed) or 'none'}; not measured: {', '.join(failed) or 'none'}")
    raise SystemExit(1 if failed else 0)


def _measured(claim: str, clips: Path, rounds: int) -> list[dict[str, Any]]:
    started, found = time.perf_counter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters warn of their own internals
        for one in importlib.import_module(MODULES[claim]).measure(clips, rounds):
            print(one.line(), flush=True)
            found.append(one.plain() | {"rounds": rounds})
    took = round(time.perf_counter() - started)
    return [one | {"claim_took_s": took} for one in found]


if __name__ == "__main__":
    main()
