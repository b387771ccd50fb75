"""Gated pairs against their formula, their sets of features, and what they learn; the head that bounds its answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SCHEMA, config, plant
from torch import Tensor

from mmtraits import config as configs
from mmtraits import model, parts
from mmtraits.errors import ConfigError
from mmtraits.fusion.gated_pairs import Config, Fusion
from mmtraits.heads import unit
from mmtraits.schema import TargetTransform
from mmtraits.tokens import Tokens
from mmtraits.train import fit

SYSTEMS = Path(__file__).parents[2] / "configs" / "systems"
STREAMS = ("words", "text", "pitch", "voice", "shape", "face")
SETS = (("words", "pitch", "shape"), ("text", "voice", "face"))


def batch(fusion: Fusion, rows: int = 4, steps: int = 3) -> dict[str, Tokens]:
    torch.manual_seed(1)
    mask = torch.ones(rows, steps, dtype=torch.bool)
    return {stream: Tokens(torch.randn(rows, steps, fusion.width), mask) for stream in fusion.streams}


def plain(fusion: Fusion, vectors: dict[str, Tensor], sets: tuple[tuple[str, ...], ...]) -> Tensor:
    """The specification's formula, word by word."""
    gates = iter(fusion.gates)
    blocks = []
    for i in range(len(sets[0])):
        for j in range(i + 1, len(sets[0])):
            block = 0
            for names in sets:
                gate, x1, x2 = next(gates), vectors[names[i]], vectors[names[j]]
                sigma = torch.sigmoid(torch.cat([x1, x2], 1) @ gate.gate.weight.T + gate.gate.bias)
                one = torch.tanh(x1 @ gate.first.weight.T + gate.first.bias)
                other = torch.tanh(x2 @ gate.second.weight.T + gate.second.bias)
                block = block + sigma * one + (1 - sigma) * other
            blocks.append(block)
    return torch.cat(blocks, 1)


@pytest.mark.parametrize("sets", [None, SETS])
def test_the_formula(sets):
    torch.manual_seed(0)
    fusion = Fusion(Config(block=5, sets=sets), STREAMS)
    given = batch(fusion)
    vectors = {stream: fusion.norms[stream](tokens.data.mean(1)) for stream, tokens in given.items()}
    torch.testing.assert_close(fusion(given)[0], plain(fusion, vectors, sets or (STREAMS,)))


def test_three_modalities_of_two_sets_make_the_width_of_the_specification():
    fusion = Fusion(Config(sets=SETS), STREAMS)
    assert fusion.width == 192
    assert len(fusion.gates) == 6
    head = unit.Head(unit.Config(hidden=50, activation="sigmoid"), fusion.width, 5)
    assert sum(p.numel() for p in head.parameters()) == 192 * 50 + 50 + 50 * 5 + 5


def test_an_absent_stream_is_its_learned_vector():
    torch.manual_seed(0)
    fusion = Fusion(Config(block=5), ("a", "b", "c"))
    given = batch(fusion)
    given["b"] = Tokens(torch.full_like(given["b"].data, torch.nan), torch.zeros_like(given["b"].mask))
    vectors = {stream: fusion.norms[stream](tokens.data.mean(1)) for stream, tokens in given.items()}
    vectors["b"] = fusion.absence[1].expand(4, -1)
    torch.testing.assert_close(fusion(given)[0], plain(fusion, vectors, (("a", "b", "c"),)))


@pytest.mark.parametrize(
    ("sets", "streams", "message"),
    [
        (None, ("a",), "found sets of 1 streams; expected the same modalities in each set, at least two"),
        ((("a", "b"), ("c",)), ("a", "b", "c"), "found sets of 1, 2 streams"),
        ((("a", "b"),), ("a", "b", "c"), "sets name a, b; expected every stream once: a, b, c"),
        ((("a", "b"), ("a", "c")), ("a", "b", "c"), "sets name a, b, a, c"),
    ],
)
def test_sets_that_do_not_fit_are_named(sets, streams, message):
    with pytest.raises(ValueError, match=message):
        Fusion(Config(sets=sets), streams)


def test_the_config_names_what_is_wrong_with_its_sets():
    path = SYSTEMS / "gated_pairs_two_sets.yaml"
    found = configs.load(path, ["fusion.sets=[[text_words, face_geometry]]"], check=parts.problems)
    with pytest.raises(ConfigError, match="gated_pairs_two_sets.*expected every stream once"):
        model.build(found, SCHEMA, TargetTransform.fit(SCHEMA, np.random.default_rng(0).uniform(0, 1, (9, 2))))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_the_unit_head_by_hand(activation):
    torch.manual_seed(0)
    head = unit.Head(unit.Config(hidden=7, activation=activation), 4, 2)
    fused = torch.randn(5, 4)
    x = torch.relu(fused @ head.hidden.weight.T + head.hidden.bias) @ head.last.weight.T + head.last.bias
    expected = 1 / (1 + torch.exp(-x)) if activation == "sigmoid" else (torch.tanh(x) + 1) / 2
    torch.testing.assert_close(head(fused)[0], expected)
    assert unit.Head.absolute


def test_a_head_that_answers_on_the_scale_keeps_the_scale():
    """The training mean moves heads that answer in deviations from it, not this one."""
    found = config(Path(), head={"use": "unit"})
    how = TargetTransform.fit(SCHEMA, np.random.default_rng(0).uniform(0, 1, (9, 2)))
    for head, moved in (({"use": "unit"}, False), ({"use": "linear"}, True)):
        made = model.build(found.model_copy(update={"head": configs.Part(**head)}), SCHEMA, how)
        made.fit_output(torch.rand(20, 2), torch.ones(20, 2, dtype=torch.bool))
        assert bool(made.centre.any()) is moved
        assert bool((made.spread != 1).any()) is moved


def test_the_two_sets_of_the_config_have_the_sizes_of_the_specification():
    found = configs.load(SYSTEMS / "gated_pairs_two_sets.yaml", check=parts.problems)
    sizes = {stream: part.options["size"] for stream, part in found.streams.items()}
    assert sizes == {
        "text_words": 128, "text_states": 128, "voice_levels": 256, "voice_images": 512, "face_geometry": 256,
        "face_emotion": 2048,
    }  # fmt: skip


@pytest.mark.slow
def test_it_learns_from_both_streams(tmp_path):
    """MAE at most .6 of the mean predictor's on each planted trait; a fifth of the clips lack the stream of `warm`."""
    made = plant(tmp_path, clips=400)
    options = {"fusion": {"use": "gated_pairs", "block": 32}, "head": {"use": "unit", "hidden": 50}}
    member = fit(config(tmp_path, **options, trainer__max_epochs=30), root=tmp_path / "runs") / "single"
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    blind = np.nanmean(np.abs(made.labels - np.nanmean(made.labels, 0)), 0)
    ratios = {name: test[name]["mae"] / blind[k] for k, name in enumerate(("warm", "calm"))}
    assert max(ratios.values()) < 0.6, ratios
