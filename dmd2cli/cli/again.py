"""What a PNG says of how it was drawn: written by `dmd2 sample`, read by `dmd2 sample --from`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmd2cli import __version__
from dmd2cli.cli.drawing import Wishes
from dmd2cli.errors import UserError

if TYPE_CHECKING:
    from dmd2cli.draws import Draws
    from dmd2cli.engine.generate import Order
    from dmd2cli.protocols import Raw


MOST = 10_000
"""Images in a batch that is believed."""


@dataclass(frozen=True)
class Drawn:
    """How a picture was drawn, of one image or of several."""

    seed: int
    student: str | None = None
    teacher: str | None = None
    pipeline: str | None = None
    network: str | None = None
    """identity() of what drew."""
    device: str = "cpu"
    """cpu, cuda or mps: each has random numbers of its own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of Wishes."""
    init_image: str | None = None
    """SHA-256 of the file."""
    conditions: list[Any] = field(default_factory=list)
    number: int = 0
    row: tuple[int, int] | None = None
    """Of one image alone."""
    n: int | None = None
    batch: int | None = None
    seeds: list[int] | None = None


def about(subject: str, kind: str, wishes: Wishes, order: Order) -> dict[str, Any]:
    """What all files of an order say; the rest is of each image. kind: student, teacher or pipeline."""
    source, image = order.source, wishes.init_image
    return {
        kind: subject,
        "network": order.network,
        **calls(source),
        "guidance": source.guidance,
        "size": list(source.size),
        "options": wishes.given,
        **({"init_image": digest(image)} if image else {}),
        "device": source.device.type,
        "dmd2cli": __version__,
    }


def calls(source: Draws) -> dict[str, Any]:
    """A student's times, as timesteps too where its teacher has a table; how often a teacher is called."""
    from dmd2cli.source import Source
    from dmd2cli.student import native

    if not isinstance(source, Source):
        return {"sampler": source.how["sampler"]["use"], "steps": source.how["sampler"]["steps"]}
    if (times := getattr(source.sampler, "times", None)) is None:
        return {"sampler": type(source.sampler).__name__, "calls": source.sampler.nfe}
    steps = native(source.teacher.schedule, times).get("timesteps")
    return {"times": list(times), **({"timesteps": steps} if steps else {})}


def digest(path: str) -> str:
    """SHA-256 of a file."""
    from dmd2cli.cache import sha256

    return sha256(Path(path).expanduser())


def note(order: Order, asked: Sequence[Raw]) -> str:
    """The text of a sheet. asked: the conditions that were taken in turn."""
    kind = "prompts" if asked and isinstance(asked[0], str) else "labels"
    seeds = {} if order.seeds is None else {"seeds": list(order.seeds)}
    several = {"n": len(order.raw), "seed": order.seed, "number": order.first, **seeds, "batch": order.batch}
    return json.dumps({"drawn": {**({kind: list(asked)} if asked else {}), **several, **order.about}})


def recall(path: Path) -> Drawn:
    """What a PNG says. Raises UserError if it says nothing, or something else."""
    from pydantic import TypeAdapter, ValidationError

    from dmd2cli.images import read_note

    if not path.is_file():
        raise UserError(f"--from {path}: no such file; name a PNG that dmd2 sample wrote")
    held = read_note(path)
    if held is None:
        raise UserError(f"--from {path}: does not say how it was drawn; name a PNG as dmd2 sample wrote it")
    try:
        said = json.loads(held)["drawn"]
        found = TypeAdapter(Drawn).validate_python({**said, "conditions": conditions(said)})
        TypeAdapter(Wishes).validate_python(Wishes(**found.options))
        row, of = found.row or (0, 1)
        if [found.student, found.teacher, found.pipeline].count(None) != 2 or not 0 <= row < of <= MOST:
            raise ValueError("not as it was written")
    except (KeyError, TypeError, ValueError, ValidationError):
        raise UserError(f"--from {path}: what it says of how it was drawn cannot be read; draw it anew") from None
    return found


def conditions(said: Mapping[str, Any]) -> list[Raw]:
    """Of one image, or of a sheet."""
    several = said.get("prompts") or said.get("labels")
    return list(several) if several else [said[key] for key in ("prompt", "label") if key in said]


def compare(path: Path, held: Drawn, ref: str, network: str | None, device: str) -> None:
    """Say what is not as it was when a picture was drawn."""
    if held.network != network:
        print(f"warning: {ref} has other weights now than when {path} was drawn", file=sys.stderr)
    if held.device != device:
        print(f"warning: {path} was drawn on {held.device}; {device} has other random numbers", file=sys.stderr)
    image = held.options.get("init_image")
    if image and digest(image) != held.init_image:
        print(f"warning: {image} is another image now than when {path} was drawn", file=sys.stderr)
