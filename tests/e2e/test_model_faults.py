"""A score is the model's whatever stands beside its clip, and whoever runs the graph (fault cases 30 and 31)."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_models import SCHEMA, member, settings, torch_scores, transform, window

from mmtraits import predict
from mmtraits.data import synthetic
from mmtraits.export import Facts, write_bundle
from mmtraits.runtime import Predictor
from mmtraits.schema import Windowing

pytestmark = pytest.mark.slow
STREAMS = ("scene", "voice", "text")


@pytest.fixture(scope="module")
def members():
    return [member(settings(STREAMS), seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def exported(members, tmp_path_factory):
    facts = Facts(name="small", schema=SCHEMA, windowing=Windowing(), transforms=[transform()], provenance={})
    return Predictor(write_bundle(members, facts, tmp_path_factory.mktemp("small") / "bundle").folder, threads=1)


def test_onnx_is_torch_on_a_hundred_inputs_of_every_mask_and_length(members, exported):
    """Every set of present streams at a single step, at full length and between; alone and among others."""
    rng = np.random.default_rng(31)
    sets = [some for n in range(1, 4) for some in itertools.combinations(STREAMS, n)]
    shares = (0.0, 1.0, *rng.uniform(0.02, 0.98, 13))
    windows = [window(exported.specs, some, share, rng) for share in shares for some in sets]
    assert len(windows) == 105
    batches = [[one] for one in windows[:7]] + [windows[n : n + 14] for n in range(7, 105, 14)]
    worst = max(np.abs(exported.score(batch) - torch_scores(members, batch)).max() for batch in batches)
    print(f"\nonnxruntime - torch on {len(windows)} inputs: {worst:.1e}", end="")
    assert worst <= 1e-4
    assert np.std(exported.score(windows), axis=0).min() > 1e-3  # the inputs tell


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Clips of all kinds, one of them far longer than a window."""
    folder = tmp_path_factory.mktemp("films")
    synthetic.demo_clips(folder, count=6, seconds=2.0)
    synthetic.demo_clips(folder / "long", count=1, seconds=20.0, seed=5)
    return folder


def values(outcome: predict.Outcome, traits: tuple[str, ...]) -> dict[str, np.ndarray]:
    rows = {Path(row["clip"]).name if "long" not in row["clip"] else "long": row for row in outcome.records}
    assert all(row["status"] != "failed" for row in rows.values())
    return {name: np.array([row[trait] for trait in traits], np.float64) for name, row in rows.items()}


def test_the_company_of_a_clip_does_not_matter(films: Path, tmp_path: Path) -> None:
    """Alone, in batches, beside a long clip, in another order, with one worker and with two."""
    traits = Predictor().schema.trait_names
    known = values(predict.run([films], tmp_path / "one", batch=1), traits)
    assert len(known) == 7
    others = {
        "batch of 16": predict.run([films], tmp_path / "sixteen", batch=16),
        "one worker": predict.run([films], tmp_path / "worker", batch=4, workers=1),
        "two workers": predict.run([films], tmp_path / "workers", batch=4, workers=2),
    }
    renamed = tmp_path / "renamed"
    shutil.copytree(films, renamed)
    for n, path in enumerate(sorted((path for path in renamed.iterdir() if path.suffix == ".mp4"), reverse=True)):
        for file in renamed.glob(f"{path.stem}.*"):
            file.rename(renamed / f"{n}_{file.name}")
    others["another order"] = predict.run([renamed], tmp_path / "order", batch=16)
    worst = 0.0
    for what, outcome in others.items():
        found = values(outcome, traits)
        for name, expected in known.items():
            mine = next(value for other, value in found.items() if other == name or other.endswith(f"_{name}"))
            worst = max(worst, float(np.abs(mine - expected).max()))
            assert np.abs(mine - expected).max() <= 1e-5, (what, name)
    lone = predict.run([films / "long"], tmp_path / "lone", batch=16)
    found = np.array([lone.records[0][trait] for trait in traits])
    assert np.abs(found - known["long"]).max() <= 1e-5
    print(f"\nlargest difference by company: {worst:.1e}", end="")
