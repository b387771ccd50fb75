"""Traits Run Deep and 365 Aspects: counts, formulas word by word, absent streams, learning, and one bundle."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import padded
from torch import Tensor, nn

from mmtraits import config, model, parts
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.encoders import precomputed
from mmtraits.errors import ConfigError
from mmtraits.export import export
from mmtraits.fusion import head_softmax, shared_compression
from mmtraits.heads import ensemble, linear
from mmtraits.run import load_member
from mmtraits.runtime import Predictor
from mmtraits.schema import Clip, Raw, TargetTransform, Trait, TraitSchema
from mmtraits.tokens import Tokens
from mmtraits.train import fit

SYSTEMS = Path(__file__).parents[2] / "configs" / "systems"
STREAMS = ("text", "voice", "face")
TRAITS = ("honesty_humility", "extraversion")
SCHEMA = TraitSchema(
    name="interview",
    traits=tuple(Trait(name=name, low=1.0, high=5.0) for name in TRAITS),
    construct="apparent",
    judged_by="a formula",
)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def transform(schema: TraitSchema = SCHEMA) -> TargetTransform:
    return TargetTransform.fit(schema, np.random.default_rng(0).uniform(1, 5, (50, len(schema.traits))))


# --------------------------------------------------------------------------------------------- Traits Run Deep


def full() -> tuple[head_softmax.Fusion, ensemble.Head]:
    """The winning run's network for one trait, without memory for its weights."""
    settings = config.load(SYSTEMS / "traits_run_deep.yaml", check=parts.problems)
    with torch.device("meta"):
        fusion = parts.fusion(settings.fusion, tuple(settings.streams))
        return fusion, parts.head(settings.head, fusion.width, 1)


def test_the_counts_are_those_of_the_winning_run():
    fusion, head = full()
    assert {stream: count(projector) for stream, projector in fusion.projectors.items()} == dict.fromkeys(
        STREAMS, 1_187_457
    )
    assert count(fusion.direct) == 560_961
    assert [count(connector) for connector in fusion.connectors.values()] == [460_288, 460_288]
    assert count(fusion.enhancer) == 395_523
    assert count(head) == 1_185_824
    assert count(fusion) + count(head) == 6_625_255


def test_the_whole_model_has_no_other_parameters():
    settings = config.load(SYSTEMS / "traits_run_deep.yaml")
    one = replace(SCHEMA, traits=SCHEMA.traits[:1])
    assert count(model.build(settings, one, transform(one))) == 6_625_255


@pytest.mark.parametrize(
    ("size", "expected"), [(768, 1), (1024, 2), (1152, 2), (2048, 4), (4096, 8), (8192, 16), (16384, 32), (20480, 40)]
)
def test_wider_vectors_have_more_blocks(size, expected):
    assert head_softmax.chunks(size) == expected


def small(**changes: object) -> head_softmax.Fusion:
    torch.manual_seed(0)
    options = {"sizes": 1024, "unified": 16, "hidden": 8, "width": 12, "heads": 2, **changes}
    fusion = head_softmax.Fusion(head_softmax.Config(**options), STREAMS).eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fusion


def given(fusion: head_softmax.Fusion, rows: int = 3, steps: int = 1) -> dict[str, Tokens]:
    torch.manual_seed(1)
    mask = torch.ones(rows, steps, dtype=torch.bool)
    return {stream: Tokens(torch.randn(rows, steps, size), mask) for stream, size in fusion.reads.items()}


def projected(projector: head_softmax.ChunkProjector, x: Tensor) -> Tensor:
    """Block by block, as the specification writes it."""
    blocks = []
    for i, part in enumerate(x.chunk(projector.blocks, 1)):
        inner = torch.relu(part @ projector.widen.weight[i] + projector.widen.bias[i])
        normed = nn.functional.layer_norm(inner, inner.shape[1:], projector.scale[i, 0], projector.shift[i, 0])
        f = normed @ projector.narrow.weight[i] + projector.narrow.bias[i]
        if projector.gate is not None:
            token = projector.tokens[i].expand_as(f)
            g = torch.sigmoid(projector.gate(torch.cat([f, token], 1)))
            f = g * f + (1 - g) * token
        blocks.append(f)
    return torch.cat(blocks, 1) + projector.compensation


def connected(connector: head_softmax.Connector, other: Tensor, text: Tensor) -> Tensor:
    """Head by head; the softmax is over them."""
    heads = connector.heads
    q, k, v = connector.query(other), connector.key(text), connector.value(text)
    d = q.shape[1] // heads
    cut = [slice(h * d, (h + 1) * d) for h in range(heads)]
    match = torch.stack([(q[:, one] * k[:, one]).sum(1) / math.sqrt(d) for one in cut], 1).softmax(1)
    context = torch.cat([match[:, h : h + 1] * v[:, one] for h, one in enumerate(cut)], 1)
    return connector.finish[1](connector.out(context))


