"""Emotion read, predicted or left out: EmoPerso's exchange and MER-PR's shared layer."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_streams import errors_of_mean, plant, settings

from mmtraits import config, parts
from mmtraits.encoders import precomputed
from mmtraits.export import Facts, write_bundle
from mmtraits.extract import extract
from mmtraits.fusion import emotion_cross
from mmtraits.model import build
from mmtraits.runtime import Predictor
from mmtraits.schema import TargetTransform, Trait, TraitSchema, Windowing
from mmtraits.tokens import Tokens
from mmtraits.train import fit

SYSTEMS = Path(__file__).parents[2] / "configs" / "systems"
STREAMS = ("text", "emotion")


def fusion(**options) -> emotion_cross.Fusion:
    torch.manual_seed(0)
    return emotion_cross.Fusion(emotion_cross.Config(width=8, heads=2, **options), STREAMS).eval()


def batch(steps: tuple[int, int] = (3, 2), seed: int = 0) -> dict[str, Tokens]:
    source = torch.Generator().manual_seed(seed)
    return {
        s: Tokens(torch.randn(3, n, 8, generator=source), torch.ones(3, n, dtype=torch.bool))
        for s, n in zip(STREAMS, steps, strict=True)
    }


def changed(tokens: dict[str, Tokens], stream: str) -> dict[str, Tokens]:
    one = tokens[stream]
    return {**tokens, stream: Tokens(2 * one.data.flip(2), one.mask)}


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("role", ["input", "target", "none"])
def test_emotion_is_read_only_as_an_input(role, layers):
    made, tokens = fusion(emotion=role, layers=layers), batch()
    vector, aux = made(tokens)
    other, _ = made(changed(tokens, "emotion"))
    assert torch.equal(vector, other) == (role != "input")
    assert (made(changed(tokens, "text"))[0] - vector).abs().max() > 1e-3
    assert set(aux) == ({"emotion", "loss_emotion"} if role == "target" else set())


@pytest.mark.parametrize("layers", [0, 1])
def test_every_parameter_is_trained_by_traits_or_the_task(layers):
    made = fusion(emotion="target", layers=layers).train()
    vector, aux = made(batch())
    (vector.square().sum() + aux["loss_emotion"]).backward()
    assert not [n for n, p in made.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]


def test_the_task_by_hand():
    """The mean squared error over the rows that have emotion; nothing flows into the target."""
    task = emotion_cross.EmotionTask(2)
    vector, data = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.randn(2, 3, 2).requires_grad_()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    out = task(vector, Tokens(data, mask))
    error = (task.predict(vector[:1]) - data[0, :2].mean(0)).square().mean()
    assert out["loss_emotion"].item() == pytest.approx(error.item(), rel=1e-5)
    out["loss_emotion"].backward()
    assert data.grad is None
    assert task(vector, Tokens(data, mask & False))["loss_emotion"].item() == 0


def test_traits_and_emotion_read_each_other():
    torch.manual_seed(0)
    exchange = emotion_cross.Exchange(emotion_cross.Config(width=8, heads=2)).eval()
    one, two = batch()["text"], batch()["emotion"]
    traits, emotion = exchange(one, two)
    assert traits.data.shape == one.data.shape and emotion.data.shape == two.data.shape
    moved = Tokens(two.data.flip(2), two.mask)
    assert (exchange(one, moved)[0].data - traits.data).abs().max() > 1e-3
    moved = Tokens(one.data.flip(2), one.mask)
    assert (exchange(moved, two)[1].data - emotion.data).abs().max() > 1e-3


def test_the_shared_layer_is_relu_of_one_linear_layer():
    made, tokens = fusion(emotion="none", layers=0), batch()
    means = torch.cat([tokens["text"].data.mean(1), torch.ones(3, 1)], 1)
    torch.testing.assert_close(made(tokens)[0], torch.relu(made.traits.join(means)))


def test_what_cannot_be_predicted_or_read_is_refused():
    with pytest.raises(ValueError, match="stream 'mood' is no stream; choose text, emotion, or `emotion: none`"):
        fusion(stream="mood")
    with pytest.raises(ValueError, match="found only 'emotion'; expected a stream to predict it from"):
        emotion_cross.Fusion(emotion_cross.Config(width=8), ("emotion",))


def test_pooling_takes_the_largest_of_the_real_steps():
    encoder = precomputed.Encoder(precomputed.Config(size=2, width=4, pool="max", dropout=0.0))
    data = torch.tensor([[[1.0, -5.0], [3.0, -7.0], [9.0, 9.0]], [[9.0, 9.0]] * 3])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = encoder(Tokens(data, mask))
    torch.testing.assert_close(found.data[0, 0], encoder.project(torch.tensor([3.0, -5.0])))
    assert found.mask.tolist() == [[True], [False]]
    assert torch.isfinite(found.data).all()


def test_mer_pr_is_as_wide_as_the_baseline():
    """Its shared layer of 512 and one output per trait; the projections before it have no activation."""
    found = config.load(SYSTEMS / "mer_pr.yaml", check=parts.problems)
    traits = tuple(Trait(name=f"t{k}", low=0.0, high=1.0) for k in range(5))
    schema = TraitSchema(name="five", traits=traits, construct="self_reported", judged_by="themselves", rated="person")
    model = build(found, schema, TargetTransform.fit(schema, torch.rand(20, 5).double().numpy()))
    assert model.fusion.traits.join.weight.shape == (512, 3 * 513)
    assert model.head.layer.weight.shape == (5, 512)
    assert model.fusion.traits.dropout.p == 0.5
    assert all(part.options["pool"] == "max" for part in found.streams.values())


@pytest.mark.slow
@pytest.mark.parametrize("role", ["none", "input", "target"])
def test_mer_pr_learns_whatever_is_done_with_emotion(role, tmp_path):
    """MAE at most .35 of the mean predictor's on a sum of streams."""
    made = plant(tmp_path)
    changes = ["trainer.max_epochs=25", "fusion.width=64", "fusion.dropout=0.1", f"fusion.emotion={role}"]
    if role == "target":
        changes.append("loss.emotion=0.5")
    streams = ("text", "voice", "face", *(["emotion"] if role != "none" else []))
    found = settings("mer_pr", tmp_path, streams, *changes, pool="mean")
    ratios = errors_of_mean(fit(found, root=tmp_path / "runs") / "single", made)
    assert ratios["trait_1"] < 0.35, ratios


