"""Check that a student network can be sharded by FSDP2, on a group of one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from dmd2cli.engine.parallel import World
from dmd2cli.engine.sharding import lay
from dmd2cli.protocols import Teacher
from dmd2cli.testing.said import say
from dmd2cli.testing.setting import denoiser, noisy, some, student_network


def sharding(teacher: Teacher) -> None:
    """Sharded by FSDP2 on a group of one process, the student network computes and learns the same."""
    if not (dist.is_available() and dist.is_gloo_available()):
        return
    (x_t, t), cond = noisy(teacher), teacher.encode(some(teacher))[0]
    plain, sharded = student_network(teacher), student_network(teacher)
    with alone() as mesh:
        for p in sharded.parameters():                     # as the engine does: FSDP2 knows no other memory order
            p.data = p.data.clone(memory_format=torch.contiguous_format)
        try:
            lay(sharded, World(mode="shard", mesh=mesh), teacher.units)
            same = torch.allclose(sharded(x_t, t, cond), plain(x_t, t, cond), rtol=1e-3, atol=1e-4)
            read = denoiser(sharded).features(x_t, t, cond).sum() + sharded(x_t, t, cond).square().mean()
            read.backward()
        except RuntimeError as err:
            why = "call layers, and do not read their weights (F.linear(x, layer.weight)): elsewhere they are shards"
            say(False, f"the network does not run under FSDP: {' '.join(str(err).split())[:200]}; {why}")
        say(same, "sharded by FSDP, the network computes something else")
        (denoiser(plain).features(x_t, t, cond).sum() + plain(x_t, t, cond).square().mean()).backward()
        taught = {name for name, p in plain.named_parameters() if p.grad is not None}
        missing = taught - {name for name, p in sharded.named_parameters() if p.grad is not None}
    say(not missing, f"sharded by FSDP, no gradient reaches {', '.join(sorted(missing)[:3])}; keep it in forward()")


@contextmanager
def alone() -> Iterator[DeviceMesh]:
    """A mesh of this process: of a group of its own, unless it is in one."""
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        ranks = dist.get_world_size()
        yield init_device_mesh("cpu", (ranks, 1), mesh_dim_names=("replicate", "shard"))
    finally:
        if mine:
            dist.destroy_process_group()
