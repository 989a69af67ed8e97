"""dmd2 study: compare images in pairs, by people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dmd2cli.study.set import Study

app = typer.Typer(
    help="Have people compare images in pairs: a local web page, votes, preference rates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="The folder that dmd2 study new made.")]
AnArm = "A folder of images (or .zip, .npz), or what draws: a run, a student, teacher:RECIPE."


@app.command()
def new(
    a: Annotated[str | None, typer.Option("--a", help=AnArm)] = None,
    b: Annotated[str | None, typer.Option("--b", help="The same, to compare with.")] = None,
    more: Annotated[list[str] | None, typer.Option(help="NAME=DIR: a further arm; may be repeated.")] = None,
    student: Annotated[list[str] | None, typer.Option(help="A student as a further arm; may be repeated.")] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help="Of diffusers: PATH,lora=P,steps=4,... (repeat).")] = None,
    name_a: Annotated[str | None, typer.Option("--name-a", help="What results call --a.")] = None,
    name_b: Annotated[str | None, typer.Option("--name-b", help="What results call --b.")] = None,
    prompts: Annotated[str | None, typer.Option(help="What the images show: .txt, .jsonl, .csv, .parquet.")] = None,
    column: Annotated[str | None, typer.Option(help="Column or key of the prompts in that list.")] = None,
    seeds: Annotated[str | None, typer.Option(help="With --prompts, images of each: 0,1 is two.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="Without images or prompts: how many to draw (64).")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder that is not there yet.")] = Path("study"),
    device: Annotated[str, typer.Option(help="cpu, cuda or mps; by default the fastest there is.")] = "auto",
    download: Annotated[bool, typer.Option("--download", help="Fetch a published student that is missing.")] = False,
) -> None:
    """Make a set of pairs from image folders or students."""
    from dmd2cli.cache import sha256
    from dmd2cli.cli.data import at_least
    from dmd2cli.cli.drawing import numbers, texts
    from dmd2cli.cli.study_arms import arm, wanted
    from dmd2cli.study.make import make, vacant

    vacant(out)
    at_least(1, "-n", n)
    words = [str(text) for text in texts(None, prompts, column)]
    given = None if seeds is None else numbers(seeds)
    source = None
    if prompts is not None:
        source = {"path": prompts, "column": column, "sha256": sha256(Path(prompts).expanduser()), "count": len(words)}
    others = [*(student or ()), *(f"pipeline:{path}" for path in pipeline or ())]
    asked = wanted((("a", a, name_a), ("b", b, name_b)), more or (), others)
    arms = [arm(name, place, device, download) for name, place in asked]
    made = make(out, arms, words, given, n, source)
    print(f"{out}: {summary(made)}\nnext: dmd2 study serve {out}")


@app.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.")] = 8765,
    token: Annotated[str | None, typer.Option(help="What the link has to carry; by default random, and kept.")] = None,
) -> None:
    """Serve the page on this machine until Ctrl-C. The same command again goes on where every rater was."""
    from dmd2cli.study.serving import serve as serving

    serving(folder, host, port, token, tell)


@app.command()
def results(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write every vote to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the preference rates, as .png.")] = None,
) -> None:
    """Preference rates with intervals, strengths, agreement, and who voted how. May be run while raters vote."""
    import json

    from dmd2cli.cli.study_report import report
    from dmd2cli.study import outputs
    from dmd2cli.study.counted import counted
    from dmd2cli.study.results import summed

    outputs.check_plot(plot)
    votes = counted(folder)
    found = summed(votes)
    if csv is not None:
        outputs.write_csv(votes, csv)
    if plot is not None:
        outputs.write_plot(found, plot)
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else report(found))


def tell(link: str, study: Study, before: tuple[int, int]) -> None:
    """What a person reads when the server is up."""
    raters, votes = before
    held = f"; {raters} raters and {votes} votes so far" if raters else ""
    print(f"{summary(study)}{held}\n{link}\nCtrl-C ends it; votes are kept", flush=True)


def summary(study: Study) -> str:
    """How much there is to compare."""
    names = " and ".join(arm.name for arm in study.arms) if len(study.arms) < 4 else f"{len(study.arms)} arms"
    asked = "1 question" if len(study.questions) == 1 else f"{len(study.questions)} questions"
    pairs = "1 pair" if study.pairs == 1 else f"{study.pairs} pairs"
    return f"{pairs} of {names}, {asked} each"
