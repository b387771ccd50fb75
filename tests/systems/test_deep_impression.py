"""The two residual networks: their counts by hand, their crops, their statistics; what the system learns."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_media import TRAITS, plant_media
from pydantic import ValidationError
from torch import Tensor, nn

from mmtraits import config, model, parts
from mmtraits.encoders import resnet_frames, resnet_wave
from mmtraits.export import Facts, write_bundle
from mmtraits.extract import extract
from mmtraits.networks.residual import WAVE, BatchNorm, Convolution, Residual
from mmtraits.runtime import Predictor
from mmtraits.schema import FrameSpec, TargetTransform, Trait, TraitSchema, WaveSpec, Windowing
from mmtraits.tokens import Tokens
from mmtraits.train import fit

CONFIG = Path(__file__).parents[2] / "configs" / "systems" / "deep_impression.yaml"
TINY = (
    "streams.scene.frames=4", "streams.scene.height_px=24", "streams.scene.width_px=32", "streams.scene.crop_px=16",
    "streams.scene.channels=[8,16,16]", "streams.scene.blocks=[1,1,1]", "streams.sound.sample_rate=8000",
    "streams.sound.crop_samples=2048", "streams.sound.channels=[8,16,16]", "streams.sound.blocks=[1,1,1]",
    "fusion.width=16", "data.workers=0", "data.batch_size=16", "trainer.accelerator=cpu",
)  # fmt: skip
FIVE = TraitSchema(
    name="five",
    traits=tuple(Trait(name=name, low=0.0, high=1.0) for name in ("o", "c", "e", "a", "s")),
    construct="apparent",
    judged_by="nobody",
)


def settings(folder: Path, *changes: str) -> config.RunConfig:
    where = (f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}")
    return config.load(CONFIG, [*where, *TINY, *changes], check=parts.problems)


def full(module: object) -> nn.Module:
    with torch.device("meta"):
        made: nn.Module = module.Encoder(module.Config())  # type: ignore[attr-defined]
    return made


# ------------------------------------------------------------------------------------------------------- counts


def counted(taps_first: int, inputs: int, taps: int) -> int:
    """Weights of the specification: `taps` of a kernel; two numbers per map of each normalisation."""
    stages = [(32, 32), (32, 64), (64, 128), (128, 256)]
    total = taps_first * inputs * 32 + 2 * 32
    for number, (inner, outer) in enumerate(stages):
        convolutions = inner * outer + 3 * outer * outer  # two blocks of two
        total += taps * convolutions + 4 * 2 * outer
        if number:
            total += inner * outer + 2 * outer  # the shortcut's convolution of one
    return total


def test_the_networks_have_the_parameters_of_the_specification():
    frames, wave = full(resnet_frames), full(resnet_wave)
    assert sum(p.numel() for p in frames.parameters()) == counted(7 * 7, 3, 3 * 3) == 2_798_880
    assert sum(p.numel() for p in wave.parameters()) == counted(49, 1, 9) == 2_795_744


@pytest.mark.parametrize("module", [resnet_frames, resnet_wave])
def test_seventeen_convolutions_lie_one_behind_the_other(module):
    convolutions = {n: m for n, m in full(module).named_modules() if isinstance(m, Convolution)}
    behind = [name for name in convolutions if "shortcut" not in name]
    assert len(behind) == 17
    assert len(convolutions) - len(behind) == 3
    assert full(module).width == 256


def test_the_maps_have_the_sizes_of_the_specification():
    """224 → 112 → 56 → 56, 28, 14, 7; 50,176 samples → 12,544 → 3,136 → 3,136, 784, 196, 49."""
    with torch.device("meta"):
        frames, wave = resnet_frames.Encoder(resnet_frames.Config()), resnet_wave.Encoder(resnet_wave.Config())
        maps, _ = frames.network(torch.zeros(1, 3, 224, 224), torch.ones(1, 1, 1, dtype=torch.bool))
        sounds, mask = wave.network(torch.zeros(1, 1, 50_176), torch.ones(1, 50_176, dtype=torch.bool))
    assert maps.shape == (1, 256, 7, 7)
    assert sounds.shape == (1, 256, 49)
    assert mask.shape == (1, 49)


def test_what_media_must_deliver():
    assert full(resnet_frames).spec == FrameSpec(frames=32, height_px=256, width_px=456, crop="full")
    assert full(resnet_wave).spec == WaveSpec(sample_rate=16_000)


# ----------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3, 7)])
def test_normalisation_is_torchs_own_where_all_is_real(shape):
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3), (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3)
    x, weights = torch.randn(shape) * 3 + 1, torch.randn(shape)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    real = torch.ones(4, *[1] * (len(shape) - 2), dtype=torch.bool)
    for part, leaf, args in ((ours, one, (real,)), (theirs, other, ())):
        (part(leaf, *args) * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x, real), theirs.eval()(x))


def test_normalisation_counts_real_positions_alone():
    x = torch.tensor([[[1.0, 3.0, torch.nan]], [[5.0, torch.nan, torch.nan]]])
    norm = BatchNorm(1)
    found = norm(x, x[:, 0].isfinite())
    spread = (8 / 3) ** 0.5
    torch.testing.assert_close(found[0, 0], torch.tensor([-2 / spread, 0.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.3]))
    torch.testing.assert_close(norm.running_var, torch.tensor([0.9 + 0.1 * 4.0]))


@pytest.mark.parametrize("count", [0, 1])
def test_one_value_has_no_variance(count):
    norm = BatchNorm(1)
    found = norm(torch.full((1, 1, 2), 3.0), torch.tensor([[bool(count), False]]))
    torch.testing.assert_close(found, torch.tensor([[[3.0 * count, 0.0]]]), atol=1e-4, rtol=0)
    assert norm.running_mean.item() == 0
    assert norm.running_var.item() == 1


def test_a_longer_batch_mate_changes_no_map():
    """Masked after each layer, pooling among them."""
    torch.manual_seed(0)
    network = Residual(WAVE, (4, 8), (1, 1)).eval()
    wave = torch.randn(1, 1, 700)
    alone, _ = network(wave, torch.ones(1, 700, dtype=torch.bool))
    longer = torch.cat([wave, torch.zeros(1, 1, 300)], 2)
    padded, mask = network(longer, torch.arange(1000)[None] < 700)
    torch.testing.assert_close(padded[:, :, : alone.shape[2]], alone)
    assert mask.sum() == alone.shape[2]
    assert not padded[:, :, alone.shape[2] :].any()


# ------------------------------------------------------------------------------------------------------ crops


def pictures() -> Tokens:
    """Two rows of five frames of 6 x 8: every pixel says its row, frame and place; of the first two frames are real."""
    row, frame, top, left = torch.meshgrid(*(torch.arange(n) for n in (2, 5, 6, 8)), indexing="ij")
    data = torch.stack([10 * row + frame, top, left], -1).byte()
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 2:] = False
    return Tokens(torch.where(mask[..., None, None, None], data, 255), mask)


def test_a_crop_is_a_square_of_a_real_frame():
    torch.manual_seed(0)
    seen: dict[str, set[int]] = {"frame": set(), "top": set(), "left": set(), "mirrored": set()}
    for _ in range(100):
        crops = resnet_frames.random_crop(pictures(), 4)
        assert crops.data.shape == (2, 1, 4, 4, 3)
        assert crops.mask.all()
        for number, square in enumerate(crops.data[:, 0].int()):
            kind, tops, lefts = square.unbind(-1)
            assert len(kind.unique()) == 1
            assert (tops.diff(dim=0) == 1).all()
            assert (lefts.diff(dim=1).abs() == 1).all()
            frame = int(kind[0, 0]) - 10 * number
            seen["frame"].add(frame + 10 * number)
            seen["top"].add(int(tops.min()))
            seen["left"].add(int(lefts.min()))
            seen["mirrored"].add(int(lefts[0, 0] > lefts[0, 1]))
    frames = {0, 1, 10, 11, 12, 13, 14}
    assert seen == {"frame": frames, "top": {0, 1, 2}, "left": {0, 1, 2, 3, 4}, "mirrored": {0, 1}}


def test_a_stretch_is_of_the_real_samples():
    torch.manual_seed(0)
    data = torch.arange(10.0).repeat(3, 1)
    mask = torch.arange(10) < torch.tensor([10, 6, 3])[:, None]
    starts: list[set[float]] = [set(), set(), set()]
    for _ in range(100):
        found = resnet_wave.random_stretch(Tokens(data, mask), 4)
        assert found.data.shape == (3, 4)
        assert (found.data.diff(dim=1) == 1).all()
        assert found.mask.sum(1).tolist() == [4, 4, 3]
        for row, start in zip(starts, found.data[:, 0].tolist(), strict=True):
            row.add(start)
    assert starts == [set(range(7)), {0, 1, 2}, {0}]
    assert resnet_wave.random_stretch(Tokens(data, mask), 99).data.shape == (3, 10)


def test_training_reads_one_crop_and_evaluation_every_frame():
    torch.manual_seed(0)
    options = {"frames": 5, "height_px": 24, "width_px": 32, "crop_px": 16, "channels": (4,), "blocks": (1,)}
    encoder = resnet_frames.Encoder(resnet_frames.Config(**options))
    frames = Tokens(torch.randint(0, 256, (3, 5, 24, 32, 3)).byte(), torch.arange(5) < torch.tensor([5, 2, 0])[:, None])
    found = encoder.train()(frames)
    assert found.data.shape == (3, 1, 4)
    assert found.mask.squeeze(1).tolist() == [True, True, False]
    assert encoder.eval()(frames).data.shape == (3, 5, 4)


def test_frames_in_parts_are_the_frames_at_once(monkeypatch):
    torch.manual_seed(0)
    encoder = resnet_frames.Encoder(resnet_frames.Config(**resnet_frames.TINY[0])).eval()
    frames = Tokens(torch.randint(0, 256, (3, 5, 24, 32, 3)).byte(), torch.ones(3, 5, dtype=torch.bool))
    with torch.no_grad():
        whole = encoder(frames).data
        monkeypatch.setattr(resnet_frames, "AT_ONCE", 4)
        torch.testing.assert_close(encoder(frames).data, whole, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("module", "step"), [(resnet_frames, (24, 32, 3)), (resnet_wave, ())])
def test_training_statistics_see_no_absent_row(module, step):
    """Beside an absent row the same, and in a batch of such rows none."""
    torch.manual_seed(0)
    small = {"channels": (4,), "blocks": (1,)}
    sizes = {"height_px": 24, "width_px": 32, "crop_px": 16} if module is resnet_frames else {"crop_samples": 20}
    encoder = module.Encoder(module.Config(**small, **sizes)).train()
    data = torch.randint(0, 256, (3, 40, *step)).byte() if step else torch.randn(3, 40)
    mask = torch.tensor([[True], [True], [False]]).expand(3, 40)
    found = []
    for rows in (2, 3):
        copied = copy.deepcopy(encoder)
        torch.manual_seed(1)
        copied(Tokens(data[:rows], mask[:rows]))
        found.append(copied.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], atol=1e-5, rtol=1e-5, msg=name)
    before = copy.deepcopy(encoder.state_dict())
    nothing = encoder(Tokens(data, torch.zeros_like(mask)))
    assert not nothing.data.any()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (resnet_frames, {"crop_px": 300}, "crop_px 300 is more than the frame's 256"),
        (resnet_frames, {"blocks": (1, 1)}, "channels of 4 stages, blocks of 2"),
        (resnet_wave, {"channels": (8,)}, "channels of 1 stages, blocks of 4"),
    ],
)
def test_options_that_do_not_fit_are_named(module, options, message):
    with pytest.raises(ValidationError, match=message):
        module.Config(**options)


# ---------------------------------------------------------------------------------------------------- the system


def built(tmp_path: Path) -> model.TraitModel:
    torch.manual_seed(0)
    how = TargetTransform.fit(FIVE, np.random.default_rng(0).uniform(0, 1, (50, 5)))
    made = model.build(settings(tmp_path), FIVE, how)
    made.fit_output(torch.full((9, 5), 0.9), torch.ones(9, 5, dtype=torch.bool))
    return made.eval()


def inputs() -> dict[str, Tokens]:
    source = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 24, 32, 3), generator=source).byte()
    wave = torch.randn(2, 4000, generator=source) * 0.1
    return {s: Tokens(d, torch.ones(d.shape[:2], dtype=torch.bool)) for s, d in (("scene", frames), ("sound", wave))}


def test_the_answer_is_one_linear_layer_over_both_means_and_a_tanh(tmp_path):
    made = built(tmp_path)
    given = inputs()
    with torch.no_grad():
        found, _ = made(given)
        means = {s: made.encoders[s](tokens).data.mean(1) for s, tokens in given.items()}
        both = torch.cat([made.projections[s](mean) for s, mean in means.items()], 1)
        weight = made.head.last.weight
        expected = (torch.tanh(both @ torch.cat([weight, weight], 1).T + made.head.last.bias) + 1) / 2
    torch.testing.assert_close(found, expected)
    assert not made.centre.any(), "such a head answers on the scale, not in deviations from the training mean"


@pytest.mark.parametrize("absent", [("scene",), ("sound",), ("scene", "sound")])
def test_either_may_be_absent(tmp_path, absent):
    made = built(tmp_path)
    given = {s: Tokens(t.data, t.mask & (s not in absent)) for s, t in inputs().items()}
    with torch.no_grad():
        found: Tensor = made(given)[0]
        assert torch.isfinite(found).all()
        assert not torch.equal(found, made(inputs())[0])


def test_a_step_of_the_config_moves_every_weight(tmp_path):
    made = built(tmp_path).train()
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    one_absent = inputs()
    for stream in one_absent:
        rows = torch.tensor([[True], [stream == "sound"]])
        one_absent[stream] = Tokens(one_absent[stream].data, one_absent[stream].mask & rows)
    for given in (inputs(), one_absent):
        optimizer.zero_grad()
        (made(given)[0] - torch.rand(2, 5)).abs().mean().backward()
        optimizer.step()
    still = [name for name, p in made.named_parameters() if torch.equal(p, before[name])]
    assert not [name for name in still if name != "fusion.absence"]
    assert all(torch.isfinite(p).all() for p in made.parameters())


@pytest.mark.slow
def test_a_bundle_scores_media_as_torch_does(tmp_path):
    """Frames and sound of other lengths than the trace's, read by the runtime."""
    planted = plant_media(tmp_path, clips=3)
    found = settings(tmp_path)
    how = TargetTransform.fit(planted.schema, planted.labels)
    torch.manual_seed(0)
    made = model.build(found, planted.schema, how).eval()
    windowing = Windowing(length_s=2.0, hop_s=2.0)
    facts = Facts(name="small", schema=planted.schema, windowing=windowing, transforms=[how], provenance={})
    predictor = Predictor(write_bundle([made], facts, tmp_path / "bundle").folder, threads=1)
    scores = predictor.predict(planted.clips).values
    for window, row in zip(extract(found, planted).windows, scores, strict=True):
        raws = {stream: source.read() for stream, source in window.streams.items()}
        given = {s: Tokens(torch.from_numpy(r.data)[None], torch.from_numpy(r.mask)[None]) for s, r in raws.items()}
        with torch.no_grad():
            np.testing.assert_allclose(row, made.scores(given)[0].numpy(), atol=1e-4)
    assert len(np.unique(scores[:, 0])) == 3


@pytest.mark.slow
def test_it_learns_brightness_and_pitch_from_raw_media(tmp_path):
    """From pixels and samples alone: MAE at most .6 of the mean predictor's on each planted trait."""
    made = plant_media(tmp_path, clips=160)
    changes = ("optimizer.lr=3e-3", "optimizer.schedule=cosine", "trainer.max_epochs=40", "trainer.patience=40")
    member = fit(settings(tmp_path, *changes), root=tmp_path / "runs") / "single"
    test = json.loads((member / "metrics.json").read_text())["test"]["traits"]
    train = np.array([split == "train" for split in made.splits])
    tested = np.array([split == "test" for split in made.splits])
    blind = np.abs(made.labels[tested] - made.labels[train].mean(0)).mean(0)
    ratios = {name: test[name]["mae"] / blind[k] for k, name in enumerate(TRAITS)}
    assert max(ratios.values()) < 0.6, ratios
