"""What lies at a path that a person offers as real data, and how a recipe for some teacher names it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmd2cli import registry
from dmd2cli.data.cache_files import CACHE
from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.latents import Latents, is_lmdb
from dmd2cli.data.shard_files import MANIFEST
from dmd2cli.data.sources.detect import open_source
from dmd2cli.data.sources.lmdb_latents import LmdbLatents
from dmd2cli.data.sources.source import Source
from dmd2cli.errors import UserError
from dmd2cli.protocols import Teacher

Use = Mapping[str, Any]


@dataclass(frozen=True)
class Offered:
    """Real data for a recipe."""

    what: str
    """In words."""
    real: Use
    """data.real."""
    conditions: Use | None = None
    """data.prompts of its own conditions, if it has any that the teacher reads."""
    commands: tuple[str, ...] = ()
    """To be run first; {} stands for the recipe."""


def offered(path: str, teacher: Teacher, size: tuple[int, int] | None, cache: str) -> Offered:
    """The data at a path, or a data set of that name, for a teacher of images of some height and width.

    cache: the folder that images are to be encoded into, for a teacher of latents. Raises UserError for what is not
    there, is damaged, or does not go with the teacher.
    """
    full = os.path.expanduser(path)
    if not os.path.exists(full) and path in registry.names("datasets"):
        return Offered(f"data set {path}", {"use": path})
    if (Path(full) / MANIFEST).is_file():
        return cached(path, teacher)
    if is_lmdb(full) and (found := latents(full)) is not None:
        Latents(full).check_teacher(teacher)
        stored = {"use": "latents", "path": path}
        return Offered("LMDB of latents", stored, stored if found.captioned and teacher.prompts else None)
    source = open_source(full)
    if hasattr(teacher.decode, "latents"):
        return encoded(path, source, teacher, size, cache)
    if teacher.shape[0] != 3:
        ours = " x ".join(map(str, teacher.shape))
        raise UserError(f"{path}: images are 3 x height x width, this teacher's samples {ours}; leave --data out")
    use: dict[str, Any] = {"use": "images", "path": path, "size": teacher.shape[-1]}
    labelled = bool(teacher.conditions) and source.label(0) is not None
    fitting = prepared(path, source, size, "")
    if fitting:
        use["path"] = fitting[1]
    return Offered(f"images ({source.format})", use | ({} if labelled else {"labels": False}), None, fitting[:1])


def cached(path: str, teacher: Teacher) -> Offered:
    """A folder of `dmd2 data cache`."""
    found, use = Latents(path), {"use": "latents", "path": path}
    contract: Mapping[str, Any] = found.store.contract  # type: ignore[attr-defined]
    if not contract["latents"]:
        raise UserError(f"{path}: holds prompts and no images; give it as --prompts")
    if list(contract["shape"]) != list(teacher.shape):
        ours, theirs = (" x ".join(map(str, shape)) for shape in (contract["shape"], teacher.shape))
        raise UserError(f"{path}: latents are {ours}, and the teacher's are {theirs}; encode images of its size")
    conditions = use if contract["text"] or found.condition(0) is not None else None
    return Offered("encoded latents", use, conditions)


def latents(path: str) -> LmdbLatents | None:
    """An LMDB of latents, None for one of images."""
    try:
        return LmdbLatents(path)
    except UserError:
        return None


def encoded(path: str, source: Source, teacher: Teacher, size: tuple[int, int] | None, cache: str) -> Offered:
    """Images that a teacher of latents needs encoded."""
    captioned = teacher.prompts and has_captions(path)
    first = prepared(path, source, size, " --captions" if captioned else "")
    images, made = (first[1], first[:1]) if first else (path, ())
    more = " --no-captions" if teacher.prompts and not captioned else ""
    cache_it = f"{CACHE.command} {{}} --data {shlex.quote(images)}{more} -o {shlex.quote(cache)}"
    use = {"use": "latents", "path": cache}
    return Offered(f"images ({source.format}), to be encoded", use, use if captioned else None, (*made, cache_it))


def has_captions(path: str) -> bool:
    """Whether images come with captions."""
    try:
        return open_source(path, captions=True).caption(0) is not None
    except UserError:
        return False


def prepared(path: str, source: Source, size: tuple[int, int] | None, more: str) -> tuple[str, ...]:
    """(command that makes images of the teacher's size, what it makes), nothing if they are of that size already."""
    try:
        width, height = source.image(0).size
    except Corrupt:
        return ()
    if size is None or (height, width) == size:
        return ()
    if size[0] != size[1]:
        what = f"images are {height} x {width}, the teacher's {size[0]} x {size[1]}"
        raise UserError(f"{path}: {what}; resize them first")
    out = f"{Path(path).name.partition('.')[0]}-{size[0]}.zip"
    return f"dmd2 data prepare {shlex.quote(path)} -o {shlex.quote(out)} --size {size[0]}{more}", out


def prompts(path: str) -> Use:
    """data.prompts of a file of prompts or a folder of `dmd2 data cache`. Raises UserError if there are none."""
    from dmd2cli.data.sources.texts import read_prompts

    if Path(path).expanduser().is_dir() or is_lmdb(path):
        Latents(path)
        return {"use": "latents", "path": path}
    read_prompts(path, None)
    return {"use": "prompts", "path": path}
