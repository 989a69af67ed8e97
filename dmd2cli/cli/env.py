"""dmd2 env: versions and hardware, to paste into a bug report."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print versions, devices and cores, ready to paste into a bug report."""
    from dmd2cli.installation.tested import summary, untested

    found, differing = _machine() | _versions(), untested()
    if as_json:
        named = {name: {"installed": here, "tested": known} for name, (here, known) in differing.items()}
        print(json.dumps({**found, "untested": named}, indent=2))
    else:
        found["untested"] = summary(differing)
        width = max(map(len, found))
        print("\n".join(f"{name.ljust(width)}  {value}" for name, value in found.items()))


def _machine() -> dict[str, str]:
    import os
    import platform

    import torch

    from dmd2cli import __version__

    return {
        "dmd2": __version__,
        "python": platform.python_version(),
        "os": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "device": _device(),
    }


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{', '.join(names)} (CUDA {torch.version.cuda})"
    return "Apple GPU (mps)" if torch.backends.mps.is_available() else "cpu"


def _versions() -> dict[str, str]:
    """Installed version of each package that we require, without those of our extras."""
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    found = {}
    required = [line for line in requires("dmd2cli") or [] if "extra ==" not in line]
    for name in (re.split(r"[^\w.-]", line)[0] for line in required):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
