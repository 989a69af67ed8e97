"""Reading ahead in threads changes nothing but the waiting, and leaves nothing behind."""

import gc
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import image_files as made
import pytest
import torch

from dmd2cli.core.noise import RectifiedFlow
from dmd2cli.core.weighting import uniform
from dmd2cli.data.base import Loader, Paired
from dmd2cli.data.images import Images
from dmd2cli.data.reader import Reader
from dmd2cli.protocols import Example, Teacher

CPU, HERE = torch.device("cpu"), Path(__file__).parent


def encode(raw):
    rows = torch.tensor([[-1.0 if c is None else float(c)] for c in raw])
    return {"number": rows}, {"number": torch.full_like(rows, -1)}


TEACHER = Teacher(torch.nn.Identity(), RectifiedFlow(), (1,), uniform, encode, lambda x: x, torch.nn.Identity)


@dataclass
class Slow:
    """Item i is the number i, read from a disk that takes its time; who read it when is written down."""

    n: int
    wait: float = 0.0
    bad: int = -1
    read: list = field(default_factory=list)
    reads_files: bool = True

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        time.sleep(self.wait)
        self.read.append((i, threading.current_thread().name))
        if i == self.bad:
            raise ZeroDivisionError("the disk is on fire")
        return Example(torch.tensor([float(i)]), i, torch.tensor([-float(i)]))


def loader(data, workers=0, batch=8, micro=4, **more):
    return Loader(0, batch, micro, CPU, Slow(7, reads_files=False), data, reader=Reader(workers), **more)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dmd2-read")]


def joined(batches):
    """Everything of some batches, as tensors."""
    found = [torch.cat([part(b) for b in batches]) for part in (lambda b: b.x, lambda b: b.cond["number"])]
    real = torch.cat([b.real_cond["number"] for b in batches])
    return [*found, real] + ([torch.cat([b.pair.x for b in batches])] if batches[0].pair else [])


@pytest.mark.parametrize("micro", [2, 8])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_are_the_same_with_any_number_of_workers(workers, micro, tmp_path):
    path = str(made.edm_zip(tmp_path / "a.zip", made.values(11), list(range(11))))
    plain, ahead = loader(Images(path=path), micro=micro), loader(Images(path=path, mirror=False), workers, micro=micro)
    for step in (0, 1, 2, 3, 7, 8, 2):
        for a, b in zip(joined(plain(step, TEACHER)), joined(ahead(step, TEACHER)), strict=True):
            assert a.numpy().tobytes() == b.numpy().tobytes()
    ahead.close()


def test_the_next_step_is_read_while_this_one_is_trained():
    data = Slow(64, wait=0.005)
    load = loader(data, workers=4)
    load(0, TEACHER)
    time.sleep(0.15)                               # the training of step 0
    assert len(data.read) == 16 and all(name.startswith("dmd2-read") for _, name in data.read)
    load(1, TEACHER)
    load.close()
    items = [item for item, _ in data.read]
    assert len(items) == len(set(items))           # those of step 1 were there, and not read again


def test_without_workers_there_are_no_threads_and_nothing_is_read_ahead():
    data = Slow(64)
    loader(data)(0, TEACHER)
    assert len(data.read) == 8 and {name for _, name in data.read} == {threading.current_thread().name}
    assert threads() == []


def test_a_set_in_memory_is_not_read_ahead():
    data = Slow(64, reads_files=False)
    loader(data, workers=2)(0, TEACHER)
    assert len(data.read) == 8 and threads() == []


def test_prompts_of_files_are_read_ahead_beside_the_real_data():
    prompts, real = Slow(64), Slow(64)
    load = Loader(0, 8, 8, CPU, prompts, real, reader=Reader(2))
    seen = [load(step, TEACHER)[0] for step in range(2)]
    plain = Loader(0, 8, 8, CPU, Slow(64), Slow(64))
    assert all(b.raw == plain(step, TEACHER)[0].raw for step, b in enumerate(seen))
    load.close()
    for data in (prompts, real):
        assert len(data.read) >= 16 and all(name.startswith("dmd2-read") for _, name in data.read)


@pytest.mark.parametrize("workers", [0, 3])
def test_an_error_comes_as_itself_at_the_step_that_needs_the_item(workers):
    bad = {c for b in loader(Slow(64))(2, TEACHER) for c in b.real_cond["number"].flatten().tolist()}
    load = loader(Slow(64, bad=int(min(bad))), workers)
    load(0, TEACHER)
    load(1, TEACHER)
    with pytest.raises(ZeroDivisionError, match="on fire"):
        load(2, TEACHER)
    load(3, TEACHER)                               # and the others go on
    load.close()


def test_a_jump_to_another_step_forgets_what_was_read_for_nothing():
    load = loader(Slow(64), workers=2)
    for step in (0, 1, 10, 11, 3):
        load(step, TEACHER)
        assert {key[1] for key in load.reader._ahead} == {step + 1}
        assert len(load.reader._ahead) == 2        # two micro-batches
    load.close()


def test_a_loader_that_is_closed_forgotten_or_interrupted_leaves_no_threads():
    def some():
        load = loader(Slow(64, wait=0.002), workers=3)
        load(0, TEACHER)
        assert threads()
        return load

    load = some()
    load.close()
    assert threads() == []
    load(1, TEACHER)                               # closed is not broken
    assert threads()
    del load
    with pytest.raises(KeyboardInterrupt):
        interrupted(some())
    gc.collect()
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == []


def interrupted(load):
    load(1, TEACHER)
    raise KeyboardInterrupt


def test_a_process_that_is_interrupted_while_it_reads_ahead_ends():
    code = (
        f"import os, signal, sys; sys.path[:0] = [r'{HERE}', r'{HERE.parent}']\n"
        "from test_reader import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"          # a background shell ignores it
        "load = loader(Slow(10**6, wait=0.05), workers=2, batch=40, micro=40)\n"
        "load(0, TEACHER)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "KeyboardInterrupt" in done.stderr and done.returncode != 0


def same(parts, whole):
    """Are the parts, one after another, the whole?"""
    return all(torch.cat(found).equal(tensor) for *found, tensor in zip(*parts, whole, strict=True))


@pytest.mark.parametrize("splits", [(0, 8), (0, 4, 8), (0, 2, 4, 6, 8), (0, 1, 8), (0, 3, 5, 6, 8)])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_shares_of_any_number_of_ranks_are_the_whole_batch(splits, workers):
    """So a run goes on with another number of ranks, and none of them keeps a state."""
    for step in (0, 5):
        whole = joined(loader(Slow(30))(step, TEACHER))
        parts = []
        for first, stop in pairwise(splits):
            rank = loader(Slow(30), workers)
            batches = rank(step, TEACHER, slice(first, stop))
            assert [b.rows.start for b in batches] == list(range(first, stop, 4)) and batches[-1].rows.stop == stop
            assert all(b.total == 8 for b in batches)
            parts.append(joined(batches))
            rank.close()
        assert same(parts, whole)


def test_pairs_are_shared_out_among_ranks_too():
    more = {"pairs": Paired(Slow(12), 4, matched=True)}
    whole = joined(loader(Slow(30), **more)(3, TEACHER))
    shares = [joined(loader(Slow(30), **more)(3, TEACHER, slice(i, i + 2))) for i in range(0, 8, 2)]
    assert same(shares, whole)
