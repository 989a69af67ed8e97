"""Run by torchrun on two ranks: sharded saves, loads in another layout, and a failure on one rank.

FOLDER: of the checkpoints; what rank N is told goes to FOLDER.rankN.
"""

import errno
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from dmd2cli.engine import checkpoint
from dmd2cli.engine.parallel import leave
from dmd2cli.engine.writer import Writer
from dmd2cli.errors import UserError
from dmd2cli.recipe_parts import Keep


def whole(step):
    """A state in one process; rows that do not divide by two, and fewer rows than ranks."""
    source = torch.Generator().manual_seed(step)
    shapes = {"w": (5, 3), "one": (1, 4), "b": (8,)}
    return {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}


def laid(step, mesh, placements):
    """The same as DTensors, with a plain tensor and one without dimensions beside them."""
    model = {name: distribute_tensor(value, mesh, placements) for name, value in whole(step).items()}
    return {"model": model, "plain": whole(step)["w"], "updates": torch.tensor(step)}


def same(state, step):
    """Whether a state has the values of a step."""
    full = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state["model"].items()}
    values = all(full[k].equal(v) for k, v in whole(step).items())
    return values and state["plain"].equal(whole(step)["w"]) and state["updates"] == step


def main(folder):
    """Assert all of it; what rank 0 finds wrong ends both."""
    dist.init_process_group("gloo")
    group, rank = dist.new_group(backend="gloo"), dist.get_rank()
    mesh, hybrid = init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (2, 1))
    layouts = {"shard": (mesh, [Shard(0)]), "replicate": (hybrid, [Replicate(), Shard(0)]), "cols": (mesh, [Shard(-1)])}
    writer = Writer(folder, Keep(), background=True, group=group)
    given = laid(10, *layouts["shard"])
    writer.save(10, given, {})
    given["model"]["w"].to_local().fill_(7)
    writer.wait()
    writer.save(20, laid(20, *layouts["replicate"]), {})
    writer.close()
    for step in (10, 20):
        for layout in layouts.values():
            assert same(checkpoint.load(folder / checkpoint.name(step), laid(0, *layout), group), step)
    assert checkpoint.manifest(folder / checkpoint.name(10))["world_size"] == 2
    said = refused(folder, writer, group, rank, laid(30, *layouts["shard"]))
    dist.barrier()
    if rank == 0:
        os.truncate(next((folder / checkpoint.name(20)).glob("*.safetensors")), 9)
    dist.barrier()
    try:
        checkpoint.load(folder / checkpoint.name(20), laid(0, *layouts["shard"]), group)
    except UserError as err:
        said.append(f"damage: {err}")
    Path(f"{folder}.rank{rank}").write_text("\n".join(said))
    dist.destroy_process_group()


def refused(folder, writer, group, rank, state):
    """What a rank is told when the disk of rank 1 is full, and when only rank 0 cannot publish or seal."""
    from torch.distributed.checkpoint.filesystem import FileSystem

    said, real, seal = [], FileSystem.create_stream, checkpoint.sync

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for broken in ("shard", "publish", "seal"):
        FileSystem.create_stream = full if broken == "shard" and rank == 1 else real
        checkpoint.sync = full if broken == "seal" else seal
        writer.save(30, state, {}, full if broken == "publish" and rank == 0 else None)
        try:
            writer.wait()
        except (UserError, OSError) as err:
            said.append(f"{broken}: {type(err).__name__}: {err}")
        dist.barrier()
        assert checkpoint.steps(folder) == [10, 20] and not list(folder.glob(".*"))
    FileSystem.create_stream, checkpoint.sync = real, seal
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
    leave(0)
