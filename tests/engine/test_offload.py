"""A teacher that waits in the CPU's memory: the same numbers, two blocks at a time, and no gradient through it.

The device of most of these tests is the CPU, so that weights are copied from one place in its memory to another.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from dmd2_plugins.edm.block import Block
from dmd2_plugins.edm.teacher import teacher
from torch import nn

from dmd2cli.engine import runtime
from dmd2cli.engine.offload import Visits, check_offload, offload
from dmd2cli.errors import UserError
from dmd2cli.recipe import Run, load

CPU = torch.device("cpu")
X, T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.4, 0.8])
COND = {"label": torch.eye(10)[:2]}


@pytest.fixture
def source():
    """A tiny teacher away from its start."""
    found, rng = teacher("tiny-adm"), torch.Generator().manual_seed(1)
    for p in found.denoiser.parameters():
        p.add_(0.03 * torch.randn(p.shape, generator=rng))
    return found


def places(module):
    return {name: p.data_ptr() for name, p in module.named_parameters()}


def waiting(source, units=None):
    """(the network as it is, a copy whose weights wait, what moves them)."""
    moved = deepcopy(source.denoiser)
    return source.denoiser, moved, Visits(moved, CPU, source.units if units is None else units)


@pytest.mark.parametrize("units", [None, ()])
@torch.no_grad()
def test_it_computes_the_same_by_every_method(source, units):
    plain, moved, _ = waiting(source, units)
    for _ in range(2):
        assert moved(X, T, COND).equal(plain(X, T, COND))
        assert moved.features(X, T, COND).equal(plain.features(X, T, COND))
        assert all(a.equal(b) for a, b in zip(moved.joint(X, T, COND, 1), plain.joint(X, T, COND, 1), strict=True))
        taps = (net.taps(X, T, COND, [0, 1]) for net in (moved, plain))
        assert all(a.equal(b) for a, b in zip(*taps, strict=True))


@torch.no_grad()
def test_weights_keep_their_names_values_types_and_memory_order(source):
    source.denoiser.to(torch.bfloat16)
    plain, moved, _ = waiting(source)
    assert list(plain.state_dict()) == list(moved.state_dict())
    for p, q in zip(plain.parameters(), moved.parameters(), strict=True):
        assert p.equal(q) and p.dtype == q.dtype and p.stride() == q.stride() and not q.requires_grad


@torch.no_grad()
def test_a_block_computes_in_a_buffer_and_goes_home(source):
    _, moved, visits = waiting(source)
    at_home, seen = places(moved), []
    for part in moved.modules():
        if isinstance(part, Block):
            part.register_forward_hook(lambda block, args, out: seen.append(set(places(block).values())))
    moved(X, T, COND)
    buffers = [range(s.buffer.data_ptr(), s.buffer.data_ptr() + s.buffer.numel()) for s in visits.slots]
    assert len(seen) > 4 and all(any(at in b for b in buffers) for block in seen for at in block)
    assert places(moved) == at_home


@torch.no_grad()
def test_two_buffers_of_the_largest_block_are_all_that_is_on_the_device(source):
    _, moved, visits = waiting(source)
    largest = max(sum(p.nbytes for p in b.parameters()) for b in moved.modules() if isinstance(b, Block))
    assert len(visits.slots) == 2 and all(largest <= s.buffer.numel() < 1.1 * largest + 10_000 for s in visits.slots)
    held = {p for group in visits.groups for p in group.weights}
    assert sum(p.nbytes for p in moved.parameters() if p not in held) == 0


@torch.no_grad()
def test_the_next_block_is_fetched_while_one_computes(source, monkeypatch):
    _, moved, visits = waiting(source)
    moved(X, T, COND)
    early, here = [], visits.here
    monkeypatch.setattr(visits, "here", lambda i: (early.append(any(s.group == i for s in visits.slots)), here(i))[1])
    moved(X, T, COND)
    assert len(early) == len(visits.groups) and sum(not e for e in early) <= 1


@torch.no_grad()
def test_a_block_that_fails_goes_home(source):
    plain, moved, _ = waiting(source)
    before = places(moved)
    with pytest.raises(RuntimeError):
        moved(X[:, :2], T, COND)
    assert places(moved) == before and moved(X, T, COND).equal(plain(X, T, COND))


def test_a_gradient_through_it_is_refused(source):
    _, moved, _ = waiting(source)
    assert moved(X, T, COND).isfinite().all()                                # no input asks for one
    with pytest.raises(UserError, match="run.offload: teacher: a loss differentiates through the teacher"):
        moved(X.clone().requires_grad_(), T, COND)


@torch.no_grad()
def test_copies_are_whole_networks(source):
    plain, moved, visits = waiting(source)
    copy = deepcopy(moved)
    for slot in visits.slots:
        slot.buffer.zero_()
    assert copy(X, T, COND).equal(plain(X, T, COND)) and all(s.group is None for s in visits.slots)


@torch.no_grad()
def test_compiled_blocks_visit_too(source, graphs):
    moved = runtime.prepare(deepcopy(source.denoiser), CPU, Run(steps=1, batch=2, compile=True), source.units)
    Visits(moved, CPU, source.units)
    for _ in range(3):
        torch.testing.assert_close(moved(X, T, COND), source.denoiser(X, T, COND))
    assert len(graphs) == sum(isinstance(part, Block) for part in moved.modules())


class Odd(nn.Module):
    """A network with weights of its own, tied ones, a list of them, attention that reads its children's, a buffer."""

    def __init__(self):
        super().__init__()
        self.scale, self.more = nn.Parameter(torch.ones(4)), nn.ParameterList([torch.ones(4)])
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x):
        x = self.two(self.one(x * self.scale + self.more[0])) + self.shift
        return self.attention(x, x, x)[0]


