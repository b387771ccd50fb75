"""Items and keys, the answers of a model, and that both are kept and told when they are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_language_model
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from mmtraits.errors import ConfigError
from mmtraits.llm import answers as llm_answers
from mmtraits.llm import questionnaire
from mmtraits.llm.answers import AnswerModel, ask

IPIP50 = Path(__file__).parents[3] / "configs" / "questionnaires" / "ipip50.yaml"
SHORT = """
name: short
version: 1
template: "{text} I {item} :"
options: {"1": 1, "2": 2, "3": 3, "4": 4, "5": 5}
items:
  - {trait: warm, key: 1, text: like people}
  - {trait: warm, key: -1, text: insult people}
  - {trait: calm, key: 1, text: am calm}
"""
LINE = "I like people insult am calm : 1 2 3 4 5 we met a friend and went home . {x}"
WORDS = LINE.split()
TEXTS = ("we met a friend .", "we went home and met people and a friend and went home .", "I am calm {x}")
KEYS = {  # of the IPIP's scoring key, in the order of its items
    "extraversion": "+-+-+-+-+-",
    "agreeableness": "-+-+-+-+++",
    "conscientiousness": "+-+-+-+-++",
    "emotional_stability": "-+-+------",
    "intellect": "+-+-+-++++",
}


@pytest.fixture
def short(tmp_path: Path) -> questionnaire.Questionnaire:
    (tmp_path / "short.yaml").write_text(SHORT)
    return questionnaire.read(tmp_path / "short.yaml")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_language_model.make(tmp_path_factory.mktemp("lm"), WORDS)


# ---------------------------------------------------------------------------------------------------- items and keys


def test_ipip50_has_ten_items_a_trait_with_the_published_keys():
    found = questionnaire.read(IPIP50)
    keys = {trait: "".join("+-"[i.key < 0] for i in found.items if i.trait == trait) for trait in found.traits}
    assert keys == KEYS
    assert len(found.columns) == len(set(found.columns)) == 55
    assert list(found.options.values()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("trait", "text", "key"),
    [
        ("extraversion", "don't talk a lot.", -1),
        ("extraversion", "don't mind being the center of attention.", 1),  # a negation that is not reversed
        ("agreeableness", "insult people.", -1),
        ("conscientiousness", "shirk my duties.", -1),
        ("emotional_stability", "seldom feel blue.", 1),
        ("emotional_stability", "often feel blue.", -1),
        ("intellect", "do not have a good imagination.", -1),
        ("intellect", "use difficult words.", 1),
    ],
)
def test_agreeing_with_an_item_moves_its_own_trait_its_own_way(trait, text, key):
    found = questionnaire.read(IPIP50)
    (number,) = [n for n, item in enumerate(found.items) if item.text == text]
    answers = np.full((2, 50), 3.0)
    answers[1, number] = 5.0
    neutral, agreed = found.trait_scores(answers)
    np.testing.assert_array_equal(neutral, np.full(5, 3.0))
    expected = np.zeros(5)
    expected[found.traits.index(trait)] = key * 0.2
    np.testing.assert_allclose(agreed - neutral, expected, atol=1e-12)


def test_agreeing_with_everything_says_only_how_many_items_are_reversed():
    found = questionnaire.read(IPIP50)
    shares = [keys.count("+") / 10 for keys in KEYS.values()]
    np.testing.assert_allclose(found.trait_scores(np.full((1, 50), 5.0))[0], [1 + 4 * share for share in shares])


def test_prompts_hold_the_text_as_it_is(short):
    assert short.prompts("so {item} {x}")[1] == "so {item} {x} I insult people :"
    assert short.statements()[2] == "I am calm"
    assert short.columns == ("warm_item_1", "warm_item_2", "calm_item_3", "warm", "calm")


def test_poles_by_hand(short):
    np.testing.assert_allclose(short.poles(np.array([[0.5, 0.2, 0.1]])), [[0.5, 0.2, 0.1, 0.3, 0.1]])


def test_an_answer_that_is_no_option_is_named(short):
    assert short.score(" 4 ") == 4
    with pytest.raises(ConfigError, match="short: answer '6'; expected one of 1, 2, 3, 4, 5"):
        short.score("6")
    with pytest.raises(ValueError, match=r"answers \(1, 2\); expected \(N, 3\)"):
        short.trait_scores(np.ones((1, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{text} I {item} :", "{item} {text}"), "expected {text} and, after it, {item}"),
        (("key: -1", "key: 2"), "items.1.key"),
        (("insult people", "like people"), "one text is there twice"),
        (("version: 1", "versoin: 1"), "versoin"),
    ],
)
def test_a_file_with_something_wrong_is_refused(tmp_path, change, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(SHORT.replace(*change))
    with pytest.raises(ConfigError) as caught:
        questionnaire.read(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


# ---------------------------------------------------------------------------------------------------- a model's answers


def plain(model: str, prompt: str) -> float:
    """One prompt, no padding: a softmax over the five answers' logits."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = network(input_ids=ids).logits[0, -1]
    answers = torch.tensor([tokenizer.convert_tokens_to_ids(str(n)) for n in range(1, 6)])
    return float((logits[answers].softmax(0) * torch.arange(1.0, 6.0)).sum())


