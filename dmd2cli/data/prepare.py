"""Raw images to images for training: cropped, resized, packed. Interrupted, it continues where it was.

Work is done in parts of PART images. A part is two files in a folder beside the output, `.NAME.parts`: its PNG files
one after another, and their list, written last, so that a part is whole or not there. When all are there they are
packed, and the folder is removed. contract.json in it says what the parts are a function of.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.pack import Record, Target
from dmd2cli.data.parts import cut, results
from dmd2cli.data.progress import progress
from dmd2cli.data.resize import ADM, FILTERS, squared
from dmd2cli.data.sources.source import Source, fingerprint, full_name, rgb
from dmd2cli.errors import UserError

PART = 500
CONTRACT = "contract.json"


@dataclass(frozen=True)
class Options:
    """What is made of an image. size: side, None = as it is. labels: keep or none."""

    size: int | None = None
    filter: str = "lanczos"
    crop: str = "center"
    labels: str = "keep"

    def __post_init__(self) -> None:
        for name, choices in (("filter", (*FILTERS, ADM)), ("crop", ("center", "none")), ("labels", ("keep", "none"))):
            if getattr(self, name) not in choices:
                raise UserError(f"--{name} {getattr(self, name)}: must be one of {', '.join(choices)}")
        if self.size is not None and self.size < 1:
            raise UserError(f"--size {self.size}: must be at least 1")

    def record(self, source: Source, i: int) -> Record:
        """Item i, prepared. Raises Corrupt, or UserError for a shape that may not be."""
        name = full_name(source, i)
        image = squared(Image.fromarray(rgb(source, i)), self.size, name, self.filter, self.crop == "center")
        file = io.BytesIO()
        image.save(file, format="PNG", compress_level=0)       # fast to read, and the same bytes with any zlib
        label = source.label(i) if self.labels == "keep" else None
        return Record(i, file.getvalue(), label, source.caption(i))


def prepare(
    source: Source, target: Target, options: Options, workers: int = 1, max_corrupt: int = 10
) -> dict[str, Any]:
    """Make the target; returns {"out", "images", "made", "corrupt", "seconds"}. made: images not there before.

    Raises UserError if something else is there, or more than max_corrupt images cannot be read, and KeyboardInterrupt
    after the parts that were begun are kept.
    """
    started, n = time.perf_counter(), len(source)
    contract = {"raw": fingerprint(source), "images": n, **asdict(options), "per_shard": target.per_shard}
    found, made = target.made(), 0
    if found is not None:
        check_same(target.path, found, contract)
    else:
        folder = begun(target, contract)
        held = [part for part in cut(n, PART) if is_whole(folder, part)]
        made = n - sum(map(len, held))
        bad = make(partial(write_part, source, options, folder), cut(n, PART), held, folder, workers, max_corrupt)
        if len(bad) == n:
            raise UserError(f"{source.where}: none of {n} images can be read; dmd2 data check says why")
        found = {**contract, "written": n - len(bad), "corrupt": bad}
        target.write(records(folder, cut(n, PART)), found)
        shutil.rmtree(folder)
    seconds = round(time.perf_counter() - started, 3)
    facts = {"out": str(target.path), "images": found["written"], "made": made}
    return {**facts, "corrupt": found["corrupt"], "seconds": seconds}


def begun(target: Target, contract: Mapping[str, Any]) -> Path:
    """The folder of the parts, new or of an earlier run. Raises UserError if that made something else."""
    folder = target.path.with_name(f".{target.path.name}.parts")
    if (folder / CONTRACT).is_file():
        check_same(folder, json.loads((folder / CONTRACT).read_text(encoding="utf-8")), contract)
    else:
        target.check_free()
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / CONTRACT, json.dumps(contract, indent=2).encode())
    return folder


def check_same(where: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UserError naming the first difference between what is there and what is asked for."""
    for key, value in asked.items():
        if held.get(key) != value:
            what = f"made with {key} {held.get(key)}, now it is {value}; set it back"
            if key in ("raw", "images"):
                what = "made from other raw data, or they have changed; bring them back"
            raise UserError(f"{where}: {what}, or choose another -o")


def make(
    work: partial[list[Corrupt]], parts: Sequence[range], held: Sequence[range], folder: Path, workers: int, most: int
) -> list[str]:
    """Make the parts that are not held; returns the names of all corrupt images, in order."""
    bad = {part.start: listed(folder, part)["corrupt"] for part in held}
    missing = [part for part in parts if part.start not in bad]
    total, done = parts[-1].stop, sum(map(len, held))
    with progress("images", total, done) as more, closing(results(work, missing, workers)) as found:
        try:
            check_corrupt(bad, most)
            for part, corrupt in found:
                for err in corrupt:
                    print(f"{err.name}: left out ({err.reason})", file=sys.stderr)
                bad[part.start] = [err.name for err in corrupt]
                more(len(part))
                check_corrupt(bad, most)
        except KeyboardInterrupt:
            print("interrupted; the same command continues", file=sys.stderr)
            raise
    return [name for _, names in sorted(bad.items()) for name in names]


def check_corrupt(bad: Mapping[int, Sequence[str]], most: int) -> None:
    """Raise UserError if there are more corrupt images than are borne."""
    names = [name for _, part in sorted(bad.items()) for name in part]
    if len(names) > most:
        n = len(names)
        raise UserError(f"{names[-1]}: corrupt, as {n - 1} others are; mend them, or raise --max-corrupt {most} to {n}")


# -- parts on disk ---------------------------------------------------------------------------------------------


def write_part(source: Source, options: Options, folder: Path, part: range) -> list[Corrupt]:
    """Prepare some images and write them; returns those that are corrupt."""
    done, bad = list[Record](), list[Corrupt]()
    for i in part:
        try:
            done.append(options.record(source, i))
        except Corrupt as err:
            bad.append(err)
    write(folder / f"{part.start:09d}.bin", b"".join(record.png for record in done))
    rows = [[r.number, len(r.png), r.label, r.caption] for r in done]
    facts = {"records": rows, "corrupt": [err.name for err in bad]}
    write(folder / f"{part.start:09d}.json", json.dumps(facts).encode())
    return bad


def listed(folder: Path, part: range) -> dict[str, Any]:
    """The list of a part. Raises OSError or ValueError if it is not whole."""
    return dict(json.loads((folder / f"{part.start:09d}.json").read_text(encoding="utf-8")))


def is_whole(folder: Path, part: range) -> bool:
    """Is a part there, from an earlier run?"""
    try:
        size = sum(size for _, size, _, _ in listed(folder, part)["records"])
        return (folder / f"{part.start:09d}.bin").stat().st_size == size
    except (OSError, ValueError, KeyError, TypeError):
        return False


def records(folder: Path, parts: Sequence[range]) -> Iterator[Record]:
    """The images of all parts, in order."""
    for part in parts:
        with open(folder / f"{part.start:09d}.bin", "rb") as file:
            for number, size, label, caption in listed(folder, part)["records"]:
                yield Record(number, file.read(size), label, caption)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f".{path.name}.tmp")
    new.write_bytes(content)
    os.replace(new, path)
