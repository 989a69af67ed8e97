"""One recipe laid over another: mappings key by key, lists item by item where the items are named by number."""

from __future__ import annotations

import re
from typing import Any

from dmd2cli.errors import UserError
from dmd2cli.recipe_yaml import ROOT, Located, dotted

_INDEX = re.compile(r"0|[1-9][0-9]*")


def merge(base: Located, top: Located) -> Located:
    """`top` over `base`, key by key; a plugin reference with another `use` starts afresh.

    A list is replaced, unless `top` has a mapping with numbers for keys there: {"1": value} changes item 1 of it.
    Raises UserError for an item that there is not.
    """
    kept = dict(base.places)
    data = _laid(base.data, top.data, ROOT, kept, top)
    return Located(data, kept | top.places)


def _laid(base: Any, top: Any, key: str, kept: dict[str, str], where: Located) -> Any:
    """`top` over `base`, both at `key`; the places of what that replaces are taken out of `kept`."""
    if isinstance(base, str) and isinstance(top, dict):
        base = {"use": base}                                # the short form of a plugin reference
    if isinstance(base, dict) and "use" in base and key in kept:
        kept.setdefault(dotted(key, "use"), kept[key])
    if isinstance(base, list) and isinstance(top, dict) and top and all(map(_INDEX.fullmatch, top)):
        return _items(base, top, key, kept, where)
    if not isinstance(base, dict) or not isinstance(top, dict) or top.get("use", base.get("use")) != base.get("use"):
        for inner in [name for name in kept if name.startswith(f"{key}.")]:
            del kept[inner]
        return top
    return base | {
        name: _laid(base[name], value, dotted(key, name), kept, where) if name in base else value
        for name, value in top.items()
    }


def _items(base: list[Any], top: dict[str, Any], key: str, kept: dict[str, str], where: Located) -> list[Any]:
    items = list(base)
    for index, value in top.items():
        name = dotted(key, index)
        if int(index) >= len(items):
            raise UserError(f"{where.at(name)}{name}: there is no such item: {key} has {len(items)}, counted from 0")
        items[int(index)] = _laid(items[int(index)], value, name, kept, where)
    return items
