"""From the options of `dmd2 study new` to arms: which are images that are there, which are drawn and by what.

What draws is named as for `dmd2 eval compare`: a student, teacher:RECIPE, pipeline:PATH, with options after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmd2cli.errors import UserError

if TYPE_CHECKING:
    from dmd2cli.draws import Draws
    from dmd2cli.protocols import Raw
    from dmd2cli.study.arms import AnyArm, Drawn, Pixels


def wanted(
    sides: Sequence[tuple[str, str | None, str | None]], more: Sequence[str], others: Sequence[str]
) -> list[tuple[str, str]]:
    """(name, folder or reference) of every arm. sides: (flag, place, name). others: arms without a name.

    Raises UserError for options that are not whole.
    """
    found: list[tuple[str | None, str]] = []
    for flag, place, name in sides:
        if place is None and name is not None:
            raise UserError(f"--name-{flag}: belongs to --{flag}; give both or neither")
        if place is not None:
            found.append((name, place))
    for text in more:
        name, _, place = text.partition("=")
        if not name or not place:
            raise UserError(f"--more {text}: expected NAME=DIR, such as teacher=images/teacher")
        found.append((name, place))
    found += [(None, place) for place in others]
    tails = [tail(place) for _, place in found]
    return [
        (own or (last if tails.count(last) == 1 else place), place)
        for (own, place), last in zip(found, tails, strict=True)
    ]


def tail(place: str) -> str:
    """The last part of a path, a reference without the folders of its path; its own name=, if it has one."""
    if os.path.exists(place):
        return os.path.basename(os.path.abspath(place))
    ref, comma, options = place.partition(",")
    said = dict(option.partition("=")[::2] for option in options.split(","))
    kind, colon, path = ref.partition(":")
    last = os.path.basename(os.path.abspath(path)) if os.path.exists(path) else path
    return said.get("name") or f"{kind}{colon}{last}{comma}{options}"


def arm(name: str, place: str, device: str, download: bool) -> AnyArm:
    """An arm by what is there. Raises UserError if nothing is."""
    path = Path(place).expanduser()
    if path.exists() and not is_student(path):
        return images(name, place)
    if not path.exists() and not is_reference(place):
        raise UserError(f"{place}: no such folder of images, run or student; check the path")
    from dmd2cli.cli.candidates import candidate

    asked = candidate(place)
    if asked.kind == "images":
        return images(name, asked.ref)
    return drawn(name, place, asked.open(device, download).source)


def images(name: str, place: str) -> AnyArm:
    """Images that are there, as an arm."""
    from dmd2cli.data.sources.detect import open_source
    from dmd2cli.data.sources.source import fingerprint
    from dmd2cli.study.arms import Files

    source = open_source(place)
    return Files(name, source, {"images": place, "format": source.format, "fingerprint": fingerprint(source)})


def is_student(path: Path) -> bool:
    """Whether what is there is a run, or the folder or file of a student."""
    weights = (file for part in (path, path / "student") for file in part.glob("*.safetensors"))
    return path.suffix == ".safetensors" or (path / "recipe.yaml").is_file() or any(weights)


def is_reference(place: str) -> bool:
    """Whether a text that is no path names something that draws."""
    from dmd2cli import registry

    return ":" in place or "," in place or place in registry.names("students")


def drawn(name: str, place: str, source: Draws) -> Drawn:
    """An arm of anything that draws."""
    from dmd2cli.study.arms import Drawn

    reads = source.reads
    about = {"drawn": place, "network": source.identity(), **source.how, **source.cost}

    def draw(raw: Sequence[Raw], seed: int | Sequence[int]) -> Iterable[Pixels]:
        for batch in source.draw(raw, seed):
            yield from batch.permute(0, 2, 3, 1).contiguous().numpy()
        about.update(source.cost)                              # calls of a pipeline are counted, not assumed

    return Drawn(name, about, draw, () if reads.prompts else list(reads.conditions) or [None], reads.prompts)