def test_the_expected_answer_is_a_plain_softmax_over_the_answers(short, model, tmp_path):
    found = ask("answers", short, TEXTS, model, tmp_path)
    for text, row in zip(TEXTS, found, strict=True):
        expected = np.array([plain(model, prompt) for prompt in short.prompts(text)])
        assert row.shape == (1, 5)
        np.testing.assert_allclose(row[0, :3], expected, atol=1e-4)
        np.testing.assert_allclose(row[0, 3:], [(expected[0] + 6 - expected[1]) / 2, expected[2]], atol=1e-4)
    assert np.ptp(np.stack(found)[:, 0, 0]) > 0.01


def test_expected_score_of_logits():
    scores = np.arange(1.0, 6.0)
    assert questionnaire.expected_score(np.zeros(5), scores) == 3
    assert questionnaire.expected_score(np.array([0, 0, 0, 0, 1e4]), scores) == 5


def test_states_are_the_last_tokens(short, model, tmp_path):
    found = ask("states", short, TEXTS, model, tmp_path)
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    ids = tokenizer(short.prompts(TEXTS[0])[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        state = network(input_ids=ids).last_hidden_state[0, -1]
    assert found[0].shape == (3, 32)
    np.testing.assert_allclose(found[0][1], torch.nn.functional.normalize(state, dim=0), atol=1e-4)


def test_what_was_asked_is_not_asked_again_and_another_version_is(short, model, tmp_path, monkeypatch):
    asked: list[int] = []
    states = AnswerModel.states
    monkeypatch.setattr(AnswerModel, "states", lambda self, rows: asked.append(len(rows)) or states(self, rows))
    first = ask("answers", short, TEXTS[:1], model, tmp_path)
    assert sum(asked) == 3
    again = ask("answers", short, TEXTS[:2], model, tmp_path)
    assert sum(asked) == 6
    np.testing.assert_array_equal(first[0], again[0])
    ask("answers", short.model_copy(update={"version": 2}), TEXTS[:1], model, tmp_path)
    assert sum(asked) == 9


def test_a_long_text_loses_its_end_and_no_item(short, tmp_path):
    model = tiny_language_model.make(tmp_path / "lm", WORDS, positions=16)
    found = AnswerModel(model, list(short.options))
    prompts = llm_answers.fitting(short, "we met a friend " * 9, found)
    assert all(len(found.ids(prompt)[0]) <= 16 for prompt in prompts)
    assert prompts[1].startswith("we met a friend we met")
    assert prompts[1].endswith("I insult people :")
    tight = AnswerModel(model, list(short.options), max_ids=3)
    with pytest.raises(ConfigError, match="short: an item alone is over 3 ids; raise max_ids"):
        llm_answers.fitting(short, "we met", tight)


def test_an_answer_without_a_token_of_its_own_is_named(tmp_path):
    model = tiny_language_model.make(tmp_path / "lm", [word for word in WORDS if word != "5"])
    with pytest.raises(ConfigError, match="has no token of its own for '5'; expected one for each of '1', '2'"):
        AnswerModel(model, ["1", "2", "3", "4", "5"])


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match="expected a file, a folder"):
        AnswerModel(str(tmp_path / "none"), ["1", "2"])
    with pytest.raises(ConfigError, match="expected a folder with a causal model"):
        AnswerModel(str(tmp_path), ["1", "2"])


def test_poles_of_real_sentences(tmp_path):
    found = questionnaire.read(IPIP50)
    texts = ("I love parties. I talk to everybody there.", "I keep quiet. I avoid attention and stay in the back.")
    loud, quiet = (row[0] for row in ask("poles", found, texts, llm_answers.SENTENCES, tmp_path))
    assert loud.shape == (55,)
    assert loud[50] > quiet[50] + 0.05
