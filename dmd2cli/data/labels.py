"""Class labels as conditions of generated samples."""

from __future__ import annotations

from dataclasses import dataclass

from dmd2cli.errors import UserError
from dmd2cli.protocols import Example


@dataclass(frozen=True)
class ClassLabels:
    """The labels 0 ... classes - 1, once each; shuffled anew every pass, so every class is equally frequent."""

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise UserError(f"class-labels: classes must be at least 1, got {self.classes}")

    def __len__(self) -> int:
        return self.classes

    def __getitem__(self, i: int) -> Example:
        return Example(condition=i)
