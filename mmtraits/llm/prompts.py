"""Prompts for language models, one per trait: role, definition with facets, question and answer, in a versioned file.

The wording is ours, in the manner of Traits Run Deep (2025), whose own prompts were not published.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from string import Formatter

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmtraits.config import describe, read_yaml
from mmtraits.errors import ConfigError, joined

FIELDS = ("role", "trait", "definition", "facets", "question", "answer")


class TraitPrompt(BaseModel):
    """What a trait is, in words; `question`: the one of an interview that is about it, by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    definition: str
    facets: tuple[str, ...] = Field(min_length=1)
    question: str | None = None


class PromptSet(BaseModel):
    """The prompts of one file. `version` goes up with every change of wording; `digest` tells whether it did.

    `template` names its parts in braces and ends with {answer}, so that a limit of length cuts nothing else.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: int = Field(ge=1)
    role: str
    template: str
    traits: dict[str, TraitPrompt] = Field(min_length=1)
    questions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> PromptSet:
        fields = [field for _, field, _, _ in Formatter().parse(self.template) if field is not None]
        if unknown := sorted(set(fields) - set(FIELDS)):
            raise ValueError(
                f"template: found {', '.join(map(repr, unknown))} in braces; there are {', '.join(FIELDS)}"
            )
        if not self.template.rstrip().endswith("{answer}"):
            raise ValueError("template: expected {answer} at its end, so that a limit of length cuts nothing else")
        for name, trait in self.traits.items():
            if trait.question is not None and trait.question not in self.questions:
                raise ValueError(f"traits.{name}: question {trait.question!r} has no text in `questions`")
        return self

    @property
    def digest(self) -> str:
        """sha256 over all that a prompt is made of."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @property
    def asks(self) -> bool:
        """Whether a prompt needs a question."""
        return any(field == "question" for _, field, _, _ in Formatter().parse(self.template))

    def trait_of(self, question: str | None) -> str | None:
        """The trait that an interview's question is about, None where it is about none."""
        return next((name for name, trait in self.traits.items() if question and trait.question == question), None)

    def prompt(self, trait: str, answer: str, question: str | None = None) -> str:
        """The text for a language model. `question`: a name in `questions`; without it the trait's own.

        Raises ConfigError for a trait without a template, and for a question that is missing or not in the file.
        """
        if trait not in self.traits:
            raise ConfigError(f"{self._title}: trait {trait!r} has no template; {_hint(trait, self.traits)}")
        about = self.traits[trait]
        return self.template.format(
            role=self.role.strip(),
            trait=trait.replace("_", " "),
            definition=about.definition.strip(),
            facets=", ".join(about.facets),
            question=self._question(trait, question or about.question) if self.asks else "",
            answer=answer.strip(),
        )

    @property
    def _title(self) -> str:
        return f"prompts {self.name}, version {self.version}"

    def _question(self, trait: str, question: str | None) -> str:
        if question is None:
            raise ConfigError(
                f"{self._title}: the template for {trait!r} needs a question and none is given; name one of "
                f"{', '.join(self.questions) or 'those you add to `questions`'} in the manifest's `question`"
            )
        if question not in self.questions:
            raise ConfigError(f"{self._title}: question {question!r} has no text; {_hint(question, self.questions)}")
        return self.questions[question].strip()


def read(path: Path | str) -> PromptSet:
    """Read a file of prompts. Raises ConfigError that names every problem."""
    path = Path(path)
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: found {type(found).__name__}; expected a mapping with name, version, template")
    try:
        return PromptSet.model_validate(found)
    except ValidationError as error:
        problems = [(".".join(str(step) for step in e["loc"]), describe(e, PromptSet)) for e in error.errors()]
        lines = [
            f"{path}: {keys}: {text}" if keys else f"{path}: {text.partition('value error, ')[2]}"
            for keys, text in problems
        ]
        raise ConfigError(joined(lines)) from None


def _hint(name: str, known: dict[str, TraitPrompt] | dict[str, str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
