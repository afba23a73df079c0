"""YAML from a person, read in bounded time and memory: nothing twice, nothing by reference.

YAML's aliases let a few lines stand for billions of values, and its loaders keep the last of two
equal keys. A spec needs neither.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from infra.errors import BadInput

MOST_BYTES = 1 << 18
"""Of a text, in UTF-8: the slowest that was found, a list of digits, takes PyYAML five seconds."""
DEEPEST = 32
"""Levels of mappings and lists in each other."""
_BOOL, _TRUTH = "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")


def read_yaml(text: str, *, where: str) -> Any:
    """Return the value of one YAML document.

    Raises:
        BadInput: It is no YAML, too long or too deep, names a key twice, or refers by an alias;
            the message says where.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise BadInput(f"{where} is longer than {MOST_BYTES >> 10} KB: a spec is a page of fields")
    try:
        _check_events(text, where)
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506  # nosec B506  # derives from the safe one
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def _check_events(text: str, where: str) -> None:
    """Refuse what would expand or nest, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise BadInput(
                f"{where}, line {_line(event)}: the alias *{event.anchor} is not "
                "allowed: write the value out"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise BadInput(
                f"{where}, line {_line(event)}: nested more than {DEEPEST} deep: a "
                "spec has a few levels"
            )


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, which builds plain values alone, without equal keys in a mapping.

    Words are as YAML 1.2 has them: `true` and `false` alone are truth values, while `on`, `off`,
    `yes` and `no` are texts, as keys (of a guard) and as values (such as Norway).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping; raises `yaml.YAMLError` where a key stands twice."""
        names = set()
        for key_node, _ in node.value:
            name = self.construct_object(key_node, deep=True)
            if not isinstance(name, Hashable):
                continue  # which the loader itself refuses
            if name in names:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands twice", key_node.start_mark
                )
            names.add(name)
        return super().construct_mapping(node, deep)


_UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, _TRUTH if tag == _BOOL else pattern) for tag, pattern in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
