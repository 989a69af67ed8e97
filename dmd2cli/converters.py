"""What a plugin in dmd2.converters is, and how the one for a file is found: published checkpoints to safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from dmd2cli import registry
from dmd2cli.errors import UserError, suggest
from dmd2cli.recipe_build import build
from dmd2cli.recipe_files import given
from dmd2cli.recipe_parts import Use


@dataclass(frozen=True)
class Converted:
    """What a Converter made of a published file."""

    about: str
    """What the file turned out to be, in a few words."""
    tensors: Mapping[str, Tensor]
    """Under the names that the teacher or the student of this package loads."""
    metadata: Mapping[str, str]
    """Of the safetensors file: "details" of a teacher, or "dmd2_student" of a student. JSON."""
    used: Sequence[str]
    """Names in the published file of what went into the tensors."""
    unused: Mapping[str, str] = field(default_factory=dict)
    """Names of what else it holds, and why that was left out."""


class Converter(Protocol):
    """Reads a published checkpoint without executing anything in it. Options of the constructor have defaults."""

    def recognises(self, source: Path) -> bool:
        """Whether this is a file of its kind: cheap, and nothing in the file is executed.

        foreign.kind(source) tells kinds of files by their first bytes. Raises UserError for a damaged file.
        """

    def convert(self, source: Path) -> Converted:
        """Raises UserError for a missing key, another shape, a damaged file, or one that would execute something."""


def convert(source: Path, name: str | None = None, options: Sequence[str] = ()) -> tuple[str, Converted]:
    """(name of the converter, what it made): of the named one, or of the only one that recognises the file.

    options: of its constructor, KEY=VALUE. Raises UserError if none or several do, or an option is not one of its own.
    """
    known = registry.names("converters")
    if name is not None and name not in known:
        raise UserError(f"--from {name}: unknown converter{suggest(name, known)}")
    made: dict[str, Converter] = {each: registry.load("converters", each)() for each in ([name] if name else known)}
    found = [each for each, converter in made.items() if name or converter.recognises(source)]
    if len(found) > 1:
        raise UserError(f"{source}: several converters recognise it ({', '.join(found)}); name one with --from")
    if not found:
        raise UserError(f"{source}: not a checkpoint that is known here; converters: {', '.join(known) or 'none'}")
    converter: Converter = build("converters", asked(found[0], options), "convert")
    return found[0], converter.convert(source)


def asked(name: str, options: Sequence[str]) -> Use:
    """A converter with its options."""
    found = given(options)
    return Use.model_validate({**found.data, "use": name}, context=found.places)
