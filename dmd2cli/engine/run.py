"""A run in its folder: from a fresh start or a checkpoint, the same recipe or an allowed change of it."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from dmd2cli import __version__
from dmd2cli.engine import checkpoint, oom, runtime, trainer
from dmd2cli.engine.lock import held
from dmd2cli.engine.parallel import World, joined
from dmd2cli.engine.share import share
from dmd2cli.engine.watch import here
from dmd2cli.errors import UserError
from dmd2cli.recipe import AnyRecipe, Optimiser, PretrainRecipe, Recipe, differences, dump, load
from dmd2cli.recipe_health import keep

R = TypeVar("R", Recipe, PretrainRecipe)

FREE = {"micro_batch", "parallel", "shard_size", "timeout", "device", "threads", "keep", "time_limit", "log_every"}
FREE |= {"preview_every", "save_every", "save_async", "checkpointing", "compile", "channels_last"}
FREE |= {"optimiser", "offload"}
"""Keys of `run` that may differ when a run is continued, besides `steps` upwards."""
HARMLESS = {"data.workers", "health.every", "health.samples", "critic.lag_every"}
"""Other keys that may."""


def run(
    asked: R,
    folder: Path,
    job: Callable[[R, torch.device, World, bool], trainer.Job],
    resume: str = "auto",
    command: str = "",
) -> int:
    """Train in a run folder, or continue there; returns the steps done, at once if the run is finished.

    resume: auto, never, or the path of a checkpoint. One of several ranks if torchrun started this process. Raises
    UserError as check_same and checkpoint.load do, and one that says what would have fitted if memory is short.
    """
    with joined(asked.run) as world:
        found = world.shared(lambda: as_text(starting_point(folder, resume)), patient=True)
        start, note = Path(found) if found else None, ""
        if start is not None:
            note = check_same(start.parent.parent, asked)
            if (done := int(checkpoint.manifest(start)["step"])) >= asked.run.steps and resume == "auto":
                if world.first:
                    checkpoint.settle(start.parent, done, keep(asked.run, asked))
                return done
        device = runtime.device(share().device(asked.run.device))
        if device.type == "cuda":
            torch.cuda.set_device(device)
        runtime.set_threads(asked.run.threads, world.node)
        runtime.set_tf32(asked.run)
        with answered(asked, device, world), ExitStack() as open_until_the_end:
            made = job(asked, device, world, start is None)
            if world.first:
                trainer.check_folder(folder)
                open_until_the_end.enter_context(held(folder))
                checkpoint.write_text(folder / "recipe.yaml", dump(asked))
                checkpoint.write_json(folder / "run.json", facts(asked, command, device, world))
                print(note, end="", file=sys.stderr)
            with closing(made):
                return trainer.train(made, asked.run, folder, start, world)


def as_text(path: Path | None) -> str | None:
    """For the other ranks."""
    return None if path is None else str(path)


@contextmanager
def answered(asked: AnyRecipe, device: torch.device, world: World) -> Iterator[None]:
    """Too little memory becomes a UserError that says what would have fitted."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as err:
        if not oom.is_oom(err):
            raise
        step = 0 if here.phase == "start" else here.step + 1
        shards = world.mesh.size(1) if world.mesh is not None else 1
        raise oom.answer(asked, device, err, step, here.first, world.size, shards) from None


def starting_point(folder: Path, resume: str) -> Path | None:
    """The checkpoint to continue from, or None for a fresh start."""
    if resume == "auto":
        return checkpoint.newest(folder / "checkpoints")
    if resume == "never":
        if found := checkpoint.steps(folder / "checkpoints"):
            held = checkpoint.name(found[-1])
            raise UserError(f"{folder}: holds a run already ({held}); choose another -o, or --resume auto")
        return None
    if not (Path(resume) / checkpoint.MANIFEST).is_file():
        raise UserError(f"--resume {resume}: no such checkpoint; it is auto, never or RUN/checkpoints/step-...")
    checkpoint.verify(Path(resume))
    return Path(resume).absolute()


def check_same(folder: Path, asked: AnyRecipe) -> str:
    """Raise UserError naming the first difference between the recipe of a run and the one to continue it with.

    Returns the line to tell, if any, of a difference that is allowed.
    """
    held, note = load(folder / "recipe.yaml", model=type(asked)), ""
    for key, old, new in differences(held, asked):
        if key == "run.steps" and new > old:
            if any(player.decay_from < 1 for player in players(asked)):
                note = f"run.steps {old} -> {new}: the learning rate now decays to the new end\n"
            continue
        if key not in HARMLESS and not (key.startswith("run.") and key.split(".")[1] in FREE):
            raise UserError(
                f"{folder}: this run was started with {key} = {old!r}, now it is {new!r}; "
                "take the old value to continue, or another -o to start anew"
            )
    return note


def facts(asked: AnyRecipe, command: str, device: torch.device, world: World) -> dict[str, Any]:
    """What run.json records: command, versions, commit, hardware, ranks, seed."""
    cuda = device.type == "cuda"
    hardware = torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
    return {
        "command": command,
        "versions": {"dmd2cli": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "commit": commit(),
        "hardware": {"device": str(device), "name": hardware, "threads": torch.get_num_threads()},
        "ranks": {"count": world.size, "on_a_node": world.node, "parallel": world.mode},
        "seed": asked.run.seed,
    }


def commit() -> str | None:
    """The git commit of this source tree, if it is one and git is there."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def players(asked: AnyRecipe) -> list[Optimiser]:
    """The optimisers of a recipe."""
    return [asked.student, asked.critic] if isinstance(asked, Recipe) else [asked.optimiser]
