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
MEAN_PREDICTOR = 0.75  # 1 - MAE of the mean on uniform labels
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
    """1 - MAE of each trait on the test split, by the streams that were allowed to speak."""
    corpus = manifest.read(work / "synthetic" / "clips.csv")
    labels = dict(zip((clip.id for clip in corpus.clips), corpus.labels, strict=True))
    errors: dict[frozenset[str], list[NDArray[np.float64]]] = {}
    with (work / "checkpoints" / "synthetic" / "single" / "predictions.csv").open() as file:
        for row in csv.DictReader(file):
            scores = np.array([float(row[trait]) for trait in corpus.schema.trait_names])
            errors.setdefault(frozenset(row["streams"].split("+")), []).append(np.abs(scores - labels[row["clip"]]))
    assert len(errors) == 7, "expected a score by every set of the three streams"
    return {
        streams: dict(zip(corpus.schema.trait_names, 1 - np.mean(rows, axis=0), strict=True))
        for streams, rows in errors.items()
    }


@pytest.mark.slow
def test_planted_traits_are_learned_and_the_one_planted_nowhere_is_not(accuracy) -> None:
    found = accuracy[frozenset(STREAMS)]
    print({trait: round(value, 3) for trait, value in found.items()})
    assert np.mean([found[trait] for trait in PLANTED]) >= MEAN_PREDICTOR + 0.10
    assert found["planted_nowhere"] == pytest.approx(MEAN_PREDICTOR, abs=0.04)


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
