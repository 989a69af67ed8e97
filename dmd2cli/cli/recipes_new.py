"""dmd2 recipes new: a recipe for a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dmd2cli.engine.inspect import Found
    from dmd2cli.engine.plan.choice import Choice
    from dmd2cli.recipe_new import Draft

PROMPTS = "prompts.txt"
"""What is named where nobody gives prompts to a teacher that reads them."""


def new(
    teacher: Annotated[str, typer.Option(help="A diffusers folder or hub name, a checkpoint, or a teacher's name.")],
    steps: Annotated[int, typer.Option(help="Network calls of the student.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[teacher.KEY=VALUE]...", help="Further options of the teacher.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Real images or latents, for the GAN; none = no GAN.")] = None,
    prompts: Annotated[str | None, typer.Option(help="A file of prompts, or a folder of encoded ones.")] = None,
    device_memory: Annotated[
        str | None, typer.Option(help="What it has to fit: 24G. Default: that of the first GPU.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The recipe; default: NAME-STEPSstep.yaml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at a model, plan how it is distilled on a device, and write a recipe with the reason of each value."""
    import json
    import sys

    from dmd2cli.engine.inspect import find
    from dmd2cli.engine.plan.choice import WAYS
    from dmd2cli.errors import UserError
    from dmd2cli.recipe_new import text

    device = memory(device_memory)
    found = find(teacher, given(options or []))
    path = out or Path(f"{Path(teacher).name.partition('.')[0] or found.family}-{steps}step.yaml")
    if path.exists():
        raise UserError(f"{path}: exists already; name another file, or remove it")
    draft = drafted(found, steps, data, prompts, path)
    choice = None if device is None else chosen(draft, device)
    way, rows = (WAYS[0], None) if choice is None else (choice.way, choice.micro_batch)
    says = head(draft, path, choice, device)
    write(path, text(draft, way, choice is not None, rows, says))
    for line in notes(draft, path, choice):
        print(f"dmd2: {line}", file=sys.stderr)
    facts = {"recipe": str(path), **found.facts, "way": way.name, "micro_batch": rows}
    print(json.dumps({**facts, "peak": choice and choice.peak, "device_memory": device}) if as_json else path)


def memory(asked: str | None) -> int | None:
    """Bytes of the device: as asked, or of the first GPU; None without either."""
    import torch

    from dmd2cli.engine.plan.fit import parse

    if asked is not None:
        return parse(asked)
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def given(options: list[str]) -> dict[str, Any]:
    """teacher.KEY=VALUE as options. Raises UserError for anything else."""
    from dmd2cli.errors import UserError
    from dmd2cli.recipe_yaml import parse

    found = dict[str, Any]()
    for text in options:
        key, equals, value = text.partition("=")
        if not equals or not value.strip() or not key.startswith("teacher.") or key in ("teacher.", "teacher.use"):
            raise UserError(f"{text!r}: not teacher.KEY=VALUE; other fields are changed in the recipe that is written")
        at = f"override '{text}'"
        found[key.removeprefix("teacher.")] = parse(value, lambda line, at=at: at, root=key).data  # type: ignore[misc]
    return found


def drafted(found: Found, steps: int, data: str | None, prompts: str | None, path: Path) -> Draft:
    """What the recipe is written from. Raises UserError for data and prompts that do not go with the model."""
    from dmd2cli.data import offered
    from dmd2cli.errors import UserError
    from dmd2cli.recipe_new import Draft

    if prompts is not None and not found.text:
        raise UserError(f"--prompts: {found.family} reads no prompts; leave it out")
    real = None if data is None else offered.offered(data, found.teacher, found.size, f"{path.stem}-cache")
    use = offered.prompts(prompts) if prompts is not None else real.conditions if real is not None else None
    missing = found.text and use is None
    return Draft(found, steps, {"use": "prompts", "path": PROMPTS} if missing else use, missing, real, metrics(real))


def metrics(real: Any) -> list[Any]:
    """What can be measured with what was given."""
    from dmd2cli.recipe_settings import Setting

    if real is None or real.real["use"] != "images":
        return []
    return [Setting({"use": "fid", "reference": real.real["path"]}, "against all of the real data")]


def chosen(draft: Draft, device: int) -> Choice:
    """How to train on a device of so many bytes."""
    from tempfile import TemporaryDirectory

    from dmd2cli.engine.plan.choice import Way, choose
    from dmd2cli.recipe import Recipe, load
    from dmd2cli.recipe_new import text

    with TemporaryDirectory() as folder:

        def written(way: Way) -> Recipe:
            path = Path(folder) / "new.yaml"
            path.write_text(text(draft, way, planned=True), encoding="utf-8")
            return load(path)

        return choose(written, device)


def head(draft: Draft, path: Path, choice: Choice | None, device: int | None) -> list[str]:
    """The first comment."""
    facts = draft.found.facts
    calls = f"{draft.steps} step{'s' if draft.steps > 1 else ''}"
    commands = (*commanded(draft, path), f"dmd2 distill {path}")
    return [
        f"{draft.found.ref} -> {calls}: written by `dmd2 recipes new`. Each value has its reason behind it.",
        *(f"{command}" for command in commands),
        f"The model: {draft.found.family}, {facts['parameters'] / 1e6:,.1f} M parameters, conditions: "
        f"{facts['conditions']}, null condition: {facts['null_condition']}.",
        f"Planned: {planned(choice, device)}",
    ]


def planned(choice: Choice | None, device: int | None) -> str:
    """What `dmd2 plan` said."""
    if choice is None or device is None:
        return "nothing, for there is no GPU here and no --device-memory was given; see `dmd2 plan`."
    size, of = choice.peak / 2**30, device / 2**30
    return f"{choice.way.name}, micro-batch {choice.micro_batch}: {size:.1f} of {of:.1f} GiB."


def commanded(draft: Draft, path: Path) -> list[str]:
    """What has to be run before the training."""
    return [one.format(path) for one in draft.real.commands] if draft.real is not None else []


def notes(draft: Draft, path: Path, choice: Choice | None) -> list[str]:
    """What a person has to know or do."""
    found = [f"first run `{command}`" for command in commanded(draft, path)]
    if draft.missing:
        found.append(f"this model reads prompts and none were given: write some into {PROMPTS}, one on each line")
    if draft.found.text and Path(draft.found.ref).is_file() and "text" not in draft.found.use:
        why = "unless the hub cache has the family's own model"
        found.append(f"a single file has no tokenizers: add teacher.text=DIR, {why}")
    if choice is None:
        found.append("no GPU here and no --device-memory: all weights learn, and nothing was planned")
    return found


def write(path: Path, text: str) -> None:
    """A new file. Raises UserError if it is there or cannot be."""
    from dmd2cli.errors import UserError

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path}: exists already; name another file, or remove it") from None
    except OSError as err:
        raise UserError(f"{path}: cannot be written: {err.strerror}; name another file") from None
