from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import SCHEMA, config
from torch import nn

from mmtraits.errors import ConfigError
from mmtraits.model import TraitModel, build, drop_streams, load_trained, trained_state
from mmtraits.schema import TargetTransform
from mmtraits.tokens import Tokens
from mmtraits.weights import Frozen

TRANSFORM = TargetTransform(
    shift=np.array([1.0, 0.0]), scale=np.array([4.0, 1.0]), low=np.array([1.0, 0.0]), high=np.array([5.0, 1.0])
)


@pytest.fixture
def model(tmp_path) -> TraitModel:
    torch.manual_seed(0)
    return build(config(tmp_path), SCHEMA, TRANSFORM).eval()


def features(batch: int = 3, steps: int = 4) -> dict[str, Tokens]:
    draw = torch.Generator().manual_seed(1)
    mask = torch.ones(batch, steps, dtype=torch.bool)
    sizes = {"a": 6, "b": 5}
    return {s: Tokens(torch.randn(batch, steps, size, generator=draw), mask) for s, size in sizes.items()}


def test_an_untrained_model_starts_at_the_mean_of_the_training_labels(model) -> None:
    labels = torch.tensor([[2.0, 0.1], [4.0, 0.3], [3.0, float("nan")]])
    model.fit_output(model.to_target(labels), torch.isfinite(labels))
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(model.scores(features()), torch.tensor([[3.0, 0.2]]).expand(3, 2))


def test_the_head_speaks_in_units_of_the_labels_spread(model) -> None:
    labels = torch.tensor([[2.0, 0.1], [4.0, 0.3]])
    model.fit_output(model.to_target(labels), torch.isfinite(labels))
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(model.head.layers[-1].bias)
    torch.testing.assert_close(model.scores(features(batch=1)), torch.tensor([[4.0, 0.3]]))


def test_front_ends_are_run_without_gradients(model) -> None:
    model.encoders["a"].frontend = lambda raw: Tokens(model.encoders["a"].project[1].weight * raw.data.sum(), raw.mask)
    assert not model.frontend(features())["a"].data.requires_grad


def test_a_trait_without_training_labels_keeps_the_middle_of_its_scale(model) -> None:
    model.fit_output(torch.zeros(3, 2), torch.tensor([[True, False]] * 3))
    assert (model.centre[1], model.spread[1]) == (0, 1)


def test_targets_and_scale_are_inverse_and_scores_stay_inside_the_bounds(model) -> None:
    labels = torch.tensor([[1.0, 0.0], [5.0, 1.0], [2.5, 0.25]])
    torch.testing.assert_close(model.to_scale(model.to_target(labels)), labels)
    found = model.to_scale(torch.tensor([[-9.0, 9.0], [9.0, -9.0]]))
    assert found.tolist() == [[1.0, 1.0], [5.0, 0.0]]
    np.testing.assert_allclose(model.to_scale(torch.tensor([[0.3, 0.4]])), TRANSFORM.to_scale(np.array([[0.3, 0.4]])))


def test_a_powers_targets_and_scale_are_inverse_and_kept_with_the_weights(tmp_path) -> None:
    draw = np.random.default_rng(0)
    labels = np.stack([draw.beta(2, 6, 60), draw.beta(5, 2, 60)], 1)
    how = TargetTransform.fit(replace(SCHEMA, transform="yeo_johnson"), labels)
    powered = build(config(tmp_path), SCHEMA, how)
    given = torch.tensor(labels, dtype=torch.float32)
    torch.testing.assert_close(powered.to_scale(powered.to_target(given)), given, atol=1e-5, rtol=0)
    np.testing.assert_allclose(powered.to_target(given), how.to_target(labels), atol=1e-5)
    assert "curve" in trained_state(powered) and "curve" not in trained_state(
        build(config(tmp_path), SCHEMA, TRANSFORM)
    )


def test_scores_are_the_front_ends_then_the_rest(model) -> None:
    raw = features()
    targets, _ = model(model.frontend(raw))
    torch.testing.assert_close(model.scores(raw), model.to_scale(targets))


def test_what_lies_under_a_false_mask_changes_nothing(model) -> None:
    clean, dirty = features(), features()
    for tokens in (clean["a"], dirty["a"]):
        tokens.mask[0] = False
        tokens.mask[1, 2:] = False
    dirty["a"].data[~dirty["a"].mask] = torch.nan
    torch.testing.assert_close(model.scores(dirty), model.scores(clean), rtol=0, atol=0)
    assert torch.isfinite(model.scores(clean)).all()


def test_the_specs_are_those_of_the_encoders(model) -> None:
    assert {stream: spec.width for stream, spec in model.specs.items()} == {"a": 6, "b": 5}


