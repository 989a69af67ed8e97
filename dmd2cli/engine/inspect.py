"""What a model on disk is: which registered teacher takes it, and what that says of it. No weights are loaded."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

import torch

from dmd2cli import registry
from dmd2cli.core.noise import Discrete, Karras, RectifiedFlow
from dmd2cli.engine.plan.networks import silent
from dmd2cli.errors import UserError, suggest
from dmd2cli.protocols import Teacher
from dmd2cli.recipe import Use
from dmd2cli.recipe_build import build
from dmd2cli.weights import read_metadata

PATHS = ("model", "weights")
"""Options of teachers that take a path: a pipeline of another library's, and a file of our own."""


@dataclass(frozen=True)
class Found:
    """A model and the teacher that takes it."""

    ref: str
    use: Mapping[str, Any]
    """The recipe's `teacher`: its name and options."""
    teacher: Teacher
    """Without weights, on the meta device if that can be."""

    @property
    def family(self) -> str:
        """The teacher's name."""
        return str(self.use["use"])

    @property
    def parameters(self) -> int:
        """Of the network."""
        return sum(p.numel() for p in (self.teacher.network or self.teacher.denoiser).parameters())

    @property
    def text(self) -> bool:
        """Whether conditions are prompts."""
        return self.teacher.prompts

    @property
    def latent(self) -> bool:
        """Whether images are encoded."""
        return hasattr(self.teacher.decode, "latents")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images, where samples are images."""
        told = self.teacher.details.get("resolution") or self.teacher.shape[1:]
        return (int(told[0]), int(told[1])) if len(told) == 2 else None

    @property
    def schedule(self) -> str:
        """In words."""
        match self.teacher.schedule:
            case Discrete(alphas_cumprod=table):
                zero = not table.is_meta and float(table[-1]) == 0
                return f"{len(table)} timesteps" + (", the last of them pure noise (zero SNR)" if zero else "")
            case RectifiedFlow(shift=shift):
                return f"straight paths, shift {shift:g}"
            case Karras(sigma_min=low, sigma_max=high):
                return f"EDM's, sigma {low:g} to {high:g}"
            case other:
                return type(other).__name__

    @property
    def null(self) -> str:
        """The null condition, in words."""
        if "null" in self.teacher.details:
            told = self.teacher.details["null"]
            return "zeros" if told is None else f"the prompt {told!r}" if told else "the empty prompt"
        return "no label" if self.teacher.conditions else "none"

    @property
    def facts(self) -> dict[str, Any]:
        """For people and for --json."""
        size = self.size
        return {
            "family": self.family,
            "prediction": self.teacher.details.get("prediction", "x_hat"),
            "schedule": self.schedule,
            "resolution": f"{size[0]} x {size[1]}" if size else " x ".join(map(str, self.teacher.shape)),
            "conditions": "prompts" if self.text else f"{len(self.teacher.conditions)} classes"
            if self.teacher.conditions else "none",
            "null_condition": self.null,
            "parameters": self.parameters,
        }


def find(ref: str, given: Mapping[str, Any] | None = None) -> Found:
    """The model at a path, of a name in the local hub cache, or of a registered teacher.

    given: further options of the teacher. Where several teachers take a model it is that of a published model's own.
    Raises UserError, in one line, with the most telling of their reasons if none takes it.
    """
    fitting, reasons = list[Found](), list[str]()
    for name, options in candidates(ref):
        try:
            fitting.append(attempt(ref, name, {**options, **(given or {})}))
        except UserError as err:
            reasons.append(str(err).removeprefix("teacher: "))
    if not fitting:
        if "/" not in ref and not Path(ref).expanduser().exists() and ref not in registry.names("teachers"):
            what = "no such file or folder, and no teacher of that name"
            raise UserError(f"{ref}: {what}{suggest(ref, registry.names('teachers'))}")
        raise UserError(reason(ref, reasons))
    return fitting[0] if len(fitting) == 1 else next((one for one in fitting if own(one.family)), fitting[0])


def candidates(ref: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Teachers that might take it, with the option that names it: those that can be built without weights."""
    path, installed = Path(ref).expanduser(), registry.names("teachers")
    if ref in installed and not path.exists():
        yield ref, {}
        return
    marked = mark(path) if path.is_file() else None
    key = "weights" if marked in installed or path.suffix == ".pkl" else "model"
    for name in installed if marked not in installed else [str(marked)]:
        with suppress(UserError):
            if {key, "skeleton"} <= inspect.signature(registry.load("teachers", name)).parameters.keys():
                yield name, {key: ref}


def mark(path: Path) -> str | None:
    """The teacher that a file of ours says it is of."""
    try:
        return str(loads(read_metadata(path).get("details", "{}")).get("family"))
    except (UserError, ValueError, OSError):
        return None


def attempt(ref: str, name: str, options: Mapping[str, Any]) -> Found:
    """A teacher without weights. Raises UserError for whatever is wrong with the model."""
    if "skeleton" not in inspect.signature(registry.load("teachers", name)).parameters:
        raise UserError(f"teacher {name} cannot be built without its weights (it takes no skeleton)")
    use = {"use": name, **options}
    try:
        try:
            return made(ref, use, "meta")
        except (RuntimeError, NotImplementedError):        # one that computes while it is built, and has no files
            if options.keys() & set(PATHS):
                raise
            return made(ref, use, "cpu")
    except UserError:
        raise
    except Exception as err:                               # libraries raise what they like on a damaged model
        why = " ".join(str(err).split())[:160]
        raise UserError(f"{ref}: cannot be read as a model of {name}: {type(err).__name__}: {why}") from err


def made(ref: str, use: Mapping[str, Any], device: str) -> Found:
    """A teacher without weights, on a device."""
    with torch.device(device), silent():
        return Found(ref, use, build("teachers", Use.model_validate(use), "teacher", skeleton={}))


def own(name: str) -> bool:
    """Whether a teacher is of one published model and its fine-tunes: it can be built without being told which."""
    try:
        attempt("", name, {})
    except UserError:
        return False
    return True


def reason(ref: str, reasons: list[str]) -> str:
    """The most telling of several: that of most teachers, then one with a command in it; none that points elsewhere."""
    if not reasons:
        return f"{ref}: no installed teacher takes such a model; see `dmd2 plugins list`"
    telling = [one for one in reasons if "set teacher.use" not in one] or reasons
    counted = Counter(telling)
    return max(telling, key=lambda one: (counted[one], "`" in one))
