"""Out of memory: known as such, let go of, and answered with what would have fitted."""

import gc
import json
import re
import subprocess
import sys
import weakref

import pytest
import torch
from plans import EDM, Blobs, shaped

from dmd2cli import registry
from dmd2cli.engine import fitting, oom
from dmd2cli.engine.distill import job
from dmd2cli.engine.plan import fit
from dmd2cli.engine.plan.fit import CONTEXT, taken
from dmd2cli.engine.plan.memory import memory as rehearsed
from dmd2cli.engine.room import Room, room, size
from dmd2cli.errors import UserError
from dmd2cli.recipe import PretrainRecipe, load

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GIB, MIB = 2**30, 2**20
SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...\nSee")


PLANS = {}


def memory(recipe, kind):
    """The real plan, made once for all micro-batches."""
    key = json.dumps([kind, recipe.model_copy(update={"run": recipe.run.model_copy(update={"micro_batch": None})})
                      .model_dump(mode="json")])  # fmt: skip
    if key not in PLANS:
        PLANS[key] = rehearsed(recipe, kind)
    return PLANS[key]


@pytest.fixture(autouse=True)
def blobs(monkeypatch):
    monkeypatch.setattr(fitting, "memory", memory)
    monkeypatch.setattr(fit, "memory", memory)
    with registry.override("datasets", "blobs", Blobs):
        yield


@pytest.fixture
def has(monkeypatch):
    """Give the device so many bytes, of which others hold some."""

    def has(total, others=0):
        monkeypatch.setattr(oom, "room", lambda device: Room(total, total - MIB, total - MIB - others))

    return has


def told(recipe, device=CUDA, err=SHORT, step=3, **more):
    found = oom.answer(recipe, device, err, step, **more)
    assert isinstance(found, UserError) and "\n" not in str(found)
    return str(found)


def switches(text):
    """KEY=VALUE of an answer."""
    found = re.search(r"`([^`]+)`", text)
    assert found is not None, text
    return found[1].split()


# -- is it? ----------------------------------------------------------------------------------------------------


def chained(cause):
    try:
        raise ValueError("a block could not be compiled") from cause
    except ValueError as err:
        return err


@pytest.mark.parametrize(
    "err",
    [SHORT, torch.cuda.OutOfMemoryError("x"), MemoryError(), OSError(12, "Cannot allocate memory"), chained(SHORT),
     RuntimeError("CUDA error: out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
     RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GiB, other allocations: 1 GiB)")],
)  # fmt: skip
def test_memory_that_is_short_is_known_on_every_device(err):
    assert oom.is_oom(err)


def test_so_is_that_of_a_cpus_own_allocator():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**40)
    assert oom.is_oom(caught.value)
    assert oom.inventory(Room(16 * GIB, GIB, GIB), caught.value) == "1.0 of 16.0 GiB in use, 4096.0 GiB more asked for"


@pytest.mark.parametrize(
    "err", [RuntimeError("shape mismatch"), OSError(28, "No space left on device"), KeyboardInterrupt(), chained(None),
            UserError("out of memory at step 3: ..."), ValueError("out of memory")],
)  # fmt: skip
def test_other_errors_are_not(err):
    assert not oom.is_oom(err)


# -- what was there --------------------------------------------------------------------------------------------


def test_it_says_what_was_in_use_and_what_was_asked_for(has):
    has(80 * GIB)
    assert told(shaped()).startswith("out of memory at step 3: 80.0 of 80.0 GiB in use, 2.0 GiB more asked for; ")


def test_memory_of_other_processes_is_named_and_not_counted_on(has):
    recipe = shaped("run.batch=1024")
    need = taken(memory(recipe, "cuda").peak(256), "cuda")
    has(need + 40 * GIB - CONTEXT, others=40 * GIB)
    text = told(recipe)
    assert "40.0 GiB of it by other processes" in text and switches(text) == ["run.micro_batch=256"]


