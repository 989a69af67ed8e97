"""Data sets of Hugging Face `datasets` that are on this machine already; nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.sources.captions import Wanted, column
from dmd2cli.data.sources.source import decode, extra
from dmd2cli.errors import UserError

SAVED = ("state.json", "dataset_dict.json")
"""What save_to_disk leaves in a folder: of one split, of several."""


class Hub:
    """The images of one split, by position.

    path: a folder made by save_to_disk, a folder of data files, or the name of a set in the local cache.
    image, label: names of the columns; without a label column of that name there are no labels. captions: name of their
    column, True = one of the usual names. Raises UserError.
    """

    format = "huggingface"

    def __init__(
        self, path: str, split: str = "train", image: str = "image", label: str | None = "label",
        config: str | None = None, captions: Wanted = False,
    ) -> None:
        self.where = path
        datasets, table = extra("datasets", "huggingface"), opened(path, split, config)
        columns = table.column_names
        if image not in columns:
            raise UserError(f"{path}: no column {image}; there are {', '.join(columns)}; set image to one of them")
        self.table = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        self.text = column(columns, captions, path) if captions is not False else None
        self.texts = table.select_columns([self.text]) if self.text is not None else None
        held = label if label in columns else None
        self.column, self.labels = image, class_numbers(table, held, path) if held is not None else None
        names = getattr(table.features[held], "names", None) if held is not None else None
        self.classes: Sequence[str] = tuple(names or ())

    def __len__(self) -> int:
        return len(self.table)

    def name(self, i: int) -> str:
        return f"[{i}]"

    def label(self, i: int) -> int | None:
        return self.labels[i] if self.labels is not None else None

    def caption(self, i: int) -> str | None:
        if self.texts is None:
            return None
        found = self.texts[i][self.text]
        if not isinstance(found, str):
            raise UserError(f"{self.where}/{self.name(i)}: {self.text} is {found!r}, no text; name another column")
        return found.strip()

    def size(self, i: int) -> int:
        return len(self.raw(i))

    def raw(self, i: int) -> bytes:
        found = self.table[i][self.column] or {}
        if found.get("bytes") is not None:
            return bytes(found["bytes"])
        try:
            with open(found.get("path") or "", "rb") as file:
                return file.read()
        except OSError as err:
            raise Corrupt(f"{self.where}/{self.name(i)}", err.strerror or str(err)) from err

    def image(self, i: int) -> Image.Image:
        return decode(self.raw(i), f"{self.where}/{self.name(i)}")


def opened(path: str, split: str, config: str | None) -> Any:
    """One split of a set, memory-mapped. Raises UserError if it is not on this machine."""
    datasets = extra("datasets", "huggingface")
    try:
        with offline(datasets):
            if any(os.path.isfile(os.path.join(path, name)) for name in SAVED):
                found = datasets.load_from_disk(path)
            else:
                found = datasets.load_dataset(path, name=config)
    except Exception as err:                       # its own exceptions come from many places
        reason = " ".join(str(err).split())[:200]
        advice = "download it first with datasets.load_dataset, or name a folder of save_to_disk"
        raise UserError(f"{path}: not a data set on this machine ({reason}); {advice}") from err
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise UserError(f"{path}: no split {split}; there are {', '.join(found)}; set split to one of them")
    return found[split]


@contextmanager
def offline(datasets: Any) -> Iterator[None]:
    """No request leaves the machine, whatever the environment says."""
    hub = extra("huggingface_hub", "huggingface").constants
    before = datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before


def class_numbers(table: Any, label: str, path: str) -> list[int]:
    """The label column. Raises UserError if it holds something else than class numbers."""
    found = list(table[label])
    if not all(isinstance(value, int) and value >= 0 for value in found):
        bad = next(value for value in found if not isinstance(value, int) or value < 0)
        raise UserError(f"{path}: {label} holds {bad!r}, no class number; set label to another column, or labels=false")
    return found
