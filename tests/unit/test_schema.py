from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtraits.schema import (
    REASONS,
    FrameSpec,
    Raw,
    TargetTransform,
    TextSpec,
    Trait,
    TraitSchema,
    VectorSpec,
    WaveSpec,
    join_reasons,
    spec_from_dict,
    stack,
)

SPECS = [
    FrameSpec(frames=8, height_px=32, width_px=48, crop="full"),
    WaveSpec(sample_rate=16_000, max_s=2.5),
    TextSpec(tokenizer="tokenizer.json", max_ids=7),
    VectorSpec(width=5),
]


def schema(transform: str = "min_max", low: float | None = 1.0, high: float | None = 7.0) -> TraitSchema:
    traits = (Trait(name="openness", low=low, high=high), Trait(name="extraversion", low=0.0, high=1.0))
    return TraitSchema(name="s", traits=traits, construct="apparent", judged_by="raters", transform=transform)


def test_reasons_are_joined_once_each_in_the_documented_order() -> None:
    assert join_reasons(["no_transcript", "truncated", "no_face", "truncated"]) == "truncated;no_face;no_transcript"
    assert join_reasons([]) == ""
    assert join_reasons(reversed(REASONS)) == ";".join(REASONS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_specs_survive_plain_data_and_give_an_absent_stream(spec) -> None:
    assert spec_from_dict(asdict(spec)) == spec
    empty = spec.empty()
    assert len(empty.data) == len(empty.mask) == 0
    assert empty.mask.dtype == np.bool_


def test_schema_survives_plain_data() -> None:
    assert TraitSchema.from_dict(schema().to_dict()) == schema()
    assert schema().trait_names == ("openness", "extraversion")


def test_min_max_uses_the_declared_scale_and_z_score_the_training_labels() -> None:
    labels = np.array([[2.0, 0.2], [4.0, 0.6], [np.nan, 0.4]])
    min_max = TargetTransform.fit(schema(), labels)
    np.testing.assert_allclose(min_max.to_target(labels)[:2], [[1 / 6, 0.2], [0.5, 0.6]])
    z_score = TargetTransform.fit(schema("z_score"), labels)
    np.testing.assert_allclose(np.nanmean(z_score.to_target(labels), 0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(z_score.to_target(labels), 0), 1)


def test_scores_are_clipped_to_finite_bounds_even_without_a_declared_scale() -> None:
    labels = np.array([[-3.0, 0.0], [5.0, 1.0]])
    transform = TargetTransform.fit(schema("z_score", low=None, high=None), labels)
    scores = transform.to_scale(np.array([[1e9, 1e9], [-1e9, -1e9]]))
    np.testing.assert_allclose(scores, [[9.0, 1.0], [-7.0, 0.0]])  # the range widened by half of it; the declared one


def test_constant_labels_give_a_finite_transform() -> None:
    transform = TargetTransform.fit(schema("z_score"), np.full((4, 2), 0.5))
    assert np.isfinite(transform.to_target(np.full((1, 2), 0.7))).all()


@given(st.lists(st.floats(1.0, 7.0), min_size=2, max_size=9), st.sampled_from(["min_max", "z_score", "yeo_johnson"]))
def test_to_scale_inverts_to_target(values: list[float], transform: str) -> None:
    labels = np.stack([values, np.linspace(0, 1, len(values))], 1)
    fitted = TargetTransform.fit(schema(transform), labels)
    np.testing.assert_allclose(fitted.to_scale(fitted.to_target(labels)), labels, atol=1e-9)
    again = TargetTransform.from_dict(fitted.to_dict())
    np.testing.assert_array_equal(again.to_target(labels), fitted.to_target(labels))


def test_stack_pads_with_zeros_under_a_false_mask() -> None:
    raws = [Raw(np.ones((2, 3), np.float32), np.array([True, False])), VectorSpec(width=3).empty()]
    data, mask = stack(raws)
    assert data.shape == (2, 2, 3)
    assert mask.tolist() == [[True, False], [False, False]]
    assert data[1].sum() == 0
    assert stack([VectorSpec(width=3).empty()]).data.shape == (1, 1, 3)  # a time axis is never empty
    assert stack(raws, min_steps=5).mask.shape == (2, 5)
