"""Percentiles from a frozen transformer and an MLP, divided by author, judged by author."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_texts import errors_of_mean, plant
from transformers import RobertaConfig, RobertaModel

from mmtraits import config, parts, run
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.heads import mlp
from mmtraits.model import build
from mmtraits.schema import TargetTransform
from mmtraits.tokens import Tokens
from mmtraits.train import fit

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "systems" / "continuous_text.yaml"


def settings(folder: Path, *changes: str) -> RunConfig:
    where = (f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}", "trainer.accelerator=cpu")
    return config.load(CONFIG, [*where, *changes], check=parts.problems)


def test_no_author_is_in_two_parts(tmp_path: Path):
    made = plant(tmp_path, texts=60, per_person=3, scale=100.0)
    for member in run.plan(settings(tmp_path), made):
        of = [{made.clips[row].person for row in member.rows[split]} for split in ("train", "val", "test")]
        assert not (of[0] & of[2] or of[0] & of[1] or of[1] & of[2])


def test_percentiles_become_units_and_come_back():
    schema = manifests.read_schema(ROOT / "datasets" / "pandora" / "schema.yaml")
    model = build(
        config.load(CONFIG), schema, TargetTransform.fit(schema, np.random.default_rng(0).uniform(0, 99, (50, 5)))
    )
    assert isinstance(model.head, mlp.Head)
    assert (model.low.tolist(), model.high.tolist()) == ([0.0] * 5, [100.0] * 5)
    assert schema.rated == "person"


def test_a_local_roberta_takes_minilms_place(tmp_path: Path):
    """The model is read from a folder; nothing is downloaded. RoBERTa's places begin behind its padding id."""
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 258}
    RobertaModel(RobertaConfig(vocab_size=60, hidden_size=16, **small)).save_pretrained(tmp_path)
    found = config.load(CONFIG, [f"streams.text.model={tmp_path}", "streams.text.layers=null"], check=parts.problems)
    (tmp_path / "tokenizer.json").write_text("{}")
    encoder = parts.encoder(found.streams["text"])
    assert encoder.spec.tokenizer == str(tmp_path / "tokenizer.json")
    assert encoder.network.network.config.model_type == "roberta"
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
    padded = encoder.frontend(Tokens(ids, torch.tensor([[True] * 3 + [False] * 2, [True] * 5]))).data[0]
    alone = encoder.frontend(Tokens(ids[:1, :3], torch.ones(1, 3, dtype=torch.bool))).data[0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_it_learns_what_words_say(tmp_path: Path):
    """Percentiles per author: MAE at most .6 of the mean predictor's for the traits that words carry."""
    made = plant(tmp_path, texts=400, per_person=2, scale=100.0)
    changes = ("protocol.split=holdout", "runs.over=none", "trainer.max_epochs=30", "optimizer.lr=3e-3")
    member = fit(settings(tmp_path, *changes), root=tmp_path / "runs") / "single"
    ratios = errors_of_mean(member, made)
    assert max(ratios["warm"], ratios["elaborate"]) < 0.6, ratios
    test = json.loads((member / "metrics.json").read_text())["test"]
    assert 0 < test["traits"]["warm"]["mae"] < 25  # of 100
