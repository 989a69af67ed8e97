"""Predicted memory against the allocator's own account of the real run."""

from contextlib import contextmanager

import pytest
import torch
from plans import EDM, Blobs, shaped
from torch.profiler import ProfilerActivity, profile

from dmd2cli import registry
from dmd2cli.engine.distill import job
from dmd2cli.engine.plan.memory import memory
from dmd2cli.engine.plan.tape import Tape

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def blobs():
    with registry.override("datasets", "blobs", Blobs):
        yield


def bytes_of(events):
    """The most that was allocated at once."""
    live = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@contextmanager
def recorded():
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        yield found


def measured(recipe):
    """Largest number of bytes allocated while a run is built, makes two cycles of steps, and gives its state."""
    with recorded() as found:
        work = job(recipe, CPU)
        for step in range(2 * recipe.ttur):
            work.step(step)
        work.state()
    return bytes_of(found.profiler.kineto_results.events())


RUNS = {
    "accumulated": ("run.micro_batch=8",),
    "four calls": ("student.times=[1.0, 0.75, 0.5, 0.25]", "critic.per_call=true", "run.batch=64"),
    "exact penalty": ("losses.joint_critic=null", "losses.denoising.weight=1.0", "losses.gan_critic.r1=0.1"),
    "edm": (*EDM, "run.batch=16", "run.micro_batch=4"),
    "edm checkpointed": (*EDM, "run.batch=16", "run.checkpointing=true"),
    "edm selective": (*EDM, "run.batch=16", "run.checkpointing=selective"),
}
MORE = {
    "digits": ("run.batch=128",),
    "separate critic": ("losses.joint_critic=null", "losses.denoising.weight=1.0", "losses.gan_critic.weight=0.1"),
    "reads the scale": ("student.guidance={min: 1.0, max: 5.0}",),
    "guided teacher": ("losses.distribution_matching.guidance=3.0",),
    "no average": ("student.ema_halflife_images=null",),
    "edm at once": (*EDM, "run.batch=8"),
    "edm ddpm++": ("teacher={use: edm, preset: tiny-ddpmpp}", *EDM[1:], "run.batch=8"),
}


@pytest.mark.parametrize("name", [*RUNS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_the_predicted_peak_is_the_measured_one(name):
    recipe = shaped(*{**RUNS, **MORE}[name])
    predicted = memory(recipe, "cpu").peak(recipe.run.micro_batch or recipe.run.batch)
    assert predicted == pytest.approx(measured(recipe), rel=0.1)


def test_a_tape_of_real_tensors_counts_what_the_allocator_counts():
    work = job(shaped(), CPU)
    for step in range(4):
        work.step(step)
    tape = Tape(prime=1)
    with tape:
        work.step(4)
        torch.zeros(1)                                      # an operation after the last gradient is gone
    with recorded() as found:
        work.step(6)
    assert max(tape.grown) == pytest.approx(bytes_of(found.profiler.kineto_results.events()), rel=0.05)
    assert tape.grown[-1] < 0.01 * max(tape.grown) and max(tape.fixed) == 0


# -- on a GPU --------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("more", [("run.batch=128",), (*EDM, "run.batch=64", "run.micro_batch=32")])
def test_the_predicted_peak_is_that_of_the_gpu(more):
    recipe = shaped(*more, "run.device=cuda")
    predicted = memory(recipe, "cuda").peak(recipe.run.micro_batch or recipe.run.batch)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work = job(recipe, torch.device("cuda"))
    for step in range(2 * recipe.ttur):
        work.step(step)
    work.state()
    assert predicted == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
