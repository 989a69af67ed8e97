"""dmd2 convert: a published checkpoint as safetensors, nothing in it executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dmd2cli.converters import Converted


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A published checkpoint, such as an EDM pickle.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Of the converter.")] = None,
    by: Annotated[str | None, typer.Option("--from", help="A converter by name; default: the one that fits.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, with every name.")] = False,
) -> None:
    """Convert a published checkpoint to safetensors, without executing anything in it. Reports what was left out."""
    import json

    from dmd2cli.cli.subject import writable
    from dmd2cli.converters import convert
    from dmd2cli.errors import UserError
    from dmd2cli.foreign import kind
    from dmd2cli.weights import save_weights

    if out.suffix != ".safetensors":
        raise UserError(f"-o {out}: the result is safetensors; give it a name that ends in .safetensors")
    kind(source)
    writable(out)
    name, made = convert(source, by, options or ())
    save_weights(made.tensors, out, made.metadata)
    found = report(source, out, name, made)
    print(json.dumps(found, indent=2) if as_json else words(found))


def report(source: Path, out: Path, name: str, made: Converted) -> dict[str, Any]:
    """What was done, as JSON values."""
    return {
        "source": str(source),
        "out": str(out),
        "converter": name,
        "about": made.about,
        "numbers": sum(tensor.numel() for tensor in made.tensors.values()),
        "used": list(made.used),
        "unused": dict(made.unused),
    }


def words(report: dict[str, Any]) -> str:
    """The same for people: one line, and one for each name that was left out."""
    used, unused = len(report["used"]), report["unused"]
    counts = f"{used} tensors used ({report['numbers']:,} numbers), {len(unused)} unused"
    head = f"{report['out']}: {report['about']}; {counts}"
    return "\n".join([head, *(f"  unused: {name} ({why})" for name, why in unused.items())])
