"""What the benchmarks share: clocks, spread, what other programs took meanwhile, and how results are written."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from edm import seconds

from dmd2cli.engine.speed import hardware as hardware
from dmd2cli.errors import UserError


def spent(action: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: of the clock on a GPU, of this process on a CPU, which other programs do not change."""
    if device.type == "cuda":
        return seconds(action, device)
    started = time.process_time()
    action()
    return time.process_time() - started


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, high = statistics.quantiles(values, n=4)[::2] if len(values) > 1 else (values[0], values[0])
    return {"median": statistics.median(values), "low": low, "high": high}


def ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Spread of a / b over pairs that were measured one after the other."""
    return spread([x / y for x, y in zip(a, b, strict=True)])


def shown(found: dict[str, float], form: str = ".3f") -> str:
    """A spread for people."""
    return f"{found['median']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


class Machine:
    """How busy the CPU cores are from when it is made: a share of all of them, by whoever."""

    def __init__(self) -> None:
        self.before = ticks()

    def busy(self) -> float | None:
        """0 to 1 so far; None where the system does not say."""
        if (now := ticks()) is None or self.before is None:
            return None
        busy, idle = (b - a for a, b in zip(self.before, now, strict=True))
        return busy / max(1, busy + idle)


def ticks() -> tuple[int, int] | None:
    """(busy, idle) of all cores since the system began (Linux)."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return None
    idle = fields[3] + fields[4]
    return sum(fields) - idle, idle


def chosen(words: Sequence[str], default: str = "digits") -> tuple[str, list[str]]:
    """[RECIPE] [KEY=VALUE ...] -> (recipe, overrides)."""
    if words and "=" not in words[0]:
        return words[0], list(words[1:])
    return default, list(words)


def described(what: str | None) -> argparse.ArgumentParser:
    """A command line that begins with the benchmark's docstring, with the option that all have."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    return parser


def tell(found: dict, table: Callable[[dict], str], target: Path | None) -> None:
    """Print the result as a table, and write it as JSON if a file is named."""
    print(table(found))
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(found, indent=2) + "\n")


def ended(main: Callable[[], None]) -> None:
    """Run a benchmark; what its caller did wrong is one line and exit code 2."""
    try:
        main()
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2)
