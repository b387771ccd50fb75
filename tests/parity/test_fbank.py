"""The filter bank in the graph against torchaudio's copy of Kaldi's, and that padding never reaches it."""

from __future__ import annotations

import math

import pytest
import torch
from exporting import Exported
from torch import Tensor
from torchaudio.compliance import kaldi

from mmtraits.encoders import mae_audio
from mmtraits.networks.spectra import Fbank
from mmtraits.tokens import Tokens


def sound(samples: int, rate: int = 16_000, tone: float = 0.02) -> Tensor:
    """Tones that glide over noise, off centre."""
    source = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / rate
    tones = sum(torch.sin(2 * torch.pi * (f + 200 * time) * time) for f in (110.0, 700.0, 2600.0))
    return tone * tones + 0.05 * torch.randn(samples, generator=source) + 0.03


def reference(wave: Tensor, rate: int, mels: int) -> Tensor:
    return kaldi.fbank(
        (wave - wave.mean())[None], htk_compat=True, sample_frequency=rate, use_energy=False, window_type="hanning",
        num_mel_bins=mels, dither=0.0, frame_shift=10,
    )  # fmt: skip


def differences(found: Tensor, expected: Tensor) -> Tensor:
    """Of bands with more than a millionth of their frame's peak: Kaldi's own single precision ends below."""
    heard = expected > expected.amax(1, keepdim=True) + math.log(1e-6)
    assert heard.float().mean() > 0.98
    return (found[: len(expected)] - expected).abs()[heard]


@pytest.mark.parametrize("rate, mels", [(16_000, 128), (16_000, 40), (8_000, 23)])
@pytest.mark.parametrize("samples", [400, 559, 560, 4_321, 64_000])
def test_fbank_equals_kaldi(rate, mels, samples):
    wave = sound(max(samples, rate // 40), rate=rate)
    found, real = Fbank(rate, mels)(wave[None], torch.ones(1, len(wave), dtype=torch.bool))
    expected = reference(wave, rate, mels)
    assert int(real.sum()) == len(expected)
    assert differences(found[0], expected).max() < 1e-4


def test_beside_loud_tones_the_faintest_bands_are_as_exact_as_kaldi_in_single_precision():
    wave = sound(64_000, tone=0.3)
    found, _ = Fbank(16_000, 128)(wave[None], torch.ones(1, 64_000, dtype=torch.bool))
    exact = reference(wave.double(), 16_000, 128)
    error = (found[0, : len(exact)] - exact).abs()
    assert error.max() < 2 * (reference(wave, 16_000, 128) - exact).abs().max()
    assert error.mean() < 1e-5


@pytest.mark.parametrize("samples", [1, 399, 400, 560, 5_000])
def test_a_padded_wave_gives_the_frames_of_the_wave_alone(samples):
    fbank = Fbank(16_000, 64)
    wave = sound(samples)
    alone, real = fbank(wave[None], torch.ones(1, samples, dtype=torch.bool))
    longer = torch.full((2, 6_000), torch.nan)
    longer[1, :samples] = wave
    found, mask = fbank(longer, ~longer.isnan())
    count = int(real.sum())
    assert count == max(1, 1 + (samples - 400) // 160)
    assert mask.sum(1).tolist() == [0, count]
    assert found.isfinite().all()
    assert (found[1, :count] - alone[0, :count]).abs().max() < 1e-5


def test_exported_frontend_equals_kaldi():
    encoder = mae_audio.Encoder(mae_audio.Config(size="tiny"))

    class Front(torch.nn.Module):
        def forward(self, tokens: Tokens) -> Tokens:
            return encoder.frontend(tokens)

    exported = Exported(Front(), Tokens(sound(9_000).reshape(2, -1), torch.ones(2, 4_500, dtype=torch.bool)))
    for samples in (8_000, 30_001):
        wave = sound(samples)
        found = exported(Tokens(wave[None], torch.ones(1, samples, dtype=torch.bool)))
        expected = reference(wave, 16_000, encoder.mels)
        assert differences(found.data[0], expected).max() < 1e-4
