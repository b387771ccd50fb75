"""YAML 1.2 by people whom nobody may know: plain data of a bounded size; what a tag asks for is never done."""

from __future__ import annotations

from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

MOST_CHARACTERS, MOST_NODES = 1_000_000, 100_000
_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map", "merge", "timestamp")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in _PLAIN}


def load(text: str, typ: Literal["safe", "rt"] = "safe") -> Any:
    """Parse YAML; `rt` keeps line numbers. Duplicate keys are refused.

    Raises YAMLError, also for a tag, for data that hold themselves, and for aliases that stand for too much.
    """
    if len(text) > MOST_CHARACTERS:
        raise YAMLError(f"{len(text)} characters; expected at most {MOST_CHARACTERS}")
    yaml = YAML(typ=typ, pure=True)  # pure: the C parser speaks YAML 1.1
    try:
        node = yaml.compose(text)
        if node is not None:
            _size(node, {})
        return YAML(typ=typ, pure=True).load(text)
    except RecursionError:
        raise YAMLError("nested too deeply") from None


def _size(node: Node, known: dict[int, int]) -> int:
    """Nodes of a tree in which every alias is written out."""
    if id(node) in known:
        if not known[id(node)]:
            raise _error(node, "an alias inside of what it stands for")
        return known[id(node)]
    if str(node.tag) not in _TAGS:
        raise _error(node, f"the tag {str(node.tag).removeprefix('tag:yaml.org,2002:')!r}; expected plain values")
    known[id(node)] = 0  # not finished
    inner: list[Node] = []
    if isinstance(node, MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, SequenceNode):
        inner = node.value
    size = 1 + sum(_size(part, known) for part in inner)
    if size > MOST_NODES:
        raise _error(node, f"aliases stand for {size} values; expected at most {MOST_NODES}")
    known[id(node)] = size
    return size


def _error(node: Node, problem: str) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