def enhanced(enhancer: head_softmax.Enhancer, parts: list[Tensor]) -> Tensor:
    g = enhancer.gate(torch.cat(parts, 1)).softmax(1)
    said = sum(g[:, n : n + 1] * layer(part) for n, (layer, part) in enumerate(zip(enhancer.weigh, parts, strict=True)))
    return enhancer.out(enhancer.norm(parts[-1] + said))


@pytest.mark.parametrize("changes", [{}, {"learned_tokens": False}, {"width": 8}, {"sizes": 768, "unified": 14}])
def test_the_formula(changes):
    fusion = small(**changes)
    batch = given(fusion)
    x = {stream: tokens.data[:, 0] for stream, tokens in batch.items()}
    text = projected(fusion.projectors["text"], x["text"])
    parts = [connected(fusion.connectors[s], projected(fusion.projectors[s], x[s]), text) for s in ("voice", "face")]
    expected = enhanced(fusion.enhancer, [*parts, projected(fusion.direct, x["text"])])
    found, aux = fusion(batch)
    torch.testing.assert_close(found, expected)
    assert aux == {}
    again = given(fusion, steps=1)
    repeated = {s: Tokens(t.data.expand(-1, 3, -1), t.mask.expand(-1, 3)) for s, t in again.items()}
    torch.testing.assert_close(fusion(repeated)[0], found)


@torch.no_grad()
def test_the_start_is_the_specification_s():
    torch.manual_seed(0)
    projector = head_softmax.ChunkProjector(4096, 512, 0.2, True)
    assert float(projector.widen.weight.std()) == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    assert float(projector.narrow.weight.std()) == pytest.approx(0.5 * math.sqrt(2 / (256 + 64)), rel=0.02)
    assert not projector.widen.bias.any()
    assert float(projector.narrow.bias.std()) == pytest.approx(0.01, rel=0.15)
    assert float(projector.tokens.std()) == pytest.approx(0.02, rel=0.15)
    assert float(projector.gate.weight.norm()) == pytest.approx(1.0, rel=1e-5)
    assert float(projector.gate.bias) == 0.5
    assert torch.equal(projector.compensation, torch.full((512,), 0.1))
    fusion, _ = full()
    assert fusion.projectors["text"].dropout.p == 0.2 and fusion.enhancer.dropout.p == 0.1
    assert fusion.connectors["voice"].finish[0].p == 0.3