@pytest.mark.parametrize(
    ("step", "start", "words"),
    [(3, 0, "at step 3:"), (6, 0, "at step 6:"), (7, 0, "at step 7, after 6 steps that had enough:"),
     (1203, 1200, "at step 1203:"), (0, 0, "before the first step:"), (500, 500, "before the first step:")],
)  # fmt: skip
def test_the_first_cycles_are_told_from_later_ones(has, step, start, words):
    has(80 * GIB)
    assert told(shaped(), step=step, start=start).startswith(f"out of memory {words} ")


def test_a_real_machine_says_how_much_it_has():
    found = room(CPU)
    if sys.platform == "linux":
        assert found is not None and 50 * MIB < found.own <= found.used <= found.total


# -- what would have fitted ------------------------------------------------------------------------------------


def test_the_largest_micro_batch_that_would_have_fitted_is_named_with_what_it_needs(has):
    recipe = shaped("run.batch=1024")
    need = taken(memory(recipe, "cuda").peak(256), "cuda")
    has(need)
    assert told(recipe).endswith(f"`run.micro_batch=256` would have needed {size(need)}: add it to the same command")


def test_what_it_names_fits_by_the_plan_and_one_size_more_does_not(has):
    limit = taken(memory(shaped(*EDM, "run.batch=16"), "cuda").peak(1), "cuda") + 8 * MIB
    has(limit)
    found = shaped(*EDM, "run.batch=16", *switches(told(shaped(*EDM, "run.batch=16"))))
    rows = found.run.micro_batch
    assert taken(memory(found, "cuda").peak(rows), "cuda") <= limit
    assert rows == 16 or taken(memory(found, "cuda").peak(2 * rows), "cuda") > limit


def test_checkpointing_is_named_where_the_smallest_micro_batch_is_too_large(has):
    small = (*EDM, "run.batch=4", "run.precision=fp32")
    has(taken(memory(shaped(*small, "run.checkpointing=true"), "cuda").peak(1), "cuda"))
    text = told(shaped(*small, "run.micro_batch=1"))
    assert switches(text) == ["run.checkpointing=true"] and "the same command" in text


def test_if_nothing_fits_it_says_what_the_least_takes(has):
    has(64 * MIB)
    text = told(shaped(*EDM, "run.batch=4"))
    words = r"nothing in `run` makes it fit: the least, `([^`]+)`, takes (\d+) MiB, and 64 MiB are there; take a larger"
    least = re.search(words, text)
    assert least is not None, text
    assert "run.micro_batch=1" in least[1] and int(least[2]) > CONTEXT / MIB


def test_a_recipe_that_fits_by_its_plan_gets_something_smaller_and_is_told_so(has):
    has(80 * GIB)
    text = told(shaped())
    now = taken(memory(shaped(), "cuda").peak(32), "cuda")
    assert f"by its plan this run takes {size(now)}; something else may hold memory; " in text


def test_on_a_cpu_the_process_is_counted_with_all_that_it_holds(has):
    recipe = shaped("run.batch=1024")
    need = fitting.PROCESS + int(fitting.MALLOC * memory(recipe, "cpu").peak(256))
    has(need + 2)
    assert f"; `run.micro_batch=256` would have needed {size(need)}: add it to" in told(recipe, CPU)
    has(need - 2)
    assert switches(told(recipe, CPU)) == ["run.micro_batch=128"]


def test_a_switch_that_a_run_cannot_be_continued_with_needs_another_folder(has, monkeypatch):
    has(80 * GIB)
    one = fitting.Try(("run.micro_batch=1", "run.teacher_weights=bf16"), 1, GIB, True)
    monkeypatch.setattr(fitting, "tries", lambda *_: [one])
    assert told(shaped("run.save_every=10"), step=10).endswith("add it to the same command")
    assert told(shaped("run.save_every=10"), step=11).endswith("add it to the command, with another -o")
    assert told(shaped(), step=501, start=500).endswith("add it to the command, with another -o")


