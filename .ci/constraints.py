"""Write constraints.txt and the tested versions that the wheel ships, from the environment that runs this.

`make constraints` calls it after the suite has passed there. Needs the packaging library and nothing else.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = "dmd2cli"
FREE = ("torch", "torchvision")
"""Left free, together with all that they alone install: a machine may cap them, and each release of them has parts of
its own."""
PARTS = ("triton", "nvidia-", "cuda-")
"""Beginnings of the names of their binary parts, wherever else one is required."""
ALSO_FREE = ("setuptools",)
"""tensorboard requires any, and several releases of torch none above a version of theirs."""
TOOLS = ("dev", "docs")
"""Extras that a person who only runs dmd2 does without: their packages are pinned, and `dmd2 env` does not compare
them."""
OLDEST = (3, 10)
"""The oldest Python that requires-python allows."""
HEADER = """\
# Exact versions that passed the tests together: pip install -c constraints.txt .
# Free are torch and torchvision, which a machine may cap, with their binary parts and setuptools, which they may cap.
# A line with a python_version is of a release that no longer supports older Pythons: there the choice is free as well.
# Made with Python {python} by `make constraints`, which runs the tests with the newest of everything first.
"""


def main() -> None:
    """Write both files."""
    extras = set(distribution(PROJECT).metadata.get_all("Provides-Extra") or ())
    everything = installed(extras)
    lines = [line(found) for name, found in sorted(everything.items()) if name not in FREE]
    header = HEADER.format(python=platform.python_version())
    (ROOT / "constraints.txt").write_text(header + "".join(lines), encoding="utf-8")
    compared = installed(extras - set(TOOLS))
    versions = {name: plain(found.version) for name, found in sorted(compared.items())}
    path = ROOT / "dmd2cli/installation/tested_versions.json"
    path.write_text(json.dumps(versions, indent=0) + "\n", encoding="utf-8")
    print(f"constraints.txt: {len(lines)} versions; {path.relative_to(ROOT)}: {len(versions)}")


def installed(extras: Iterable[str]) -> dict[str, Distribution]:
    """Find what the project with some of its extras requires, directly or not: normalized name -> distribution.

    torch and torchvision are there, what they require in turn is not.
    """
    found, todo = dict[str, Distribution](), list(required(PROJECT, extras))
    seen = set[tuple[str, frozenset[str]]]()
    while todo:
        requirement = todo.pop()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) in seen or name in ALSO_FREE or name.startswith(PARTS):
            continue
        seen.add((name, wanted))
        if name != PROJECT:
            found[name] = distribution(requirement.name)
        if name not in FREE:
            todo += required(requirement.name, wanted)
    return found


def required(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    """Yield the requirements of an installed distribution that hold here, with these extras of its own."""
    environments = [{**default_environment(), "extra": extra} for extra in ("", *extras)]
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement


def line(found: Distribution) -> str:
    """Write a distribution as a line of constraints.txt."""
    return f"{canonicalize_name(found.metadata['Name'])}=={plain(found.version)}{marker(found)}\n"


def plain(version: str) -> str:
    """Leave out a local version, such as +cpu: no other machine has it."""
    return version.partition("+")[0]


def marker(found: Distribution) -> str:
    """Keep a line to the Pythons that its distribution supports, where these are fewer than ours."""
    supported = SpecifierSet(found.metadata.get("Requires-Python") or "")
    major, minor = OLDEST
    newer = next((n for n in range(minor, 100) if supported.contains(f"{major}.{n}.99")), minor)
    return "" if newer == minor else f' ; python_version >= "{major}.{newer}"'


if __name__ == "__main__":
    main()
