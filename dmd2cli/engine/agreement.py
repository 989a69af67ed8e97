"""Failures to write: one clear line, the same on every rank, and nothing half written is left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException

from dmd2cli.engine import retention
from dmd2cli.errors import UserError


def leads(group: ProcessGroup | None) -> bool:
    """Is this the rank that does what is done once? None: there is one process."""
    return group is None or dist.get_rank(group) == 0


def agree(group: ProcessGroup | None, failure: BaseException | None) -> None:
    """Raise on every rank what failed on one: there the failure itself, elsewhere a UserError with its words."""
    own = "" if failure is None else str(failure) if isinstance(failure, UserError) else repr(failure)
    said = [own]
    if group is not None:
        said *= group.size()
        dist.all_gather_object(said, own, group)
    if failure is not None:
        raise failure
    if any(said):
        raise UserError(max(said, key=bool))


@contextmanager
def whole_or_nothing(draft: Path, step: int, group: ProcessGroup | None = None) -> Iterator[None]:
    """Within: failures to write become one clear line on every rank, and the draft is removed."""
    failure: BaseException | None = None
    try:
        try:
            yield
        except RuntimeError:                       # of the collectives: nobody is left to agree with
            raise
        except (Exception, CheckpointException) as err:
            failure = _told(err, draft.parent, step)
        agree(group, failure)
    except BaseException:
        if leads(group):
            shutil.rmtree(draft, ignore_errors=True)
            retention.recover(draft.parent)
        raise


def _told(err: BaseException, folder: Path, step: int) -> BaseException:
    """The UserError for what the operating system refused; anything else as it is."""
    cause = _os_error(err) if isinstance(err, CheckpointException) else err
    if not isinstance(cause, OSError):
        return err
    why = "the disk is full" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else os.strerror(cause.errno or 0)
    told = UserError(f"{folder}: saving step {step} failed: {why}; earlier checkpoints are intact")
    told.__cause__ = err
    return told


def _os_error(err: CheckpointException) -> OSError | None:
    """The operating system's reason behind a failed collective save, if there is one."""
    for cause, _ in err.failures.values():
        chain: BaseException | None = cause
        while chain is not None:
            if isinstance(chain, OSError):
                return chain
            chain = chain.__cause__ or chain.__context__
    return None