def test_ranks_share_the_batch_and_shards_the_weights(has):
    recipe = shaped(*EDM)
    found = memory(recipe, "cuda")
    has(taken(found.peak(2), "cuda"))
    assert switches(told(recipe, ranks=4)) == ["run.micro_batch=2"]
    alone, shared = (switches(told(recipe, ranks=4, shards=n))[0].partition("=")[2] for n in (1, 4))
    assert int(shared) > int(alone)


# -- where there is no plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "said"),
    [(32, None, 1, "run.micro_batch=16"), (30, 10, 1, "run.micro_batch=5"), (32, None, 4, "run.micro_batch=4"),
     (9, 9, 1, "run.micro_batch=3"), (9, 1, 1, "run.checkpointing=true")],
)  # fmt: skip
def test_a_device_that_does_not_say_is_answered_with_half_the_micro_batch(monkeypatch, batch, micro, ranks, said):
    monkeypatch.setattr(oom, "room", lambda device: None)
    recipe = shaped(f"run.batch={batch}", f"run.micro_batch={micro or 'null'}")
    assert f"try `{said}`: add it to the same command" in told(recipe, ranks=ranks)


def test_a_plan_that_fails_is_named_beside_half_the_micro_batch(has, monkeypatch):
    def no_plan(*_):
        raise UserError("teacher: mine cannot be built without its weights: no plan for it")

    has(80 * GIB)
    monkeypatch.setattr(fitting, "memory", no_plan)
    text = told(shaped())
    assert "try `run.micro_batch=16`: add it to the same command (there is no plan: teacher: mine cannot" in text


def test_a_network_from_scratch_has_no_plan(has):
    has(GIB)
    recipe = load("digits-teacher", ["run.batch=64"], model=PretrainRecipe)
    assert "try `run.micro_batch=32`: add it" in told(recipe)
    one = load("digits-teacher", ["run.batch=64", "run.micro_batch=1"], model=PretrainRecipe)
    assert told(one).endswith("the micro-batch is 1 already: take a larger device")


# -- a real run ------------------------------------------------------------------------------------------------


def test_what_the_failed_step_held_is_free_before_the_plan_is_made(has, monkeypatch, capsys):
    held, freed = [], []
    work = job(shaped("run.batch=16"), CPU)
    work.step(0)

    def fails(*_):
        big = torch.zeros(1000)
        held.append(weakref.ref(big))
        raise SHORT

    def planned(*asked):
        gc.collect()
        freed.append(held[0]() is None)
        return memory(*asked)

    has(80 * GIB)
    monkeypatch.setattr(work.distillation, "losses", fails)
    monkeypatch.setattr(fitting, "memory", planned)
    try:
        work.step(1)
    except RuntimeError as err:
        assert oom.is_oom(err) and held[0]() is not None
        told(work.recipe, CPU, err, 2)
    assert freed == [True]
    assert "planning what would have fitted" in capsys.readouterr().err


SCRIPT = """
import resource, sys, torch
from dmd2cli.engine import fitting, oom
from dmd2cli.engine.distill import job
from dmd2cli.recipe import load
recipe = load("digits", ["run.device=cpu", "run.threads=1", "run.batch=8192", "ttur=2", *sys.argv[1:]])
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 900 * 2**20, resource.RLIM_INFINITY))
try:
    work = job(recipe, torch.device("cpu"))
    work.step(0), work.step(1), print("trained")
except (RuntimeError, MemoryError) as err:
    assert oom.is_oom(err), err
    work = None
    print(oom.answer(recipe, torch.device("cpu"), err, 1))
"""


def limited(*overrides):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *overrides], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space")
def test_a_run_that_meets_a_real_limit_is_told_what_fits_below_it():
    found = re.fullmatch(r"out of memory at step 1: .* in use, .* more asked for; (.*)", text := limited())
    assert found is not None, text
    assert limited(*switches(found[1])) == "trained", text
