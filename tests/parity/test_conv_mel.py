"""Log-mel against torchaudio, and that neither padding nor batch mates reach a clip's tokens."""

from __future__ import annotations

import pytest
import torch
import torchaudio
from exporting import Exported

from mmtraits.encoders import conv_mel
from mmtraits.tokens import Tokens

CONFIG = conv_mel.Config(mels=40, width=32, time_mask=0.3)


@pytest.fixture(scope="module")
def encoder() -> conv_mel.Encoder:
    """With standardisation whose mean is far from 0: a padded frame that is not hidden would be seen."""
    torch.manual_seed(0)
    encoder = conv_mel.Encoder(CONFIG).eval()
    heard = encoder.frontend(sound(4, 16_000))
    encoder.standardize.fit(heard.data - 5, heard.mask)
    return encoder


def sound(rows: int, samples: int) -> Tokens:
    wave = 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples))
    return Tokens(wave, torch.ones(rows, samples, dtype=torch.bool))


def shortened(tokens: Tokens, row: int, steps: int) -> Tokens:
    """One row real up to `steps` only, NaN beyond, in every row that is masked."""
    mask = tokens.mask.clone()
    mask[row, steps:] = False
    shape = (*mask.shape, *(1,) * (tokens.data.ndim - 2))
    return Tokens(torch.where(mask.reshape(shape), tokens.data, torch.nan), mask)


def first(tokens: Tokens, row: int, steps: int) -> Tokens:
    return Tokens(tokens.data[row : row + 1, :steps], tokens.mask[row : row + 1, :steps])


@pytest.mark.parametrize("options", [{}, {"sample_rate": 22_050, "frame": 1024, "hop": 256, "mels": 80}, {"hop": 128}])
def test_log_mel_equals_torchaudio(options):
    config = conv_mel.Config(**options)
    reference = torchaudio.transforms.MelSpectrogram(
        config.sample_rate, config.frame, hop_length=config.hop, n_mels=config.mels, pad_mode="constant"
    )
    raw = sound(2, 30_000)
    found = conv_mel.Encoder(config).frontend(raw)
    expected = (reference(raw.data) + conv_mel.QUIET).log().transpose(1, 2)
    assert found.mask.all()
    assert (found.data - expected).abs().max() < 1e-4


@pytest.mark.parametrize("samples", [1, 2, 255, 256, 257, 511, 512, 513, 1024, 5_000, 7_777])
def test_a_padded_wave_gives_the_tokens_of_the_wave_alone(encoder, samples):
    raw = sound(3, 9_000)
    alone, together = encoder(first(raw, 1, samples)), encoder(shortened(raw, 1, samples))
    assert alone.mask.all()
    assert together.mask[1].sum() == alone.mask.shape[1]
    assert (together.data[1, : alone.mask.shape[1]] - alone.data[0]).abs().max() < 1e-5
    assert together.data.isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 8, 13, 29, 31])
def test_padded_frames_give_the_tokens_of_the_frames_alone(encoder, steps):
    frames = encoder.frontend(sound(3, 31 * 256))
    alone, together = encoder.adapt(first(frames, 1, steps)), encoder.adapt(shortened(frames, 1, steps))
    assert together.mask[1].sum() == alone.mask.sum() == -(-steps // 8)
    assert (together.data[1, : alone.mask.shape[1]] - alone.data[0]).abs().max() < 1e-5


def test_absent_rows_are_finite_and_masked(encoder):
    raw = shortened(sound(2, 4_000), 1, 0)
    out = encoder(raw)
    assert out.mask.any(1).tolist() == [True, False]
    assert torch.equal(out.data[1], torch.zeros_like(out.data[1]))
    assert encoder(Tokens(raw.data[1:], raw.mask[1:])).data.isfinite().all()


def test_tokens_know_their_place(encoder):
    frames = Tokens(torch.zeros(1, 400, CONFIG.mels), torch.ones(1, 400, dtype=torch.bool))
    middle = encoder.adapt(frames).data[0, 10:40]
    assert torch.cdist(middle, middle).fill_diagonal_(1).min() > 0.1


def test_training_hides_bands_and_stretches_of_each_clip_and_evaluation_nothing():
    torch.manual_seed(0)
    augment = conv_mel.Augment(time_share=0.2, bands=8, masks=2)
    picture = torch.ones(16, 100, 40)
    hidden = augment(picture) == 0
    stretches, bands = hidden.all(2).sum(1), hidden.all(1).sum(1)
    assert 0 < stretches.float().mean() <= 40
    assert stretches.max() <= 40
    assert 0 < bands.float().mean() <= 16
    assert bands.max() <= 16
    assert len(set(stretches.tolist())) > 3  # not one mask for all
    assert torch.equal(augment.eval()(picture), picture)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_training_takes_the_shortest_clips_and_gives_gradients(steps):
    encoder = conv_mel.Encoder(CONFIG).train()
    frames = shortened(encoder.frontend(sound(2, steps * 256 - 1)), 1, 0)
    out = encoder.adapt(frames)
    out.data.square().sum().backward()
    gradients = [parameter.grad for parameter in encoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hop": 200}, "hop 200 does not divide frame 512; expected a divisor"),
        ({"kernel": 4}, "kernel 4 is even"),
        ({"frequency_mask": 65}, "frequency_mask 65 is more than the 64 mels"),
        ({"filters": 64}, "filters"),
    ],
)
def test_config_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        conv_mel.Config(**options)


def test_spec_follows_the_config():
    encoder = conv_mel.Encoder(conv_mel.Config(sample_rate=8_000, max_s=3.0, width=16))
    assert (encoder.spec.sample_rate, encoder.spec.max_s, encoder.width) == (8_000, 3.0, 16)


def test_exported_graph_equals_torch(encoder):
    exported = Exported(encoder, sound(2, 12_000))
    for rows, samples in ((1, 1), (1, 2), (1, 255), (2, 256), (1, 257), (3, 4_321), (7, 16_000), (2, 48_000)):
        raw = sound(rows, samples)
        if rows > 1:
            raw = shortened(shortened(raw, 0, samples // 2), rows - 1, 0)
        found, expected = exported(raw), encoder(raw)
        assert torch.equal(found.mask, expected.mask)
        assert (found.data - expected.data).abs().max() < 1e-4
