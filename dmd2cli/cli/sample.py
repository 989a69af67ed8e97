"""dmd2 sample: draw images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dmd2cli.engine.generate import Order, Share


def sample(
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, for teachers that read text.")] = None,
    student: Annotated[str | None, typer.Option(help="Run, folder, file, published name; else newest run.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Draw with the teacher of this recipe instead.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Draw with a pipeline of diffusers: folder, hub name.")] = None,
    lora: Annotated[str | None, typer.Option(help="LoRA for the pipeline: file, folder or hub name.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="For a pipeline: NAME, or NAME:key=value.")] = None,
    again: Annotated[Path | None, typer.Option("--from", help="Draw a PNG again; options go before its own.")] = None,
    listed: Annotated[str | None, typer.Option("--prompts", help="List of prompts: txt, jsonl, csv, parquet.")] = None,
    column: Annotated[str | None, typer.Option(help="Column or key of the prompts in that list.")] = None,
    steps: Annotated[int | None, typer.Option(help="Network calls (student) or sampler steps (teacher).")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many images; by default one per condition.")] = None,
    labels: Annotated[str | None, typer.Option(help="Class labels, such as 0,1,2; repeated in turn.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale, for teachers and students of a range.")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt, for teachers with guidance.")] = None,
    seed: Annotated[int | None, typer.Option(help="Image i is a function of (seed, i); by default 0.")] = None,
    seeds: Annotated[str | None, typer.Option(help="A seed for each image, such as 1,5,9.")] = None,
    size: Annotated[str | None, typer.Option(help="Pixels: 1024, or HEIGHTxWIDTH such as 832x1216.")] = None,
    sampler: Annotated[str | None, typer.Option(help="For a teacher: NAME, or NAME:key=value.")] = None,
    init_image: Annotated[str | None, typer.Option(help="Draw over this image, with a student.")] = None,
    strength: Annotated[float | None, typer.Option(help="How far: the time to start from, 0 to 1 (0.5).")] = None,
    lora_weight: Annotated[float | None, typer.Option(help="Of a LoRA (--lora too): 1 as trained, 0 its base.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the network: fp32, bf16 or fp16.")] = None,
    vae: Annotated[str | None, typer.Option(help="Another VAE: folder or hub name.")] = None,
    tiny_vae: Annotated[str | None, typer.Option(help="Decode by TAESD: folder, hub name, or auto.")] = None,
    vae_dtype: Annotated[str | None, typer.Option(help="Of the VAE: fp32, bf16 or fp16.")] = None,
    tile_above: Annotated[int | None, typer.Option(help="Decode in tiles where a side is longer, pixels.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="One .png, a folder, .zip or .npz.")] = Path("samples.png"),
    grid: Annotated[bool | None, typer.Option("--grid/--no-grid", help="One sheet, or one file per image.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images at once; by default as fit 2^22 pixels, to 250.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Fetch a published student that is missing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")] = False,
) -> None:
    """Draw images with a student, a teacher or a pipeline. The same command again draws what is missing."""
    from dmd2cli.cli.drawing import Wishes, texts
    from dmd2cli.cli.ordering import Asked, ordered, precisely
    from dmd2cli.engine.generate import share
    from dmd2cli.errors import UserError
    from dmd2cli.installation.tested import mention_torch

    if grid and out.suffix != ".png":
        raise UserError(f"-o {out}: a grid is a .png file; for single files name a folder and leave out --grid")
    if labels and (prompts or listed):
        raise UserError("--labels and prompts exclude each other: a student reads one or the other")
    wishes = Wishes(
        steps, guidance, negative, size, sampler, vae, tiny_vae, vae_dtype, tile_above, dtype, lora_weight, init_image,
        strength, lora, scheduler,
    )  # fmt: skip
    mine = share()
    words = texts(prompts, listed, column)
    asked = Asked(student, teacher, wishes, words, labels, n, seed, seeds, batch, again, download, pipeline)
    name, order, turn = ordered(asked, mine.device(device))
    as_grid = out.suffix == ".png" if grid is None else grid
    mention_torch(mine.rank)
    with precisely(wishes.dtype):
        if as_grid and len(order.raw) == 1 and not grid:
            facts = alone(order, out)
        else:
            facts = sheet(order, out, turn) if as_grid else files(order, out, mine)
    if mine.rank == 0:
        tell({"subject": name, **facts}, as_json)


def alone(order: Order, out: Path) -> dict[str, Any]:
    """Draw one image as it is; gives what the command tells."""
    import json

    from dmd2cli.images import save_png, to_pil

    def save(images: Any) -> None:
        said = {"made": order.made, "condition": order.raw[0], "drawn": order.drawn(0)}
        save_png(to_pil(images[0]), out, json.dumps(said))

    return picture(order, out, save)


def sheet(order: Order, out: Path, turn: list[Any]) -> dict[str, Any]:
    """Draw one picture of all images; gives what the command tells. turn: the conditions that were taken in turn."""
    from dmd2cli.cli.again import note
    from dmd2cli.images import save_grid

    period = len(turn or order.source.reads.conditions) or 8
    return picture(order, out, lambda images: save_grid(images, order.raw, period, out, note(order, turn)))


def picture(order: Order, out: Path, save: Any) -> dict[str, Any]:
    """Draw all images, and save them as one file."""
    import time

    import torch

    from dmd2cli.cli.subject import writable
    from dmd2cli.engine.generate import Share

    writable(out)
    started = time.perf_counter()
    drawn = torch.cat([order.draw(places) for places in order.batches(Share())])
    seconds = round(time.perf_counter() - started, 3)
    save(drawn)
    seed = {"seed": order.seed} if order.seeds is None else {"seeds": list(order.seeds)}
    return {"n": len(order.raw), **seed, "nfe": order.source.nfe, "seconds": seconds, "out": str(out)}


def files(order: Order, out: Path, mine: Share) -> dict[str, Any]:
    """Draw a file for each image, or one of them all; gives what the command tells."""
    from dmd2cli.cli.subject import writable
    from dmd2cli.engine.generate import generate
    from dmd2cli.engine.image_set import PACKED

    name = f"rank-{mine.rank}"                             # each process tries with a file of its own
    if out.suffix not in PACKED:
        writable(out / name)
    elif not out.exists():
        writable(out.with_name(f"{out.name}.{name}"))
    return generate(order, out, mine)


def tell(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print what was drawn."""
    import json

    images = "1 image" if facts["n"] == 1 else f"{facts['n']} images"
    words = "{out}: {images} from {subject}, {nfe} network calls each, {seconds:.2f} s".format(images=images, **facts)
    if not facts.get("complete", True):
        words += "; some of them are still to come from other processes"
    elif facts.get("made", facts["n"]) < facts["n"]:
        words += f", {facts['made']} of them new"
    print(json.dumps(facts) if as_json else words)
