"""Why a run had to stop: its step is trained once more, watched, and left behind as files that reproduce it.

    RUN/diverged/step-N.safetensors    all tensors of the step's batches; rank R > 0 has step-N.rank-R.safetensors
    RUN/diverged/step-N.json           step, seed, the first tensor that was not finite, how to come there again

N counts steps from 1, as metrics.jsonl and checkpoints do. Job.step and all draws count them from 0.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dmd2cli import __version__
from dmd2cli.engine import checkpoint
from dmd2cli.engine.nonfinite import Found, Trace, bad, found, places
from dmd2cli.engine.parallel import ALONE, World
from dmd2cli.errors import UserError
from dmd2cli.recipe import AnyRecipe, Recipe
from dmd2cli.weights import save_weights

FOLDER = "diverged"
MEASURED = ("gradient_norm", "update_ratio", "lag")
"""Ends of the names of logged values that are no loss terms."""
WORDS = """Data and draws of a step are functions of the recipe and the step. So training from the newest checkpoint \
before this step comes to the same numbers again, and skips the same updates. The Python code does that."""
PYTHON = """\
from pathlib import Path

from dmd2cli.engine import checkpoint, runtime
from dmd2cli.engine.autopsy import autopsy
from dmd2cli.engine.{module} import {make}
from dmd2cli.recipe import load_any

run = Path({run!r})
recipe = load_any(run / "recipe.yaml")
runtime.set_threads(recipe.run.threads)
job = {make}(recipe, runtime.device(recipe.run.device), fresh={fresh})
{restore}
for step in range({start}, {step}):
    job.step(step)
print(autopsy(job, {step}, run))
"""
RESTORE = """\
job.seek({start} - 1)
job.load_state(checkpoint.load(run / "checkpoints" / {name!r}, job.state()))"""


class MicroBatch(Protocol):
    """A dataclass with tensors, or with mappings of tensors, in it."""

    @property
    def rows(self) -> slice:
        """Which ones of the global batch it holds."""

    def __len__(self) -> int: ...


class Patient(Protocol):
    """What an autopsy asks of a Job of the trainer."""

    @property
    def recipe(self) -> AnyRecipe: ...
    def seek(self, step: int) -> None: ...
    def step(self, step: int) -> Mapping[str, Tensor]: ...
    def batches(self, step: int) -> Sequence[MicroBatch]:
        """What step() trains on, on this rank."""

    def watched(self) -> Mapping[str, nn.Module]:
        """Networks by the names that people know them by: teacher, generator, critic.fake, critic.head."""


def autopsy(job: Patient, step: int, folder: Path, world: World = ALONE) -> str:
    """Train a step again, write folder/diverged/step-N.*, and say in a sentence what was not finite first.

    step: as Job.step counts, from 0. The weights must be those that it began with, as they are while its updates are
    skipped. Of several ranks all have to call it, and all get the same sentence. Nothing of the job may be saved
    afterwards: where the numbers are finite this time it has learnt from the step twice.
    """
    job.seek(step)
    batches = job.batches(step)
    mine = given(job, batches)
    if not world.any(mine is not None):                    # else no rank trains: those that did would wait for it
        mine = computed(job, step, batches)
    first = earliest(mine, world)
    target = folder / FOLDER / f"{checkpoint.name(step + 1)}.json"
    try:
        write(job, step, target, batches, first, world)
        told = f"see {target.relative_to(folder)}"
    except (OSError, UserError) as err:
        told = f"the files that reproduce it could not be written: {err}"
    what = str(first) if first is not None else "not reproduced: trained again, all of its numbers are finite"
    return f"step {step + 1}: {what}; {told}"


def given(job: Patient, batches: Sequence[MicroBatch]) -> Found | None:
    """The first tensor that is not finite among what a step begins with: its data, the weights."""
    for name, x, rows in data(batches):
        if bad(x):
            return found("data", name, x, rows)
    for whose, module in places(job.watched()):
        for key, p in module.named_parameters(recurse=False):
            if bad(p):
                return found("weight", f"{whose()}.{key}", p, None, order=1)
    return None


def computed(job: Patient, step: int, batches: Sequence[MicroBatch]) -> Found | None:
    """The first tensor of a step that is not finite: of its networks, else a loss term, gradients, a logged value."""
    trace = Trace(batches[0].rows if len(batches) == 1 else None)
    with trace.on(job.watched()), eagerly(job):
        values = job.step(step)
    wrong = {name: value for name, value in values.items() if value.is_floating_point() and bad(value)}
    terms = [name for name in wrong if not name.endswith(MEASURED)]
    seen = trace.found
    if seen is not None and ("gradient" not in seen.kind or not terms):
        return seen
    kind, order = ("term", trace.order) if terms else ("logged", trace.order + 1)
    return next((found(kind, name, wrong[name], None, order) for name in terms or wrong), None)


def eagerly(job: Patient) -> AbstractContextManager[None]:
    """Without what blocks were compiled to: the hooks of the modules inside would not be called."""
    return torch.compiler.set_stance("force_eager") if job.recipe.run.compile else nullcontext()


def earliest(mine: Found | None, world: World) -> Found | None:
    """The first in order of computation on any rank."""
    every = [mine]
    if world.size > 1:
        every = [None] * world.size
        dist.all_gather_object(every, mine)
    return min((one for one in every if one is not None), key=lambda one: one.order, default=None)


def data(batches: Sequence[MicroBatch]) -> Iterator[tuple[str, Tensor, slice]]:
    """(name such as batch-0.cond.label, tensor, which rows of the global batch it is) of what is in micro-batches."""
    for i, batch in enumerate(batches):
        for name, x in tensors(batch, f"batch-{i}"):
            start = batch.rows.start * len(x) // max(1, len(batch)) if x.ndim else 0       # pairs may be fewer
            yield name, x, slice(start, start + (len(x) if x.ndim else 0))


def tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dataclasses and mappings, by their dotted names."""
    inner = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else value
    if isinstance(inner, Tensor):
        yield name, inner
    elif isinstance(inner, Mapping):
        for key, part in inner.items():
            yield from tensors(part, f"{name}.{key}")


