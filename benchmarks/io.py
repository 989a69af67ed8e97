"""Checkpoints against the disk that they are on: saving, the wait for an asynchronous save, loading.

    python benchmarks/io.py [--sizes 50,500] [--ranks 1,2] [--folder DIR] [--repeats 5] [--json FILE]

A state of so many MB (weights, two moments, moving average; as shards over several ranks) is saved and loaded by
dmd2cli.engine.checkpoint, beside as many bytes that one process writes with fsync, and reads, in blocks of 8 MB. Both
are read from the disk, not from the system's cache. `hash` is what SHA-256 of the bytes takes: it is part of every
save, and of every load. `wait` is how long training stands still for an asynchronous save, `behind` until that is on
disk. Seconds of the clock, medians of repeats taken in turn; the ratios are medians of pairs, and on a machine that
others use as well those of CPU seconds of the first rank (`CPU`) say more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from measuring import Machine, described, ended, hardware, tell
from torch.distributed.tensor import DTensor, Replicate, Shard

from dmd2cli.engine import checkpoint, runtime
from dmd2cli.engine.parallel import World, joined
from dmd2cli.engine.share import share
from dmd2cli.engine.writer import Writer
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.recipe_parts import Keep

BLOCK = 8 << 20
SIDE = 512
"""Of the square weights of the state: 1 MiB each."""
COLUMNS = ("write", "hash", "save", "wait", "behind", "read", "load")


def state(mb: int, world: World, device: torch.device) -> dict:
    """A player's state of so many MB in float32: sharded over the ranks if there are several."""

    def weight() -> torch.Tensor:
        mine = torch.randn(SIDE // world.size, SIDE, device=device)
        return mine if world.mesh is None else DTensor.from_local(mine, world.mesh, [Replicate(), Shard(0)])

    names = [f"weight-{i}" for i in range(max(1, mb // 4))]
    moments = {name: {"step": torch.zeros(()), "exp_avg": weight(), "exp_avg_sq": weight()} for name in names}
    player = {"model": {name: weight() for name in names}, "optim": moments, "ema": {name: weight() for name in names}}
    return {"players": {"generator": player}}


class Found(dict[str, float]):
    """Seconds by name, of the clock and, under "NAME cpu", of this process."""

    def time(self, name: str, action: Callable[[], object], world: World) -> None:
        """Until every rank has done it, from when all were ready."""
        world.any(False)
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        self[f"{name} cpu"] = time.process_time() - cpu
        world.any(False)
        self[name] = time.perf_counter() - wall


def raw_write(path: Path, size: int) -> None:
    """So many bytes on the disk."""
    block = os.urandom(BLOCK)
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, BLOCK):
            file.write(block[: min(BLOCK, size - start)])
        os.fsync(file.fileno())


def raw_read(path: Path) -> None:
    """All bytes of a file, from the disk."""
    with path.open("rb", buffering=0) as file:
        while file.read(BLOCK):
            pass


def raw_hash(size: int) -> None:
    """SHA-256 of so many bytes in memory."""
    block, found = bytes(BLOCK), hashlib.sha256()
    for start in range(0, size, BLOCK):
        found.update(block[: min(BLOCK, size - start)])


def forgotten(*files: Path) -> None:
    """The system keeps nothing of these in memory."""
    for file in files:
        with file.open("rb") as held, suppress(AttributeError, OSError):
            os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def once(step: int, held: dict, folder: Path, world: World) -> dict[str, float]:
    """Everything once, in turn."""
    size, raw, keep = checkpoint.needed(held), folder / "raw", Keep(last=1, best=0)
    places, found = folder / "checkpoints", Found()
    first = lambda action: (lambda: action() if world.first else None)  # noqa: E731
    found.time("write", first(lambda: raw_write(raw, size)), world)
    found.time("hash", first(lambda: raw_hash(size)), world)
    found.time("save", lambda: checkpoint.save(places, step, held, keep, {}, world.group), world)
    writer, started = Writer(places, keep, True, world.group), time.perf_counter()
    found.time("wait", lambda: writer.save(step + 1, held, {}), world)
    writer.close()
    found["behind"] = time.perf_counter() - started
    path = places / checkpoint.name(step + 1)
    if world.first:
        forgotten(raw, *path.iterdir())
    found.time("read", first(lambda: raw_read(raw)), world)
    found.time("load", lambda: checkpoint.load(path, held, world.group), world)
    return found


def rank(asked: dict) -> None:
    """What one rank does: all sizes, the first rank writing the result."""
    run = load("digits", ["run.parallel=auto", f"run.device={asked['device']}"]).run
    with joined(run) as world:
        device, rows = runtime.device(share().device(run.device)), {}
        if world.size > 1:
            world.lay("shard", None, device)
        for mb in asked["sizes"]:
            place, held = Path(asked["folder"]) / str(mb), state(mb, world, device)
            place.mkdir(parents=True, exist_ok=True)
            taken = [once(2 * i + 1, held, place, world) for i in range(asked["repeats"] + 1)][1:]
            rows[str(mb)] = row(taken, checkpoint.needed(held))
        if world.first:
            Path(asked["result"]).write_text(json.dumps(rows))


def row(taken: list[dict[str, float]], size: int) -> dict:
    """Medians, and how they compare with the disk."""
    found = {f"{name}_s": statistics.median(one[name] for one in taken) for name in COLUMNS}
    pairs = {"save_to_write": ("save", "write"), "wait_to_write": ("wait", "write"), "load_to_read": ("load", "read")}
    pairs |= {"save_to_write_cpu": ("save cpu", "write cpu"), "load_to_read_cpu": ("load cpu", "read cpu")}
    ratios = {name: statistics.median(one[a] / one[b] for one in taken) for name, (a, b) in pairs.items()}
    return {"bytes": size, **found, **ratios}


def measure(args: argparse.Namespace) -> dict:
    """The result of the benchmark: every number of ranks in processes of its own."""
    machine, rows = Machine(), {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for ranks in args.ranks:
            result = Path(folder) / f"{ranks}.json"
            asked = {"sizes": args.sizes, "repeats": args.repeats, "folder": f"{folder}/{ranks}", "device": args.device}
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            command += [__file__, "--rank", json.dumps({**asked, "result": str(result)})]
            done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
            if not result.is_file():
                said = [line for line in done.stderr.splitlines() if "Error" in line] or ["nothing was said"]
                raise UserError(f"{ranks} ranks: {said[0]}")
            rows[str(ranks)] = json.loads(result.read_text())
    device = runtime.device(args.device)
    facts = {"hardware": hardware(device, 1), "torch": torch.__version__, "repeats": args.repeats}
    return {"ranks": rows, **facts, "busy": machine.busy()}


def table(found: dict) -> str:
    """The result for people."""
    heads = "".join(f" {name:>8}" for name in COLUMNS)
    titles = ("save/write", "wait/write", "load/read", "CPU s/w", "CPU l/r")
    ratios = "".join(f" {name:>11}" for name in titles)
    lines = [f"{found['hardware']}, torch {found['torch']}; seconds", f"{'ranks':>5} {'MB':>6}{heads}{ratios}"]
    for ranks, sizes in found["ranks"].items():
        for mb, one in sizes.items():
            seconds = "".join(f" {one[f'{name}_s']:8.3f}" for name in COLUMNS)
            names = ("save_to_write", "wait_to_write", "load_to_read", "save_to_write_cpu", "load_to_read_cpu")
            lines.append(f"{ranks:>5} {mb:>6}{seconds}" + "".join(f" {one[name]:11.2f}" for name in names))
    return "\n".join(lines)


def numbers(text: str) -> list[int]:
    """1,2 -> [1, 2]."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--sizes", type=numbers, default=[50, 500], metavar="MB,MB")
    parser.add_argument("--ranks", type=numbers, default=[1, 2], metavar="N,N")
    parser.add_argument("--folder", type=Path, help="on the disk in question; default: the system's temporary one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto", help="where the state is")
    parser.add_argument("--tiny", action="store_true", help="4 and 8 MB, once: does it run at all")
    parser.add_argument("--rank", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is not None:
        rank(args.rank)
        return
    if args.folder is not None and not args.folder.is_dir():
        raise UserError(f"--folder {args.folder}: no such folder")
    if args.tiny:
        args.sizes, args.repeats = [4, 8], 1
    found = measure(args)
    tell(found, table, args.json)


if __name__ == "__main__":
    ended(main)
