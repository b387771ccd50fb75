"""Voice statistics against librosa, in units of the training table's standard deviations."""

from __future__ import annotations

import csv
import gzip
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from exporting import Exported
from sound import read_wave

from mmtraits.encoders import voice
from mmtraits.schema import Raw, stack
from mmtraits.tokens import Tokens

RATE = voice.SAMPLE_RATE_HZ

# Standard deviations of the 26 voice columns of First Impressions V2 over its 7,998 clips with a voice.
SD = np.array([
    0.051244, 0.041853, 480.66, 311.97, 900.29, 0.039297, 88.448, 24.183, 20.752, 12.922, 11.667, 11.054, 8.7924,
    8.9104, 7.9808, 6.4743, 6.2956, 5.8116, 5.3663, 5.3244, 4.8885, 5.1621, 4.3347, 4.0157, 3.8786, 3.7362,
])  # fmt: skip


def librosa_means(wave: np.ndarray) -> np.ndarray:
    """What the training table holds, recomputed: (26,)."""
    wave = wave[: voice.SAMPLES]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=2048 is too large", UserWarning)  # clips shorter than a frame
        rows = [
            librosa.feature.chroma_stft(y=wave, sr=RATE, tuning=0.0).mean(),
            librosa.feature.rms(y=wave).mean(),
            librosa.feature.spectral_centroid(y=wave, sr=RATE).mean(),
            librosa.feature.spectral_bandwidth(y=wave, sr=RATE).mean(),
            librosa.feature.spectral_rolloff(y=wave, sr=RATE).mean(),
            librosa.feature.zero_crossing_rate(wave).mean(),
        ]
        return np.array([*rows, *librosa.feature.mfcc(y=wave, sr=RATE).mean(1)])


@pytest.fixture(scope="module")
def statistics() -> voice.VoiceStatistics:
    return voice.VoiceStatistics()


def batch(*waves: np.ndarray) -> Tokens:
    raw = stack([Raw(wave, np.ones(len(wave), np.bool_)) for wave in waves])
    return Tokens(torch.from_numpy(raw.data), torch.from_numpy(raw.mask))


def alone(statistics: voice.VoiceStatistics, wave: np.ndarray) -> np.ndarray:
    return statistics(batch(wave)).data[0, 0].numpy()


def noise(samples: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def recorded(wave: np.ndarray) -> np.ndarray:
    """As a 16-bit recorder hears it: with half a step of noise."""
    dither = np.random.default_rng(1).uniform(-0.5, 0.5, len(wave))
    return (np.round(wave * 32767 + dither) / 32768).astype(np.float32)


def signals() -> dict[str, np.ndarray]:
    time_s = np.arange(7 * RATE) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 3 * time_s)) / RATE
    vowel = sum(np.sin(k * pitch) / k for k in range(1, 30)) * (1 + np.sin(2 * np.pi * 4 * time_s)) * 0.1
    return {
        "vowel": recorded(vowel),
        "tone": recorded(0.3 * np.sin(2 * np.pi * 440 * time_s)),
        "chirp": recorded(0.5 * np.sin(2 * np.pi * (100 * time_s + 400 * time_s**2))),
        "offset": noise(RATE) + np.float32(0.2),
        "loud": noise(3 * RATE, 0.9),
        "faint": noise(3 * RATE, 1e-4),
        "rounding errors": noise(RATE, 1e-11),  # no sign, hence no crossings
        "silent start": np.concatenate([np.zeros(30_000, np.float32), noise(40_000)]),
        "silence": np.zeros(RATE, np.float32),
        "longer than is heard": noise(9 * RATE),
        **{f"{n} samples": noise(n) for n in (1, 2, 511, 512, 513, 2047, 2048, 2049, 7 * RATE - 1, 7 * RATE)},
    }


SIGNALS = signals()
SOUNDLESS = {"silence", "rounding errors"}  # mfcc 1 is -1,131, 13 sd away: single precision itself is 1e-5 sd there


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_librosa(statistics, name):
    off = np.abs(alone(statistics, SIGNALS[name]) - librosa_means(SIGNALS[name])) / SD
    assert off.max() < 1e-3, (voice.STATISTICS[off.argmax()], off.max())


def test_chroma_filterbank_equals_librosa():
    expected = librosa.filters.chroma(sr=RATE, n_fft=2048, tuning=0.0).T
    assert np.abs(voice.chroma_filterbank(2048, RATE).numpy() - expected).max() < 1e-6


def test_a_clip_in_a_batch_is_as_alone_and_what_is_masked_is_not_read(statistics):
    together = batch(*SIGNALS.values(), np.zeros(0, np.float32))
    together.data[~together.mask] = torch.nan
    out = statistics(together)
    assert out.mask[:, 0].tolist() == [True] * len(SIGNALS) + [False]
    assert torch.equal(out.data[-1], torch.zeros(1, 26))
    for row, (name, wave) in enumerate(SIGNALS.items()):
        off = np.abs(out.data[row, 0].numpy() - alone(statistics, wave)) / SD
        limit = 3e-5 if name in SOUNDLESS else 1e-5
        assert off.max() < limit, (name, voice.STATISTICS[off.argmax()], off.max())