def write(
    job: Patient, step: int, target: Path, batches: Sequence[MicroBatch], first: Found | None, world: World
) -> None:
    """The tensors of this rank, and by the first rank the JSON file; both or neither."""
    file = target.with_suffix(".safetensors" if world.first else f".rank-{world.rank}.safetensors")
    save_weights({name: x.detach().clone() for name, x, _ in data(batches)}, file, {})
    if not world.first:
        return
    try:
        checkpoint.write_json(target, report(job, step, target.parents[1], batches, first) | {"tensors": file.name})
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def report(job: Patient, step: int, folder: Path, batches: Sequence[MicroBatch], first: Found | None) -> dict[str, Any]:
    """What the JSON file holds."""
    rows = [{"rows": [b.rows.start, b.rows.stop], "conditions": list(getattr(b, "raw", ()))} for b in batches]
    versions = {"dmd2cli": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {
        "step": step + 1,
        "seed": job.recipe.run.seed,
        "recipe": str(folder / "recipe.yaml"),
        "first": asdict(first) if first is not None else None,
        "batches": rows,
        "versions": versions,
        "reproduce": {"words": WORDS, "python": python(job.recipe, step, folder)},
    }


def python(recipe: AnyRecipe, step: int, folder: Path) -> str:
    """A program that trains up to a step from the newest checkpoint before it, or from the beginning."""
    start = max((n for n in checkpoint.steps(folder / "checkpoints") if n <= step), default=0)
    module, make = ("distill", "job") if isinstance(recipe, Recipe) else ("pretrain", "pretraining")
    restore = RESTORE.format(start=start, name=checkpoint.name(start)) if start else ""
    return PYTHON.format(
        module=module, make=make, run=str(folder), fresh=not start, restore=restore, start=start, step=step
    )
