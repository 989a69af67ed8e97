"""dmd2 eval: measure a student, a teacher, a pipeline or images, compare several, and time them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dmd2cli.cli.compare import compare
from dmd2cli.cli.speed import speed

METRIC = "METRIC"
"""What the command that measures is called in the help: its first argument."""


class Measuring(TyperGroup):
    """A group whose first word may also be a metric, or an option of the command that measures."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put that command before what is none."""
        own = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if own else [METRIC, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Without a name for that command, so that its usage has METRIC once."""
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == METRIC else name), command, rest


app = typer.Typer(
    cls=Measuring, rich_markup_mode=None,
    help="Measure a student, a teacher, a pipeline or images: dmd2 eval METRIC [OPTIONS], dmd2 eval METRIC --help.",
)  # fmt: skip
app.command()(compare)
app.command()(speed)


@app.command(METRIC)
def evaluate(
    metric: Annotated[str, typer.Argument(help="A metric by name (dmd2 plugins list), or all of the recipe's.")],
    student: Annotated[str | None, typer.Option(help="Run, student folder or file; default: the newest run.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Measure the teacher of this recipe instead.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Measure this pipeline of diffusers: folder, hub name.")] = None,
    lora: Annotated[str | None, typer.Option(help="LoRA for the pipeline: file, folder or hub name.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="For a pipeline: NAME, or NAME:key=value.")] = None,
    images: Annotated[Path | None, typer.Option(help="Measure these instead: a folder, .zip or .npz.")] = None,
    reference: Annotated[str | None, typer.Option(help="What to compare with: images, or .npz of mu, sigma.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Draw for these: a list, or COCO's captions (.json).")] = None,
    column: Annotated[str | None, typer.Option(help="Column or key of the prompts in that list.")] = None,
    per_prompt: Annotated[int | None, typer.Option(help="Images of each prompt; default: 1, for diversity 4.")] = None,
    protocol: Annotated[str | None, typer.Option(help="fid: edm, clean, coco-256, coco-512; clip: plain.")] = None,
    extractor: Annotated[str | None, typer.Option(help="Feature space by name (dmd2 plugins list).")] = None,
    model: Annotated[str | None, typer.Option(help="Of clip-score: NAME/TAG of open_clip, or a folder.")] = None,
    weights: Annotated[str | None, typer.Option(help="Its file, or the extractor's; default: in the cache.")] = None,
    allow_small: Annotated[bool, typer.Option("--allow-small", help="Of fid, fd: accept another count.")] = False,
    steps: Annotated[int | None, typer.Option(help="Network calls (student) or sampler steps (teacher).")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; see dmd2 sample.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the network: fp32, bf16 or fp16.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="How many; default: 5000, all --prompts, all --images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Image i is a function of (seed, i); by default 0.")] = None,
    seeds: Annotated[str | None, typer.Option(help="n images of each: 0..2 or 0,1,2; mean and t-interval.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also measure the teacher behind a student.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Fetch a published student that is missing.")] = False,
) -> None:
    """Measure, with the diversity, the protocol and the baselines beside every number; JSON on stdout."""
    from functools import partial

    from dmd2cli.cli.drawing import Wishes as Drawing
    from dmd2cli.cli.measuring import Wishes, chosen_of, measured, options_of, seeds_of, tell
    from dmd2cli.cli.subject import subject, writable
    from dmd2cli.errors import UserError

    drawing = Drawing(steps, guidance, lora=lora, scheduler=scheduler, dtype=dtype)
    if images is not None and (drawing.given or student is not None or teacher is not None or pipeline is not None):
        raise UserError("--images excludes --student, --teacher, --pipeline and how these draw: nothing is drawn")
    if column is not None and prompts is None and images is None:
        raise UserError(f"--column {column}: of which file? name it with --prompts")
    options = options_of(reference, protocol, extractor, model, weights, allow_small)
    writable(json_file)
    chosen = chosen_of(metric)
    counts = (n, seeds_of(seed, seeds), baselines, device)
    wishes = Wishes(chosen, options, *counts, images, teacher, prompts, column, per_prompt)
    wished = drawing if pipeline or lora or scheduler or dtype else None
    drawn = partial(subject, student, teacher, steps, guidance, device, wished, pipeline=pipeline)
    results = measured(wishes, partial(drawn, prompts=[prompts] if prompts else (), download=download or None))
    tell(results, json_file, every=chosen is None)
