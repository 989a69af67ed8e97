"""What a run costs beyond its training, all at the recipe's intervals: numbers, progress, pictures, checkpoints.

    python benchmarks/overhead.py [RECIPE] [KEY=VALUE ...] [--steps 500] [--passes 20] [--json FILE]

Two jobs take the same steps in turn in one process, a few at a time: one inside trainer.train(), the other in a bare
loop of job.step(). `trainer` is the first over the second: progress bar, metrics.jsonl, TensorBoard, previews,
checkpoints, guards and all else in a run, down to the last byte on disk; `beside`, on a CPU, is the same over the
steps inside of train() themselves, which noise changes less. `engine` is a cycle over the bare passes of
its networks (benchmarks/step.py). On a CPU both are CPU seconds, of all threads of the process for train() and of its
own for the loop; on a GPU they are seconds of the clock, with one synchronisation for each turn. The bar is drawn once
per second of the clock, so on a CPU its share is scaled to the seconds that the run would take on a machine of its own.
What is done once in a process, such as imports, is done before.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measuring import Machine, chosen, described, ended, hardware, tell
from rich.live import Live

from dmd2cli.engine import books, runtime, trainer
from dmd2cli.engine.distill import DistillJob, job
from dmd2cli.recipe import Recipe, load

TURN = 10
"""Steps of one job before it is the other's turn."""
BAR = "the bar"
GOALS = {"trainer": 1.03, "engine": 1.08}


@dataclass
class Beside:
    """A job of the trainer, with another one that takes the same steps, not inside of it."""

    inside: DistillJob
    bare: DistillJob
    device: torch.device
    seconds: float = 0.0
    """Of the bare one's steps."""
    own: float = 0.0
    """Of the other's, by this thread."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inside, name)

    def step(self, step: int) -> Mapping[str, torch.Tensor]:
        turn, place = divmod(step, TURN)
        first = turn % 2 == 0                                          # in turn before and after the other
        if first and place == 0:
            self.step_bare(turn)
        started = time.thread_time()
        found = self.inside.step(step)
        self.own += time.thread_time() - started
        if not first and place == TURN - 1:
            self.step_bare(turn)
        return found

    def step_bare(self, turn: int) -> None:
        """The other one's turn."""
        self.seconds += self.timed(lambda: [self.bare.step(s) for s in range(turn * TURN, (turn + 1) * TURN)])

    def timed(self, action: Callable[[], object]) -> float:
        """Seconds of this thread, or of the GPU."""
        if self.device.type != "cuda":
            started = time.thread_time()
            action()
            return time.thread_time() - started
        torch.cuda.synchronize(self.device)
        started = time.perf_counter()
        action()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - started


@contextmanager
def parts(found: Counter) -> Iterator[None]:
    """Adds up what the training waits for, in seconds of this thread (waiting for the disk is none)."""

    def watched(owner: type, name: str, key: str) -> Any:
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            result = original(*args, **kwargs)
            found[key] += time.thread_time() - started
            return result

        return patch.object(owner, name, timed)

    with (
        watched(DistillJob, "preview", "previews"),
        watched(books.Books, "save", "checkpoints: the copy"),
        watched(books.Books, "write", "metrics, TensorBoard, progress"),
        watched(books.Books, "look", "guards looked at"),
        watched(Live, "refresh", BAR),
    ):
        yield


def train(recipe: Recipe, device: torch.device, steps: int, folder: Path) -> dict:
    """The two jobs over some steps: a multiple of TURN."""
    trainer.check_folder(folder)
    config = recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": steps})})
    both, cuda, of = Beside(job(config, device), job(config, device), device), device.type == "cuda", Counter()
    clock = time.perf_counter if cuda else time.process_time
    for made in (both.inside, both.bare):
        made.step(0)                                                   # compilation, and the optimisers' first step
    with parts(of), shown_on_a_terminal():
        began, started, mine = time.perf_counter(), clock(), time.thread_time()
        trainer.train(both, config.run, folder)
        whole, mine, wall = clock() - started, time.thread_time() - mine, time.perf_counter() - began
    drawn = of.pop(BAR, 0.0)
    alone = drawn if cuda else drawn * min(1.0, (whole - both.seconds - drawn) / wall)
    inside = whole - both.seconds - (0.0 if cuda else drawn - alone)
    shares = {name: value / both.seconds for name, value in {**of, BAR: alone}.items()}
    if not cuda:
        shares["checkpoints: the writing thread"] = max(0.0, whole - mine - drawn) / both.seconds
    beside = {} if cuda else {"beside": inside / both.own}
    held = {"steps": steps, "train_s": inside, "loop_s": both.seconds, "shares": shares}
    return {**held, "ratio": inside / both.seconds, **beside}


@contextmanager
def shown_on_a_terminal() -> Iterator[None]:
    """The progress bar is drawn as on a terminal, and goes nowhere."""
    with redirect_stderr(io.StringIO()), patch.dict(os.environ, {"FORCE_COLOR": "1", "COLUMNS": "120"}):
        yield


def trained(recipe: Recipe, device: torch.device, steps: int) -> dict:
    """The cost of train(), after a first short run that imports what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, device, TURN, Path(folder) / "first")
        return train(recipe, device, steps, Path(folder) / "run")


def table(found: dict) -> str:
    """The result for people."""
    head = f"{found['recipe']} {' '.join(found['overrides'])}".strip()
    lines = [f"{head}, {found['hardware']}, torch {found['torch']}"]
    if "trainer" in found:
        row = found["trainer"]
        goal, what = GOALS["trainer"], f"trainer.train() over a loop of job.step(), {row['steps']} steps"
        also = f"; over its own steps {row['beside']:.4f}" if "beside" in row else ""
        lines.append(f"{what}: {row['ratio']:.4f}{also} (wanted: at most {goal})")
        lines += [f"    {name:42} {share:8.4f}" for name, share in sorted(row["shares"].items(), key=lambda x: -x[1])]
    if "engine" in found:
        row = found["engine"]
        what = f"a cycle over its bare passes, {row['cycles']} cycles"
        lines.append(f"{what}: {row['ratio']:.4f} (wanted: at most {GOALS['engine']})")
    return "\n".join(lines)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("words", nargs="*", metavar="RECIPE KEY=VALUE", help="default: digits")
    parser.add_argument("--steps", type=int, default=500, help="0: leave train() out")
    parser.add_argument("--passes", type=int, default=20, help="cycles beside their bare passes; 0: leave them out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a batch of 8 and few steps: does it run at all")
    args = parser.parse_intermixed_args()
    name, overrides = chosen(args.words)
    if args.tiny:
        overrides, args.steps, args.passes = ["run.batch=8", "run.log_every=10", *overrides], 2 * TURN, 2
    recipe, machine = load(name, overrides), Machine()
    device = runtime.device(recipe.run.device)
    torch.set_num_threads(args.threads)
    found = {"recipe": name, "overrides": overrides, "hardware": hardware(device), "torch": torch.__version__}
    if args.steps:
        found["trainer"] = trained(recipe, device, -(-args.steps // TURN) * TURN)
    if args.passes:
        import step

        found["engine"] = step.passes(recipe, device, args.passes)
    found["busy"] = machine.busy()
    tell(found, table, args.json)


if __name__ == "__main__":
    ended(main)
