"""dmd2 pairs: noise-image pairs of a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pairs(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged one.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pairs.")],
    n: Annotated[int, typer.Option("-n", help="How many pairs.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")] = None,
    first: Annotated[int, typer.Option(help="Number of the first pair, to make a slice of a set.")] = 0,
    shard_size: Annotated[int, typer.Option(help="Pairs in a file.")] = 1000,
    seed: Annotated[int, typer.Option(help="Pair i is a function of (seed, i); not one of sample, eval.")] = 1_000_000,
    guidance: Annotated[float | None, typer.Option(help="Default: the recipe's in distribution_matching.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Make noise-image pairs with a teacher's deterministic sampler. The same command again makes what is missing."""
    import json

    from dmd2cli.engine import runtime
    from dmd2cli.engine.pairs import make, maker
    from dmd2cli.recipe import load
    from dmd2cli.recipe_build import check

    at_least(1, "-n", n)
    at_least(0, "--first", first)
    at_least(1, "--shard-size", shard_size)
    found = load(recipe, overrides or [])
    check(found)
    runtime.set_threads(found.run.threads)
    by = maker(found, runtime.device(device or found.run.device), seed, guidance)
    facts = make(by, out, range(first, first + n), shard_size)
    words = "{out}: {n} pairs in {shards} shard(s), {made} of them new, {nfe} network calls each, {seconds:.2f} s"
    print(json.dumps(facts) if as_json else words.format(**facts))


def at_least(least: int, option: str, value: int) -> None:
    """Raise UserError if an option is too small."""
    from dmd2cli.errors import UserError

    if value < least:
        raise UserError(f"{option} {value}: must be at least {least}")
