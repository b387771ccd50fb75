"""The whole chain on clips whose traits are known by construction, by the command line alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mmtraits.data import manifest, synthetic
from mmtraits.evaluation import contents
from mmtraits.evaluation.contents import Evaluation

ROOT = Path(__file__).parents[2]
STREAMS = ("text", "voice", "face")
PLANTED = [trait for trait, streams in synthetic.STREAMS_OF_TRAIT.items() if streams]


def mmtraits(*arguments: str | Path, cwd: Path, code: int = 0) -> str:
    """What the command prints: on stdout, or where it ends with an error on stdout and stderr."""
    command = [str(Path(sys.executable).parent / "mmtraits"), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=os.environ, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == code, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout if code == 0 else done.stdout + done.stderr


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


def spoilt(work: Path, name: str, **changes: object) -> Path:
    """A manifest of the same media with other labels, persons or attributes, in a folder beside the corpus."""
    corpus = manifest.read(work / "synthetic" / "clips.csv")
    path = work / name / "clips.csv"
    manifest.write(replace(corpus, path=path, **changes))
    return path


def evaluated(work: Path, corpus: Path) -> Evaluation:
    mmtraits("evaluate", "checkpoints/synthetic", "--manifest", corpus, "--out", corpus.parent, cwd=work)
    return contents.read(corpus.parent / "evaluation.json")


@pytest.mark.slow
def test_nothing_planted_nothing_found(work: Path) -> None:
    found = evaluated(work, spoilt(work, "clean"))
    kinds = {finding.kind for finding in found.findings}
    assert not kinds & {"persons_shared", "near_duplicates", "label_flip", "group_bias", "trained_on_these_rows"}
    nowhere = [f.text for f in found.findings if f.kind == "no_skill"]
    assert len(nowhere) == 1 and "Planted nowhere" in nowhere[0]


@pytest.mark.slow
def test_a_planted_leak_is_detected_and_named(work: Path) -> None:
    """Ten test clips are said to be of persons in training, and one repeats a training clip's transcript."""
    corpus = manifest.read(work / "synthetic" / "clips.csv")
    train, test = (np.flatnonzero([own == split for own in corpus.splits]) for split in ("train", "test"))
    clips = list(corpus.clips)
    for n, row in enumerate(test[:10]):
        clips[row] = replace(clips[row], person=clips[train[n]].person)
    clips[test[20]] = replace(clips[test[20]], transcript=clips[train[0]].transcript)
    path = spoilt(work, "leak", clips=tuple(clips))
    shared = len({clips[row].person for row in test[:10]})
    said = mmtraits("check", path, cwd=work)
    assert f"{shared} persons" in said and clips[test[0]].person in said and clips[test[20]].id in said
    training = ("train", ROOT / "configs" / "synthetic.yaml", "name=leak", f"data.manifest={path}")
    refused = mmtraits(*training, cwd=work, code=2)
    assert f"{shared} persons" in refused and "protocol.allow_leakage" in refused
    assert not (work / "checkpoints" / "leak").exists()
    found = {finding.kind: finding for finding in evaluated(work, path).findings}
    assert found["persons_shared"].level == "fail" and f"{shared} persons" in found["persons_shared"].text
    assert "1 evaluated clip" in found["near_duplicates"].text


@pytest.mark.slow
def test_a_planted_label_flip_is_detected_and_named(work: Path) -> None:
    corpus = manifest.read(work / "synthetic" / "clips.csv")
    labels = corpus.labels.copy()
    test = [own == "test" for own in corpus.splits]
    labels[test, corpus.schema.trait_names.index("planted_voice")] *= -1
    labels[test, corpus.schema.trait_names.index("planted_voice")] += 1
    found = evaluated(work, spoilt(work, "flip", labels=labels))
    flips = [finding for finding in found.findings if finding.kind == "label_flip"]
    assert len(flips) == 1 and flips[0].level == "fail" and flips[0].text.startswith("Planted voice:")


@pytest.mark.slow
def test_a_planted_group_gap_is_measured_within_its_interval_and_named(work: Path) -> None:
    """Raters give half of the test clips .2 more on one trait, for nothing that can be seen or heard."""
    gap, trait = 0.2, "planted_words"
    corpus = manifest.read(work / "synthetic" / "clips.csv")
    labels, clips = corpus.labels.copy(), list(corpus.clips)
    column = corpus.schema.trait_names.index(trait)
    labels[:, column] *= 1 - gap
    for n, row in enumerate(np.flatnonzero([own == "test" for own in corpus.splits])):
        clips[row] = replace(clips[row], attributes={"group": "ab"[n % 2]})
        labels[row, column] += gap * (n % 2)
    found = evaluated(work, spoilt(work, "bias", labels=labels, clips=tuple(clips)))
    measured = found.audits[0].gaps[trait].signed_error
    print(f"planted {gap}, measured {measured.value:.3f} [{measured.lower:.3f}, {measured.upper:.3f}]")
    assert measured.lower <= gap <= measured.upper and measured.lower > 0
    named = [finding.text for finding in found.findings if finding.kind == "group_bias"]
    assert len(named) == 1 and "group" in named[0] and "words" in named[0].lower()


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
