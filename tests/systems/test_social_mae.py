"""Social-MAE: counts by hand, patches in the order of tokens, norms of a stream alone, and what it learns."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_media import TRAITS, plant_media
from safetensors.torch import load_file, save_file
from small_models import SCHEMA, transform
from torch import Tensor, nn

from mmtraits import config, model, parts
from mmtraits.data.manifest import write
from mmtraits.encoders import mae_audio, mae_face
from mmtraits.errors import ConfigError
from mmtraits.fusion import shared_block
from mmtraits.networks import vit
from mmtraits.objectives import masked_autoencoder
from mmtraits.schema import FrameSpec, WaveSpec
from mmtraits.tokens import Tokens
from mmtraits.train import fit

SYSTEMS = Path(__file__).parents[2] / "configs" / "systems"
TINY = ("streams.voice.size=tiny", "streams.face.size=tiny", "fusion.size=tiny")
BLOCK = 3 * 768 * 768 + 3 * 768 + 768 * 768 + 768 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768


def settings(name: str, *changes: str) -> config.RunConfig:
    sizes = (*TINY, "objective.size=tiny") if name == "social_mae_pretrain" else TINY
    return config.load(SYSTEMS / f"{name}.yaml", [*sizes, *changes], check=parts.problems)


def built(name: str = "social_mae", *changes: str, seed: int = 0) -> model.TraitModel:
    torch.manual_seed(seed)
    return model.build(settings(name, *changes), SCHEMA, transform()).eval()


def objective(*changes: str) -> masked_autoencoder.Objective:
    found = settings("social_mae_pretrain", *changes)
    torch.manual_seed(0)
    made: masked_autoencoder.Objective = parts.objective(
        found.objective, model.build(found, SCHEMA, transform()), found.loss
    )
    return made


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def clips(rows: int, seed: int = 0) -> dict[str, Tokens]:
    """Faces that are a slope of some direction and brightness, sounds of one tone: what is hidden can be told."""
    source = torch.Generator().manual_seed(seed)
    draw = torch.rand(rows, 4, generator=source)
    down, right = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    angle = 2 * math.pi * draw[:, 0, None, None]
    slope = 80 + 100 * draw[:, 1, None, None] + 60 * (angle.cos() * right + angle.sin() * down)
    frames = slope[:, None, :, :, None] + 5 * torch.randn(rows, 8, 32, 32, 3, generator=source)
    hz, level = 200 * 8 ** draw[:, 2, None], 0.05 + 0.3 * draw[:, 3, None]
    wave = level * torch.sin(2 * math.pi * hz * torch.arange(15_600) / 16_000)
    wave = wave + 0.01 * torch.randn(wave.shape, generator=source)
    full = [torch.ones(rows, steps, dtype=torch.bool) for steps in (15_600, 8)]
    return {"voice": Tokens(wave, full[0]), "face": Tokens(frames.clamp(0, 255).byte(), full[1])}


def without(features: dict[str, Tokens], stream: str, rows: slice = slice(None)) -> dict[str, Tokens]:
    mask = features[stream].mask.clone()
    mask[rows] = False
    return {**features, stream: Tokens(features[stream].data, mask)}


# ------------------------------------------------------------------------------------------------- specification


def test_the_encoders_have_the_parameters_of_the_specification():
    with torch.device("meta"):
        made = model.build(config.load(SYSTEMS / "social_mae.yaml"), SCHEMA, transform())
    voice = 16 * 16 * 768 + 768 + 512 * 768 + 768 + 11 * BLOCK
    face = 2 * 16 * 16 * 3 * 768 + 768 + 784 * 768 + 768 + 11 * BLOCK
    shared = BLOCK - 4 * 768 + 3 * 3 * 2 * 768 + 2 * 768  # three pairs in three places, one norm at the end
    assert BLOCK == 7_087_872
    assert count(made.encoders["voice"]) == voice == 78_557_952
    assert count(made.encoders["face"]) == face == 79_749_888
    assert count(made.fusion) == shared == 7_100_160
    assert not list(made.projections.parameters())  # the block takes tokens as they are
    assert abs(23 * BLOCK - 163e6) < 1e5


def test_the_decoder_has_the_parameters_of_the_specification():
    found = config.load(SYSTEMS / "social_mae_pretrain.yaml")
    with torch.device("meta"):
        made = model.build(found, SCHEMA, transform())
        whole = parts.objective(found.objective, made, found.loss)
    block = 4 * 512 * 512 + 4 * 512 + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    own = 768 * 512 + 512 + 512 + (512 + 784) * 512 + 2 * 512 + 8 * block + 2 * 512 + 512 * (256 + 1536) + 256 + 1536
    assert count(whole) - count(made) == own
    assert {s: one.out_features for s, one in whole.restore.items()} == {"voice": 256, "face": 1536}
    assert whole.blocks[0].attention.heads == 16


def test_media_deliver_two_frames_a_second_and_the_sound_of_the_same_window():
    found = config.load(SYSTEMS / "social_mae.yaml", check=parts.problems)
    with torch.device("meta"):
        specs = model.build(found, SCHEMA, transform()).specs
    assert specs["face"] == FrameSpec(frames=8, height_px=224, width_px=224, crop="face")
    assert isinstance(specs["voice"], WaveSpec)
    assert (specs["voice"].sample_rate, found.data.windowing.length_s, found.data.windowing.hop_s) == (16_000, 4.0, 4.0)
    assert specs["voice"].max_s == pytest.approx(10.255)  # the last of 1,024 frames starts at 10.23 s


def test_full_encoders_give_784_and_512_tokens():
    with torch.device("meta"):
        face, voice = mae_face.Encoder(mae_face.Config()), mae_audio.Encoder(mae_audio.Config())
        frames = Tokens(torch.zeros(2, 8, 224, 224, 3, dtype=torch.uint8), torch.ones(2, 8, dtype=torch.bool))
        heard = Tokens(torch.zeros(2, 398, 128), torch.ones(2, 398, dtype=torch.bool))
        assert face.trunk.embed(face.patches(frames)).data.shape == (2, 784, 768)
        assert voice.trunk.embed(voice.patches(heard)).data.shape == (2, 512, 768)


# ------------------------------------------------------------------------------------------------------- patches


def test_patches_of_faces_are_what_a_convolution_reads():
    encoder = mae_face.Encoder(mae_face.Config(size="tiny"))
    frames = clips(2)["face"]
    convolution = nn.Conv3d(3, 32, (2, 8, 8), (2, 8, 8))
    kernel = encoder.trunk.patch.weight.reshape(32, 2, 8, 8, 3).permute(0, 4, 1, 2, 3)
    convolution.load_state_dict({"weight": kernel, "bias": encoder.trunk.patch.bias})
    expected = convolution(encoder.normalize(frames.data).permute(0, 4, 1, 2, 3)).flatten(2).transpose(1, 2)
    patches = encoder.patches(frames)
    assert patches.mask.all()
    torch.testing.assert_close(encoder.trunk.patch(patches.data), expected, atol=1e-5, rtol=0)


def test_patches_of_sound_are_what_a_convolution_reads():
    encoder = mae_audio.Encoder(mae_audio.Config(size="tiny")).eval()
    heard = Tokens(torch.randn(2, 96, 32), torch.ones(2, 96, dtype=torch.bool))
    convolution = nn.Conv2d(1, 32, 8, 8)
    kernel = encoder.trunk.patch.weight.reshape(32, 1, 8, 8)
    convolution.load_state_dict({"weight": kernel, "bias": encoder.trunk.patch.bias})
    picture = (heard.data - encoder.level) / encoder.spread
    expected = convolution(picture[:, None]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.trunk.patch(encoder.patches(heard).data), expected, atol=1e-5, rtol=0)


def test_beside_a_masked_frame_a_patch_shows_the_other_twice_and_is_masked_without_either():
    encoder = mae_face.Encoder(mae_face.Config(size="tiny"))
    frames = clips(1)["face"]
    mask = torch.tensor([[True, False, False, False, True, True, False, True]])
    patches = encoder.patches(Tokens(frames.data, mask))
    tubes = patches.data.reshape(4, 16, 2, 8, 8, 3)
    assert patches.mask.reshape(4, 16).all(1).tolist() == patches.mask.reshape(4, 16).any(1).tolist()
    assert patches.mask.reshape(4, 16)[:, 0].tolist() == [True, False, True, True]
    assert torch.equal(tubes[0, :, 0], tubes[0, :, 1])
    assert torch.equal(tubes[3, :, 0], tubes[3, :, 1])
    assert not torch.equal(tubes[2, :, 0], tubes[2, :, 1])


@pytest.mark.parametrize("samples, times", [(1, 1), (400, 1), (400 + 7 * 160, 1), (400 + 8 * 160, 2), (20_000, 12)])
def test_tokens_of_sound_end_with_the_sound(samples, times):
    encoder = mae_audio.Encoder(mae_audio.Config(size="tiny")).eval()
    out = encoder(Tokens(torch.randn(1, samples), torch.ones(1, samples, dtype=torch.bool)))
    assert out.mask.reshape(12, 4).all(1).sum() == out.mask.reshape(12, 4).any(1).sum() == times


def test_sound_is_masked_in_training_alone():
    encoder = mae_audio.Encoder(mae_audio.Config(size="tiny", time_mask=40, frequency_mask=12))
    heard = Tokens(torch.full((8, 96, 32), 6.0), torch.ones(8, 96, dtype=torch.bool))
    torch.manual_seed(0)
    picture = encoder.train().patches(heard).data.reshape(8, 12, 4, 8, 8).transpose(2, 3).reshape(8, 96, 32)
    gone = picture == 0
    stretches, bands = gone.all(2).sum(1), gone.all(1).sum(1)
    assert 0 < stretches.max() <= 40
    assert 0 < bands.max() <= 12
    assert len(set(stretches.tolist())) > 2
    assert not (encoder.eval().patches(heard).data == 0).any()


def test_positions_are_separable():
    grid = vit.positions((4, 3, 5), 32).reshape(4, 3, 5, 32)
    assert torch.equal(grid[:, :1, :1, :12].expand(4, 3, 5, 12), grid[..., :12])
    assert torch.equal(grid[:1, :, :1, 12:22].expand(4, 3, 5, 10), grid[..., 12:22])
    assert torch.equal(grid[:1, :1, :, 22:].expand(4, 3, 5, 10), grid[..., 22:])
    assert torch.equal(grid[3, 0, 0, :2], torch.tensor([math.sin(3), math.cos(3)]))
    assert torch.pdist(grid.reshape(60, 32)).min() > 0.1
    full = mae_face.Encoder(mae_face.Config(size="tiny")).trunk
    assert full.positions.requires_grad


# -------------------------------------------------------------------------------------------------------- fusion


def plain(fusion: shared_block.Fusion, x: Tensor, norms: int) -> Tensor:
    """The block on real tokens (T, D) by one pair of norms."""

    def norm(pair: shared_block.Norms, y: Tensor) -> Tensor:
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * pair.weight[
            norms
        ] + pair.bias[norms]

    x = x + fusion.attention(norm(fusion.norm_1, x)[None], torch.ones(1, len(x), dtype=torch.bool))[0]
    x = x + fusion.feed_forward(norm(fusion.norm_2, x))
    out: Tensor = fusion.finish(norm(fusion.norm, x).mean(0))
    return out


@torch.no_grad()
def test_a_stream_alone_takes_its_own_norms_row_by_row():
    fusion = shared_block.Fusion(shared_block.Config(size="tiny"), ("voice", "face")).eval()
    for norms in (fusion.norm_1, fusion.norm_2, fusion.norm):
        norms.weight.normal_(1, 0.5), norms.bias.normal_()
    data = {"voice": torch.randn(4, 5, 32), "face": torch.randn(4, 3, 32)}
    there = {"voice": [5, 5, 0, 0], "face": [3, 0, 3, 0]}
    tokens = {s: Tokens(data[s], torch.arange(data[s].shape[1]) < torch.tensor(there[s])[:, None]) for s in data}
    found, _ = fusion(tokens)
    joint = torch.cat([data["voice"][0], data["face"][0]])
    expected = [plain(fusion, joint, 0), plain(fusion, data["voice"][1], 1), plain(fusion, data["face"][2], 2)]
    torch.testing.assert_close(found[:3], torch.stack(expected), atol=1e-5, rtol=0)
    assert found[3].isfinite().all()


def test_widths_that_differ_are_named():
    with torch.device("meta"), pytest.raises(ConfigError, match=r"streams.voice: tokens of 768; the fusion expects 32"):
        model.build(config.load(SYSTEMS / "social_mae.yaml", ["fusion.size=tiny"]), SCHEMA, transform())


@torch.no_grad()
def test_either_stream_may_be_absent():
    made = built()
    full = clips(3)
    whole = made.scores(full)
    for stream in full:
        scores = made.scores(without(full, stream))
        assert scores.isfinite().all()
        assert (scores - whole).abs().max() > 1e-4
    mixed = made.scores(without(full, "voice", slice(0, 1)))
    torch.testing.assert_close(mixed[1:], whole[1:], atol=1e-5, rtol=0)


# ----------------------------------------------------------------------------------------------------- objective


def test_a_quarter_of_the_real_patches_is_drawn():
    mask = torch.arange(64) < torch.tensor([64, 32, 3, 0])[:, None]
    torch.manual_seed(0)
    places, real = masked_autoencoder.drawn(mask, 0.25)
    assert places.shape == (4, 16)
    assert real.sum(1).tolist() == [16, 8, 1, 0]
    assert mask.gather(1, places)[real].all()
    assert len(set(places[0].tolist())) == 16
    assert not torch.equal(places[0].sort().values, masked_autoencoder.drawn(mask, 0.25)[0][0].sort().values)


@torch.no_grad()
def test_hidden_patches_are_not_seen_and_only_they_are_judged():
    learner = objective().eval()
    features = learner.model.frontend(clips(3))
    torch.manual_seed(5)
    seen = {s: learner._seen(s, tokens) for s, tokens in features.items()}
    restored = learner._restored(seen)
    other = {}
    for stream, one in seen.items():
        shown = torch.zeros_like(one.patches.mask).scatter(1, one.places, one.tokens.mask)
        assert shown.sum(1).tolist() == [shown.shape[1] // 4] * 3
        patches = torch.where(shown[..., None], one.patches.data, torch.randn_like(one.patches.data))
        other[stream] = one._replace(patches=Tokens(patches, one.patches.mask))
        exact = torch.where(shown[..., None], torch.randn_like(patches), one.patches.data)
        assert masked_autoencoder._error(exact, one) == 0
        assert masked_autoencoder._error(one.patches.data + 2, one) == pytest.approx(4, rel=1e-4)
    for stream, again in learner._restored(other).items():
        assert torch.equal(again, restored[stream])
        assert restored[stream].shape == seen[stream].patches.data.shape


@torch.no_grad()
def test_an_unseen_stream_leaves_the_other_as_it_is_and_absent_rows_count_nothing():
    learner = objective("objective.contrast=0").eval()
    features = learner.model.frontend(clips(2))
    spoiled = without(features, "voice", slice(1, 2))
    spoiled["voice"].data[1] = torch.nan
    torch.manual_seed(3)
    loss, logged = learner(None, spoiled)
    assert loss.isfinite()
    assert loss == logged["voice_error"] + logged["face_error"]
    none = without(without(features, "voice"), "face")
    assert learner(None, none)[0] == 0


def test_every_parameter_that_pre_training_needs_gets_a_gradient():
    learner = objective("objective.contrast=1").train()
    loss, logged = learner(None, without(learner.model.frontend(clips(4)), "voice", slice(0, 1)))
    loss.backward()
    assert set(logged) == {"voice_error", "face_error", "contrast"}
    still = {n for n, p in learner.named_parameters() if p.grad is None}
    assert still and all(name.startswith(("model.head.", "model.fusion.finish.")) for name in still), still
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


def test_contrast_picks_the_key_of_each_query_among_present_rows():
    keys, queries = torch.eye(3), torch.tensor([[1.0, 0, 0], [1.0, 1, 0], [0, 0, 5.0]])
    both = torch.tensor([True, True, True])
    half = math.sqrt(0.5)
    rows = [math.log(math.e + 2) - 1, math.log(2 * math.exp(half) + 1) - half, math.log(math.e + 2) - 1]
    found = masked_autoencoder.info_nce(keys, queries, both, temperature=1.0)
    assert found.item() == pytest.approx(sum(rows) / 3, rel=1e-6)
    two = masked_autoencoder.info_nce(keys, queries, torch.tensor([True, True, False]), temperature=1.0)
    expected = (math.log(math.e + 1) - 1 + math.log(2 * math.exp(half)) - half) / 2
    assert two.item() == pytest.approx(expected, rel=1e-6)
    assert masked_autoencoder.info_nce(keys, queries, torch.zeros(3, dtype=torch.bool), 0.05) == 0
    assert masked_autoencoder.info_nce(queries, keys, both, 1.0) != found


def test_both_directions_are_the_mean_of_the_two():
    values = []
    for ways in ("one", "both"):
        learner = objective("objective.contrast=1", f"objective.directions={ways}").eval()
        torch.manual_seed(1)
        values.append(learner(None, learner.model.frontend(clips(4)))[1]["contrast"].item())
    assert values[0] != values[1]


def test_streams_without_patches_are_refused():
    found = settings("social_mae_pretrain", "streams.voice.use=conv_mel", "streams.voice.width=32")
    made = model.build(found, SCHEMA, transform())
    with pytest.raises(
        ValueError, match=r"stream 'voice' is encoded by mmtraits.encoders.conv_mel .* mae_face or mae_a"
    ):
        parts.objective(found.objective, made, found.loss)


# --------------------------------------------------------------------------------------------------- pretrained


def test_parts_start_from_a_run_whatever_its_streams_are_called(tmp_path):
    save_file(built(seed=1).state_dict(), tmp_path / "best.safetensors")
    names = ("streams.voice", "streams.face", "fusion")
    made = built("social_mae", *(f"{name}.pretrained={tmp_path / 'best.safetensors'}" for name in names), seed=2)
    first = built(seed=1).state_dict()
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, first[name]) or not name.startswith(("encoders", "fusion"))
    save_file({n.replace("face", "person"): t for n, t in first.items()}, tmp_path / "other.safetensors")
    face = mae_face.Encoder(mae_face.Config(size="tiny", pretrained=str(tmp_path / "other.safetensors")))
    assert torch.equal(face.trunk.positions, first["encoders.face.trunk.positions"])


def test_a_file_that_does_not_fit_is_named_with_all_that_is_wrong(tmp_path):
    state = {n: t for n, t in built().state_dict().items() if not n.startswith("encoders.voice")}
    state["encoders.face.extra"] = torch.zeros(1)
    state["encoders.face.trunk.positions"] = torch.zeros(5, 32)
    del state["encoders.face.trunk.patch.bias"]
    save_file(state, tmp_path / "wrong.safetensors")
    message = (
        "wrong.safetensors: does not fit mmtraits.encoders.mae_face; missing: trunk.patch.bias; unexpected: extra; "
        "of another shape: trunk.positions (5, 32), expected (64, 32); expected best.safetensors of a run"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        mae_face.Encoder(mae_face.Config(size="tiny", pretrained=str(tmp_path / "wrong.safetensors")))
    save_file({"head.layer.bias": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match=r"missing: attention.out.bias, .*norm_2.weight; expected best"):
        shared_block.Fusion(
            shared_block.Config(size="tiny", pretrained=str(tmp_path / "none.safetensors")), ("voice", "face")
        )


# -------------------------------------------------------------------------------------------------------- learns


def on(folder: Path) -> tuple[str, ...]:
    """A planted corpus on a processor, whole pictures: its clips hold no faces."""
    return (
        f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}", "data.workers=0",
        "data.batch_size=16", "streams.face.crop=full", "trainer.accelerator=cpu", "trainer.precision=32-true",
    )  # fmt: skip


@pytest.mark.slow
def test_pre_training_restores_hidden_patches_better_than_their_mean():
    """On held-out clips: at most .2 of the mean patch's squared error for faces, .8 for sounds."""
    learner = objective()
    with torch.no_grad():
        train, held = (learner.model.frontend(clips(rows, seed)) for rows, seed in ((256, 1), (64, 2)))
        patches = {s: [learner.model.encoders[s].patches(some[s]).data for some in (train, held)] for s in train}
    blind = {s: (new - old.mean((0, 1))).square().mean().item() for s, (old, new) in patches.items()}
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    for step in range(200):
        rows = torch.arange(32 * step, 32 * step + 32) * 5 % 256
        optimizer.zero_grad()
        learner(None, {s: Tokens(t.data[rows], t.mask[rows]) for s, t in train.items()})[0].backward()
        optimizer.step()
    with torch.no_grad():
        _, logged = learner.eval()(None, held)
    shares = {s: logged[f"{s}_error"].item() / blind[s] for s in blind}
    assert shares["face"] < 0.2, shares
    assert shares["voice"] < 0.8, shares


