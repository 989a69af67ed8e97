"""From the name that a person gives to those of the distribution, the module and the entry points."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from dmd2cli import registry
from dmd2cli.errors import UserError
from dmd2cli.scaffold.kinds import KINDS

LONGEST = 60
"""Characters of a name: it becomes the name of folders and files."""


@dataclass(frozen=True)
class Names:
    """my-teacher: what pip installs, and what recipes say. my_teacher: what Python imports."""

    distribution: str
    module: str


def named(name: str, kinds: Sequence[str]) -> Names:
    """The names of a plugin package. Raises UserError for a name that cannot be one, or is taken."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", name) or len(name) > LONGEST:
        what = f"a name is up to {LONGEST} letters a to z, digits and single hyphens, and begins with a letter"
        raise UserError(f"{name!r}: {what}; try my-{KINDS[kinds[0]].name}")
    found = Names(registry.normal(name), registry.normal(name).replace("-", "_"))
    if keyword.iskeyword(found.module) or keyword.issoftkeyword(found.module):
        raise UserError(f"{name}: {found.module} is a word of Python's own; try my-{found.distribution}")
    for kind in kinds:
        group = KINDS[kind].group
        if found.distribution in {registry.normal(taken) for taken in registry.names(group)}:
            raise UserError(f"{name}: a {kind} of this name is installed; choose another name, or uninstall it")
    if taken := origin(found):
        raise UserError(f"{name}: {taken}; choose another name, or uninstall it")
    return found


def origin(names: Names) -> str:
    """What has one of the names already, in words; empty if nothing has."""
    if names.module in sys.stdlib_module_names:
        return f"Python has a module {names.module} of its own"
    try:
        return f"{distribution(names.distribution).name} is an installed package"
    except PackageNotFoundError:
        pass                                               # as it should be
    spec = find_spec(names.module)
    if spec is None or (spec.origin is None and here(spec.submodule_search_locations)):
        return ""
    return f"a module {names.module} is installed"


def here(locations: Sequence[str] | None) -> bool:
    """Whether a package without a file of its own is a folder of the working folder, found there by chance."""
    return all(Path(location).parent.resolve() == Path.cwd() for location in locations or ())
