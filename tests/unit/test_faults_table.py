"""Every fault case has tests, and they are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from faults import CASES

TESTS = Path(__file__).parents[1]


def test_every_number_is_there_once() -> None:
    assert list(CASES) == list(range(1, 35))


@pytest.mark.parametrize("number", CASES)
def test_the_tests_of_a_case_exist(number: int) -> None:
    _, names = CASES[number]
    assert names
    for name in names:
        path, _, function = name.partition("::")
        nodes = ast.walk(ast.parse((TESTS / path).read_text(encoding="utf-8")))
        assert function in {node.name for node in nodes if isinstance(node, ast.FunctionDef)}, name
