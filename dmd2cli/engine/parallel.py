"""The ranks of a run: which one this is, what they agree on, and which rows of a batch are its own.

Launched by torchrun, or by whatever else sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from dmd2cli.core.random import Rng
from dmd2cli.engine.share import share
from dmd2cli.engine.watch import GRACE, Watch, here
from dmd2cli.errors import Diverged, UserError
from dmd2cli.recipe import Run

T = TypeVar("T")
PIECE = 2**28
"""Bytes of gradients that are sent at once."""
DISK = timedelta(hours=6)
"""How long the others wait while the first rank reads or writes what may be many gigabytes on a slow disk."""
SIGNS = ("gloo", "NCCL", "Connection closed by peer", "Timed out waiting", "Connection reset", "Broken pipe")
"""What a collective says that has failed because of another rank."""


@dataclass(eq=False)
class World:
    """All ranks of a run, seen from one; by default there is one."""

    rank: int = 0
    size: int = 1
    node: int = 1
    """Ranks on this node."""
    mode: str = "none"
    """How networks are laid over them: none, replicate, shard or hybrid."""
    mesh: DeviceMesh | None = None
    """The ranks as FSDP2 sees them, ("replicate", "shard"); None if nothing is sharded."""
    group: dist.ProcessGroup | None = None
    """All ranks, for reading and writing checkpoints, in a thread of their own and with more patience."""
    watch: Watch | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes what there is one of."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """Which rows of a global batch are this rank's: as many for each. Raises UserError if that cannot be."""
        if batch % self.size:
            raise UserError(f"{batch} samples cannot be shared out evenly among {self.size} ranks; change run.batch")
        own = batch // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def lay(self, mode: str, size: int | None, device: torch.device) -> None:
        """Decide how networks are laid over the ranks. size: ranks that share one copy in hybrid."""
        self.mode, self.mesh = mode, None
        shard = {"replicate": 1, "shard": self.size, "hybrid": size or self.node}.get(mode, 1)
        if self.size % shard:
            raise UserError(f"run.shard_size: {self.size} ranks are no multiple of {shard}; change it")
        if shard > 1:
            shape = (self.size // shard, shard)
            self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))

    def any(self, flag: bool) -> bool:
        """Whether it is true on some rank."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Their means over the ranks, in place, in a few large pieces."""
        for piece in pieces(tensors, PIECE):
            flat = torch.cat([t.reshape(-1) for t in piece])
            dist.all_reduce(flat)
            parts = torch.split(flat.div_(self.size), [t.numel() for t in piece])
            torch._foreach_copy_(piece, [part.view(t.shape) for part, t in zip(parts, piece, strict=True)])

    def total(self, value: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def agree(self, flag: Tensor) -> Tensor:
        """The largest of the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The numbers of a step on the host, averaged over the ranks, in one transfer."""
        if not values:
            return {}
        stacked = self.total(torch.stack([v.detach().float().cpu() for v in values.values()])) / self.size
        return dict(zip(values, stacked.tolist(), strict=True))

    def shared(self, make: Callable[[], T], patient: bool = False) -> T:
        """What the first rank makes, on every rank: JSON values. patient: it may take longer than run.timeout."""
        if self.size == 1:
            return make()
        text, group = json.dumps(make()).encode() if self.first else b"", self.group if patient else None
        length = torch.tensor(len(text))
        dist.broadcast(length, 0, group)
        held = torch.frombuffer(bytearray(text), dtype=torch.uint8) if self.first else torch.empty(int(length)).byte()
        dist.broadcast(held, 0, group)
        found: T = json.loads(bytes(held.tolist()))
        return found


def pieces(tensors: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Tensors in groups of one type and of about `size` bytes each."""
    held, room = list[Tensor](), size
    for t in tensors:
        if held and (room <= 0 or t.dtype != held[0].dtype):
            yield held
            held, room = [], size
        held.append(t)
        room -= t.nbytes
    if held:
        yield held


ALONE = World()
"""One process."""


def seed_networks(seed: int, step: int, world: World) -> None:
    """Draws that networks make of themselves, such as dropout: a function of the step, and of the rank.

    They are the one kind of draw that does not belong to a position in the global batch.
    """
    name = f"network/{world.rank}" if world.rank else "network"
    torch.manual_seed(Rng(seed, step).generator(name, torch.device("cpu")).initial_seed())


def check_one_run(run: Run, size: int) -> None:
    """Raise UserError if several ranks would each train a run of their own."""
    if run.parallel == "none":
        raise UserError(f"run.parallel=none: {size} ranks would train {size} copies of one run; set it to auto")


@contextmanager
def joined(run: Run) -> Iterator[World]:
    """This process among the ranks of its run, until the end of the block.

    Raises UserError if the run would be trained once per rank, and in place of whatever a collective raises when
    another rank dies or does not answer within run.timeout: it says which, and where that one was.
    """
    mine = share()
    if (size := mine.world) == 1:
        yield World()
        return
    check_one_run(run, size)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UserError(f"{name} is not set, and WORLD_SIZE is {size}; start the ranks with torchrun")
    rank, patience = mine.rank, timedelta(minutes=run.timeout)
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*address, size, is_master=rank == 0 and not agents, timeout=patience)
    attempt = f"dmd2/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and run.device != "cpu" else "gloo"
    where: dict[str, Any] = {"store": PrefixStore(attempt, store), "rank": rank, "world_size": size}
    dist.init_process_group(backend, timeout=patience, **where)
    node = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    watch = Watch(PrefixStore(f"{attempt}/watch", store), rank, size)
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=max(patience, DISK)))
    world = World(rank, size, node, group=group, watch=watch)
    signal.signal(signal.SIGTERM, lambda number, frame: end_soon())
    with spoken_once(world), named(world, run):
        yield world
    watch.close()
    dist.destroy_process_group()


def end_soon() -> None:
    """torchrun ends the other ranks of one that died: they first say which that was."""
    timer = threading.Timer(2 * GRACE, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()


def leave(code: int) -> NoReturn:
    """End a rank without taking the interpreter apart: threads of PyTorch's collectives now and then abort that."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def spoken_once(world: World) -> Iterator[None]:
    """An error of a rank ends the others without a word; of an error that all have, the first rank tells."""
    assert world.watch is not None, "there are several"
    try:
        yield
    except (UserError, Diverged) as err:
        if not world.watch.ended(world.rank):
            raise
        raise SystemExit(3 if isinstance(err, Diverged) else 2) from err


def from_elsewhere(err: BaseException | None) -> bool:
    """Whether an error is a collective's that has failed because of another rank."""
    return isinstance(err, RuntimeError) and any(sign in str(err) for sign in SIGNS)


@contextmanager
def named(world: World, run: Run) -> Iterator[None]:
    """What a collective raises because of another rank becomes a UserError that names that rank."""
    try:
        yield
    except RuntimeError as err:
        if world.watch is None or not from_elsewhere(err):
            raise
        place = str(here)
        if world.watch.others_ended():
            raise SystemExit(2) from err
        found = world.watch.missing() or "all ranks gave up at once"
        raise UserError(
            f"{found}; rank {world.rank} waited for it in {place}, at most {run.timeout:g} minutes (run.timeout); "
            "checkpoints are intact: the same command continues"
        ) from err

