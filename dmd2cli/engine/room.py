"""How much memory a device has, and how much of it is taken."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Room:
    """Bytes of a device: all there are, those in use, and those of them that this process holds."""

    total: int
    used: int
    own: int

    @property
    def others(self) -> int:
        """Held by other processes."""
        return max(0, self.used - self.own)


def room(device: torch.device) -> Room | None:
    """What a device has now; None where the system does not say."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Room(total, total - free, torch.cuda.memory_reserved(device))
    if device.type == "mps":
        own = torch.mps.driver_allocated_memory()
        return Room(torch.mps.recommended_max_memory(), own, own)
    return host()


def peak(device: torch.device) -> int | None:
    """The most that this process has held: tensors on a GPU, everything on a CPU; None where the system is silent."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return said("self/status", "VmHWM") or most_resident()


def host() -> Room | None:
    """Of the machine, or of what this process may have of it: a container's or a batch system's limit, ulimit -v."""
    machine, own = said("meminfo", "MemTotal"), said("self/status", "VmRSS")
    if machine is None or own is None:
        return None
    limit = min(limits(), default=machine)
    if limit < machine:
        return Room(limit, own, own)
    return Room(machine, machine - (said("meminfo", "MemAvailable") or machine - own), own)


def limits() -> Iterator[int]:
    """Bytes that this process may hold at most, by every rule there is."""
    for line in (PROC / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        version = {"memory": ("memory", "memory.limit_in_bytes"), "": ("", "memory.max")}.get(controllers)
        if version is not None:
            root, file = version
            group = GROUPS / root / path.lstrip("/")
            for above in (group, *group.parents):                         # each limits those below
                yield from numbers(above / file)
    for line in (PROC / "self/limits").read_text().splitlines():
        if found := re.match(r"Max address space\s+(\d+)", line):         # code and stacks are in it as well
            yield int(found[1]) - (said("self/status", "VmSize") or 0) + (said("self/status", "VmRSS") or 0)


def numbers(path: Path) -> Iterator[int]:
    """The number in a file; none if there is no such file or no limit."""
    text = path.read_text().strip() if path.is_file() else ""
    if text.isdecimal():
        yield int(text)


def said(file: str, name: str) -> int | None:
    """Bytes of a line such as "VmHWM:  123 kB" below /proc; None without /proc."""
    path = PROC / file
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE) if path.is_file() else None
    return 1024 * int(found[1]) if found else None


def most_resident() -> int | None:
    """The most memory that this process has had at once, where there is no /proc: macOS."""
    if sys.platform == "win32" or os.name != "posix":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss             # bytes on macOS


def size(found: int) -> str:
    """Bytes for people: 1.2 GiB, 310 MiB."""
    return f"{found / 2**30:.1f} GiB" if found >= 2**30 else f"{found / 2**20:.0f} MiB"
