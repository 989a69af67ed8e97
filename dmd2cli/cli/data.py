"""dmd2 data: look at image data, prepare them for training, encode them, and have a teacher make some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dmd2cli.cli import encoding

app = typer.Typer(help="Check, prepare, encode and make data.", no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[str, typer.Argument(help="Folder, zip, npz, LMDB, tar shards, CIFAR-10's archive, save_to_disk.")]
Split = Annotated[str, typer.Option(help="Of formats that have splits: train, test, ...")]
Workers = Annotated[int | None, typer.Option(help="Processes; by default the cores of the machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]


@app.command()
def check(
    path: Data,
    split: Split = "train",
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Look for images of equal pixels.")] = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Decode every image: counts, sizes, labels, range, what is corrupt. Exit code 2 if anything is."""
    import json

    from dmd2cli.data import check as checking
    from dmd2cli.data.parts import cores
    from dmd2cli.data.sources.detect import open_source
    from dmd2cli.errors import UserError

    at_least(1, "--workers", workers)
    found = checking.check(open_source(path, split), workers or cores(), duplicates)
    print(json.dumps(found, indent=2) if as_json else report(found))
    if found["corrupt"]:
        n = len(found["corrupt"])
        raise UserError(f"{path}: {n} of {found['images']} images are corrupt, see above; mend them or take them out")


@app.command()
def prepare(
    raw: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.zip, NAME-%06d.tar, or a folder.")],
    size: Annotated[int | None, typer.Option(help="Side in pixels; by default images keep theirs.")] = None,
    filter: Annotated[str, typer.Option(help="lanczos, box, bicubic, or adm (Dhariwal & Nichol's).")] = "lanczos",
    crop: Annotated[str, typer.Option(help="center: the largest square; none: images are square.")] = "center",
    labels: Annotated[str, typer.Option(help="keep or none.")] = "keep",
    captions: Annotated[bool, typer.Option("--captions", help="Keep captions too.")] = False,
    column: encoding.Column = None,
    split: Split = "train",
    workers: Workers = None,
    shard_size: Annotated[int, typer.Option(help="Images in a tar.")] = 10_000,
    max_corrupt: Annotated[int, typer.Option(help="Images that may be left out.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Crop, resize and pack images. The same command again continues where it was interrupted."""
    import json

    from dmd2cli.data import prepare as preparing
    from dmd2cli.data.pack import Target
    from dmd2cli.data.parts import cores
    from dmd2cli.data.sources.detect import open_source

    at_least(1, "--workers", workers)
    at_least(1, "--shard-size", shard_size)
    at_least(0, "--max-corrupt", max_corrupt)
    options = preparing.Options(size, filter, crop, labels)
    target = Target(out, shard_size)
    source = open_source(raw, split, captions=column or captions)
    found = preparing.prepare(source, target, options, workers or cores(), max_corrupt)
    words = "{out}: {images} images, {made} of them new, {left} left out as corrupt, {seconds:.1f} s"
    print(json.dumps(found) if as_json else words.format(**found, left=len(found["corrupt"])))


app.command()(encoding.cache)
app.command()(encoding.synth)


def at_least(least: int, option: str, value: int | None) -> None:
    """Raise UserError if an option is too small."""
    from dmd2cli.errors import UserError

    if value is not None and value < least:
        raise UserError(f"{option} {value}: must be at least {least}")


def report(facts: Mapping[str, Any]) -> str:
    """The facts of a check, a line each."""
    from dmd2cli.cli.table import table

    labels, spread = facts["labels"], facts["range"]
    rows = [
        ("format", facts["format"]),
        ("images", f"{facts['images']}, {len(facts['corrupt'])} of them corrupt"),
        ("sizes", counts(facts["sizes"])),
        ("modes", counts(facts["modes"])),
        ("labels", per_class(labels, facts["usable"]) if labels else "none"),
        ("values", f"{spread[0]} to {spread[1]}, mean {numbers(facts['mean'])}, std {numbers(facts['std'])}"
         if spread else "none"),
        ("fingerprint", facts["fingerprint"][:16]),
        *(("corrupt", f"{err['name']}: {err['reason']}") for err in facts["corrupt"]),
        *(("duplicates", ", ".join(names)) for names in facts.get("duplicates", ())),
    ]
    advice = f"\nimages of {len(facts['sizes'])} sizes: dmd2 data prepare {facts['path']} -o OUT.zip --size 64"
    return table(("PATH", facts["path"]), rows) + (advice if len(facts["sizes"]) > 1 else "")


def counts(found: Mapping[str, int], most: int = 8) -> str:
    """A histogram, its largest entries."""
    parts = [f"{name}: {n}" for name, n in list(found.items())[:most]]
    more = len(found) - most
    return ", ".join(parts) + (f", and {more} more" if more > 0 else "")


def per_class(labels: Mapping[str, int], usable: int) -> str:
    """How many classes, how many images in each."""
    few, many, n = min(labels.values()), max(labels.values()), sum(labels.values())
    each = f"{few}" if few == many else f"{few} to {many}"
    missing = max(map(int, labels)) + 1 - len(labels)
    return (
        f"{len(labels)} classes of {each} images"
        + (f", {missing} numbers below the highest unused" if missing else "")
        + (f", {usable - n} images without" if n < usable else "")
    )


def numbers(found: list[float]) -> str:
    """Rounded, separated by spaces."""
    return " ".join(f"{value:.1f}" for value in found)