@torch.no_grad()
def test_weights_that_are_read_from_outside_their_layer_stay():
    plain = Odd().requires_grad_(False)
    moved = deepcopy(plain)
    visits, x = Visits(moved, CPU, ()), torch.randn(2, 3, 4)
    held = {name for name, p in moved.named_parameters() if any(p is q for g in visits.groups for q in g.weights)}
    attention = {f"attention.{name}" for name, _ in plain.attention.named_parameters()}
    assert held == {"one.bias", "two.bias", *attention}
    assert moved(x).equal(plain(x)) and moved(x).equal(plain(x))


def test_on_a_cpu_nothing_changes(source):
    before = places(source.denoiser)
    offload(source.denoiser, CPU, source.units)
    assert places(source.denoiser) == before


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("critic.head.reads=teacher", "losses.joint_critic=null"), "gradients go through the teacher"),
        (("shared_base=true", "student.lora={rank: 2}", "critic.lora={rank: 2}"), "student and critic learn on"),
    ],
)
def test_a_teacher_that_gradients_go_through_is_refused_before_anything_is_loaded(overrides, why):
    check_offload(load("digits", [*overrides, "run.offload=[optimiser]"]))
    with pytest.raises(UserError, match=f"run.offload: teacher: .*{why}.*leave"):
        check_offload(load("digits", [*overrides, "run.offload=[teacher]"]))


def test_a_teacher_over_several_ranks_is_refused():
    recipe = load("digits", ["run.offload=[teacher]"])
    check_offload(recipe)
    with pytest.raises(UserError, match="2 ranks share its weights out already"):
        check_offload(recipe, 2)


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_it_computes_the_same_with_little_of_it_there(source):
    cuda = torch.device("cuda")
    plain, moved = deepcopy(source.denoiser).to(cuda), deepcopy(source.denoiser)
    offload(moved, cuda, source.units)
    assert all(p.device == CPU and p.is_pinned() for p in moved.parameters())
    given = (X.to(cuda), T.to(cuda), {k: v.to(cuda) for k, v in COND.items()})
    for _ in range(20):
        assert moved(*given).equal(plain(*given))
