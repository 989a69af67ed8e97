"""A new study: plan, images as PNG files of our own writing, study.json. All of it appears at once, or nothing does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from dmd2cli import __version__
from dmd2cli.data.progress import progress
from dmd2cli.errors import UserError
from dmd2cli.study.arms import AnyArm, Files, Pixels
from dmd2cli.study.names import clean
from dmd2cli.study.planning import Plan, planned
from dmd2cli.study.set import FORMAT, QUESTIONS, STUDY, Arm, Item, Study, image_file

MOST_NAME = 64
"""Characters of an arm's name."""


def make(
    out: Path,
    arms: Sequence[AnyArm],
    texts: Sequence[str],
    seeds: Sequence[int] | None = None,
    n: int | None = None,
    source: Mapping[str, Any] | None = None,
) -> Study:
    """Write a study. source: where the prompts are from, JSON values.

    Raises UserError for arms that do not fit together, damaged images, or a place where something is already.
    """
    vacant(out)
    plan = planned([proper(arm) for arm in arms], texts, seeds, n)
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with progress("images", len(arms) * len(plan.items)) as show:
            made = [Arm(arm.name, arm.about, save(draft, k, images(arm, plan), show)) for k, arm in enumerate(arms)]
        study = Study(
            FORMAT, secrets.token_hex(8), made, [tidy(item) for item in plan.items], questions(texts),
            {"prompts": source, "seeds": seeds, "sides": "random", "order": "random"}, __version__,
        )  # fmt: skip
        (draft / STUDY).write_text(json.dumps(asdict(study), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        vacant(out)
        os.rename(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return study


def vacant(out: Path) -> None:
    """Raise UserError if something is there."""
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists already, and votes may be in it; choose another -o")


def proper(arm: AnyArm) -> AnyArm:
    """An arm. Raises UserError for a name that cannot be shown."""
    if not arm.name or clean(arm.name) != arm.name or len(arm.name) > MOST_NAME:
        raise UserError(f"arm '{clean(arm.name)}': a name is one line of 1 to {MOST_NAME} characters; see --name-a")
    return arm


def tidy(item: Item) -> Item:
    """An item with its text as the page shows it."""
    return item if item.text is None else replace(item, text=clean(item.text))


def questions(texts: Sequence[str]) -> list[str]:
    """What is asked: of prompts both, else quality alone."""
    return list(QUESTIONS) if texts else ["quality"]


def images(arm: AnyArm, plan: Plan) -> Iterable[Pixels]:
    """The images of an arm, item by item."""
    if isinstance(arm, Files):
        return (arm.image(place) for place in plan.places[arm.name])
    return arm.draw(plan.raw, plan.seed)


def save(draft: Path, arm: int, found: Iterable[Pixels], show: Callable[[int], None]) -> list[str]:
    """Write images anew from their pixels, so that nothing else of a foreign file is served; gives their SHA-256."""
    hashes = []
    for item, image in enumerate(found):
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        path = image_file(draft, arm, item)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
        hashes.append(hashlib.sha256(file.getvalue()).hexdigest())
        show(1)
    return hashes
