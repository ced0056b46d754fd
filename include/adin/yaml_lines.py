"""YAML with the line of each value, so that a mistake can be told with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Place = tuple[str | int, ...]


def read(text: str) -> tuple[Any, dict[Place, int]]:
    """Return a YAML document and the line of each key and list item, counted from 1, by its path.

    :raises yaml.YAMLError: it is no YAML, or a key stands twice in one mapping.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    lines: dict[Place, int] = {(): 1}
    if node is not None:
        _walk(node, (), lines)
    return yaml.safe_load(text), lines


def line(lines: Mapping[Place, int], place: Sequence[str | int]) -> int:
    """Return the line of a value, or of the nearest one around it."""
    path = tuple(place)
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _walk(node: yaml.Node, path: Place, lines: dict[Place, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            if here in lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands here a second time", key.start_mark
                )
            lines[here] = key.start_mark.line + 1
            _walk(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            lines[*path, number] = value.start_mark.line + 1
            _walk(value, (*path, number), lines)
