"""Image files of a folder or zip, with the labels of its dataset.json or of its sub-folders."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from PIL import Image

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.sources.captions import Captions, Wanted, of_container
from dmd2cli.data.sources.containers import Container
from dmd2cli.data.sources.source import SUFFIXES, decode
from dmd2cli.errors import UserError

LISTED = "dataset.json"
"""EDM's list of labels: {"labels": [["00000/img00000000.png", 3], ...]}, or null in place of the list."""


@dataclass(frozen=True)
class Encoded:
    """The image files of a container. members: which of its files they are. labels, captions: one each, or None."""

    container: Container
    members: Sequence[int]
    labels: Sequence[int] | None
    classes: Sequence[str] = ()
    captions: Captions | None = None

    @property
    def format(self) -> str:
        """The container's."""
        return self.container.format

    @property
    def where(self) -> str:
        """The container's."""
        return self.container.where

    def __len__(self) -> int:
        return len(self.members)

    def name(self, i: int) -> str:
        return self.container.names[self.members[i]]

    def label(self, i: int) -> int | None:
        return self.labels[i] if self.labels is not None else None

    def caption(self, i: int) -> str | None:
        return self.captions[i] if self.captions is not None else None

    def size(self, i: int) -> int:
        return self.container.size(self.members[i])

    def raw(self, i: int) -> bytes:
        return self.container.read(self.members[i])

    def image(self, i: int) -> Image.Image:
        return decode(self.raw(i), f"{self.where}/{self.name(i)}")


def encoded(container: Container, labels: bool = True, captions: Wanted = False) -> Encoded:
    """The images of a container. labels: those of dataset.json if it has one, else of the folders its images are in.

    Raises UserError for a dataset.json or captions that cannot be read, or leave some images out.
    """
    found = labelled(container, labels)
    if captions is False or not len(found):
        return found
    return replace(found, captions=of_container(container, [container.names[k] for k in found.members], captions))


def labelled(container: Container, labels: bool) -> Encoded:
    """The images of a container with their labels."""
    names = container.names
    members = array("q", (k for k, name in enumerate(names) if os.path.splitext(name)[1].lower() in SUFFIXES))
    top = common_folder(names)
    images = [names[k][len(top) :] for k in members]
    if not labels:
        return Encoded(container, members, None)
    if (listed := f"{top}{LISTED}") in names:
        where = f"{container.where}/{listed}"
        return Encoded(container, members, of_list(where, container, names.index(listed), images))
    return Encoded(container, members, *of_folders(images))


def common_folder(names: Sequence[str]) -> str:
    """The one folder that everything is in, with its "/"; empty if there is none. It is no class."""
    first = names[0].partition("/")[0] if names else ""
    return f"{first}/" if first and all(name.startswith(f"{first}/") for name in names) else ""


def of_list(where: str, container: Container, k: int, images: Sequence[str]) -> Sequence[int] | None:
    """The labels that a dataset.json gives some images, None if it gives none."""
    try:
        found = json.loads(container.read(k))["labels"]
        listed: Mapping[str, int] | None = dict(found) if found is not None else None
    except (ValueError, KeyError, TypeError, Corrupt) as err:
        expected = '{"labels": [[NAME, LABEL], ...]}'
        raise UserError(f"{where}: not a list of labels ({err}); expected {expected}") from err
    if listed is None:
        return None
    if missing := [name for name in images if name not in listed]:
        n, first = len(missing), missing[0]
        raise UserError(f"{where}: {n} images have no label, the first is {first}; add them, or set labels to null")
    return whole((listed[name] for name in images), where)


def whole(labels: Iterable[object], where: str) -> Sequence[int]:
    """Labels that are class numbers. Raises UserError for any that is not."""
    found = array("q")
    for label in labels:
        if not isinstance(label, int) or label < 0:
            raise UserError(f"{where}: label {label!r} is no class number; expected 0, 1, 2, ...")
        found.append(label)
    return found


def of_folders(images: Sequence[str]) -> tuple[Sequence[int] | None, Sequence[str]]:
    """(labels, names of the classes): class folders in the order of their names, or as numbered.

    Folders called 0, 1, 2, ... are their own labels. Images outside of folders, or in one alone, have no labels.
    """
    folders = [PurePosixPath(name).parts[0] if "/" in name else "" for name in images]
    classes = sorted(set(folders))
    if "" in classes or len(classes) < 2:
        return None, ()
    if all(name.isascii() and name.isdigit() for name in classes):
        return array("q", (int(name) for name in folders)), ()
    number = {name: i for i, name in enumerate(classes)}
    return array("q", (number[name] for name in folders)), classes
