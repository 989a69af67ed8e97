"""What is done beside the training: guards looked at, numbers logged, pictures drawn, states saved."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmd2cli.engine import checkpoint
from dmd2cli.engine.autopsy import autopsy
from dmd2cli.engine.guard import LIMIT
from dmd2cli.engine.log import Log
from dmd2cli.engine.pace import Pace
from dmd2cli.engine.parallel import World, from_elsewhere
from dmd2cli.engine.player import Player
from dmd2cli.engine.progress import progress
from dmd2cli.engine.sharding import local
from dmd2cli.engine.watch import at
from dmd2cli.engine.writer import Writer
from dmd2cli.errors import Diverged
from dmd2cli.recipe import Run
from dmd2cli.recipe_health import keep

if TYPE_CHECKING:
    from dmd2cli.engine.trainer import Job

ADVICE = "the checkpoints before are intact: start a new run (-o) with lower learning rates or GAN weight"


class Books:
    """Of one run."""

    def __init__(self, job: Job, run: Run, folder: Path, world: World, done: int) -> None:
        """done: the steps that were done before."""
        self.job, self.run, self.folder, self.world = job, run, folder, world
        self.saved, self.due = done, False
        self.on_cpu = all(player.device.type == "cpu" for player in job.players().values())
        self.log = Log(folder, done) if world.first else None
        self.pace = Pace(job, run, done, next((player.device for player in job.players().values()), None))
        self.writer = Writer(folder / "checkpoints", keep(run, job.recipe), run.save_async, world.group)
        if world.first:
            checkpoint.room(folder / "checkpoints", checkpoint.needed(job.state()))
        self.open = ExitStack()
        self.show = self.open.enter_context(progress(job, run, done, quiet=not world.first))

    def keep(self, done: int, values: Mapping[str, Tensor]) -> None:
        """What is due after a step. values: the newest of every term."""
        run, last = self.run, done == self.run.steps
        self.writer.check()
        logged = done % run.log_every == 0 or last
        skipped = self.look() if logged or self.on_cpu else {}
        if logged:
            self.write(done, {**self.world.mean(values), **skipped})
        if (said := self.pace.stepped(done)) and self.world.first:
            print(said, file=sys.stderr)
        if run.preview_every is not None and (done % run.preview_every == 0 or last):
            at("preview")
            self.job.preview(self.folder / "samples" / f"{checkpoint.name(done)}.png")
        self.due |= done % run.save_every == 0
        if self.due and not last and self.sound():
            self.save(done, values)

    def look(self) -> dict[str, float]:
        """How many updates of each player were skipped so far. Raises Diverged if too many were in a row."""
        found = dict[str, float]()
        for name, player in self.job.players().items():
            skipped, longest, first = player.guard.found()
            if longest >= LIMIT:
                raise Diverged(self.stopped(name, first))
            found[f"{name}/skipped"] = skipped
        return found

    def stopped(self, name: str, first: int) -> str:
        """What to say of a player that could not be updated any more."""
        at("autopsy")
        what = f"{LIMIT} updates of the {name} in a row were not finite and skipped, the first at step {first + 1}"
        return f"{self.folder}: {what}: {autopsy(self.job, first, self.folder, self.world)}; {ADVICE}"

    def sound(self) -> bool:
        """Whether this is a state to continue from: all weights are finite, and the last updates were made."""
        return self.finite(lambda player: player.guard.row > 0)

    def finite(self, doubt: Callable[[Player], Tensor | bool] = lambda player: False) -> bool:
        """Whether the weights of all players are finite, and there is no doubt about one, on all ranks."""
        bad = [torch.zeros(())]
        for player in self.job.players().values():
            norm = torch.stack(torch._foreach_norm([local(p).detach() for p in player.parameters])).sum()
            bad.append((~torch.isfinite(norm) | doubt(player)).float().cpu())
        return not bool(self.world.agree(torch.stack(bad).amax()))

    def finish(self, done: int, values: Mapping[str, Tensor]) -> None:
        """Save the last state. Raises Diverged, and saves nothing, if its weights are not finite."""
        if self.saved != done and not self.finite():
            raise Diverged(f"{self.folder}: weights are not finite after step {done}, so it is not saved; {ADVICE}")
        self.save(done, values)

    def write(self, done: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        if self.log is not None:
            self.log.write(done, numbers)
        self.show(done, numbers)

    def save(self, done: int, values: Mapping[str, Tensor]) -> None:
        """The result, then its checkpoint, so that a finished run has both."""
        if self.saved == done:
            return
        at("save")
        numbers = {name: value for name, value in self.world.mean(values).items() if math.isfinite(value)}
        self.writer.save(done, self.job.state(), numbers, self.job.publication(self.folder, done))
        self.saved, self.due = done, False

    def __enter__(self) -> Books:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """All is on disk, or an error is raised; but nothing waits for another rank that is not there any more."""
        if not from_elsewhere(err):
            at("end")
            self.open.callback(self.writer.close)
        with self.open:
            if self.log is not None:
                self.log.close()
