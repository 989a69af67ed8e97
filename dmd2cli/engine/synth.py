"""A real set without a licence question: images that a recipe's teacher draws, with their captions or labels.

Image i is a function of the teacher, its sampler, guidance, seed and i, and of caption or class i in turn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmd2cli.data.pack import captioned, draft, listed
from dmd2cli.data.sources.captions import METADATA
from dmd2cli.data.sources.labelled import LISTED
from dmd2cli.engine import build
from dmd2cli.engine.generate import Order, Share, generate
from dmd2cli.engine.image_set import PACKED
from dmd2cli.engine.phases import matching_guidance
from dmd2cli.errors import UserError
from dmd2cli.images import file_of
from dmd2cli.protocols import Raw
from dmd2cli.recipe import Recipe
from dmd2cli.source import Source


def order(
    recipe: Recipe,
    device: torch.device,
    texts: Sequence[str] | None,
    n: int,
    seed: int,
    guidance: float | None = None,
    batch: int = 16,
) -> Order:
    """n images of a recipe's teacher. texts: their prompts in turn, None = all of its classes in turn.

    guidance: None is that of the recipe's distribution_matching. Raises UserError for prompts that the teacher does
    not read, and for a teacher of prompts without any.
    """
    found = build.teacher_source(recipe, device)
    asked = conditions(found, texts, recipe.teacher.use)
    scale = (matching_guidance(recipe) or 1.0) if guidance is None else guidance
    if scale != 1.0 and not found.teacher.encode([])[0]:
        raise UserError(f"guidance {scale:g}: this teacher is unconditional; use --guidance 1")
    return Order(replace(found, guidance=scale), [asked[i % len(asked)] for i in range(n)], seed, batch)


def conditions(source: Source, texts: Sequence[str] | None, name: str) -> list[Raw]:
    """What images are drawn for."""
    classes = list(source.teacher.conditions)
    if texts is None:
        if not classes and source.teacher.encode([])[0]:
            raise UserError(f"teacher {name} has no list of classes; give --prompts FILE")
        return classes or [None]
    if classes:
        raise UserError(f"--prompts: teacher {name} reads classes, not text; use --classes")
    source.teacher.encode(texts[:1])
    return list(texts)


def make(wanted: Order, out: Path, mine: Share) -> dict[str, Any]:
    """Draw what is missing into a .zip or a folder, with the lists that data sets read; gives what generate() does."""
    if out.suffix and out.suffix != ".zip":
        raise UserError(f"-o {out}: a set with captions or labels is a .zip or a folder")
    found = generate(wanted, out, mine)
    if found["complete"] and out.suffix not in PACKED:
        write_lists(wanted, out)
    return found


def write_lists(wanted: Order, folder: Path) -> None:
    """dataset.json and metadata.jsonl beside the images of a folder, each whole or not at all."""
    names = [file_of(Path(), i).name for i in range(len(wanted.raw))]
    labels = [c if isinstance(c, int) else None for c in wanted.raw]
    lines = [captioned(name, c) for name, c in zip(names, wanted.raw, strict=True) if isinstance(c, str)]
    texts = {LISTED: listed(zip(names, labels, strict=True), wanted.made), METADATA: "".join(lines)}
    for name, text in texts.items():
        if text:
            draft(folder / name).write_text(text, encoding="utf-8")
            os.replace(draft(folder / name), folder / name)
