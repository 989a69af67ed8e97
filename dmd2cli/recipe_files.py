"""From a recipe's name and its overrides to one mapping: packaged recipes, presets, extends, tiers, KEY=VALUE."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dmd2cli.errors import UserError, suggest
from dmd2cli.recipe_merge import merge
from dmd2cli.recipe_yaml import Located, dotted, parse

PRESETS = "presets"
"""The folder of the presets among the packaged recipes."""


def root() -> Path:
    """The folder of the packaged recipes."""
    return Path(str(files("dmd2_recipes")))


def packaged() -> dict[str, Path]:
    """Recipes that came with the installation: name (folders joined by "/") -> file."""
    names = {path: path.relative_to(root()).with_suffix("") for path in sorted(root().rglob("*.yaml"))}
    return {name.as_posix(): path for path, name in names.items() if name.parts[0] != PRESETS}


def presets() -> dict[str, Path]:
    """Presets that came with the installation: name -> file."""
    return {path.stem: path for path in sorted((root() / PRESETS).glob("*.yaml"))}


def preset(name: str) -> Located:
    """The values of a preset, their places "preset NAME:LINE"."""
    return read(presets()[name], f"preset {name}")


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


def read(path: Path, label: str = "") -> Located:
    """The values of one recipe file, extends and tiers untouched. label: what places call it, by default its path."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: not UTF-8 text (byte {err.start}); a recipe is a YAML file") from err
    found = parse(text, lambda line: f"{label or path}:{line}")
    if not isinstance(found.data, dict):
        raise UserError(f"{path}:1: not a mapping; a recipe has lines KEY: VALUE, see dmd2 recipes list")
    return found


def resolve(name: str | Path, overrides: Sequence[str] = ()) -> Located:
    """One recipe with its preset, its parent, the chosen tier and the overrides merged, in this order."""
    try:
        found = _extended(find(name))
    except OSError as err:
        raise UserError(f"{name}: cannot be read: {err.strerror}; check the path and its rights") from err
    changes = [override(text) for text in overrides]
    tiers = found.data.pop("tiers", {})
    for tier in (change for change in changes if "tier" in change.data):
        found = merge(found, _tier(found, tiers, tier))
    for change in changes:
        found = found if "tier" in change.data else merge(found, change)
    return _over_preset(found)


def given(overrides: Sequence[str]) -> Located:
    """KEY=VALUE overrides of nothing, as one mapping."""
    found = Located({}, {})
    for text in overrides:
        found = merge(found, override(text))
    return found


def _over_preset(found: Located) -> Located:
    """A distillation over the preset that it names."""
    name = found.data.get("preset")
    if not isinstance(name, str) or "task" in found.data:
        return found
    if name not in (known := presets()):
        raise UserError(f"{found.at('preset')}preset: unknown preset {name!r}{suggest(name, known)}")
    return merge(preset(name), found)


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


def override(text: str) -> Located:
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
