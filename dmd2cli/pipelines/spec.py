"""What is asked of a pipeline: PATH[,lora=P,scheduler=NAME,steps=N,guidance=G,...], and how that is read."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dmd2cli.errors import UserError, suggest

KEYS = ("lora", "lora_weight", "scheduler", "steps", "guidance", "negative", "size", "dtype")
"""What may follow a path, besides a name."""


@dataclass(frozen=True)
class Spec:
    """A pipeline by folder or name of the hub, and how it is to draw; None: as the pipeline has it itself."""

    path: str
    lora: str | None = None
    """Safetensors file, folder or name of the hub, fused into the networks."""
    lora_weight: float | None = None
    scheduler: str | None = None
    """NAME or NAME:key=value:..., NAME of schedulers.SCHEDULERS."""
    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    """Negative prompt."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels."""
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UserError(f"--steps {self.steps}: at least 1 is needed")
        if self.size is not None and min(self.size) < 1:
            raise UserError("--size {} x {}: sides are at least 1 pixel".format(*self.size))
        for flag, value in (("--guidance", self.guidance), ("--lora-weight", self.lora_weight)):
            if value is not None and not math.isfinite(value):
                raise UserError(f"{flag} {value}: expected a finite number")
        if self.lora is None and self.lora_weight is not None:
            raise UserError("--lora-weight: belongs to --lora FILE; give both or neither")


def parse(text: str) -> Spec:
    """A Spec of its text. Raises UserError for an option that there is not, or a value of another kind."""
    path, said = divided(text, KEYS)
    whole, number = converted(said, {"steps": int}), converted(said, {"guidance": float, "lora_weight": float})
    size = {"size": pixels(said["size"], "size=")} if "size" in said else {}
    return Spec(path, **{**said, **whole, **number, **size})                       # type: ignore[arg-type]


def divided(text: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """PATH,key=value,... -> (path, options). What exists under the whole text is a path, commas and all.

    Raises UserError for an option that is not known, or given twice.
    """
    if text and Path(text).expanduser().exists():
        return text, {}
    path, *pairs = re.split(r",(?=\w+=)", text)
    found = dict[str, str]()
    for key, _, value in (pair.partition("=") for pair in pairs):
        if key not in known:
            raise UserError(f"{text}: has no option {key!r}{suggest(key, known)}")
        if key in found:
            raise UserError(f"{text}: {key} is given twice; give it once")
        found[key] = value
    if not path:
        raise UserError(f"{text!r}: names nothing; put a path or a name before the options")
    return path, found


def converted(said: Mapping[str, str], kinds: Mapping[str, type]) -> dict[str, int | float]:
    """Options that are numbers. Raises UserError for other text."""
    found = dict[str, int | float]()
    for key, kind in kinds.items():
        if key in said:
            try:
                found[key] = kind(said[key])
            except ValueError:
                what = "a whole number" if kind is int else "a number"
                raise UserError(f"{key}={said[key]}: expected {what}") from None
    return found


def pixels(text: str, flag: str = "--size ") -> tuple[int, int]:
    """(height, width) of 1024 or 832x1216. Raises UserError for other text."""
    if not (found := re.fullmatch(r"(\d+)(?:[xX](\d+))?", text)):
        raise UserError(f"{flag}{text}: expected pixels: 1024, or HEIGHTxWIDTH such as 832x1216")
    return int(found[1]), int(found[2] or found[1])
