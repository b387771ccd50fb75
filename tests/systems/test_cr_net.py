"""CR-Net: bins that guide scores, their soft labels, the two stages of training, and what it learns."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planted import config, plant
from planted_media import SCHEMA, plant_media
from torch import nn

from mmtraits import config as configs
from mmtraits import parts
from mmtraits.encoders import resnet_wave
from mmtraits.errors import MMTraitsError
from mmtraits.heads.cr_net import Config, Head
from mmtraits.networks.residual import Convolution
from mmtraits.objectives import bins
from mmtraits.schema import FrameSpec, WaveSpec
from mmtraits.train import fit

CONFIG = Path(__file__).parents[2] / "configs" / "systems" / "cr_net.yaml"
TINY = (
    "streams.scene.backbone=test_resnet", "streams.scene.size_px=32", "streams.scene.frames=2",
    "streams.scene.width=16", "streams.face.backbone=test_resnet", "streams.face.size_px=32",
    "streams.face.frames=2", "streams.face.width=16", "streams.sound.channels=[8,16]", "streams.sound.blocks=[1,1]",
    "fusion.width=16", "data.workers=0", "trainer.accelerator=cpu", "trainer.precision=32-true",
)  # fmt: skip
LOSSES = {"l1": 1.0, "mse": 1.0, "bell": 1.0}


def test_the_config_has_the_three_streams_and_the_losses_of_the_specification():
    found = configs.load(CONFIG, check=parts.problems)
    specs = {stream: parts.encoder(part).spec for stream, part in found.streams.items() if stream != "sound"}
    assert {stream: spec.crop for stream, spec in specs.items() if isinstance(spec, FrameSpec)} == {
        "scene": "full",
        "face": "face",
    }
    assert found.loss == {**LOSSES, "ccc": 0.0}
    assert found.head.options["bins"] == 4


def test_the_sound_is_as_deep_as_resnet_34():
    """34 layers: 33 convolutions one behind the other and the classifier, which is the head here."""
    found = configs.load(CONFIG, check=parts.problems).streams["sound"]
    with torch.device("meta"):
        encoder = resnet_wave.Encoder(resnet_wave.Config(**found.options))
    named = [name for name, part in encoder.named_modules() if isinstance(part, Convolution)]
    assert len([name for name in named if "shortcut" not in name]) == 33
    assert encoder.width == 512
    assert encoder.spec == WaveSpec(sample_rate=16_000)


# ------------------------------------------------------------------------------------------------------- the head


def test_the_head_by_hand():
    torch.manual_seed(0)
    head = Head(Config(bins=3, hidden=4), 6, 2).eval()
    fused = torch.randn(5, 6)
    values, aux = head(fused)
    for row in range(5):
        for trait in range(2):
            shares = aux["bins"][row, trait].softmax(0)
            pooled = torch.zeros(4)
            for one in range(3):
                first = (trait * 3 + one) * 4
                features = head.features.weight[first : first + 4] @ fused[row] + head.features.bias[first : first + 4]
                pooled = pooled + shares[one] * torch.relu(features)
            expected = pooled @ head.weight[trait] + head.bias[trait]
            torch.testing.assert_close(values[row, trait], expected)


def test_bins_guide_the_scores():
    """Other probabilities, other features: the same vector has another score."""
    torch.manual_seed(0)
    head = Head(Config(), 6, 2).eval()
    fused = torch.randn(1, 6)
    before = head(fused)[0]
    with torch.no_grad():
        head.classify.bias[:4] += torch.tensor([0.0, 0.0, 0.0, 9.0])
    after = head(fused)[0]
    assert (after - before)[0, 0].abs() > 1e-2
    assert (after - before)[0, 1].abs() < 1e-6


# -------------------------------------------------------------------------------------------------- the objective


@pytest.mark.parametrize(
    ("target", "shares"),
    [
        (0.0, [1, 0, 0, 0]), (0.125, [1, 0, 0, 0]), (0.25, [0.5, 0.5, 0, 0]), (0.375, [0, 1, 0, 0]),
        (0.45, [0, 0.7, 0.3, 0]), (0.875, [0, 0, 0, 1]), (1.0, [0, 0, 0, 1]), (1.7, [0, 0, 0, 1]),
    ],
)  # fmt: skip
def test_soft_bins_by_hand(target, shares):
    torch.testing.assert_close(bins.soft_bins(torch.tensor([target]), 4), torch.tensor([shares], dtype=torch.float32))


def test_cross_entropy_is_torchs_own_and_skips_unknown_labels():
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 2, 4, requires_grad=True), torch.rand(6, 2)
    known = torch.rand(6, 2) > 0.4
    spoiled = torch.where(known, targets, torch.nan)
    expected = nn.functional.cross_entropy(logits[known], bins.soft_bins(targets, 4)[known])
    found = bins.cross_entropy(logits, spoiled, known)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~known].any()
    assert bins.cross_entropy(logits, targets, torch.zeros_like(known)).item() == 0


class Guided(nn.Module):
    """A model of one number and four equal logits."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.tensor([[0.2]]))
        self.head = Head(Config(), 1, 1)

    def forward(self, features: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.score, {"bins": torch.zeros(1, 1, 4)}

    def to_target(self, labels: torch.Tensor) -> torch.Tensor:
        return labels


def test_classification_first_then_both():
    batch = SimpleNamespace(labels=torch.tensor([[0.7]]), known=torch.tensor([[True]]))
    model = Guided()
    objective = bins.Objective(bins.Config(classify_steps=2, weight=0.5), model, {"mse": 2.0})  # type: ignore[arg-type]
    entropy = torch.log(torch.tensor(4.0))
    for step in range(4):
        loss, shown = objective(batch, {})  # type: ignore[arg-type]
        torch.testing.assert_close(loss, entropy if step < 2 else 0.5 * entropy + 2 * 0.25)
        torch.testing.assert_close(shown["bins"], entropy)
    objective.eval()(batch, {})
    assert objective.steps.item() == 4
    assert "steps" in objective.state_dict(), "a resumed run knows its stage"


def test_a_head_without_bins_is_refused_before_anything_is_written(tmp_path):
    plant(tmp_path, clips=40)
    found = config(tmp_path, objective={"use": "bins"})
    with pytest.raises(MMTraitsError, match=r"mmtraits\.heads\.mlp gives no bins; expected a head as cr_net"):
        fit(found, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------------- the system


@pytest.mark.slow
def test_the_config_trains_on_media(tmp_path):
    """Frames, no face among them, and waves: some steps of both stages, finite scores."""
    plant_media(tmp_path, clips=16)
    where = (f"data.manifest={tmp_path / 'clips.csv'}", f"data.cache={tmp_path / 'cache'}")
    few = ("trainer.max_epochs=2", "data.batch_size=4", "objective.classify_steps=2", "streams.face=null")
    found = configs.load(CONFIG, [*where, *TINY, *few], check=parts.problems)
    member = fit(found, root=tmp_path / "runs") / "single"
    assert np.isfinite(json.loads((member / "metrics.json").read_text())["test"]["mean"]["mae"])
    assert SCHEMA.trait_names == ("bright", "high")


@pytest.mark.slow
def test_it_learns_from_both_streams(tmp_path):
    """MAE at most .6 of the mean predictor's on each planted trait, after a stage of classification alone."""
    made = plant(tmp_path, clips=400)
    options = {
        "head": {"use": "cr_net"},
        "loss": LOSSES,
        "objective": {"use": "bins", "classify_steps": 40},
    }
    member = fit(config(tmp_path, **options, trainer__max_epochs=30), root=tmp_path / "runs") / "single"
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    blind = np.nanmean(np.abs(made.labels - np.nanmean(made.labels, 0)), 0)
    ratios = {name: test[name]["mae"] / blind[k] for k, name in enumerate(("warm", "calm"))}
    assert max(ratios.values()) < 0.6, ratios
