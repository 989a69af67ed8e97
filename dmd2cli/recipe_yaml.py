"""Strict YAML with the place of every key: no duplicates, no aliases, no number that YAML takes for text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from dmd2cli.errors import UserError

ROOT = ""
_READABLE = {f"tag:yaml.org,2002:{tag}" for tag in ("str", "int", "float", "bool", "null")}
_ALMOST_FLOAT = re.compile(r"([-+]?)(?=\.?\d)(\d*)\.?(\d*)[eE]([-+]?)(\d+)$")


@dataclass(frozen=True)
class Located:
    """Plain values, and for each dotted key in them where it was written: "FILE:LINE" or "override '...'"."""

    data: Any
    places: dict[str, str] = field(default_factory=dict)

    def at(self, key: str) -> str:
        """Where `key` was written, or the nearest key around it."""
        return place(self.places, key)


def place(places: dict[str, str], key: str) -> str:
    """Where `key`, or the nearest key around it, was written, as the start of a message; empty if unknown."""
    while key and key not in places:
        key = key.rpartition(".")[0]
    return f"{places[key]}: " if key in places else ""


def dotted(*parts: object) -> str:
    """Join the parts of a key, leaving out empty ones."""
    return ".".join(str(part) for part in parts if part != ROOT)


def parse(text: str, at: Callable[[int], str], root: str = ROOT) -> Located:
    """Read one YAML document; at: line number, from 1, -> place; root: key under which all of it lies.

    Raises UserError for text that is not YAML, or YAML that a recipe may not hold.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        reader = _Reader(loader, at, {root: at(1)})
        return Located(None if node is None else reader.value(node, root), reader.places)
    except yaml.reader.ReaderError as err:
        line = text[: err.position].count("\n") + 1
        raise UserError(f"{at(line)}: character U+{err.character:04X} is not YAML; remove it") from err
    except yaml.MarkedYAMLError as err:
        line = err.problem_mark.line + 1 if err.problem_mark else 1
        raise UserError(f"{at(line)}: not YAML: {err.problem or err.context}; correct it") from err
    except RecursionError as err:
        raise UserError(f"{at(1)}: nested too deeply; a recipe has a few levels") from err


def write(data: Any) -> str:
    """Plain values as YAML that parse() reads back: no aliases, and text that looks like a number in quotes."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("!almost-float", _ALMOST_FLOAT, list("+-.0123456789"))


class _Reader:
    """Turns a node tree into dicts, lists and scalars, noting the place of each key."""

    def __init__(self, loader: yaml.SafeLoader, at: Callable[[int], str], places: dict[str, str]) -> None:
        self.loader, self.at, self.places = loader, at, places
        self.seen: set[int] = set()

    def value(self, node: yaml.Node, key: str) -> Any:
        if id(node) in self.seen:
            raise self.error(node, key, "recipes have no YAML aliases; write the value out")
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.entry(item, item, dotted(key, i)) for i, item in enumerate(node.value)]
        return self.scalar(node, key)

    def mapping(self, node: yaml.MappingNode, key: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = name_node.value
            if not isinstance(name_node, yaml.ScalarNode) or name_node.tag != "tag:yaml.org,2002:str":
                raise self.error(name_node, key, f"{_shown(name_node)} is not text; put the key in quotes")
            if name in values:
                first = self.places[dotted(key, name)]
                raise self.error(name_node, dotted(key, name), f"written twice, first at {first}; remove one")
            values[name] = self.entry(name_node, value_node, dotted(key, name))
        return values

    def entry(self, where: yaml.Node, node: yaml.Node, key: str) -> Any:
        self.places[key] = self.at(where.start_mark.line + 1)
        return self.value(node, key)

    def scalar(self, node: yaml.Node, key: str) -> Any:
        assert isinstance(node, yaml.ScalarNode)
        if node.tag not in _READABLE:
            kind = node.tag.rpartition(":")[2].lstrip("!")
            raise self.error(node, key, f"YAML reads {_shown(node)} as a {kind}; put it in quotes")
        if node.style is None and node.tag.endswith(":str") and (number := _as_float(node.value)):
            raise self.error(node, key, f"'{node.value}' is text in YAML; write {number}")
        try:
            return self.loader.construct_object(node)
        except ValueError as err:
            raise self.error(node, key, f"{err}; write a plain value") from err

    def error(self, node: yaml.Node, key: str, what: str) -> UserError:
        return UserError(f"{self.at(node.start_mark.line + 1)}: {key + ': ' if key else ''}{what}")


def _as_float(text: str) -> str:
    """How YAML wants this number written (a point and a signed exponent), or "" if it is none."""
    match = _ALMOST_FLOAT.fullmatch(text)
    if not match:
        return ""
    sign, whole, fraction, exponent_sign, exponent = match.groups()
    return f"{sign}{whole or 0}.{fraction or 0}e{exponent_sign or '+'}{exponent}"


def _shown(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
