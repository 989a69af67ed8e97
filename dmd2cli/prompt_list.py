"""A list of prompts to measure with: which they are, how many images of each, and what a result says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmd2cli.cache import sha256
from dmd2cli.data.sources.texts import read_prompts
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw

OPTIONS = ("prompts", "column", "per_prompt")
"""What a metric of a recipe may say of its samples, besides its own options."""


@dataclass(frozen=True)
class PromptList:
    """Prompts in their order, per_prompt images of each, one after another."""

    where: str
    texts: Sequence[str]
    sha256: str
    """Of the file; of prompts that are in no file, of all of them."""
    column: str | None = None
    per_prompt: int = 1

    @property
    def total(self) -> int:
        """Images of all prompts."""
        return len(self.texts) * self.per_prompt

    def conditions(self, n: int) -> list[Raw]:
        """Of images 0 to n - 1: k = per_prompt of the first prompt, then of the second, ...; after the last, again."""
        return [self.texts[i // self.per_prompt % len(self.texts)] for i in range(n)]

    @property
    def about(self) -> dict[str, Any]:
        """For a protocol. JSON values."""
        facts = {"path": self.where, "sha256": self.sha256, "count": len(self.texts), "per_prompt": self.per_prompt}
        return facts if self.column is None else {**facts, "column": self.column}


def prompt_list(path: str, column: str | None = None, per_prompt: int = 1) -> PromptList:
    """The prompts of a file. Raises UserError as read_prompts() does, and unless per_prompt is at least 1."""
    at_least_one(per_prompt)
    return PromptList(path, read_prompts(path, column), sha256(Path(path).expanduser()), column, per_prompt)


def of_texts(where: str, texts: Sequence[str], per_prompt: int = 1) -> PromptList:
    """Prompts that are in no file of their own. where: what they are called."""
    at_least_one(per_prompt)
    return PromptList(where, texts, hashlib.sha256("\0".join(texts).encode()).hexdigest(), None, per_prompt)


def at_least_one(per_prompt: int) -> None:
    """Raise UserError for less than one image of a prompt."""
    if per_prompt < 1:
        raise UserError(f"--per-prompt {per_prompt}: at least 1 image of each prompt is needed")
