"""A corpus with planted gaps between groups, and its audits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmtraits import fairness
from mmtraits.evaluation.contents import Audit, Group
from mmtraits.schema import Trait, TraitSchema

SCHEMA = TraitSchema(
    name="two",
    traits=(Trait(name="warm", low=0.0, high=1.0), Trait(name="calm", low=0.0, high=1.0)),
    construct="apparent",
    judged_by="a formula",
)
ONE = TraitSchema(name="one", traits=SCHEMA.traits[:1], construct="apparent", judged_by="a formula")


class Corpus:
    """N rows, three a person; scores follow labels with noise, group `f` has `gap` added."""

    def __init__(self, rows: int = 600, gap: float = 0.0, seed: int = 0, per_person: int = 3) -> None:
        draw = np.random.default_rng(seed)
        person = np.arange(rows) // per_person
        self.ids = [f"c{n:04d}" for n in range(rows)]
        self.persons = [f"p{n:04d}" for n in person]
        self.gender = np.array(["f", "m"])[draw.integers(2, size=person[-1] + 1)][person]
        self.age = np.array(["old", "young", "young"])[draw.integers(3, size=person[-1] + 1)][person]
        habit = draw.normal(0, 0.05, (person[-1] + 1, 2))[person]  # errors of one person are alike
        self.labels = np.clip(draw.normal(0.5, 0.15, (rows, 2)), 0, 1)
        self.scores = 0.5 + 0.6 * (self.labels - 0.5) + draw.normal(0, 0.06, (rows, 2)) + habit
        self.scores[self.gender == "f"] += gap
        self.attributes = [{"gender": g, "age": a} for g, a in zip(self.gender, self.age, strict=True)]
        self.status = ["ok"] * rows

    def audit(self, **changes: Any) -> list[Audit]:
        given: dict[str, Any] = {
            "labels": self.labels, "scores": self.scores, "lower": self.scores - 0.1, "upper": self.scores + 0.1,
            "ids": self.ids, "persons": self.persons, "attributes": self.attributes, "status": self.status,
            "schema": SCHEMA, "resamples": 200,
        }  # fmt: skip
        return fairness.audit(**(given | changes))


def of(audits: Sequence[Audit], *attributes: str) -> Audit:
    return next(audit for audit in audits if audit.attributes == list(attributes))


def group(audit: Audit, *values: str) -> Group:
    return next(group for group in audit.groups if tuple(group.values.values()) == values)
