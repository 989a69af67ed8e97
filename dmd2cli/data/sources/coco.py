"""The captions of COCO: one of each image, in an order that a seed decides. Importing this imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmd2cli.data.sources.captions import as_text
from dmd2cli.errors import UserError

SEED = 0


def read_coco(path: Path, seed: int = SEED) -> list[tuple[str, str]]:
    """(file name, caption) of every image in a captions_*.json: one of its captions, images in random order.

    Image and caption come from hashes of the seed and COCO's numbers, so the first n are the same on every machine.
    Raises UserError for another kind of JSON, or where no caption is in it.
    """
    try:
        found = json.loads(as_text(path.read_bytes(), str(path)))
        names = {image["id"]: str(image["file_name"]) for image in found["images"]}
        captions = [(one["image_id"], one["id"], one["caption"].strip()) for one in found["annotations"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected COCO's captions, such as captions_val2014.json") from None
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        expected = '{"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}'
        why = f"{type(err).__name__}: {err}"
        raise UserError(f"{path}: not COCO's captions ({why}); expected {expected}, or a .jsonl of prompts") from None
    chosen = one_each(captions, seed)
    order = sorted(chosen.keys() & names.keys(), key=lambda image: place(seed, "image", image))
    if not order:
        raise UserError(f"{path}: no captions of its images in it; take captions_val2014.json")
    return [(names[image], chosen[image]) for image in order]


def one_each(captions: list[tuple[Any, Any, str]], seed: int) -> Mapping[Any, str]:
    """Image -> one of its captions that say something."""
    chosen: dict[Any, tuple[str, str]] = {}
    for image, number, text in captions:
        rank = place(seed, "caption", number)
        if text and (image not in chosen or rank < chosen[image][0]):
            chosen[image] = rank, text
    return {image: text for image, (_, text) in chosen.items()}


def place(seed: int, kind: str, number: Any) -> str:
    """Where something comes in a random order."""
    return hashlib.sha256(f"{seed} {kind} {number}".encode()).hexdigest()