def test_a_masked_gap_is_silence(statistics):
    gap = batch(noise(RATE))
    gap.mask[0, 5_000:9_000] = False
    quiet = noise(RATE)
    quiet[5_000:9_000] = 0
    assert np.array_equal(statistics(gap).data[0, 0].numpy(), alone(statistics, quiet))


def test_a_batch_of_absent_rows_is_finite_all_the_way():
    encoder = voice.Encoder(voice.Config(tokens=2, width=8)).eval()
    out = encoder(Tokens(torch.full((3, 1), torch.nan), torch.zeros(3, 1, dtype=torch.bool)))
    assert out.data.shape == (3, 2, 8)
    assert out.data.isfinite().all()
    assert not out.mask.any()


def test_adapt_takes_a_table_row_and_standardises_it():
    torch.manual_seed(0)
    encoder = voice.Encoder(voice.Config(tokens=3, width=8)).eval()
    table = Tokens(torch.randn(50, 1, 26) * torch.tensor(SD).float() + 5, torch.ones(50, 1, dtype=torch.bool))
    encoder.standardize.fit(table.data, table.mask)
    out = encoder.adapt(table)
    absent = encoder.adapt(Tokens(torch.full((2, 1, 26), torch.nan), torch.zeros(2, 1, dtype=torch.bool)))
    assert absent.data.isfinite().all()
    assert out.data.shape == (50, 3, 8)
    assert out.mask.shape == (50, 3)
    expected = encoder.feed_forward((table.data - table.data.mean(0)) / table.data.std(0, unbiased=False))
    inside = ((table.data - table.data.mean(0)) / table.data.std(0, unbiased=False)).abs().amax((1, 2)) < 3
    assert torch.allclose(out.data[inside], expected[inside, 0], atol=1e-5)


def test_spec_and_config():
    encoder = voice.Encoder(voice.Config())
    assert (encoder.spec.sample_rate, encoder.spec.max_s, encoder.width) == (22_050, 7.0, 128)
    assert "statistics.mel" not in encoder.state_dict()  # constants are made, not stored
    with pytest.raises(ValueError, match="mfccs"):
        voice.Config(mfccs=13)


def test_exported_graph_equals_torch():
    torch.manual_seed(0)
    encoder = voice.Encoder(voice.Config(tokens=2)).eval()
    encoder.standardize.mean.copy_(torch.tensor(SD))
    encoder.standardize.std.copy_(torch.tensor(SD))
    exported = Exported(encoder, batch(noise(30_000), noise(20_000)))
    assert len(exported.model) < 1.2e6
    absent = np.zeros(0, np.float32)
    for waves in (
        [noise(1)],
        [noise(2)],
        [absent],
        [noise(511), absent],
        [noise(512), noise(2049), absent, noise(44_100)],
        [noise(9 * RATE)],
        [noise(1000 * n + 7) for n in range(1, 8)],
    ):
        raw = batch(*waves)
        raw.data[~raw.mask] = torch.nan
        found, expected = exported(raw), encoder(raw)
        assert torch.equal(found.mask, expected.mask)
        assert (found.data - expected.data).abs().max() < 1e-4


# ---------------------------------------------------------------------------------------------------- real data


def table(real_data: Path) -> tuple[list[str], np.ndarray]:
    """Names and values (7,998, 26) of the voice columns."""
    with gzip.open(real_data / "data/first_impressions/clips.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("voice_")]
    return names, np.array([[float(row[name]) for name in names] for row in rows if row[names[0]]])


def test_standard_deviations_and_order_are_the_tables(real_data):
    names, values = table(real_data)
    known_as = {"rmse": "rms", "rolloff": "spectral_rolloff", **{f"mfcc{n}": f"mfcc_{n}" for n in range(1, 21)}}
    columns = [name.removeprefix("voice_") for name in names]
    assert tuple(known_as.get(column, column) for column in columns) == voice.STATISTICS
    assert np.allclose(values.std(0), SD, rtol=1e-4)


def test_real_clips_equal_librosa_and_lie_inside_the_training_range(real_data, statistics):
    _, values = table(real_data)
    mean, precision = values.mean(0), np.linalg.inv(np.cov(values.T))

    def distance(rows: np.ndarray) -> np.ndarray:
        """Mahalanobis distance from the training clips."""
        return np.sqrt(np.einsum("ij,jk,ik->i", rows - mean, precision, rows - mean))

    waves = [read_wave(path, RATE) for path in sorted((real_data / "clips/speaking").glob("*.mpg"))]
    found = np.array([alone(statistics, wave) for wave in waves])
    expected = np.array([librosa_means(wave) for wave in waves])
    assert len(found) == 11
    assert (np.abs(found - expected) / SD).max() < 1e-3
    assert np.median(distance(found)) < np.percentile(distance(values), 99)
    assert distance(found).max() < distance(values).max() / 2
    assert distance(np.array([alone(statistics, np.zeros(RATE, np.float32))])).min() > distance(values).max()
