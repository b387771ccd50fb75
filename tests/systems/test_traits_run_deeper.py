"""Traits Run Deeper: its ways to fuse against plain torch, its config, and what it learns of planted vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmtraits import config, parts, run
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.evaluate import evaluate
from mmtraits.export import export
from mmtraits.fusion.trait_specific import Config, Fusion
from mmtraits.model import build
from mmtraits.schema import Clip, TargetTransform, Trait, TraitSchema
from mmtraits.tokens import Tokens
from mmtraits.train import fit

SYSTEM = Path(__file__).parents[2] / "configs" / "systems" / "traits_run_deeper.yaml"
TRAITS = ("honesty_humility", "emotionality", "agreeableness", "conscientiousness")
STREAMS = ("text", "voice", "face")
SCHEMA = TraitSchema(
    name="avi_2026",
    traits=tuple(Trait(name=name, low=1.0, high=5.0) for name in TRAITS),
    construct="self_reported",
    judged_by="a formula",
    rated="person",
)


def tokens(steps: dict[str, int], size: int = 6) -> dict[str, Tokens]:
    draw = torch.Generator().manual_seed(0)
    return {
        s: Tokens(torch.randn(2, n, size, generator=draw), torch.ones(2, n, dtype=torch.bool)) for s, n in steps.items()
    }


def fusion(**options: Any) -> Fusion:
    torch.manual_seed(0)
    return Fusion(Config(sizes=6, hidden=(5,), heads=1, **options), STREAMS).eval()


def mlp(made: Fusion, x: torch.Tensor) -> torch.Tensor:
    linear, norm = made.layers[0], made.layers[1]
    return F.relu(F.layer_norm(x @ linear.weight.T + linear.bias, (5,), norm.weight, norm.bias))


def test_beside_joins_the_chosen_streams_and_no_other() -> None:
    made, given = fusion(streams=("text", "voice")), tokens({"text": 1, "voice": 3, "face": 2})
    expected = mlp(made, torch.cat([given["text"].data[:, 0], given["voice"].data.mean(1)], 1))
    torch.testing.assert_close(made(given)[0], expected)


def read(attention: Any, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """One head with a null key, in plain torch: query (Q, D), memory (T, D)."""
    null_key, null_value = attention.null[0, 0].chunk(2)
    keys, values = attention.key_value(memory).chunk(2, -1)
    keys, values = torch.cat([null_key[None], keys]), torch.cat([null_value[None], values])
    weights = torch.softmax(attention.query(query) @ keys.T / keys.shape[-1] ** 0.5, -1)
    return attention.out(weights @ values)


def test_crossed_is_the_text_that_asks_the_others() -> None:
    made, given = fusion(way="crossed", width=4), tokens({"text": 2, "voice": 1, "face": 3})
    way = made.way
    for row in range(2):
        seen = {s: way.project[s](one.data[row]) for s, one in given.items()}
        query = seen["text"].mean(0)
        context = read(way.across, query[None], torch.cat([seen["voice"], seen["face"]]))[0]
        expected = mlp(made, torch.cat([query, way.norm(query + context)]))
        torch.testing.assert_close(made(given)[0][row], expected)


def test_pooled_is_a_learned_query_over_steps_that_read_each_other() -> None:
    made, given = fusion(way="pooled", width=4, streams=("face",)), tokens({"text": 1, "voice": 1, "face": 3})
    way = made.way
    for row in range(2):
        steps = way.project["face"](given["face"].data[row])
        steps = way.norm(steps + read(way.within, steps, steps))
        expected = mlp(made, read(way.pool, way.query[0], steps)[0])
        torch.testing.assert_close(made(given)[0][row], expected)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"streams": ("text", "gaze")}, "streams names gaze; choose of text, voice, face"),
        ({"sizes": {"text": 4}}, "sizes lacks face, voice; give the length of every stream's vectors"),
        ({"way": "crossed", "streams": ("voice", "face")}, "found voice, face; expected the anchor 'text' and another"),
    ],
)
def test_streams_that_do_not_fit_are_told(options, told) -> None:
    with pytest.raises(ValueError, match=told):
        Fusion(Config(**options), STREAMS)


def test_each_trait_has_its_own_streams_at_full_size() -> None:
    found = config.load(SYSTEM, check=parts.problems)
    how = TargetTransform.fit(replace(SCHEMA, traits=SCHEMA.traits[:1]), np.array([[1.0], [4.0]]))
    chosen = {}
    with torch.device("meta"):
        for trait in SCHEMA.traits:
            fused = parts.fusion(found.fusion_of((trait.name,)), tuple(found.streams))
            chosen[trait.name] = (type(fused.way).__name__, fused.chosen)
    assert chosen == {
        "honesty_humility": ("Beside", ("text", "voice")),
        "emotionality": ("Pooled", ("face",)),
        "agreeableness": ("Beside", ("text",)),
        "conscientiousness": ("Crossed", ("text", "voice", "face")),
    }
    single = replace(SCHEMA, traits=SCHEMA.traits[2:3])
    assert not list(build(found, single, how).projections.parameters())  # vectors enter as they are


# ---------------------------------------------------------------------------------------------------- a run


def plant(folder: Path, persons: int) -> Manifest:
    """Four answers of each person; a trait shows in the answer to its own question, in the streams that it reads.

    Labels are skewed and rounded to sixteenths; the last trait is a product of text and face.
    """
    draw = np.random.default_rng(0)
    sizes = {"text": 6, "voice": 5, "face": 4}
    data = {s: draw.normal(size=(persons, 4, size)).astype(np.float32) for s, size in sizes.items()}
    text, voice, face = data["text"], data["voice"], data["face"]
    hidden = np.stack(
        [text[:, 0, 0] + voice[:, 0, 0], face[:, 1, 1], text[:, 2, 2], text[:, 3, 3] + 0.7 * face[:, 3, 0]], 1
    )
    labels = np.round((1 + 4 * np.exp(-np.exp(0.9 * hidden - 0.5))) * 16) / 16
    ids = [[f"p{n:03d}_q{q}" for q in range(3, 7)] for n in range(persons)]
    folder.mkdir(parents=True, exist_ok=True)
    for stream, features in data.items():
        np.savez(folder / f"{stream}.npz", clip=np.array(ids).ravel(), features=features.reshape(4 * persons, -1))
    clips = tuple(
        Clip(id=one, person=one[:4], question=one[5:], features={s: f"{s}.npz#{one}" for s in sizes})
        for answers in ids
        for one in answers
    )
    made = Manifest(
        path=folder / "clips.csv", schema=SCHEMA, clips=clips, labels=np.repeat(labels, 4, axis=0),
        splits=(None,) * len(clips),
    )  # fmt: skip
    manifests.write(made)
    return made


def settings(folder: Path, *changes: str) -> RunConfig:
    """The system's own config on small vectors, its widths and training cut down."""
    own = config.load(SYSTEM)
    sizes = {"text": 6, "voice": 5, "face": 4}
    told = "{text: 6, voice: 5, face: 4}"
    fusions = [f"runs.fusion.{trait}.sizes={told}" for trait in own.runs.fusion]
    widths = [f"runs.fusion.{trait}.{key}" for trait in own.runs.fusion for key in ("hidden=[32, 16]", "dropout=0.0")]
    wide = [f"runs.fusion.{trait}.width=16" for trait in ("emotionality", "conscientiousness")]
    return config.load(
        SYSTEM,
        [
            f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}", "trainer.accelerator=cpu",
            *(f"streams.{s}.size={size}" for s, size in sizes.items()), f"fusion.sizes={told}",
            "fusion.hidden=[32, 16]", "fusion.dropout=0.0", *fusions, *widths, *wide, "optimizer.lr=3e-3",
            "trainer.average_weights=0.9", *changes,
        ],
        check=parts.problems,
    )  # fmt: skip


def test_four_ways_are_trained_evaluated_and_exported_as_one_graph(tmp_path) -> None:
    manifest = plant(tmp_path, 24)
    trained = fit(settings(tmp_path, "protocol.folds=2", "trainer.max_epochs=1"), root=tmp_path / "runs")
    assert len(run.members_of(trained)) == 8
    found = evaluate(trained, manifest)
    assert found.unit == "person" and [row.n for row in found.rows[0].systems[0].table.traits.values()] == [24] * 4
    assert export(trained, tmp_path / "bundle").members == 8


@pytest.mark.slow
def test_it_learns_what_is_planted(tmp_path) -> None:
    """Out of fold, every trait errs at least 30 % less than the training mean."""
    manifest = plant(tmp_path, 300)
    trained = fit(settings(tmp_path, "protocol.folds=2", "trainer.max_epochs=25"), root=tmp_path / "runs")
    systems = {system.name: system.table for system in evaluate(trained, manifest).rows[0].systems}
    for trait in TRAITS:
        mine, floor = (systems[name].traits[trait].metrics["mae"].value for name in ("model", "training mean"))
        assert mine < 0.7 * floor, f"{trait}: {mine:.3f}, mean {floor:.3f}"
