"""On a GPU: a step that never waits for it, and switches that change how fast it is and not what it computes."""

from __future__ import annotations

import pytest
import torch

from dmd2cli.engine import runtime
from dmd2cli.engine.distill import job
from dmd2cli.engine.optimisers import OneByOne, moments, set_moments
from dmd2cli.recipe import Run, load

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
CUDA = torch.device("cuda")
STEPS = 50
SMALL = ("run.device=cuda", "run.batch=32", "run.precision=fp32", "run.tf32=false", "run.preview_every=null")


def made(*overrides, recipe="digits"):
    found = load(recipe, [*SMALL, *overrides])
    runtime.set_tf32(found.run)
    return job(found, CUDA)


def trained(*overrides):
    """(everything logged, one row per step; the weights of generator and critic) after STEPS steps."""
    work = made(*overrides)
    start = weights(work)
    logged = [work.step(step) for step in range(STEPS)]
    return [{k: float(v) for k, v in found.items()} for found in logged], weights(work), start


def weights(work):
    return {n: torch.cat([p.detach().flatten().clone() for p in w.parameters]) for n, w in work.players().items()}


@pytest.fixture(scope="module")
def eager():
    return trained()


BOUNDS = {
    "bf16": (("run.precision=bf16",), 0.25, 0.1),
    "compile": (("run.compile=true",), 0.02, 0.01),
    "tf32": (("run.tf32=true",), 0.1, 0.05),
    "channels_last": (("run.channels_last=true",), 0.02, 0.01),
    "checkpointing": (("run.checkpointing=true",), 0.02, 0.01),
    "selective": (("run.checkpointing=selective",), 0.02, 0.01),
    "foreach": (("run.optimiser=foreach",), 0.02, 0.01),
    "offloaded optimiser": (("run.offload=[optimiser]",), 0.02, 0.01),
    "offloaded teacher": (("run.offload=[teacher]",), 0.02, 0.01),
    "8bit": (("run.optimiser=8bit",), 0.4, 0.1),
}
"""Switch -> overrides, how far the weights may end from those of fp32 eager as a share of the way that they went, and
how far the mean of a term over the last 20 steps may be from its own. Not derived: to be replaced by what is measured,
with a margin."""


@pytest.mark.parametrize("name", BOUNDS)
def test_a_switch_trains_what_fp32_eager_trains(eager, name):
    overrides, apart, terms = BOUNDS[name]
    logged, found, _ = trained(*overrides)
    for player, ours in found.items():
        way = (eager[1][player] - eager[2][player]).norm()
        assert (ours - eager[1][player]).norm() < apart * way, player
    for key in ("critic/joint_critic", "generator/gan_generator"):
        last = ([row[key] for row in rows if key in row][-20:] for rows in (logged, eager[0]))
        ours, theirs = (torch.tensor(found).mean() for found in last)
        assert abs(ours - theirs) < terms * abs(theirs), key


# -- waiting ---------------------------------------------------------------------------------------------------

LONG = ("run.steps=100", "stages.1.until=100")
QUIET = {
    "digits": ("digits", ()),
    "four calls": ("digits", ("student.times=[1.0, 0.75, 0.5, 0.25]", "run.micro_batch=8")),
    "guidance": ("digits", ("losses.distribution_matching.guidance=2.0",)),
    "diversity": ("digits", ("losses.diversity.weight=0.3",)),
    "toy": ("toy-grid25", ("teacher.pretrain_steps=1",)),
    "toy on a table": ("toy-grid25", ("teacher.pretrain_steps=1", "teacher.schedule=ddpm")),
    "edm": ("imagenet64", ("tier=cpu-smoke", "run.micro_batch=4", "run.batch=8", *LONG)),
    "bf16": ("digits", ("run.precision=bf16",)),
    "offloaded teacher": ("digits", ("run.offload=[teacher]",)),
}
"""Name -> recipe, overrides."""


@pytest.mark.parametrize("name", QUIET)
def test_a_step_waits_for_nothing(name):
    recipe, overrides = QUIET[name]
    work = made(*overrides, recipe=recipe)
    first = work.phases[-1].stage.first
    for step in range(first, first + 2 * work.recipe.ttur):
        work.step(step)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in range(first + 2 * work.recipe.ttur, first + 4 * work.recipe.ttur):
            work.step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- offloaded moments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fused", "foreach", "8bit"])
def test_moments_wait_in_pinned_memory_and_come_back_exactly(kind):
    from dmd2cli.engine.optimisers import make

    def network():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.SiLU(), torch.nn.Linear(128, 8)).to(CUDA)

    def steps(net, optimiser, which):
        for step in which:
            net.zero_grad()
            x = torch.randn(16, 64, generator=torch.Generator().manual_seed(step)).to(CUDA)
            net(x).square().mean().backward()
            optimiser.step()

    run = Run(steps=1, batch=1, optimiser=kind, offload=("optimiser",))
    straight, first, second = network(), network(), network()
    steps(straight, make(straight.parameters(), run, 1e-2), range(10))
    before = make(first.parameters(), run, 1e-2)
    steps(first, before, range(5))
    assert isinstance(before, OneByOne) and before.state[first[0].weight]["exp_avg"].is_pinned()
    second.load_state_dict(first.state_dict())
    after = make(second.parameters(), run, 1e-2)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        set_moments(after, q, moments(before, p))
    steps(second, after, range(5, 10))
    assert all(a.equal(b) for a, b in zip(second.parameters(), straight.parameters(), strict=True))
