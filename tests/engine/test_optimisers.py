"""The optimisers of run.optimiser and run.offload: one AdamW, and moments that come back exactly as they were."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dmd2cli.engine import eight_bit, optimisers
from dmd2cli.engine.eight_bit import BLOCK, EightBit, quantised, values
from dmd2cli.engine.optimisers import OneByOne, can_skip, make, moments, set_moments
from dmd2cli.errors import UserError
from dmd2cli.recipe import Run

KINDS = ("fused", "foreach", "8bit")
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def run(**options):
    return Run(steps=9, batch=2, **options)


def network(layout=torch.contiguous_format):
    """Weights above and below the size that 8 bits begin at, and a norm."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 40, 3, padding=1), nn.GroupNorm(4, 40), nn.SiLU(), nn.Conv2d(40, 24, 3, padding=1)]
    return nn.Sequential(*layers).to(memory_format=layout)


def gradients(net, step):
    """Of a loss whose scale differs from layer to layer, and of changing sign."""
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
    net.zero_grad()
    (net(x).square().mean() - net(x.flip(2)).mean() * (step % 3)).backward()


def steps(net, optimiser, which):
    for step in which:
        gradients(net, step)
        optimiser.step()


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def forced(kind, net, lr=1e-2):
    """The optimiser whose moments wait elsewhere, with the CPU as its device."""
    if kind == "8bit":
        return EightBit(net.parameters(), lr, True)
    return OneByOne(net.parameters(), lr, True, kind == "fused")


MADE = {
    **{kind: lambda net, kind=kind: make(net.parameters(), run(optimiser=kind), 1e-2) for kind in KINDS},
    **{f"{kind} offloaded": lambda net, kind=kind: forced(kind, net) for kind in KINDS},
}


@pytest.mark.parametrize("name", [name for name in MADE if "8bit" not in name])
def test_every_kernel_is_adamw(name):
    ours, theirs = network(), network()
    plain = torch.optim.AdamW(theirs.parameters(), 1e-2, foreach=False)
    steps(ours, MADE[name](ours), range(5))
    steps(theirs, plain, range(5))
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-6)


def test_eight_bits_are_adamw_up_to_their_rounding():
    ours, theirs, start = network(), network(), weights(network())
    steps(ours, make(ours.parameters(), run(optimiser="8bit"), 1e-3), range(10))
    steps(theirs, torch.optim.AdamW(theirs.parameters(), 1e-3), range(10))
    away = (weights(ours) - weights(theirs)).norm() / (weights(theirs) - start).norm()
    assert 0 < away < 0.1


def test_only_large_parameters_have_eight_bits():
    net = network()
    optimiser = make(net.parameters(), run(optimiser="8bit"), 1e-3)
    steps(net, optimiser, range(1))
    found = {p.numel(): optimiser.state[p]["exp_avg"].dtype for p in net.parameters()}
    assert found == {n: torch.uint8 if n >= 4096 else torch.float32 for n in found} and max(found) == 8640


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", MADE)
def test_a_run_that_continues_is_the_run_that_went_on(name, layout):
    straight, first, second = network(layout), network(layout), network(layout)
    steps(straight, MADE[name](straight), range(10))
    before = MADE[name](first)
    steps(first, before, range(5))
    found = [moments(before, p) for p in first.parameters()]
    saved = [{k: v.clone(memory_format=torch.contiguous_format) for k, v in one.items()} for one in found]
    second.load_state_dict(first.state_dict())
    after = MADE[name](second)
    for p, found in zip(second.parameters(), saved, strict=True):
        set_moments(after, p, found)
        again = moments(after, p)
        assert all(again[k].equal(v) and again[k].dtype == torch.float32 for k, v in found.items())
        found["exp_avg"].add_(1.0)                                           # nothing of what was given is kept
    steps(second, after, range(5, 10))
    assert weights(second).equal(weights(straight))
    assert all(p.is_contiguous(memory_format=layout) for p in second.parameters() if p.ndim == 4)


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_moments_of_one_kind_are_taken_by_another(old, new):
    net = network()
    before = MADE[old](net)
    steps(net, before, range(3))
    after = MADE[new](net)
    for p in net.parameters():
        found = moments(before, p)
        set_moments(after, p, found)
        again = moments(after, p)
        assert again["step"] == 3 and again["exp_avg"].shape == p.shape
        for name in optimisers.MOMENTS:                                      # 8 bits: 7 of fraction at most
            rough = 0.05 * found[name].abs().max() if new == "8bit" and old != "8bit" else 0
            assert (again[name] - found[name]).abs().max() <= rough
    steps(net, after, range(3, 5))
    assert weights(net).isfinite().all()


@pytest.mark.parametrize("name", MADE)
def test_a_parameter_that_was_never_updated_has_zero_moments(name):
    net = network()
    optimiser = MADE[name](net)
    for p in net.parameters():
        found = moments(optimiser, p)
        assert list(found) == ["step", "exp_avg", "exp_avg_sq"] and found["exp_avg_sq"].shape == p.shape
        assert not any(v.any() for v in found.values()) and not optimiser.state.get(p)
        set_moments(optimiser, p, found)
    fresh = network()
    steps(net, optimiser, range(2))
    steps(fresh, MADE[name](fresh), range(2))
    assert weights(net).equal(weights(fresh))


