"""Whole models, a small one and (slow) every config of `configs/`: what is exported is what was trained."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from small_models import SCHEMA, STREAMS, member, padded, settings, torch_scores, transform, window

from mmtraits import config, parts
from mmtraits.export import Facts, write_bundle
from mmtraits.runtime import Predictor
from mmtraits.schema import Raw, TargetTransform, Trait, TraitSchema, Windowing

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SYSTEMS = [
    pytest.param(("text_centric", "ensemble", 1), id="text_centric-ensemble"),
    pytest.param(("mean_pool", "mlp", 2), id="mean_pool-mlp", marks=pytest.mark.slow),  # an export takes half a minute
]
SUBSETS = [some for n in range(len(STREAMS) + 1) for some in itertools.combinations(STREAMS, n)]
BIG = TraitSchema(
    name="five",
    traits=tuple(Trait(name=name, low=0.0, high=1.0) for name in ("o", "c", "e", "a", "s")),
    construct="apparent",
    judged_by="nobody",
)


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request, tmp_path_factory):
    """The members of one small system, and the predictor of the bundle of their mean."""
    fusion, head, count = request.param
    members = [member(settings(fusion=fusion, head=head), seed) for seed in range(count)]
    return members, bundle(members, tmp_path_factory.mktemp("bundle") / "small", SCHEMA, transform())


def bundle(members, folder, schema, how) -> Predictor:
    facts = Facts(name="small", schema=schema, windowing=Windowing(length_s=1.0), transforms=[how], provenance={})
    return Predictor(write_bundle(members, facts, folder).folder, threads=1)


def test_onnx_is_torch_for_every_set_of_streams(system):
    members, predictor = system
    rng = np.random.default_rng(1)
    for share in (0.0, 0.3, 1.0):
        windows = [window(predictor.specs, some, share, rng) for some in SUBSETS]
        for start in range(0, len(windows), 7):
            batch = windows[start : start + 7]
            np.testing.assert_allclose(predictor.score(batch), torch_scores(members, batch), atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.45, 1.0])
def test_onnx_is_torch_at_every_batch_size_and_length(system, size, share):
    members, predictor = system
    rng = np.random.default_rng(2)
    batch = [window(predictor.specs, tuple(STREAMS), share * rng.uniform(0.5, 1), rng) for _ in range(size)]
    scores = predictor.score(batch)
    assert scores.shape == (size, 3)
    np.testing.assert_allclose(scores, torch_scores(members, batch), atol=1e-4)


def test_alone_in_a_batch_and_padded_are_equal(system):
    members, predictor = system
    rng = np.random.default_rng(3)
    windows = [window(predictor.specs, some, rng.uniform(0.05, 1), rng) for some in SUBSETS]
    together = predictor.score(windows)
    alone = np.concatenate([predictor.score([one]) for one in windows])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    for one in members:
        long = one.scores(padded(windows, extra=5)).detach().numpy()
        np.testing.assert_allclose(long, one.scores(padded(windows)).detach().numpy(), atol=1e-5)


def test_what_lies_under_a_false_mask_is_never_read(system):
    _, predictor = system
    rng = np.random.default_rng(4)
    clean = [window(predictor.specs, some, 0.4, rng) for some in SUBSETS]
    np.testing.assert_array_equal(
        predictor.score([hidden(one, 0) for one in clean]), predictor.score([hidden(one, 1) for one in clean])
    )


def hidden(one: dict[str, Raw], kind: int) -> dict[str, Raw]:
    """The window with three more masked steps: zeros, or the worst that the type can hold."""
    longer = {}
    for stream, (data, mask) in one.items():
        worst = np.nan if data.dtype.kind == "f" else np.iinfo(data.dtype).max
        junk = np.full((3, *data.shape[1:]), worst if kind else 0, data.dtype)
        longer[stream] = Raw(np.concatenate([data, junk]), np.concatenate([mask, np.zeros(3, np.bool_)]))
    return longer


def test_scores_lie_on_the_scale_and_depend_on_every_stream(system):
    members, predictor = system
    rng = np.random.default_rng(5)
    windows = [window(predictor.specs, tuple(STREAMS), 1.0, rng) for _ in range(7)]
    scores = predictor.score(windows)
    assert (scores[:, 0] >= 0).all() and (scores[:, 0] <= 1).all()
    assert (scores[:, 1] >= 1).all() and (scores[:, 1] <= 7).all()
    assert np.isfinite(scores).all()
    for stream in STREAMS:
        absent = [{**one, stream: predictor.specs[stream].empty()} for one in windows]
        assert np.abs(predictor.score(absent) - scores).max() > 1e-3, stream


# ---------------------------------------------------------------------------------------------------- configs/


def test_configs_are_found():
    assert CONFIGS, "configs/ is empty: the sweep below tests nothing"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_whole_and_round_trips(path, tmp_path):
    found = config.load(path, check=parts.problems)
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.dump(found))
    assert config.load(copy) == found


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_exports_and_equals_torch(path, tmp_path):
    how = TargetTransform.fit(BIG, np.random.default_rng(0).uniform(0, 1, (50, 5)))
    made = member(config.load(path), schema=BIG, how=how)
    predictor = bundle([made], tmp_path / "bundle", BIG, how)
    rng = np.random.default_rng(6)
    for present in (tuple(predictor.specs), tuple(predictor.specs)[:1], tuple(predictor.specs)[-1:]):
        windows = [window(predictor.specs, present, share, rng) for share in (0.02, 1.0)]
        np.testing.assert_allclose(predictor.score(windows), torch_scores([made], windows), atol=1e-4)
