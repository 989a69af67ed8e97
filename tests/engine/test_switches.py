"""The switches of `run` that change how networks are computed, and not what."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from dmd2_plugins.edm.block import Block
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.utils._python_dispatch import TorchDispatchMode
from trainables import COND, CPU, T, X, gradients, moved, run, trainable

from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.engine import runtime
from dmd2cli.engine.distill import job
from dmd2cli.errors import UserError
from dmd2cli.recipe import load


@pytest.fixture(scope="module")
def source():
    return moved()


class Counter(TorchDispatchMode):
    """How often each operation was computed."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func] = self.found.get(func, 0) + 1
        return func(*args, **(kwargs or {}))


def worked(network):
    """How often a backward pass computes what."""
    network.zero_grad()
    loss = network(X, T, COND).square().mean()
    with Counter() as counter:
        loss.backward()
    return counter.found


# -- checkpointing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_selective_checkpointing_changes_no_gradient_and_no_name(source, precision):
    plain, sparing = (trainable(source, checkpointing=on, precision=precision) for on in (False, "selective"))
    assert list(plain.state_dict()) == list(sparing.state_dict())
    assert any(isinstance(part, CheckpointWrapper) for part in sparing.modules())
    for network in (plain, sparing):
        network(X, T, COND).square().mean().backward()
    assert gradients(plain).equal(gradients(sparing))


def test_selective_checkpointing_computes_again_all_but_products(source):
    aten, again = torch.ops.aten, {}
    for asked in (False, "selective", True):
        again[asked] = worked(trainable(source, checkpointing=asked))
    for product in (aten.convolution.default, aten.addmm.default):
        assert product not in again[False] and product not in again["selective"] and again[True][product] > 0
    plain, selective, all_of_it = (found.get(aten.silu.default, 0) for found in again.values())
    assert plain == 0 and selective == all_of_it > 0


def test_copies_of_a_selectively_checkpointed_network_are_whole_networks(source):
    sparing = trainable(source, checkpointing="selective")
    copy = deepcopy(sparing).eval().requires_grad_(False)
    assert copy(X, T, COND).equal(source.denoiser(X, T, COND))


# -- memory order ----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A backbone that notes the order of what it is given."""

    def __init__(self):
        super().__init__()
        self.conv, self.vector, self.seen = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), []

    def encode(self, x, c_noise, cond):
        self.seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return (self.conv(x),)

    def decode(self, state):
        return state[0][:, :3]


def test_channels_last_is_the_order_of_weights_and_of_what_the_backbone_is_given(source):
    made = source.denoiser
    nets = [Preconditioned(Plain(), made.schedule, made.parametrization, made.c_noise) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[1] = runtime.prepare(nets[1], CPU, run(channels_last=True))
    last = [net.backbone.conv.weight.is_contiguous(memory_format=torch.channels_last) for net in nets]
    plain, ordered = (net(X, T, COND) for net in nets)
    assert last == [net.backbone.seen[0] for net in nets] == [False, True]
    torch.testing.assert_close(plain, ordered)


def test_channels_last_leaves_networks_without_images_alone():
    recipe = load("toy-grid25", ["teacher.pretrain_steps=1", "run.batch=8", "run.channels_last=true", "run.device=cpu"])
    assert job(recipe, CPU).step(0)


def test_channels_last_over_several_ranks_is_refused():
    runtime.check_layout(run(channels_last=True), 1)
    runtime.check_layout(run(), 4)
    with pytest.raises(UserError, match=r"run.channels_last: .* over 4 ranks"):
        runtime.check_layout(run(channels_last=True), 4)


# -- precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"), [("fp32", None), ("auto", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_what_autocast_computes_in(asked, found):
    assert runtime.autocast_dtype(asked, CPU) == found


def test_half_precision_computes_nearly_the_same(source):
    plain, half = (trainable(source, precision=precision) for precision in ("fp32", "fp16"))
    with torch.no_grad():
        away = (plain(X, T, COND) - half(X, T, COND)).norm() / plain(X, T, COND).norm()
    assert 0 < away < 0.01 and half(X, T, COND).dtype == torch.float32


@pytest.mark.filterwarnings("error")
def test_tf32_is_set_both_ways():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for asked in (False, True):
        runtime.set_tf32(run(tf32=asked))
        assert torch.get_float32_matmul_precision() == ("high" if asked else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == asked
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


# -- compilation -----------------------------------------------------------------------------------------------


def test_compiled_blocks_may_be_checkpointed_selectively(graphs, source):
    plain, compiled = trainable(source), trainable(source, compile=True, checkpointing="selective")
    blocks = sum(isinstance(part, Block) for part in plain.modules())
    for network in (plain, compiled):
        network(X, T, COND).square().mean().backward()
    assert len(graphs) == blocks
    assert torch.allclose(gradients(plain), gradients(compiled), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_compiled_blocks_train_what_eager_ones_train():
    """50 steps of digits. Float32 sums in another order: the two part slowly, and their terms stay together."""

    def trained(*overrides):
        work = job(load("digits", ["run.device=cpu", "run.batch=32", "run.threads=1", *overrides]), CPU)
        start = [p.detach().clone() for p in work.distillation.generator.parameters]
        logged = [work.step(step) for step in range(50)]
        return logged, start, [p.detach().clone() for p in work.distillation.generator.parameters]

    (plain, start, ours), (compiled, _, theirs) = trained(), trained("run.compile=true")
    apart, way = (torch.cat([(a - b).flatten() for a, b in zip(x, ours, strict=True)]).norm() for x in (theirs, start))
    assert apart < 0.02 * way
    for key in ("critic/joint_critic", "critic/gradient_norm"):
        means = [torch.stack([row[key] for row in rows[-20:]]).mean() for rows in (plain, compiled)]
        assert abs(means[0] - means[1]) < 0.01 * means[0]