@pytest.mark.parametrize("name", MADE)
def test_rates_and_decay_are_those_of_the_groups(name):
    net, start = network(), weights(network())
    optimiser = MADE[name](net)
    for group in optimiser.param_groups:
        group |= {"lr": 0.1, "betas": (0.5, 0.6), "weight_decay": 0.5}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    torch.testing.assert_close(weights(net), start * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_skips_a_step_where_it_is_said_to(kind):
    net = network()
    optimiser = MADE[kind](net)
    steps(net, optimiser, range(2))
    assert can_skip(optimiser) == (kind == "fused") and not can_skip(forced(kind, net))
    if can_skip(optimiser):
        before, count = weights(net), float(moments(optimiser, net[0].weight)["step"])
        optimiser.found_inf = torch.ones(())
        steps(net, optimiser, range(2, 3))
        assert weights(net).equal(before) and float(moments(optimiser, net[0].weight)["step"]) == count


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_cpu_offloading_changes_nothing(kind):
    runs = (run(optimiser=kind, offload=way) for way in ((), ("optimiser",)))
    plain, asked = (make(network().parameters(), one, 1e-2) for one in runs)
    assert type(plain) is type(asked) and not getattr(asked, "waits", False)


def test_moments_that_wait_are_not_those_that_visit(monkeypatch):
    net = network()
    optimiser = forced("fused", net)
    steps(net, optimiser, range(1))
    kept = optimiser.state[net[0].weight]["exp_avg"].data_ptr()
    seen, update = [], optimiser.update

    def noted(p, grad, state, group):
        seen.append(state["exp_avg"].data_ptr())
        update(p, grad, state, group)

    monkeypatch.setattr(optimiser, "update", noted)
    steps(net, optimiser, range(1, 2))
    assert optimiser.state[net[0].weight]["exp_avg"].data_ptr() == kept and kept not in seen


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    eight_bit.library.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError) as refused:
        make(network().parameters(), run(optimiser="8bit"), 1e-3)
    eight_bit.library.cache_clear()
    assert str(refused.value) == "run.optimiser: 8bit needs bitsandbytes: pip install 'dmd2cli[8bit]'"


# -- the codes of 8 bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("n", [BLOCK, 40 * BLOCK, 40 * BLOCK - 100])
def test_products_of_codes_and_scales_become_the_same_products(signed, n):
    code, rng = values(signed, CPU), torch.Generator().manual_seed(n)
    blocks = -(-n // BLOCK)
    codes = torch.randint(256, (blocks, BLOCK), generator=rng)
    top = torch.where(torch.rand(blocks, generator=rng) < 0.5, 255, 0 if signed else 255)
    codes[:, 0] = top                                                        # the largest of a block has the last code
    scale = 10 ** (12 * torch.rand(blocks, generator=rng) - 10)
    scale[::7] = 0
    flat = (code[codes] * scale[:, None]).view(-1)[:n]
    found, scales = quantised(flat, code)
    again = (code[found.int()] * scales.repeat_interleave(BLOCK)[:n])
    assert found.dtype == torch.uint8 and again.equal(flat)


def test_other_numbers_become_the_nearest_codes():
    code, flat = values(True, CPU), torch.randn(3 * BLOCK, generator=torch.Generator().manual_seed(0))
    found, scales = quantised(flat, code)
    again = code[found.int()].view(3, BLOCK) * scales[:, None]
    every = (code * scales[:, None, None] - flat.view(3, BLOCK, 1)).abs().amin(-1)
    torch.testing.assert_close((again - flat.view(3, BLOCK)).abs(), every)


# -- shards ----------------------------------------------------------------------------------------------------

SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

sys.path[:0] = ["tests", "tests/engine"]
from test_optimisers import MADE, gradients, network, steps, weights
from dmd2cli.engine.optimisers import moments, set_moments

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),))


def whole(x):
    return x.full_tensor() if isinstance(x, DTensor) else x


for name, made in MADE.items():
    plain, first, second = network(), network(), network()
    steps(plain, made(plain), range(4))
    fully_shard(first, mesh=mesh)
    before = made(first)
    steps(first, before, range(2))
    fully_shard(second, mesh=mesh)
    after = made(second)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        found = moments(before, p)
        for k in ("exp_avg", "exp_avg_sq"):
            assert isinstance(found[k], DTensor) and found[k].placements == p.placements
        set_moments(after, q, found)
        again = moments(after, q)
        assert all(whole(again[k]).equal(whole(v)) for k, v in found.items()), name
        with torch.no_grad():
            q.copy_(p)
    steps(first, before, range(2, 4))
    steps(second, after, range(2, 4))
    every = [torch.cat([whole(p).detach().flatten() for p in net.parameters()]) for net in (first, second)]
    assert every[0].equal(every[1]), name
    away = (every[0] - weights(plain)).norm() / (weights(plain) - weights(network())).norm()
    assert away < (0.1 if "8bit" in name else 1e-3), (name, away)
dist.destroy_process_group()
"""


def test_shards_of_one_rank_are_dtensors_too(tmp_path):
    sharded(tmp_path, 1)


@pytest.mark.slow
def test_two_ranks_update_their_shards_as_one_updates_the_whole(tmp_path):
    sharded(tmp_path, 2)


def sharded(folder, ranks):
    """Every optimiser on FSDP2's parameters, in processes of their own."""
    (folder / "shards.py").write_text(SHARDED)
    ask = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run([*ask, str(folder / "shards.py")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
