"""What `dmd2 sample` may be asked for besides a subject and a number, and how it is done."""

from __future__ import annotations

import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmd2cli.errors import UserError

if TYPE_CHECKING:
    from dmd2cli.protocols import Raw
    from dmd2cli.source import Source
    from dmd2cli.student import Student

AUTO = "auto"
"""As --tiny-vae: the small decoder that the teacher names itself."""

TEACHER = {"vae": "--vae", "tiny": "--tiny-vae", "vae_dtype": "--vae-dtype", "tile_above": "--tile-above"}
"""Options of teachers that may be set for drawing, and their flags."""


@dataclass(frozen=True)
class Wishes:
    """The options of the same names, as given; None where they were not."""

    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    size: str | None = None
    sampler: str | None = None
    vae: str | None = None
    tiny_vae: str | None = None
    vae_dtype: str | None = None
    tile_above: int | None = None
    dtype: str | None = None
    lora_weight: float | None = None
    init_image: str | None = None
    strength: float | None = None
    lora: str | None = None
    scheduler: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """All that were."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def over(self, other: Wishes) -> Wishes:
        """These, and the other's where these say nothing."""
        return Wishes(**{**other.given, **self.given})

    def options(self, use: str) -> dict[str, Any]:
        """Those that are options of a teacher. Raises UserError if this one does not have them."""
        from dmd2cli import registry

        tiny = None if self.tiny_vae == AUTO else self.tiny_vae
        asked = {"vae": self.vae, "tiny": tiny, "vae_dtype": self.vae_dtype, "tile_above": self.tile_above}
        asked = {key: value for key, value in asked.items() if value is not None}
        known = inspect.signature(registry.load("teachers", use)).parameters
        for key in asked:
            if key not in known:
                raise UserError(f"{TEACHER[key]}: the teacher {use} has no option {key}; leave {TEACHER[key]} out")
        if self.vae_dtype not in (None, "fp32", "bf16", "fp16"):
            raise UserError(f"--vae-dtype {self.vae_dtype}: expected fp32, bf16 or fp16")
        return asked


@contextmanager
def told(flag: str | None = None) -> Iterator[None]:
    """Errors as those of a flag; without one, of the flag of the option that they begin with."""
    try:
        yield
    except UserError as err:
        key, _, rest = str(err).partition(": ")
        if flag is not None:
            raise UserError(f"{flag}: {err}") from err
        raise UserError(f"{TEACHER[key]}: {rest}" if key in TEACHER else str(err)) from err


def of_student(found: Student, wishes: Wishes) -> Student:
    """A student as it is asked for. Raises UserError for what it cannot be."""
    of_pipelines(wishes)
    if wishes.sampler is not None:
        raise UserError("--sampler: is for teachers (--teacher RECIPE); a student draws in its own few calls (--steps)")
    if wishes.negative is not None:
        why = "makes one pass a call, without a null condition"
        raise UserError(f"--negative: this student {why}, so that a negative prompt can have no effect; leave it out")
    if options := wishes.options(found.contract["teacher"]["use"]):
        with told():
            found = found.with_options(**options)
    if wishes.lora_weight is not None:
        with told("--lora-weight"):
            found = found.at_lora_weight(wishes.lora_weight)
    return found


def of_pipelines(wishes: Wishes) -> None:
    """Raise UserError for what only pipelines can be asked for."""
    for flag, value in (("--lora", wishes.lora), ("--scheduler", wishes.scheduler)):
        if value is not None:
            raise UserError(f"{flag}: belongs to --pipeline PATH; give both or neither")


def overrides(use: str, wishes: Wishes) -> list[str]:
    """What to change in a recipe for its teacher to draw as asked. Raises UserError for what a teacher cannot be."""
    of_pipelines(wishes)
    for flag, value in (("--lora-weight", wishes.lora_weight), ("--init-image", wishes.init_image)):
        if value is not None:
            raise UserError(f"{flag}: is for students (--student REF); leave it out")
    made = [f"teacher.{key}={json.dumps(value)}" for key, value in wishes.options(use).items()]
    if wishes.sampler is not None:
        name, *pairs = re.split(r"[:,](?=\w+=)", wishes.sampler)
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"--sampler {wishes.sampler}: expected NAME or NAME:key=value:..., such as dpmpp:steps=20")
        made += [f"sampler={{use: {name}}}", *(f"sampler.{pair}" for pair in pairs)]
    return made + ([] if wishes.steps is None else [f"sampler.steps={wishes.steps}"])


def dressed(source: Source, wishes: Wishes) -> Source:
    """A source as it is asked for, but for --dtype. Raises UserError for what it cannot be."""
    from dmd2cli import inference
    from dmd2cli.pipelines.spec import pixels

    size = None if wishes.size is None else pixels(wishes.size)
    changes: list[tuple[str, Any, Callable[[Source], Source]]] = [
        ("--size", wishes.size, lambda found: inference.resized(found, *(size or ()))),
        ("--negative", wishes.negative, lambda found: inference.with_negative(found, str(wishes.negative))),
        ("--tiny-vae", wishes.tiny_vae, inference.with_tiny),
    ]
    for flag, value, change in changes:
        if value is not None:
            with told(f"{flag} {value}"):
                source = change(source)
    if wishes.init_image is None:
        if wishes.strength is not None:
            raise UserError("--strength: belongs to --init-image FILE; give both or neither")
        return source
    strength = 0.5 if wishes.strength is None else wishes.strength
    found, t = inference.over(source, inference.opened(Path(wishes.init_image).expanduser()), strength)
    if found.start is None:
        said = f"warning: --strength {strength:g}: starts from pure noise; nothing of the image is left"
    else:
        said = f"--strength {strength:g}: from t = {t:g} on, {found.sampler.nfe} network calls"
    print(said, file=sys.stderr)
    return found


def cast(source: Source, wishes: Wishes) -> Source:
    """In the precision that is asked for."""
    from dmd2cli import inference

    if wishes.dtype is None:
        return source
    with told("--dtype"):
        return inference.at_dtype(source, wishes.dtype)


def numbers(text: str) -> list[int]:
    """The seeds of "1,5,9". Raises UserError for other text."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: seeds are whole numbers with commas between, such as 1,5,9") from None


def texts(prompts: Sequence[str] | None, file: str | None, column: str | None) -> list[Raw]:
    """The prompts that are asked for. Raises UserError for a file without any."""
    from dmd2cli.data.sources.texts import read_prompts

    if column is not None and file is None:
        raise UserError("--column: belongs to --prompts FILE; give both or neither")
    if file is None:
        return list(prompts or [])
    if prompts:
        raise UserError("prompts come from the command line or from --prompts FILE; give one of them")
    return list(read_prompts(file, column))


def check_seeds(seeds: Sequence[int], conditions: int, n: int) -> None:
    """Raise UserError if an image would be drawn twice: both are taken in turn."""
    if n > (most := math.lcm(len(seeds), max(1, conditions))):
        raise UserError(f"--seeds: {len(seeds)} of them make {most} different images here, not {n}; give more")
