"""Installed packages by the names of their modules, and the command that installs one that is missing."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from importlib.util import find_spec

from dmd2cli.registry import normal

DISTRIBUTIONS = {
    "PIL": "pillow", "cleanfid": "clean-fid", "open_clip": "open-clip-torch", "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}  # fmt: skip
"""Modules that we import and that are called otherwise where they are installed from."""
TOOLS = ("dev", "docs")
"""Extras that no command of ours needs."""


@lru_cache
def requirements() -> dict[str, tuple[str, str]]:
    """Read our own requirements: normalized name -> (as pip takes it, the extra or "")."""
    found = dict[str, tuple[str, str]]()
    for line in requires("dmd2cli") or ():
        wanted, _, marker = (part.strip() for part in line.partition(";"))
        extra = re.search(r"extra == ['\"]([^'\"]+)", marker)
        if extra is None or extra[1] not in TOOLS:
            found.setdefault(normal(re.split(r"[^\w.-]", wanted)[0]), (wanted, extra[1] if extra else ""))
    return found


def installed(distribution: str) -> str | None:
    """Look up the installed version of a distribution, without a local part such as +cpu; None if it is not there."""
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return None


def distribution_of(module: str) -> str:
    """Name the distribution of a top-level module, also where it is not installed."""
    if module in DISTRIBUTIONS:
        return DISTRIBUTIONS[module]
    try:
        names = packages_distributions().get(module, [])
    except Exception:                                      # metadata of any package that cannot be read
        names = []
    return normal(names[0]) if names else module


def install(module: str) -> str:
    """Write the command that installs a module that is missing: our extra, our requirement, or its own package."""
    name = distribution_of(module.partition(".")[0])
    wanted, extra = requirements().get(normal(name), (name, ""))
    return f"pip install {quoted(f'dmd2cli[{extra}]' if extra else wanted)}"


def absent(module: str) -> bool:
    """Tell whether a top-level module cannot be found."""
    if module in sys.modules:
        return sys.modules[module] is None                 # how an import is forbidden
    return find_spec(module) is None


def quoted(requirement: str) -> str:
    """Put quotes around a requirement that a shell would take apart."""
    return requirement if re.fullmatch(r"[\w.-]+", requirement) else f"'{requirement}'"