def test_parts_that_do_not_fit_together_are_a_config_error(tmp_path) -> None:
    wrong = config(tmp_path, fusion={"use": "text_centric", "anchor": "text"})
    with pytest.raises(ConfigError, match="config 'toy': fusion text_centric: anchor 'text' is no stream; choose a, b"):
        build(wrong, SCHEMA, TRANSFORM)


@pytest.mark.parametrize("name", ["items", "keys", "training", "a.b"])
def test_a_stream_by_a_name_that_torch_keeps_is_refused(tmp_path, name) -> None:
    wrong = config(tmp_path, streams={name: {"use": "precomputed", "size": 3}})
    with pytest.raises(ConfigError, match=f"config 'toy': streams {name}; torch keeps these names: choose others"):
        build(wrong, SCHEMA, TRANSFORM)


# ------------------------------------------------------------------------------------------- what training changes


class Half(nn.Module):
    """A frozen network with batch statistics, and a trained projection."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Frozen(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "int8")
        self.project = nn.Linear(4, 2)
        self.register_buffer("fitted", torch.ones(3))


def test_frozen_networks_are_left_out_and_fitted_buffers_are_kept() -> None:
    assert sorted(trained_state(Half())) == ["fitted", "project.bias", "project.weight"]


def test_what_was_left_out_is_not_touched_by_loading() -> None:
    first, second = Half(), Half()
    before = [tensor.clone() for tensor in second.network.state_dict().values()]
    load_trained(second, trained_state(first), where="here")
    torch.testing.assert_close(second.project.weight, first.project.weight)
    for tensor, old in zip(second.network.state_dict().values(), before, strict=True):
        assert torch.equal(tensor, old)


@pytest.mark.parametrize(
    ("change", "named"), [({"extra": torch.ones(1)}, "extra"), ({"fitted": torch.ones(4)}, "fitted")]
)
def test_tensors_that_do_not_fit_are_named(change, named) -> None:
    with pytest.raises(ConfigError, match=f"m/best.safetensors: tensors {named} do not fit the model"):
        load_trained(Half(), {**trained_state(Half()), **change}, where="m/best.safetensors")


# ---------------------------------------------------------------------------------------------- modality dropout


def masks(present: list[list[bool]]) -> dict[str, Tokens]:
    columns = torch.tensor(present).T
    steps = torch.tensor([True, False, True])
    return {f"s{p}": Tokens(torch.zeros(len(row), 3, 1), row[:, None] & steps) for p, row in enumerate(columns)}


rows = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=40)


@given(rows, st.floats(0, 1), st.integers(0, 1000))
def test_dropout_clears_whole_streams_and_never_all_of_a_row(present, rate, seed) -> None:
    torch.manual_seed(seed)
    before = masks(present)
    after = drop_streams(before, dict.fromkeys(before, rate))
    left = torch.stack([tokens.mask.any(1) for tokens in after.values()], 1)
    assert torch.equal(left.any(1), torch.tensor(present).any(1))
    for stream, tokens in after.items():
        same = (tokens.mask == before[stream].mask).all(1)
        assert (same | ~tokens.mask.any(1)).all()


def test_dropout_clears_as_often_as_asked_and_each_stream_by_its_own_rate() -> None:
    torch.manual_seed(0)
    after = drop_streams(masks([[True, True, True]] * 20_000), {"s0": 0.3, "s1": 0.0})
    share = {stream: tokens.mask.any(1).float().mean().item() for stream, tokens in after.items()}
    assert share == {"s0": pytest.approx(0.7, abs=0.02), "s1": 1.0, "s2": 1.0}


def test_a_row_that_would_lose_all_keeps_one_stream_that_it_has_drawn_evenly() -> None:
    torch.manual_seed(0)
    after = drop_streams(masks([[True, False, True]] * 20_000), dict.fromkeys(("s0", "s1", "s2"), 1.0))
    share = [tokens.mask.any(1).float().mean().item() for tokens in after.values()]
    assert share == [pytest.approx(0.5, abs=0.02), 0.0, pytest.approx(0.5, abs=0.02)]


def test_a_head_on_the_unit_scale_wants_targets_on_it(tmp_path) -> None:
    """Its answers end at 0 and 1: standardised labels beyond them could never be reached."""
    labels = np.random.default_rng(0).uniform(0.2, 0.8, (50, 2))
    found = config(tmp_path, head={"use": "unit"})
    build(found, SCHEMA, TargetTransform.fit(SCHEMA, labels))
    standard = replace(SCHEMA, transform="z_score")
    with pytest.raises(ConfigError, match=r"head 'unit' answers between the ends .*; set data.transform: min_max"):
        build(found, standard, TargetTransform.fit(standard, labels))
