"""Several ranks on this machine: torchrun, started from here, and what its end means."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dmd2cli.errors import UserError

PASSED_ON = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Signals that the ranks get when this process does; any other ends it, and the ranks go on without it."""
PATIENCE = 300
"""Seconds that they have to save then; torchrun's own number is 30."""


def launch(ranks: int, arguments: Sequence[str]) -> int:
    """Run `python -m dmd2cli ARGUMENTS` in so many ranks; returns the exit code that they came to.

    Each gets its share of the cores, unless OMP_NUM_THREADS says otherwise. Raises UserError that names the rank if one
    was ended by a signal.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"--nproc {ranks}: this is a rank of torchrun already; leave --nproc out")
    for name in ("torch.distributed", "torch.distributed.elastic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)                  # its tables; the ranks have said why
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    where: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": f"dmd2-{os.getpid()}"}
    where |= {"signals_to_handle": PASSED_ON, "shutdown_timeout": PATIENCE}
    known = {field.name for field in fields(LaunchConfig)}                  # not all of them in older versions
    options: dict[str, Any] = {name: value for name, value in where.items() if name in known}
    config = LaunchConfig(1, 1, ranks, max_restarts=0, monitor_interval=0.1, **options)
    try:
        elastic_launch(config, sys.executable)("-m", "dmd2cli", *arguments)
    except ChildFailedError as err:
        return code(err, ranks)
    except SignalException:
        return 130                                                          # passed on; the ranks have saved
    return 0


def code(err: ChildFailedError, ranks: int) -> int:
    """The exit code of the rank that ended first by itself. UserError if a signal from elsewhere ended one before."""
    found = sorted((failure.timestamp, rank, failure.exitcode) for rank, failure in err.failures.items())
    first = [(rank, number) for _, rank, number in found if number != -signal.SIGTERM]       # torchrun's, to the rest
    rank, number = first[0] if first else found[0][1:]
    if number >= 0:
        return number
    name = signal.Signals(-number).name
    cause = "; the system kills whoever takes the last memory" if -number == signal.SIGKILL else ""
    raise UserError(
        f"rank {rank} of {ranks} was ended by {name}{cause}; checkpoints are intact: the same command continues"
    )
