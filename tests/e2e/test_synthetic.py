"""The whole chain on clips whose traits are known by construction, by the command line alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mmtraits.data import manifest, synthetic

ROOT = Path(__file__).parents[2]
STREAMS = ("text", "voice", "face")
PLANTED = [trait for trait, streams in synthetic.STREAMS_OF_TRAIT.items() if streams]


def mmtraits(*arguments: str | Path, cwd: Path) -> str:
    command = [str(Path(sys.executable).parent / "mmtraits"), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=os.environ, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus, its trained run, and the seconds that generation, extraction and training took."""
    work = tmp_path_factory.mktemp("synthetic")
    since = time.monotonic()
    synthetic.write_corpus(work / "synthetic", clips=300, seconds=4.0)
    generated = time.monotonic()
    mmtraits("train", ROOT / "configs" / "synthetic.yaml", cwd=work)
    print(f"\ngeneration {generated - since:.0f} s, extraction and training {time.monotonic() - generated:.0f} s")
    return work


@pytest.fixture(scope="module")
def accuracy(work: Path) -> dict[frozenset[str], dict[str, float]]:
    """1 - MAE of each trait on the test split by the streams that may speak; by none: the mean predictor."""
    corpus = manifest.read(work / "synthetic" / "clips.csv")
    labels = dict(zip((clip.id for clip in corpus.clips), corpus.labels, strict=True))
    said: dict[tuple[frozenset[str], str], list[list[float]]] = {}
    for member in sorted((work / "checkpoints" / "synthetic").glob("seed*/predictions.csv")):
        with member.open() as file:
            for row in csv.DictReader(file):
                key = frozenset(row["streams"].split("+")), row["clip"]
                said.setdefault(key, []).append([float(row[trait]) for trait in corpus.schema.trait_names])
    errors: dict[frozenset[str], list[NDArray[np.float64]]] = {}
    for (streams, clip), scores in said.items():
        errors.setdefault(streams, []).append(np.abs(np.mean(scores, axis=0) - labels[clip]))
    assert len(errors) == 7, "expected a score by every set of the three streams"
    tested = {clip for _, clip in said}
    train = [split == "train" for split in corpus.splits]
    errors[frozenset()] = [np.abs(corpus.labels[train].mean(axis=0) - labels[clip]) for clip in sorted(tested)]
    return {
        streams: dict(zip(corpus.schema.trait_names, 1 - np.mean(rows, axis=0), strict=True))
        for streams, rows in errors.items()
    }


@pytest.mark.slow
def test_planted_traits_are_learned_and_the_one_planted_nowhere_is_not(accuracy) -> None:
    found, mean_predictor = accuracy[frozenset(STREAMS)], accuracy[frozenset()]
    print({trait: round(float(value), 3) for trait, value in found.items()})
    gain = {trait: found[trait] - mean_predictor[trait] for trait in found}
    assert np.mean([gain[trait] for trait in PLANTED]) >= 0.10
    assert abs(gain["planted_nowhere"]) <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("removed", STREAMS)
def test_removing_a_stream_costs_its_traits_and_no_others(accuracy, removed: str) -> None:
    everything, without = accuracy[frozenset(STREAMS)], accuracy[frozenset(STREAMS) - {removed}]
    for trait, streams in synthetic.STREAMS_OF_TRAIT.items():
        cost = everything[trait] - without[trait]
        print(f"without {removed}: {trait} loses {cost:.3f}")
        if removed in streams:
            assert cost >= 0.03, trait
        else:
            assert abs(cost) <= 0.02, trait


@pytest.mark.slow
def test_evaluate_export_predict_report(work: Path) -> None:
    corpus = work / "synthetic" / "clips.csv"
    printed = mmtraits("evaluate", "checkpoints/synthetic", "--manifest", corpus, "--split", "test", cwd=work)
    assert "planted_voice" in printed
    mmtraits("export", "checkpoints/synthetic", "--out", "bundle", cwd=work)
    mmtraits("predict", "synthetic/media", "--model", "bundle", "--out", "scores", cwd=work)
    with (work / "scores" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert {row["status"] for row in rows} == {"ok"}
    records = [json.loads(line) for line in (work / "scores" / "results.jsonl").read_text().splitlines()]
    assert [record["clip"] for record in records] == [row["clip"] for row in rows]
    assert (work / "scores" / "report.html").read_text().count("<html") == 1

    labels = manifest.read(corpus)
    truth = dict(zip((clip.id for clip in labels.clips), labels.labels, strict=True))
    scores = np.array([[float(row[trait]) for trait in labels.schema.trait_names] for row in rows])
    expected = np.array([truth[Path(row["clip"]).stem] for row in rows])
    correlations = [np.corrcoef(scores[:, k], expected[:, k])[0, 1] for k in range(len(PLANTED))]
    assert min(correlations) >= 0.7, correlations
