"""Contours beside a transformer: what padding may not change, what is learned, and what a bundle says of a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from planted_texts import errors_of_mean, plant
from torch import nn

from mmtraits import config, parts, run
from mmtraits.config import RunConfig
from mmtraits.encoders import text_contours
from mmtraits.export import Facts, write_bundle
from mmtraits.extract import extract
from mmtraits.media.features import contours
from mmtraits.model import build
from mmtraits.runtime import Predictor
from mmtraits.schema import TargetTransform, VectorSpec, Windowing
from mmtraits.tokens import Tokens
from mmtraits.train import fit

CONFIG = Path(__file__).parents[2] / "configs" / "systems" / "text_contours.yaml"


def settings(folder: Path, *changes: str) -> RunConfig:
    where = (f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}", "trainer.accelerator=cpu")
    return config.load(CONFIG, [*where, *changes], check=parts.problems)


def test_the_config_joins_contours_and_a_transformer():
    found = config.load(CONFIG, check=parts.problems)
    assert {stream: part.use for stream, part in found.streams.items()} == {"text": "text", "contours": "text_contours"}
    encoder = parts.encoder(found.streams["contours"])
    assert encoder.spec == VectorSpec(width=len(contours.NAMES), producer="contours")


def test_the_lstm_is_torchs_own_where_nothing_is_masked():
    torch.manual_seed(0)
    masked = text_contours.MaskedLSTM(5, 4)
    data = torch.randn(3, 6, 5)
    found = masked(Tokens(data, torch.ones(3, 6, dtype=torch.bool)))
    torch.testing.assert_close(found, masked.lstm(data)[0], atol=1e-6, rtol=0)


def test_the_lstm_is_a_packed_one_where_rows_end_early():
    torch.manual_seed(0)
    masked, lengths = text_contours.MaskedLSTM(5, 4), torch.tensor([6, 2, 1])
    data = torch.randn(3, 6, 5)
    found = masked(Tokens(data, torch.arange(6) < lengths[:, None]))
    packed = nn.utils.rnn.pack_padded_sequence(data, lengths, batch_first=True)
    expected, _ = nn.utils.rnn.pad_packed_sequence(masked.lstm(packed)[0], batch_first=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_masked_step_keeps_the_cell():
    """A gap of any content and the steps before it: what comes after still knows them."""
    torch.manual_seed(0)
    masked = text_contours.MaskedLSTM(5, 4)
    data, mask = torch.randn(1, 5, 5), torch.tensor([[True, True, False, False, True]])
    after = masked(Tokens(data, mask))[:, -1]
    other = data.clone()
    other[:, 0] += 1
    assert (masked(Tokens(other, mask))[:, -1] - after).abs().max() > 1e-3
    cut = masked(Tokens(data[:, 4:], mask[:, 4:]))[:, -1]
    assert (cut - after)[:, :4].abs().max() > 1e-3


def test_attention_by_hand():
    torch.manual_seed(0)
    pooling = text_contours.Pooling(2)
    data = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    weights = pooling.score(data[:, :2]).softmax(1)
    found = pooling(Tokens(data, torch.tensor([[True, True, False]])))
    torch.testing.assert_close(found.data, (weights * data[:, :2]).sum(1, keepdim=True))
    assert not pooling(Tokens(data, torch.zeros(1, 3, dtype=torch.bool))).data.any()


def test_training_reads_what_the_runtime_computes(tmp_path: Path):
    """The same vectors, bit for bit, from the store of training and from the spec that a bundle holds."""
    made = plant(tmp_path, texts=6)
    found = settings(tmp_path, "streams.text=null")
    windows = extract(found, made).windows
    for window in windows:
        text = made.clips[window.row].text
        assert text is not None
        np.testing.assert_array_equal(window.streams["contours"].read().data, contours.series(text))


def test_a_bundle_scores_the_text_as_torch_does(tmp_path: Path):
    made = plant(tmp_path, texts=6)
    found = settings(tmp_path, "streams.text=null", "streams.contours.width=8", "fusion.width=8")
    how = TargetTransform.fit(made.schema, made.labels)
    torch.manual_seed(0)
    model = build(found, made.schema, how).eval()
    facts = Facts(name="small", schema=made.schema, windowing=Windowing(), transforms=[how], provenance={})
    predictor = Predictor(write_bundle([model], facts, tmp_path / "bundle").folder, threads=1)
    scores = predictor.predict(made.clips)
    features = extract(found, made).windows
    for window, row in zip(features, scores.values, strict=True):
        raw = window.streams["contours"].read()
        tokens = Tokens(torch.from_numpy(raw.data)[None], torch.from_numpy(raw.mask)[None])
        with torch.no_grad():
            expected = model.scores({"contours": tokens})[0].numpy()
        np.testing.assert_allclose(row, expected, atol=1e-5)
    assert len(np.unique(scores.values[:, 0])) == 6


@pytest.mark.slow
def test_it_learns_words_their_lengths_and_how_sentences_grow(tmp_path: Path):
    """MAE at most .55 of the mean predictor's on each planted trait; `rising` is in no bag of words."""
    made = plant(tmp_path, texts=400)
    found = settings(tmp_path, "protocol.split=holdout", "runs.over=none", "trainer.max_epochs=30", "optimizer.lr=3e-3")
    member = fit(found, root=tmp_path / "runs") / "single"
    ratios = errors_of_mean(member, made)
    assert max(ratios.values()) < 0.55, ratios
    assert run.load_member(member).streams == ("text", "contours")
