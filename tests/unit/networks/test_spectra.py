"""Framing and the two-step Fourier transform against torch's own."""

from __future__ import annotations

import pytest
import torch

from mmtraits.networks import spectra


@pytest.mark.parametrize("length", [2048, 512, 400, 16, 17])
def test_spectrum_equals_the_fast_fourier_transform(length):
    frames = torch.randn(2, 5, length, generator=torch.Generator().manual_seed(0))
    hann = torch.hann_window(length, dtype=torch.float64)
    expected = torch.fft.rfft(frames.double() * hann).abs().square()
    assert (spectra.Spectrum(length)(frames) - expected).abs().max() < 1e-6 * expected.max()


@pytest.mark.parametrize("samples", [1, 3, 4, 5, 11, 12, 40])
def test_frames_are_centred_and_zero_beyond_the_ends(samples):
    wave = torch.arange(1.0, samples + 1)[None]
    framed = spectra.frames(wave, 8, 4)
    assert framed.shape == (1, 1 + samples // 4, 8)
    expected = torch.nn.functional.pad(wave, (4, 8)).unfold(1, 8, 4)[:, : 1 + samples // 4]
    assert torch.equal(framed, expected)


def test_a_frame_is_real_when_its_centre_lies_in_the_sound():
    mask = torch.tensor([[True] * 8, [True] * 7 + [False], [True] * 3 + [False] * 5, [False] * 8])
    mask[2, 5] = True  # a gap does not end a wave
    counts = spectra.sample_counts(mask)
    assert counts.tolist() == [8, 7, 6, 0]
    assert spectra.frame_mask(counts, 3, 4).sum(1).tolist() == [3, 2, 2, 0]
