"""Write tests/golden/default_bundle.json: what the default bundle says of three windows that are made of numbers alone.

Run it only when a score is meant to move, and say in CHANGELOG.md under *Scores changed* what moved, how much and why.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mmtraits.bundle import default_bundle
from mmtraits.media.text import Tokenizer
from mmtraits.runtime import Predictor
from mmtraits.schema import Raw, TextSpec

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "default_bundle.json"
SENTENCE = "I like to plan my week on Sunday, and then everything turns out differently anyway."


def windows() -> dict[str, dict[str, Raw]]:
    """All streams; voice and words; a face alone, some of its frames hidden."""
    predictor = Predictor(default_bundle())
    spec = predictor.specs["text"]
    assert isinstance(spec, TextSpec)
    ids, _ = Tokenizer(spec, default_bundle()).encode(SENTENCE)
    time_s = np.arange(3 * 22_050) / 22_050
    hum = sum(np.sin(2 * np.pi * hertz * time_s) / n for n, hertz in enumerate((120, 240, 700, 1220, 2600), 1))
    wave = (0.1 * hum * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s))).astype(np.float32)
    rows, columns = np.mgrid[:64, :64]
    blob = 200 * np.exp(-(((rows - 34) / 26.0) ** 2) - ((columns - 32) / 20.0) ** 2)
    tint = np.array([1.0, 0.8, 0.7])
    frames = np.stack([np.uint8(blob[..., None] * tint + 5 * n) for n in range(6)])
    streams = {
        "text": Raw(ids, np.ones(len(ids), np.bool_)),
        "voice": Raw(wave, np.ones(len(wave), np.bool_)),
        "face": Raw(frames, np.array([True, True, False, True, False, True])),
    }
    absent = {stream: spec.empty() for stream, spec in predictor.specs.items()}
    chosen = (("text", "voice", "face"), ("text", "voice"), ("face",))
    return {"+".join(some): absent | {stream: streams[stream] for stream in some} for some in chosen}


def scores() -> dict[str, list[float]]:
    """What the default bundle says now, by the streams that spoke."""
    made = windows()
    found = Predictor(default_bundle()).score(list(made.values()))
    return {name: [round(float(value), 6) for value in row] for name, row in zip(made, found, strict=True)}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(scores(), indent=1) + "\n", encoding="utf-8")
    print(GOLDEN)