@pytest.mark.slow
def test_emoperso_learns_traits_and_predicts_emotion(tmp_path):
    """MAE at most .35 of the mean predictor's; errors fall, so that both tasks come to count for more."""
    made = plant(tmp_path)
    changes = ("trainer.max_epochs=25", "fusion.width=32", "fusion.queries=2", "fusion.layers=1")
    found = settings("emoperso", tmp_path, ("text", "voice", "face", "emotion"), *changes, pool="mean")
    member = fit(found, root=tmp_path / "runs") / "single"
    ratios = errors_of_mean(member, made)
    assert ratios["trait_1"] < 0.35, ratios
    with (member / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["train_weight_emotion"]) > 1.1 and float(last["train_weight_mse"]) > 1.1


@pytest.mark.slow
def test_a_bundle_is_written_although_its_graph_never_reads_the_target(tmp_path):
    made = plant(tmp_path, 12)
    found = settings("emoperso", tmp_path, ("text", "emotion"), "fusion.width=8", "fusion.layers=0")
    how = TargetTransform.fit(made.schema, made.labels)
    model = build(found, made.schema, how).eval()
    facts = Facts(name="small", schema=made.schema, windowing=Windowing(), transforms=[how], provenance={})
    predictor = Predictor(write_bundle([model], facts, tmp_path / "bundle").folder, threads=1)
    windows = [{s: window.streams[s].read() for s in STREAMS} for window in extract(found, made).windows]
    without = [{**one, "emotion": predictor.specs["emotion"].empty()} for one in windows]
    scores = predictor.score(windows)
    np.testing.assert_allclose(predictor.score(without), scores, atol=1e-5)
    assert scores.std(0).min() > 1e-4