def test_absent_streams_are_zeros_and_without_the_anchor_nothing_is_said():
    fusion = small()
    batch = given(fusion)
    absent = Tokens(torch.full_like(batch["voice"].data, torch.nan), torch.zeros_like(batch["voice"].mask))
    text = projected(fusion.projectors["text"], batch["text"].data[:, 0])
    face = connected(fusion.connectors["face"], projected(fusion.projectors["face"], batch["face"].data[:, 0]), text)
    parts = [torch.zeros_like(face), face, projected(fusion.direct, batch["text"].data[:, 0])]
    torch.testing.assert_close(fusion({**batch, "voice": absent})[0], enhanced(fusion.enhancer, parts))
    silent = fusion({**batch, "text": absent})[0]
    torch.testing.assert_close(silent, silent[:1].expand_as(silent))
    assert torch.isfinite(silent).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor": "words"}, "anchor 'words' is no stream; choose text, voice, face"),
        ({"sizes": {"text": 5}}, "sizes names text; expected the streams face, text, voice"),
        ({"hidden": 8, "heads": 3}, "hidden 8 is not divisible by 3 heads"),
        ({"sizes": 1153}, "1153 to 512 in 2 blocks; expected multiples of it"),
        ({"unified": 510}, "4096 to 510 in 8 blocks"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        head_softmax.Fusion(head_softmax.Config(**options), STREAMS)


@pytest.mark.parametrize(("system", "size"), [("traits_run_deep", 4096), ("aspects_365", 768)])
def test_widths_that_disagree_with_the_config_are_named(system, size):
    settings = config.load(SYSTEMS / f"{system}.yaml", ["streams.voice.size=1000"])
    with pytest.raises(ConfigError, match=f"streams.voice: tokens of 1000; the fusion expects {size}"):
        model.build(settings, SCHEMA, transform())


@pytest.mark.parametrize("pool", ["none", "mean"])
def test_vectors_reach_the_fusion_as_they_are(pool):
    encoder = precomputed.Encoder(precomputed.Config(size=3, width=None, pool=pool))
    data, mask = torch.randn(2, 4, 3) * 50, torch.tensor([[True, True, False, False], [False] * 4])
    found = encoder(Tokens(torch.where(mask.unsqueeze(-1), data, torch.nan), mask))
    expected = data[:1, :2] if pool == "none" else data[:1, :2].mean(1, keepdim=True)
    assert encoder.width == 3 and count(encoder) == 0
    assert found.mask.any(1).tolist() == [True, False]
    torch.testing.assert_close(found.data[:1, : expected.shape[1]], expected)
    assert not found.data[1].any()


# ------------------------------------------------------------------------------------------------- 365 Aspects


def test_the_counts_of_365_aspects():
    settings = config.load(SYSTEMS / "aspects_365.yaml", check=parts.problems)
    with torch.device("meta"):
        fusion = parts.fusion(settings.fusion, STREAMS)
        head = parts.head(settings.head, fusion.width, 5)
    assert [count(fusion.adapters[s]) for s in STREAMS] == [(size + 1) * 2304 for size in (4096, 768, 1152)]
    assert count(fusion.shared) == 2304 * 768 + 768
    whole = ensemble.Head(ensemble.Config(members=32, hidden=(768, 32)), 4, 5)
    last = count(whole.layers[-1])
    assert count(fusion.layers) == 32 * (2304 * 768 + 768 + 768 * 32 + 32)
    assert count(head) == last - 31 * 5, "one bias per target: those of 32 members would only add up"


def test_every_answer_is_judged_by_the_ensemble_and_answers_are_averaged():
    """The same weights in `heads/ensemble` on each answer give the mean that fusion and linear head give."""
    torch.manual_seed(0)
    options = shared_compression.Config(sizes=5, adapter=7, shared=4, members=3, hidden=(6, 2))
    fusion = shared_compression.Fusion(options, STREAMS)
    head = linear.Head(linear.Config(), fusion.width, 2)
    whole = ensemble.Head(ensemble.Config(members=3, hidden=(6, 2), dropout=0.0), 12, 2)
    with torch.no_grad():
        for layer, source in zip(whole.layers, fusion.layers, strict=False):
            layer.weight.copy_(source.weight), layer.bias.copy_(source.bias)
        whole.layers[-1].weight.copy_(3 * head.layer.weight.T.reshape(3, 2, 2))
        whole.layers[-1].bias.copy_(head.layer.bias.expand(3, 1, 2))
    answers = [torch.randn(4, 5) for _ in STREAMS]  # of one person: 3 answers and padding
    mask = torch.tensor([[True, True, True, False]])
    tokens = {s: Tokens(x[None], mask) for s, x in zip(STREAMS, answers, strict=True)}
    judged = []
    for r in range(3):
        compressed = [
            fusion.shared(nn.functional.gelu(fusion.adapters[s](x[r : r + 1])))
            for s, x in zip(STREAMS, answers, strict=True)
        ]
        judged.append(whole(torch.cat(compressed, 1))[0])
    torch.testing.assert_close(head(fusion(tokens)[0])[0], torch.cat(judged).mean(0, keepdim=True))


# ------------------------------------------------------------------------------------------------------ learning


def interview(folder: Path, *, sizes: dict[str, int], people: int = 160, answers: int = 1) -> Manifest:
    """Persons who answer q3 and q4; a trait lies in its own question's answer, or in all answers."""
    draw = np.random.default_rng(0)
    labels = draw.normal(3, 0.6, (people, 2)).clip(1, 5)
    clips, rows, vectors = [], [], {stream: [] for stream in sizes}
    direction = {stream: draw.normal(size=(2, size)) / math.sqrt(size) for stream, size in sizes.items()}
    for person, label in enumerate(labels):
        for question in ("q3", "q4") if answers == 1 else ("all",):
            name = f"p{person:03d}_{question}"
            shown = {"q3": [1, 0], "q4": [0, 1]}.get(question, [1, 1]) * (label - 3)
            for stream, size in sizes.items():
                noise = 0.3 * draw.normal(size=(answers, size)) / math.sqrt(size)
                vectors[stream].append(shown @ direction[stream] + noise)
            features = {stream: f"{stream}.npz#{name}" for stream in sizes}
            clips.append(Clip(id=name, person=f"p{person:03d}", question=question, features=features))
            rows.append(label)
    folder.mkdir(parents=True, exist_ok=True)
    for stream, steps in vectors.items():
        np.savez(folder / f"{stream}.npz", clip=np.array([c.id for c in clips]), features=np.float32(steps))
    schema = replace(SCHEMA, rated="person")
    made = Manifest(
        path=folder / "clips.csv", schema=schema, clips=tuple(clips), labels=np.array(rows), splits=(None,) * len(clips)
    )
    manifests.write(made)
    return made


def settings_of(system: str, manifest: Manifest, *overrides: str) -> RunConfig:
    """The system's own file, small, on the planted corpus."""
    folder = manifest.path.parent
    common = (f"data.manifest={manifest.path}", f"data.cache={folder / 'cache'}", "trainer.accelerator=cpu")
    return config.load(
        SYSTEMS / f"{system}.yaml", [*common, "protocol.split=holdout", *overrides], check=parts.problems
    )


DEEP = (
    *(f"streams.{stream}.size=1024" for stream in STREAMS), "fusion.sizes=1024", "fusion.unified=32",
    "fusion.hidden=32", "fusion.width=32", "head.members=8", "head.hidden=[16, 8]",
    "runs.questions={honesty_humility: q3, extraversion: q4}",
)  # fmt: skip


def deep(folder: Path) -> Manifest:
    """All three slots hold the text's vectors."""
    manifest = interview(folder, sizes={"text": 1024})
    clips = tuple(replace(c, features=dict.fromkeys(STREAMS, c.features["text"])) for c in manifest.clips)
    manifest = replace(manifest, clips=clips)
    manifests.write(manifest)
    return manifest


ASPECTS = (
    "streams.text.size=12", "streams.voice.size=8", "streams.face.size=6", "fusion.sizes={text: 12, voice: 8, face: 6}",
    "fusion.adapter=24", "fusion.shared=12", "fusion.members=8", "fusion.hidden=[16, 8]", "optimizer.lr=3e-3",
)  # fmt: skip


def aspects(folder: Path) -> Manifest:
    """Six answers of each person, in three streams."""
    return interview(folder, sizes={"text": 12, "voice": 8, "face": 6}, answers=6)


ATTENTION = (
    *(f"streams.{s}={{use: precomputed, size: {n}, width: 32}}" for s, n in (("text", 12), ("voice", 8), ("face", 6))),
    "fusion.width=32", "head.members=8", "head.hidden=[16, 8]",
)  # fmt: skip
CASES = {"traits_run_deep": (deep, DEEP), "aspects_365": (aspects, ASPECTS)}
LEARNERS = {**CASES, "traits_run_deep_attention": (aspects, ATTENTION)}  # over steps of words, sound and faces


def trained(system: str, folder: Path, epochs: int) -> tuple[Path, Manifest]:
    make, options = LEARNERS[system]
    manifest = make(folder / "corpus")
    return fit(settings_of(system, manifest, *options, f"trainer.max_epochs={epochs}"), root=folder / "runs"), manifest


def error_ratios(run: Path, manifest: Manifest) -> dict[str, float]:
    """Per trait, absolute error on the test rows over that of the mean predictor."""
    blind = dict(zip(TRAITS, np.abs(manifest.labels - manifest.labels.mean(0)).mean(0), strict=True))
    found = {}
    for path in sorted(run.glob("*/metrics.json")):
        found |= {name: t["mae"] / blind[name] for name, t in json.loads(path.read_text())["test"]["traits"].items()}
    assert found.keys() == set(TRAITS)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "epochs"), [("traits_run_deep", 40), ("aspects_365", 60), ("traits_run_deep_attention", 30)]
)
def test_it_learns(system, epochs, tmp_path):
    """Absolute error at most .6 of the mean predictor's on each planted trait."""
    ratios = error_ratios(*trained(system, tmp_path, epochs))
    assert max(ratios.values()) < 0.6, ratios


@pytest.mark.parametrize("system", CASES)
def test_one_bundle_scores_all_traits_from_vectors_alone(system, tmp_path):
    """A member per trait in Traits Run Deep; nothing of a language model or of media is in the graph."""
    run, _ = trained(system, tmp_path, 1)
    done = export(run, tmp_path / "bundle")
    assert done.members == (2 if system == "traits_run_deep" else 1)
    assert done.parity < 1e-4
    predictor = Predictor(tmp_path / "bundle")
    assert {spec.producer for spec in predictor.specs.values()} == {"external"}
    draw = np.random.default_rng(0)
    steps = 1 if system == "traits_run_deep" else 4
    window = {
        stream: Raw(draw.normal(size=(steps, spec.width)).astype(np.float32), np.ones(steps, np.bool_))
        for stream, spec in predictor.specs.items()
    }
    found = predictor.score([window, {**window, "voice": predictor.specs["voice"].empty()}])
    assert found.shape == (2, 2) and ((found >= 1) & (found <= 5)).all()
    if system == "aspects_365":
        said = load_member(run / "single").scores(padded([window])).detach().numpy()
        np.testing.assert_allclose(found[:1], said, atol=1e-4)
