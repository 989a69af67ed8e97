"""From a recipe's name and its overrides to one mapping: packaged recipes, extends, tiers, KEY=VALUE."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dmd2cli.errors import UserError, suggest
from dmd2cli.recipe_yaml import Located, dotted, parse


def packaged() -> dict[str, Path]:
    """Recipes that came with the installation: name (folders joined by "/") -> file."""
    root = Path(str(files("dmd2_recipes")))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def find(name: str | Path, near: Path | None = None) -> Path:
    """The file of a recipe: on disk (relative to `near`), else packaged, where .yaml may be left out."""
    on_disk = (near or Path()) / name
    if on_disk.exists() and not on_disk.is_dir():
        return on_disk
    known = packaged()
    short = Path(name).as_posix().removeprefix("./").removeprefix("recipes/").removesuffix(".yaml")
    if short in known:
        return known[short]
    if on_disk.is_dir():
        raise UserError(f"{name}: this is a folder, and a recipe is a file; name a .yaml file in it")
    raise UserError(f"{name}: no such file, and no packaged recipe of that name{suggest(short, known)}")


def read(path: Path) -> Located:
    """The values of one recipe file, extends and tiers untouched."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: not UTF-8 text (byte {err.start}); a recipe is a YAML file") from err
    found = parse(text, lambda line: f"{path}:{line}")
    if not isinstance(found.data, dict):
        raise UserError(f"{path}:1: not a mapping; a recipe has lines KEY: VALUE, see dmd2 recipes list")
    return found


def resolve(name: str | Path, overrides: Sequence[str] = ()) -> Located:
    """One recipe with its parent, the chosen tier and the overrides merged, in this order."""
    try:
        found = _extended(find(name))
    except OSError as err:
        raise UserError(f"{name}: cannot be read: {err.strerror}; check the path and its rights") from err
    changes = [_override(text) for text in overrides]
    tiers = found.data.pop("tiers", {})
    for tier in (change for change in changes if "tier" in change.data):
        found = merge(found, _tier(found, tiers, tier))
    for change in changes:
        found = found if "tier" in change.data else merge(found, change)
    return found


def merge(base: Located, top: Located) -> Located:
    """`top` over `base`, key by key; a plugin reference with another `use` starts afresh."""
    return Located(_merged(base.data, top.data), {**base.places, **top.places})


def _merged(base: Any, top: Any) -> Any:
    if isinstance(base, str) and isinstance(top, dict):
        base = {"use": base}                                # the short form of a plugin reference
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    if top.get("use", base.get("use")) != base.get("use"):
        return top
    return base | {key: _merged(base[key], value) if key in base else value for key, value in top.items()}


def _extended(path: Path) -> Located:
    child = read(path)
    parent_name = child.data.pop("extends", None)
    if parent_name is None:
        return child
    if not isinstance(parent_name, str):
        raise UserError(f"{child.at('extends')}extends: must be the name of one recipe, got {parent_name!r}")
    parent = read(find(parent_name, near=path.parent))
    if "extends" in parent.data:
        raise UserError(f"{child.at('extends')}extends: {parent_name} extends one itself; flatten it")
    return merge(parent, child)


def _tier(found: Located, tiers: Any, choice: Located) -> Located:
    """The partial recipe that an override tier=NAME chooses."""
    name = choice.data["tier"]
    if not isinstance(tiers, dict):
        raise UserError(f"{found.at('tiers')}tiers: must be a mapping of partial recipes, got {tiers!r}")
    if not isinstance(name, str) or name not in tiers:
        raise UserError(f"{choice.at('tier')}this recipe has no tier {name!r}{suggest(str(name), tiers)}")
    if not isinstance(tiers[name], dict):
        raise UserError(f"{found.at(f'tiers.{name}')}tiers.{name}: must be a mapping, got {tiers[name]!r}")
    prefix = f"tiers.{name}."
    places = {k.removeprefix(prefix): at for k, at in found.places.items() if k.startswith(prefix)}
    return Located(tiers[name], places)


def _override(text: str) -> Located:
    """KEY=VALUE as nested mappings, its place the override itself."""
    at = f"override '{text}'"
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"{at}: not KEY=VALUE; write for example run.steps=200")
    if not value.strip():
        raise UserError(f"{at}: no value; write {key}=VALUE, or {key}=null to unset it")
    found = parse(value, lambda line: at, root=dotted(*parts))
    data: Any = found.data
    for part in reversed(parts):
        data = {part: data}
    return Located(data, {".".join(parts[: i + 1]): at for i in range(len(parts))} | found.places)