def test_pre_training_needs_no_label(tmp_path):
    made = plant_media(tmp_path, clips=16)
    write(replace(made, labels=np.full_like(made.labels, np.nan)))
    folder = fit(settings("social_mae_pretrain", *on(tmp_path), "trainer.max_epochs=1"), root=tmp_path / "runs")
    (row,) = csv.DictReader((folder / "single" / "metrics.csv").read_text().splitlines())
    assert 0 < float(row["val_loss"]) < 10
    assert math.isnan(float(row["val_mae"]))
    state = load_file(folder / "single" / "best.safetensors")
    assert not [name for name in state if name.startswith("objective")]


@pytest.mark.slow
def test_fine_tuning_from_pre_training_learns_brightness_and_pitch(tmp_path):
    """Two runs by config, without labels and then from it. MAE at most .6 of the mean predictor's on each trait."""
    made = plant_media(tmp_path, clips=160)
    root = tmp_path / "runs"
    first = fit(settings("social_mae_pretrain", *on(tmp_path), "trainer.max_epochs=15", "optimizer.lr=2e-3"), root=root)
    weights = first / "single" / "best.safetensors"
    changes = (
        *(f"{part}.pretrained={weights}" for part in ("streams.voice", "streams.face", "fusion")),
        "streams.voice.time_mask=8", "streams.voice.frequency_mask=2", "optimizer.lr=1e-3",
        "optimizer.groups={head: 3}", "trainer.max_epochs=25", "trainer.patience=25", "trainer.average_weights=0.9",
    )  # fmt: skip
    member = fit(settings("social_mae", *on(tmp_path), *changes), root=root) / "single"
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    splits = np.array(made.splits)
    blind = np.abs(made.labels[splits == "test"] - made.labels[splits == "train"].mean(0)).mean(0)
    ratios = {name: test[name]["mae"] / blind[k] for k, name in enumerate(TRAITS)}
    assert max(ratios.values()) < 0.6, ratios
