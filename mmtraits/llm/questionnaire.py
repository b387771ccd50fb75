"""A questionnaire that a language model fills in about a person: items, keys, prompts, and scores of traits.

No model is in this file: `llm.answers` asks one, offline. Items must be public domain (IPIP), as those of
configs/questionnaires/ are; agreeing with an item of key −1 lowers its trait.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmtraits.config import describe, read_yaml
from mmtraits.errors import ConfigError, joined

Floats = NDArray[np.float64]


class Item(BaseModel):
    """A statement that follows `I `; agreeing raises its trait (key 1) or lowers it (key −1)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    trait: str
    key: Literal[1, -1]
    text: str = Field(min_length=1)


class Questionnaire(BaseModel):
    """The items of one file. `options`: what can be answered, and what it scores.

    `template` holds {text}, the person's words, before {item}, and ends where the answer begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: int = Field(ge=1)
    template: str
    options: dict[str, float] = Field(min_length=2)
    items: tuple[Item, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _whole(self) -> Questionnaire:
        text, item = self.template.find("{text}"), self.template.find("{item}")
        if not 0 <= text < item:
            raise ValueError("template: expected {text} and, after it, {item}")
        if len({one.text for one in self.items}) < len(self.items):
            raise ValueError("items: one text is there twice; expected every item once")
        return self

    @property
    def digest(self) -> str:
        """sha256 over all that a prompt and a score are made of."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @property
    def traits(self) -> tuple[str, ...]:
        """The K traits, in the order of their first items."""
        return tuple(dict.fromkeys(item.trait for item in self.items))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what `with_traits` gives: I items, numbered, and K traits."""
        return (*(f"{item.trait}_item_{n}" for n, item in enumerate(self.items, 1)), *self.traits)

    def prompts(self, text: str) -> list[str]:
        """One prompt per item about a person who said `text`; braces in the text stay what they are."""
        before, after = self.template.split("{text}", 1)
        return [before + text + after.replace("{item}", item.text) for item in self.items]

    def statements(self) -> list[str]:
        """The items as sentences of the person's own."""
        return [f"I {item.text}" for item in self.items]

    def score(self, answer: str) -> float:
        """What an answer scores. Raises ConfigError for one that is no option."""
        if answer.strip() not in self.options:
            raise ConfigError(f"{self.name}: answer {answer!r}; expected one of {', '.join(self.options)}")
        return self.options[answer.strip()]

    def trait_scores(self, answers: NDArray[Any]) -> Floats:
        """Scores of items (N, I) -> mean over the items of each trait (N, K), those of key −1 reversed."""
        given = np.asarray(answers, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != len(self.items):
            raise ValueError(f"{self.name}: answers {given.shape}; expected (N, {len(self.items)})")
        middle = min(self.options.values()) + max(self.options.values())
        keyed = np.where([item.key > 0 for item in self.items], given, middle - given)
        of = np.array([item.trait for item in self.items])
        return np.stack([keyed[:, of == trait].mean(axis=1) for trait in self.traits], axis=1)

    def with_traits(self, answers: NDArray[Any]) -> Floats:
        """Scores of items (N, I) -> them and the traits' (N, I + K), as `columns` names them."""
        return np.concatenate([np.asarray(answers, np.float64), self.trait_scores(answers)], axis=1)

    def poles(self, similarity: NDArray[Any]) -> Floats:
        """Similarities to the statements (N, I) -> them and, per trait, the high pole's mean minus the low's.

        (N, I + K). A trait without items of one key has its high or low pole alone.
        """
        found = np.asarray(similarity, np.float64)
        key = np.array([item.key for item in self.items])
        of = np.array([item.trait for item in self.items])
        ends = [[found[:, (of == trait) & (key == end)] for end in (1, -1)] for trait in self.traits]
        traits = [_mean(high) - _mean(low) for high, low in ends]
        return np.concatenate([found, np.stack(traits, axis=1)], axis=1)


def read(path: Path | str) -> Questionnaire:
    """The questionnaire in a YAML file. Raises ConfigError that names every problem."""
    path = Path(path)
    data = json.loads(json.dumps(read_yaml(path)))  # plain types: pydantic takes no ruamel ones
    try:
        return Questionnaire.model_validate(data)
    except ValidationError as error:
        problems = [
            ": ".join([str(path), *filter(None, [".".join(map(str, one["loc"]))]), describe(dict(one), Questionnaire)])
            for one in error.errors()
        ]
        raise ConfigError(joined(problems)) from None


def expected_score(logits: NDArray[Any], scores: NDArray[Any]) -> Floats:
    """Logits of the answers (..., A) and what they score (A,) -> Σ score · p(score), p a softmax over the answers."""
    shifted = np.asarray(logits, np.float64)
    likely = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    expected: Floats = (likely * scores).sum(axis=-1) / likely.sum(axis=-1)
    return expected


def _mean(columns: Floats) -> Floats:
    return columns.mean(axis=1) if columns.shape[1] else np.zeros(len(columns))
