"""Prepared images as files that training reads: an EDM zip or folder, or WebDataset tars. The same bytes every time.

Image i of the raw data is 00000/img00000000.png with i in place of the zeros (five digits of it in the folder), in a
tar 00000000.png with its label in 00000000.cls and its caption in 00000000.txt. What was corrupt leaves a gap.
Captions of a zip or folder are in a metadata.jsonl as Hugging Face reads it.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from dmd2cli.data.sources.captions import METADATA
from dmd2cli.data.sources.labelled import LISTED
from dmd2cli.errors import UserError

EARLY = (1980, 1, 1, 0, 0, 0)
"""The time that every file in a zip has: the first there is."""
NUMBER = re.compile(r"%0?\d*d")
MADE = "made"
"""Where a dataset.json says how it was made, beside its labels."""


@dataclass(frozen=True)
class Record:
    """A prepared image: number in the raw data, PNG file, label, caption."""

    number: int
    png: bytes
    label: int | None
    caption: str | None = None

    @property
    def name(self) -> str:
        """Its path in an EDM zip or folder."""
        return f"{self.number:08d}"[:5] + f"/img{self.number:08d}.png"


@dataclass(frozen=True)
class Target:
    """Where to and in which format. per_shard: images in a tar."""

    path: Path
    per_shard: int = 10_000

    @property
    def kind(self) -> str:
        """zip, tar or folder, by the name."""
        return {".zip": "zip", ".tar": "tar"}.get(self.path.suffix, "folder")

    @property
    def beside(self) -> Path:
        """The file that says how tars were made: their name without the number, .json."""
        return self.path.with_name(NUMBER.sub("", self.path.stem).strip("-_.") + ".json")

    def made(self) -> Mapping[str, Any] | None:
        """How what is there was made; None if nothing is there. Raises UserError if something else is."""
        there = self.beside if self.kind == "tar" else self.path
        if not there.exists():
            return None
        try:
            return dict(json.loads(self._listed())[MADE])
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            raise UserError(f"{there}: is there already, not made by dmd2 data prepare; choose another -o") from None

    def check_free(self) -> None:
        """Raise UserError if something is there that would be overwritten."""
        pattern = NUMBER.sub("[0-9]*", self.path.name)
        there = sorted(self.path.parent.glob(pattern)) if self.path.parent.is_dir() else []
        if there:
            raise UserError(f"{there[0]}: is there already, not made by this command; choose another -o")

    def _listed(self) -> str | bytes:
        if self.kind == "zip":
            with zipfile.ZipFile(self.path) as file:
                return file.read(LISTED)
        return (self.beside if self.kind == "tar" else self.path / LISTED).read_bytes()

    def write(self, records: Iterable[Record], made: Mapping[str, Any]) -> None:
        """Write all of it, or nothing under the final name. records: in order."""
        writers: dict[str, Callable[[Target, Iterable[Record], Mapping[str, Any]], None]]
        writers = {"zip": write_zip, "tar": write_tars, "folder": write_folder}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        writers[self.kind](self, records, made)


def draft(path: Path) -> Path:
    """The neighbour under whose name a file is written."""
    return path.with_name(f".{path.name}.tmp")


def listed(labels: Iterable[tuple[str, int | None]], made: Mapping[str, Any]) -> str:
    """dataset.json: labels as EDM has them, null if some image has none; and how it was made."""
    pairs = [[name, label] for name, label in labels]
    known = pairs and all(label is not None for _, label in pairs)
    return json.dumps({"labels": pairs if known else None, MADE: made})


def captioned(name: str, caption: str) -> str:
    """A line of metadata.jsonl."""
    return json.dumps({"file_name": name, "text": caption}, ensure_ascii=False) + "\n"


def write_zip(target: Target, records: Iterable[Record], made: Mapping[str, Any]) -> None:
    """A zip whose members are stored as they are: PNG does not get smaller."""
    new, labels, captions = draft(target.path), list[tuple[str, int | None]](), list[str]()
    with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as file:
        for record in records:
            file.writestr(zip_member(record.name), record.png)
            labels.append((record.name, record.label))
            captions += [captioned(record.name, record.caption)] if record.caption is not None else []
        if captions:
            file.writestr(zip_member(METADATA), "".join(captions))
        file.writestr(zip_member(LISTED), listed(labels, made))
    os.replace(new, target.path)


def zip_member(name: str) -> zipfile.ZipInfo:
    """A member whose header depends on its name alone."""
    member = zipfile.ZipInfo(name, EARLY)
    member.create_system, member.external_attr = 3, 0o644 << 16        # as on Unix, on any system
    return member


def write_folder(target: Target, records: Iterable[Record], made: Mapping[str, Any]) -> None:
    """The files of the zip in a folder."""
    new, labels, captions = draft(target.path), list[tuple[str, int | None]](), list[str]()
    shutil.rmtree(new, ignore_errors=True)                             # of an earlier, interrupted write
    for folder, group in groupby(records, key=lambda record: record.name.partition("/")[0]):
        (new / folder).mkdir(parents=True)
        for record in group:
            (new / record.name).write_bytes(record.png)
            labels.append((record.name, record.label))
            captions += [captioned(record.name, record.caption)] if record.caption is not None else []
    if captions:
        (new / METADATA).write_text("".join(captions), encoding="utf-8")
    (new / LISTED).write_text(listed(labels, made), encoding="utf-8")
    os.replace(new, target.path)


def write_tars(target: Target, records: Iterable[Record], made: Mapping[str, Any]) -> None:
    """Shards of per_shard images by number in the raw data; all of them get their names when all are written."""
    paths, labelled = list[Path](), list[tuple[str, int | None]]()
    for number, shard in groupby(records, key=lambda record: record.number // target.per_shard):
        paths.append(shard_path(target.path, number))
        with tarfile.open(draft(paths[-1]), "w", format=tarfile.USTAR_FORMAT) as file:
            for record in shard:
                labelled.append((record.name, record.label))
                for name, content in tar_files(record):
                    member = tarfile.TarInfo(name)                     # time, owner: 0
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    for path in paths:
        os.replace(draft(path), path)
    facts = {"shards": [path.name for path in paths], "images": len(labelled), MADE: made}
    draft(target.beside).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    os.replace(draft(target.beside), target.beside)


def shard_path(path: Path, number: int) -> Path:
    """The file of a shard. Raises UserError for a second one where the name has no place for a number."""
    if NUMBER.search(path.name):
        return path.with_name(NUMBER.sub(lambda found: found.group() % number, path.name))
    if number:
        raise UserError(f"{path}: more images than one shard holds; put a number into the name: NAME-%06d.tar")
    return path


def tar_files(record: Record) -> Iterator[tuple[str, bytes]]:
    """The members of one image."""
    yield f"{record.number:08d}.png", record.png
    if record.label is not None:
        yield f"{record.number:08d}.cls", str(record.label).encode()
    if record.caption is not None:
        yield f"{record.number:08d}.txt", record.caption.encode()
