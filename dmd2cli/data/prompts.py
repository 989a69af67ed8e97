"""Prompts as conditions of generated samples: data-free training needs nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dmd2cli.data.sources.texts import not_empty, read_prompts
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example


class Prompts:
    """The prompts of a file, or those of the recipe; empty ones are left out.

    path: .txt with one on each line, .jsonl, .csv, .tsv or .parquet. texts: the prompts themselves, in place of a path.
    column: key or column of a table; null = prompt, caption or text. limit: only so many, evenly spaced.
    Raises UserError if there are none.
    """

    def __init__(
        self,
        path: str | None = None,
        texts: Sequence[str] | None = None,
        column: str | None = None,
        limit: int | None = None,
    ) -> None:
        if (path is None) == (texts is None):
            raise UserError("prompts: give either path, a file of prompts, or texts, a list of them")
        if limit is not None and limit < 1:
            raise UserError(f"limit must be at least 1, got {limit}")
        found = read_prompts(path, column) if path is not None else not_empty(texts or (), "texts")
        n = min(limit or len(found), len(found))
        self.texts = found if n == len(found) else [found[i * len(found) // n] for i in range(n)]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < len(self.texts):
            raise IndexError(f"prompt {i} of {len(self.texts)}")
        return Example(condition=self.texts[i])

    def condition(self, i: int) -> str:
        """Of item i."""
        return self.texts[i]

    def fingerprint(self) -> str:
        """SHA-256 of all prompts."""
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()

    def name(self, i: int) -> str:
        """Item i as a person looks for it."""
        return f"prompt {self.texts[i]!r}"
