"""Captions of images: where formats keep them, and under which name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from dmd2cli.data.sources.containers import Container
from dmd2cli.errors import UserError

NAMES = ("prompt", "caption", "text")
"""What captions are called where no name is given: keys, columns."""
METADATA = "metadata.jsonl"
"""Hugging Face's list beside images: a line {"file_name": ..., "text": ...} for each."""

Wanted = bool | str
"""False: no captions. True: under one of NAMES. Else under this name."""


class Captions(Protocol):
    """Caption i of image i."""

    def __getitem__(self, i: int, /) -> str: ...


@dataclass(frozen=True)
class Beside:
    """A text file of a container for each image, read when it is asked for."""

    container: Container
    members: Sequence[int]

    def __getitem__(self, i: int, /) -> str:
        k = self.members[i]
        return as_text(self.container.read(k), f"{self.container.where}/{self.container.names[k]}")


def of_container(container: Container, images: Sequence[str], wanted: str | bool) -> Captions:
    """The captions of some image files: of metadata.jsonl if there is one, else of image.txt beside image.png.

    Raises UserError for images that have none.
    """
    lists = [k for k, name in enumerate(container.names) if PurePosixPath(name).name == METADATA]
    if lists:
        found = listed(container, lists, wanted)
        check_all(images, found.keys(), f"{container.where}/{container.names[lists[0]]}", "add a line for it")
        return [found[name] for name in images]
    places = {name: k for k, name in enumerate(container.names)}
    texts = [str(PurePosixPath(name).with_suffix(".txt")) for name in images]
    missing = [text for text in texts if text not in places]
    if len(missing) == len(texts):
        raise UserError(f"{container.where}: no captions: neither {METADATA} nor {texts[0]} is there; add them")
    check_all(texts, places.keys(), container.where, "add that file")
    return Beside(container, [places[text] for text in texts])


def check_all(names: Sequence[str], there: Any, where: str, advice: str) -> None:
    """Raise UserError for the first name that is not there."""
    if missing := [name for name in names if name not in there]:
        raise UserError(f"{where}: {len(missing)} images have no caption, the first is {missing[0]}; {advice}")


def listed(container: Container, lists: Sequence[int], wanted: str | bool) -> dict[str, str]:
    """Path -> caption, of every metadata.jsonl. Raises UserError for a line that is something else."""
    found: dict[str, str] = {}
    for k in lists:
        where, folder = f"{container.where}/{container.names[k]}", PurePosixPath(container.names[k]).parent
        for number, line in enumerate(as_text(container.read(k), where).split("\n"), 1):
            if line.strip():
                row = as_row(line, f"{where}:{number}")
                if not isinstance(name := row.get("file_name"), str):
                    raise UserError(f"{where}:{number}: no file_name; expected {{'file_name': ..., 'text': ...}}")
                found[str(folder / name)] = value(row, wanted, f"{where}:{number}")
    return found


def column(names: Sequence[str], wanted: str | bool, where: str, what: str = "captions") -> str:
    """Which of some columns holds the captions. Raises UserError that names those there are."""
    tried = [wanted] if isinstance(wanted, str) else list(NAMES)
    if chosen := next((name for name in tried if name in names), None):
        return chosen
    there = ", ".join(map(str, names)) or "none"
    raise UserError(f"{where}: no column {' or '.join(tried)}; there are {there}; say which holds the {what}")


def value(row: Mapping[str, Any], wanted: str | bool, where: str, what: str = "captions") -> str:
    """The caption in a JSON object. Raises UserError if it is not there, or no text."""
    found = row[name := column(list(row), wanted, where, what)]
    if not isinstance(found, str):
        raise UserError(f"{where}: {name} is {found!r}, no text; name another column")
    return found.strip()


def as_row(text: str, where: str) -> dict[str, Any]:
    """A JSON object. Raises UserError for anything else."""
    try:
        found = json.loads(text)
    except ValueError as err:
        raise UserError(f"{where}: not JSON ({err}); expected an object such as {{'text': ...}}") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: {str(found)[:40]!r} is no JSON object; expected {{'text': ...}}")
    return found


def as_text(raw: bytes, where: str) -> str:
    """UTF-8 text without white space around it. Raises UserError if it is something else."""
    try:
        return raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as err:
        raise UserError(f"{where}: no UTF-8 text (byte {err.start}); save it as UTF-8") from err
