"""dmd2 data cache and dmd2 data synth: data that a teacher makes or encodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dmd2cli.engine.cache import Named
    from dmd2cli.protocols import Teacher
    from dmd2cli.recipe import Recipe

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields to change.")]
PromptFile = Annotated[str | None, typer.Option(help="Prompts: .txt, .jsonl, .csv, .tsv or .parquet.")]
Column = Annotated[str | None, typer.Option(help="Key, column or extension of the captions or prompts.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")]

AROUND = """
student: {lr: 1.0e-5}
critic: {lr: 1.0e-5}
losses: {distribution_matching: {}, denoising: {}}
sampler: ddim
run: {steps: 1, batch: 1}
"""
"""What a recipe needs besides a teacher; none of it matters to a cache."""


def cache(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|TEACHER", help="A recipe, or sd15, sdxl, ...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the encoded data.")],
    overrides: Overrides = None,
    data: Annotated[str | None, typer.Option(help="Images with captions, or an LMDB of latents.")] = None,
    prompts: PromptFile = None,
    column: Column = None,
    captions: Annotated[bool, typer.Option(help="Read captions, for teachers that read text.")] = True,
    split: Annotated[str, typer.Option(help="Of formats that have splits: train, test, ...")] = "train",
    text: Annotated[bool, typer.Option(help="Encode conditions too.")] = True,
    latents: Annotated[str, typer.Option(help="posterior: a sample of it, by (seed, i); or mean.")] = "posterior",
    dtype: Annotated[str, typer.Option(help="fp16 or bf16.")] = "fp16",
    batch: Annotated[int | None, typer.Option(help="Items encoded at once; 8 images of 512 x 512, 64 prompts.")] = None,
    first: Annotated[int, typer.Option(help="Number of the first item, to make a slice.")] = 0,
    n: Annotated[int | None, typer.Option("-n", help="How many items; by default all.")] = None,
    shard_size: Annotated[int, typer.Option(help="Items in a file.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the posterior's samples.")] = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Encode latents and text once. The same command again makes what is missing."""
    from dmd2cli.engine import runtime
    from dmd2cli.engine.cache import Options, encoder, make

    at_least(1, {"--batch": batch, "-n": n, "--shard-size": shard_size})
    at_least(0, {"--first": first})
    options = Options(latents, text, dtype, seed, batch)
    items = chosen(data, prompts, column, captions, split)
    found = opened(recipe, overrides or [])
    by = encoder(found, runtime.device(device or found.run.device), items, options)
    facts = make(by, out, range(first, first + n if n is not None else len(by.data)), shard_size)
    tell("{out}: {n} items in {shards} shard(s), {made} of them new, {seconds:.2f} s", facts, as_json)


def synth(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a packaged one.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.zip or a folder.")],
    n: Annotated[int, typer.Option("-n", help="How many images.")],
    overrides: Overrides = None,
    prompts: PromptFile = None,
    column: Column = None,
    classes: Annotated[bool, typer.Option("--classes", help="Of all of the teacher's classes in turn.")] = False,
    steps: Annotated[int | None, typer.Option(help="Of the recipe's sampler.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the recipe's in distribution_matching.")] = None,
    seed: Annotated[int, typer.Option(help="Image i is a function of (seed, i).")] = 2_000_000,
    batch: Annotated[int, typer.Option(help="Images drawn at once.")] = 16,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Draw a real set with the recipe's teacher. The same command again draws what is missing."""
    from dmd2cli.data.sources.texts import read_prompts
    from dmd2cli.engine import runtime, synth
    from dmd2cli.engine.generate import share
    from dmd2cli.errors import UserError

    at_least(1, {"-n": n, "--batch": batch})
    if prompts is not None and classes:
        raise UserError("--prompts and --classes exclude each other: images are drawn for one or the other")
    texts, mine = None if prompts is None else read_prompts(prompts, column), share()
    found = opened(recipe, [*(overrides or []), *([f"sampler.steps={steps}"] if steps is not None else [])])
    where = runtime.device(mine.device(device or found.run.device))
    facts = synth.make(synth.order(found, where, texts, n, seed, guidance, batch), out, mine)
    if mine.rank == 0:
        tell("{out}: {n} images, {made} of them new, {nfe} network calls each, {seconds:.2f} s", facts, as_json)


def opened(ref: str, overrides: list[str]) -> Recipe:
    """A recipe, or one around a teacher of that name."""
    from dmd2cli import registry
    from dmd2cli.engine import runtime
    from dmd2cli.recipe import load
    from dmd2cli.recipe_build import check
    from dmd2cli.recipe_files import packaged

    if ref in registry.names("teachers") and ref not in packaged() and not Path(ref).is_file():
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{ref}.yaml"
            path.write_text(AROUND, encoding="utf-8")
            found = load(path, [f"teacher.use={ref}", *overrides])
    else:
        found = load(ref, overrides)
    check(found)
    runtime.set_threads(found.run.threads)
    return found


def chosen(data: str | None, prompts: str | None, column: str | None, captions: bool, split: str) -> Any:
    """What is encoded, as a function of the teacher. Raises UserError unless it is one thing."""
    from functools import partial

    from dmd2cli.data.prompts import Prompts
    from dmd2cli.engine.cache import images
    from dmd2cli.errors import UserError

    if (data is None) == (prompts is None):
        raise UserError("give either --data, images with their captions, or --prompts, a file of prompts")
    if data is not None:
        return partial(images, data, split, (column or True) if captions else False)

    def of(teacher: Teacher) -> Named:
        return Prompts(prompts, column=column)

    return of


def at_least(least: int, given: Mapping[str, int | None]) -> None:
    """Raise UserError if an option is too small."""
    from dmd2cli.cli import pairs

    for option, value in given.items():
        if value is not None:
            pairs.at_least(least, option, value)


def tell(words: str, facts: dict[str, Any], as_json: bool) -> None:
    """Print what was made."""
    import json

    print(json.dumps(facts) if as_json else words.format(**facts))
