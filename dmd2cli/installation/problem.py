"""From an exception to what is wrong with the installation: a package that is missing, refused, too old or broken.

Explained are errors of imports and version checks of other packages. Those of our own modules are our fault, and no
problem of the installation.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from traceback import walk_tb

from dmd2cli.installation.packages import absent, distribution_of, install, installed, quoted
from dmd2cli.installation.tested import tested

OURS = frozenset({"__main__", "dmd2cli", "dmd2_plugins", "dmd2_recipes"})
"""Packages whose errors are internal ones."""
PAIR = ("torch", "torchvision")
"""Built for each other: one is never reinstalled without the other."""
_NAME, _VERSION, _COMPARED = r"`?([A-Za-z](?:[\w.-]*\w)?)`?", r"`?v?(\d[\w.]*)", r"(>=|<=|==|!=|~=|>|<)"
_PINS = re.compile(rf"{_NAME}\s*((?:{_COMPARED}\s*\d[\w.*]*[,\s]*)+)")
_WORDS = (
    (re.compile(rf"version of {_NAME}.*?{_COMPARED}\s*{_VERSION}", re.I | re.S), None),
    (re.compile(rf"version of {_NAME}.*?()(?:versions? above|newer than)\s*{_VERSION}", re.I | re.S), ">"),
    (re.compile(rf"{_NAME}\s*()(?:version)?\s*{_VERSION}`? or (?:newer|later|higher|above|greater)", re.I), ">="),
    (re.compile(rf"{_NAME}\s*()(?:version)?\s*(?:of )?at least\s*{_VERSION}", re.I), ">="),
)
"""How libraries say in words which version they need: name, comparison or "", version; and what "" stands for."""


@dataclass(frozen=True)
class Frame:
    """A call on the way to an error, outside the standard library."""

    package: str
    module: str
    imports: bool
    """Is the body of the module, which runs while it is imported."""


def problem(err: BaseException, own: Collection[str] = ()) -> str | None:
    """Explain an error by the installation: one line, with the command that mends it. None for any other error.

    own: top-level packages that are treated like ours.
    """
    for cause in reversed(list(chain(err))):
        frames = list(calls(cause))
        ours = OURS.union(own)
        for explain in (missing, refused, outdated, broken):
            if line := explain(cause, frames, ours):
                return line
    return None


def missing(err: BaseException, frames: list[Frame], ours: Collection[str]) -> str | None:
    """Explain a module or a distribution that is not installed."""
    module = (err.name or "").partition(".")[0] if isinstance(err, ModuleNotFoundError) else ""
    if not module or module in ours or not (isinstance(err, PackageNotFoundError) or absent(module)):
        return None
    if module in sys.stdlib_module_names:
        return f"this Python was built without {module}; use another Python"
    who = owner(frames, ours) or "this"
    return f"{who} needs {module}, which is not installed: {install(module)}"


def refused(err: BaseException, frames: list[Frame], ours: Collection[str]) -> str | None:
    """Explain a library's own check of another one's version."""
    who, known = owner(frames, ours), isinstance(err, ImportError | ValueError | RuntimeError)
    if who is None or not (known or type(err).__name__ in ("VersionConflict", "DistributionNotFound")):
        return None
    for name, wanted in demands(str(err)):
        here = installed(name)
        if here is not None and not satisfies(here, wanted):
            newer, together = f"pip install -U '{name}{wanted}'", "pip install -c constraints.txt ."
            return (
                f"{who} needs {name}{wanted}, and {here} is installed: {newer}; where that is not out yet, take the "
                f"versions that were tested together: {together}"
            )
    return None


def outdated(err: BaseException, frames: list[Frame], ours: Collection[str]) -> str | None:
    """Explain a name that we import and that an untested version of another package does not have."""
    package = (err.name or "").partition(".")[0] if isinstance(err, ImportError) else ""
    if not package or package in ours or not frames or frames[-1].package not in ours:
        return None
    name = distribution_of(package)
    here, known = installed(name), tested().get(name)
    if here is None or known is None or here == known:
        return None
    return f"{name} {here} lacks what dmd2 imports ({brief(err)}); tested is {known}: pip install '{name}=={known}'"


def broken(err: BaseException, frames: list[Frame], ours: Collection[str]) -> str | None:
    """Explain an import that fails inside another package."""
    full = isinstance(err, OSError) and err.errno not in (None, errno.ENOENT)
    if full or isinstance(err, MemoryError):
        return None
    last = max((i for i, frame in enumerate(frames) if frame.package in ours), default=-1)
    foreign = [frame for frame in frames[last + 1 :] if frame.imports]
    if not foreign:
        return None
    module, name = foreign[-1].module, distribution_of(foreign[-1].package)
    version = f" {installed(name)}" if installed(name) else ""
    names = [name]
    if isinstance(err, ImportError) and err.name and (other := err.name.partition(".")[0]) != foreign[-1].package:
        names += [] if other in sys.stdlib_module_names else [distribution_of(other)]
    return f"{name}{version} is broken: import {module} fails ({brief(err)}): {reinstall(names)}"


def reinstall(names: list[str]) -> str:
    """Write the command that installs packages again: the tested version, or else the one that is there."""
    if set(names) & set(PAIR) or any(name.startswith(("nvidia-", "triton")) for name in names):
        return f"pip install --force-reinstall {' '.join(PAIR)}"
    versions = [(name, tested().get(name) or installed(name)) for name in names]
    wanted = [quoted(f"{name}=={version}" if version else name) for name, version in versions]
    return f"pip install --force-reinstall --no-deps {' '.join(wanted)}"


def chain(err: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from; what it was raised beside, for errors of imports."""
    seen = set[int]()
    cause: BaseException | None = err
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        beside = isinstance(cause, ImportError) and not cause.__suppress_context__
        cause = cause.__cause__ or (cause.__context__ if beside else None)


def calls(err: BaseException) -> Iterator[Frame]:
    """Yield the calls on the way to where an error was raised."""
    for frame, _ in walk_tb(err.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package and (package in OURS or package not in sys.stdlib_module_names):
            yield Frame(package, module, frame.f_code.co_name == "<module>")


def owner(frames: list[Frame], ours: Collection[str]) -> str | None:
    """Name the package that raised an error, with its version; None for ours."""
    if not frames or frames[-1].package in ours:
        return None
    name = distribution_of(frames[-1].package)
    version = installed(name)
    return f"{name} {version}" if version else name


def demands(text: str) -> Iterator[tuple[str, str]]:
    """Yield what may be versions that a message asks for: (name of a distribution, comparison with a version)."""
    for found in _PINS.finditer(text):
        yield found[1].lower(), re.sub(r"\s", "", found[2]).strip(",.")
    for pattern, meant in _WORDS:
        for found in pattern.finditer(text):
            yield found[1].lower(), f"{meant or found[2]}{found[3].rstrip('.')}"


def satisfies(version: str, wanted: str) -> bool:
    """Tell whether a version is in a range; True for what is no range."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(wanted).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True


def brief(err: BaseException) -> str:
    """Write an error in one line of at most 200 characters."""
    return f"{type(err).__name__}: {' '.join(str(err).split())}"[:200]
