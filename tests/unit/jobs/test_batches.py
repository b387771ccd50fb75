from __future__ import annotations

import numpy as np
import pytest
from jobs import leaky_bundle
from tiny_bundle import SPECS, write_tiny_bundle

from mmtraits.heard import Heard
from mmtraits.jobs.batches import SIZES, Batches, Waiting, passes_at_once, score, tune
from mmtraits.media.assemble import Window
from mmtraits.runtime import Predictor, usable_cores
from mmtraits.schema import Raw


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


def test_a_pass_that_fails_costs_its_own_clip_only(bundle):
    predictor = Predictor(bundle)
    wrong = {name: spec.empty() for name, spec in SPECS.items()}
    wrong["face"] = Raw(np.zeros((1, 9, 9, 3), np.uint8), np.ones(1, bool))
    good = wrong | {"face": SPECS["face"].empty(), "text": Raw(np.ones(3, np.int64), np.ones(3, bool))}
    heard = []
    for streams in (good, wrong, good, good):
        heard.append(Heard(predictor.streams))
        heard[-1].add(Window(start_s=0.0, end_s=1.0, streams=streams), None)
    score(predictor, [Waiting(one, 0, streams) for one, streams in zip(heard, (good, wrong, good, good), strict=True)])
    scores = predictor.verdict("abcd", heard)
    assert scores.status == ("degraded", "failed", "degraded", "degraded")
    assert scores.reasons[1] == "out_of_memory"
    np.testing.assert_allclose(scores.values[[0, 2, 3], 0], 0.03, atol=1e-6)


def test_windows_of_one_size_share_a_batch(tmp_path):
    """Sixteen windows, every other one long: batches of four hold one kind each, so that nothing leaks."""
    predictor = Predictor(leaky_bundle(tmp_path))
    heard = Heard(predictor.streams)
    with Batches(predictor, 1) as batches:
        for n in range(16):
            streams = {name: spec.empty() for name, spec in SPECS.items()}
            streams["text"] = Raw(np.ones(2 + 4 * (n % 2), np.int64), np.ones(2 + 4 * (n % 2), bool))
            place = heard.add(Window(start_s=n, end_s=n + 1.0, streams=streams), None)
            batches.add(Waiting(heard, place, streams), 4)
        for one_pass in batches.flush(4):
            one_pass.result()
    assert [round(float(answer[0][0]), 3) for answer in heard.answers] == [0.02, 0.06] * 8


def test_the_best_batch_is_one_of_a_few(bundle):
    assert tune(Predictor(bundle, threads=1)) in SIZES


def test_passes_use_the_cores_once():
    passes, threads = passes_at_once("cpu")
    assert 1 <= passes <= 8 and passes * threads <= usable_cores() < passes * (threads + 1)
    assert passes_at_once("cuda")[0] == 1
