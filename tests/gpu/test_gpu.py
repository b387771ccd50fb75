"""What only a GPU can show. Run with `pytest -m gpu -s`; MMTRAITS_REQUIRE_GPU=1 turns a missing GPU into a failure."""

from __future__ import annotations

import csv
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from planted import config, plant
from tiny_bundle import SPECS, greedy, write_tiny_bundle

from mmtraits import config as configs
from mmtraits import parts, run
from mmtraits.data import manifest as manifests
from mmtraits.data import synthetic
from mmtraits.data.batch import collate
from mmtraits.data.dataset import WindowDataset
from mmtraits.extract import extract
from mmtraits.heard import Heard
from mmtraits.jobs.batches import Waiting, score
from mmtraits.media.decoded import from_arrays
from mmtraits.runtime import Predictor
from mmtraits.schema import Raw
from mmtraits.tokens import Tokens
from mmtraits.train import fit

pytestmark = pytest.mark.gpu
CONFIGS = Path(__file__).parents[2] / "configs"


def missing(what: str) -> None:
    if os.environ.get("MMTRAITS_REQUIRE_GPU") == "1":
        pytest.fail(f"{what}; MMTRAITS_REQUIRE_GPU=1 demands it")
    pytest.skip(what)


@pytest.fixture(scope="module", autouse=True)
def device() -> torch.device:
    if not torch.cuda.is_available():
        missing("torch finds no CUDA device")
    return torch.device("cuda")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    plant(folder, clips=4000)
    return folder


@pytest.fixture(scope="module")
def trained(corpus: Path, device: torch.device) -> Path:
    settings = config(corpus, trainer__accelerator="gpu", trainer__precision="bf16-mixed", data__batch_size=128)
    return fit(settings, root=corpus / "checkpoints")


def epoch_s(folder: Path) -> float:
    with (folder / "single" / "metrics.csv").open() as file:
        return statistics.median(float(row["seconds"]) for row in csv.DictReader(file))


def report(what: str, clips: int, seconds: dict[str, float]) -> None:
    for where, taken in seconds.items():
        print(f"\n{what} on {where}: {taken:.2f} s an epoch, {clips / taken:.0f} clips per second", end="")


def test_bf16_training_learns_and_its_epochs_are_timed_beside_the_cpus(trained: Path, corpus: Path) -> None:
    manifest = manifests.read(corpus)
    scores = run.predict(trained / "single", manifest, device="cuda")
    known = np.isfinite(manifest.labels)
    assert np.corrcoef(scores[known], manifest.labels[known])[0, 1] > 0.8
    on_cpu = fit(config(corpus, name="cpu", data__batch_size=128, trainer__max_epochs=3), root=corpus / "checkpoints")
    report("given vectors, bf16 against fp32", 4000, {"cuda": epoch_s(trained), "cpu": epoch_s(on_cpu)})


def test_scores_are_those_of_the_cpu_and_bf16_ones_are_close(trained: Path, corpus: Path, device: torch.device) -> None:
    manifest = manifests.read(corpus)
    windows = extract(config(corpus), manifest, range(512)).windows
    dataset = WindowDataset(windows, manifest.labels)
    features = collate([dataset[i] for i in range(len(dataset))]).features
    on_device = {s: Tokens(t.data.to(device), t.mask.to(device)) for s, t in features.items()}
    with torch.inference_mode():
        model = run.load_member(trained / "single")
        cpu = model.to_scale(model(features)[0])
        model = model.to(device)
        cuda = model.to_scale(model(on_device)[0])
        with torch.autocast(device.type, torch.bfloat16):
            half = model.to_scale(model(on_device)[0].float())
    print(f"\ncuda - cpu: {(cuda.cpu() - cpu).abs().max():.1e}; bf16 - fp32: {(half - cuda).abs().max():.1e}", end="")
    torch.testing.assert_close(cuda.cpu(), cpu, atol=1e-3, rtol=0)
    torch.testing.assert_close(half, cuda, atol=5e-3, rtol=0)


def overridden(work: Path, name: str, more: Sequence[str]) -> configs.RunConfig:
    own = [f"name={name}", f"data.manifest={work / 'corpus'}", f"data.cache={work / 'cache'}", *more]
    return configs.load(CONFIGS / "deep_impression_like.yaml", own, check=parts.problems)


def test_raw_frames_and_sound_train_end_to_end(tmp_path: Path) -> None:
    synthetic.write_corpus(tmp_path / "corpus", clips=60, seconds=2.0)
    short = ["trainer.max_epochs=4", "trainer.patience=null"]
    gpu = fit(overridden(tmp_path, "gpu", [*short, "trainer.accelerator=gpu"]), root=tmp_path)
    with (gpu / "single" / "metrics.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    once = ["trainer.max_epochs=1", "trainer.patience=null", "trainer.accelerator=cpu", "trainer.precision=32-true"]
    cpu = fit(overridden(tmp_path, "cpu", once), root=tmp_path)
    report("frames and sound, end to end", 60, {"cuda": epoch_s(gpu), "cpu": epoch_s(cpu)})


def needs_cuda_runtime() -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        missing("onnxruntime has no CUDAExecutionProvider; install onnxruntime-gpu instead of onnxruntime")


def test_onnxruntime_scores_alike_on_cuda_and_cpu(tmp_path: Path) -> None:
    needs_cuda_runtime()
    bundle = write_tiny_bundle(tmp_path / "bundle")
    draw = np.random.default_rng(0)
    raws = []
    for steps in (3, 1, 7):
        there = np.ones(steps, np.bool_)
        frames = Raw(draw.integers(0, 255, (steps, 8, 8, 3)).astype(np.uint8), there)
        raws.append({
            "face": frames,
            "voice": Raw(draw.uniform(-1, 1, steps).astype(np.float32), there),
            "text": Raw(np.arange(steps), there),
        })  # fmt: skip
    assert raws[0].keys() == SPECS.keys()
    scores = [Predictor(bundle, device=device).score(raws) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)


def test_a_batch_too_large_for_the_gpu_is_halved_and_no_row_suffers(tmp_path: Path, caplog) -> None:
    """Each row asks for two tensors of 120 MB; torch holds all of the memory but for three gigabytes."""
    needs_cuda_runtime()
    predictor = Predictor(write_tiny_bundle(tmp_path / "greedy", graph=greedy(30_000_000)), device="cuda")
    arrays = [{"voice": np.full(100, 0.1 + n / 100, np.float32)} for n in range(64)]
    clips = [from_arrays(one, predictor.specs, predictor.windowing) for one in arrays]
    heard = [Heard(predictor.streams) for _ in clips]
    waiting = [
        Waiting(one, one.add(clip.windows[0], None), clip.windows[0].streams)
        for one, clip in zip(heard, clips, strict=True)
    ]
    held = torch.empty(torch.cuda.mem_get_info()[0] - 3_000_000_000, dtype=torch.uint8, device="cuda")
    try:
        score(predictor, waiting)
    finally:
        del held
        torch.cuda.empty_cache()
    assert "failed and is halved" in caplog.text
    assert not any(one.reasons for one in heard)
    found = np.array([one.answers[0][0] for one in heard])
    np.testing.assert_allclose(found[:, 1], [one["voice"][0] for one in arrays], atol=1e-5)
    assert predictor.predict(arrays[:1]).status == ("degraded",)  # and it goes on
