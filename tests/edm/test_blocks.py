"""Activation checkpointing, compilation and bf16 storage of networks made of blocks: the same numbers, other costs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from dmd2_plugins.edm.block import Block, Style
from dmd2_plugins.edm.network import UNITS
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from trainables import COND, CPU, T, X, gradients, moved, run, trainable

from dmd2cli import registry
from dmd2cli.core.heads import logits
from dmd2cli.engine import build, runtime
from dmd2cli.engine.player import Player
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_parts import Averaged, Optimiser


@pytest.fixture(scope="module")
def source():
    return moved()


def state(module):
    return torch.cat([v.flatten() for v in module.state_dict().values()])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_no_gradient_and_no_name(source, precision):
    plain, sparing = (trainable(source, checkpointing=on, precision=precision) for on in (False, True))
    assert list(plain.state_dict()) == list(sparing.state_dict())
    calls = []
    for part in sparing.modules():
        if isinstance(part, Block):
            part.conv0.register_forward_hook(lambda *_: calls.append(1))
    for network in (plain, sparing):
        network(X, T, COND).square().mean().backward()
    blocks = sum(isinstance(part, Block) for part in plain.modules())
    assert len(calls) == 2 * blocks == 2 * sum(isinstance(part, CheckpointWrapper) for part in sparing.modules())
    assert gradients(plain).equal(gradients(sparing))


def test_copies_of_a_checkpointed_network_are_whole_networks(source):
    sparing = trainable(source, checkpointing=True)
    copy = deepcopy(sparing).eval().requires_grad_(False)
    with torch.no_grad():
        for p in sparing.parameters():
            p.add_(1.0)
        assert copy(X, T, COND).equal(source.denoiser(X, T, COND))
        assert not sparing(X, T, COND).equal(copy(X, T, COND))


def test_frozen_networks_are_not_checkpointed(source):
    frozen = runtime.prepare(deepcopy(source.denoiser), CPU, run(checkpointing=True), source.units)
    assert not any(isinstance(part, CheckpointWrapper) for part in frozen.modules())


def played(source, checkpointing):
    """Both players after two steps in which each trains while the other is frozen, and the generator's state."""
    networks = [trainable(source, checkpointing=checkpointing) for _ in range(2)]
    torch.manual_seed(0)
    critic = nn.ModuleDict({"fake": networks[1], "head": source.head()})
    generator = Player(networks[0], Averaged(lr=1e-3, ema_halflife_images=10.0), 9, 10.0)
    judge = Player(critic, Optimiser(lr=1e-3), 9, 10.0)

    def fool(_):
        x = networks[0](80 * X, torch.ones(2), COND)
        return {"gan": nn.functional.softplus(-logits(critic["head"], networks[1].features(x, T, COND))).mean()}

    def tell(_):
        x_hat, features = networks[1].joint(X, T, COND, 1)
        gan = nn.functional.softplus(logits(critic["head"], features)).mean()
        return {"denoising": (x_hat - X[:1]).square().mean(), "gan": gan}

    norms = []
    for step in range(2):
        norms.append(generator.update(fool, [[0, 1]], step, frozen=[judge])["gradient_norm"])
        assert all(p.grad is None for p in critic.parameters())
        norms.append(judge.update(tell, [[0, 1]], step, frozen=[generator])["gradient_norm"])
    return generator, judge, norms


def test_players_that_freeze_each_other_step_the_same_with_checkpointing(source):
    (plain, judge, norms), (sparing, other, same) = played(source, False), played(source, True)
    assert all(norm > 0 for norm in norms) and norms == same
    assert state(plain.module).equal(state(sparing.module))
    with plain.averaged() as one, sparing.averaged() as two:
        assert state(one).equal(state(two))
    assert state(judge.module).equal(state(other.module))
    found = sparing.state()
    assert found["model"].keys() == plain.state()["model"].keys() >= found["ema"].keys() == plain.named.keys()
    plain.load_state(found)                                     # a run may go on without it
    sparing.load_state(plain.state())                           # and with it again


class Two(nn.Module):
    """Two blocks in a row."""

    def __init__(self):
        super().__init__()
        style = Style(last=lambda layer: nn.init.normal_(layer.weight, std=0.05))
        self.blocks = nn.ModuleList(Block(64, 64, 8, style, attention, None) for attention in (False, True))

    def forward(self, h, embedding):
        for block in self.blocks:
            h = block(h, embedding)
        return h


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_block_is_one_graph_and_the_same_numbers(graphs, checkpointing):
    h, embedding = torch.randn(2, 64, 4, 4), torch.randn(2, 8)
    plain = Two()
    compiled = runtime.prepare(deepcopy(plain), CPU, run(compile=True, checkpointing=checkpointing), UNITS)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for _ in range(2):
        for network in (plain, compiled):
            network.zero_grad()
            network(h, embedding).square().mean().backward()
        assert len(graphs) == 2                                 # one for each block, and none the second time
        assert torch.allclose(gradients(plain), gradients(compiled), rtol=1e-4, atol=1e-7)
    copy = deepcopy(compiled)
    assert copy(h, embedding).allclose(plain(h, embedding), atol=1e-6) and len(graphs) == 2


@pytest.mark.slow
def test_inductor_computes_the_same(source):
    plain, compiled = trainable(source), trainable(source, compile=True)
    for network in (plain, compiled):
        network(X, T, COND).square().mean().backward()
    difference = (gradients(plain) - gradients(compiled)).norm() / gradients(plain).norm()
    assert float(difference) < 1e-4


@pytest.mark.parametrize("option", ["checkpointing", "compile"])
def test_networks_without_known_blocks_are_refused(source, option):
    with pytest.raises(UserError, match=f"run.{option}: .*names no blocks"):
        runtime.prepare(deepcopy(source.denoiser), CPU, run(**{option: True}))


def test_the_teacher_alone_is_stored_in_bfloat16(source):
    asked = run(precision="bf16", teacher_weights="bf16")
    real = runtime.prepare(deepcopy(source.denoiser), CPU, asked, source.units)
    with torch.no_grad():
        before, names = real(X, T, COND), list(real.state_dict())
        runtime.store_teacher(real, asked)
        after = real(X, T, COND)
    assert {p.dtype for p in real.parameters()} == {torch.bfloat16} and list(real.state_dict()) == names
    assert {p.dtype for p in source.denoiser.parameters()} == {torch.float32}
    assert float((after - before).norm() / before.norm()) < 0.02


def test_bfloat16_storage_of_a_network_that_computes_in_float32_is_refused(source):
    asked = run(precision="fp32", teacher_weights="bf16")
    real = runtime.prepare(deepcopy(source.denoiser), CPU, asked, source.units)
    with pytest.raises(UserError, match="needs run.precision=bf16"):
        runtime.store_teacher(real, asked)


def test_a_recipe_asks_for_all_of_it(source):
    terms = {"distribution_matching": {}, "denoising": {}}
    parts = {"student": {"lr": 1e-3}, "critic": {"lr": 1e-3}, "sampler": "heun", "losses": terms}
    options = {"precision": "bf16", "teacher_weights": "bf16", "checkpointing": True}
    recipe = {**parts, "teacher": "blocks", "run": {"steps": 1, "batch": 2, **options}}
    with registry.override("teachers", "blocks", lambda: replace(source, denoiser=deepcopy(source.denoiser))):
        nets = build.distillation(Recipe.model_validate(recipe), CPU).nets
    wrapped = {
        name: any(isinstance(part, CheckpointWrapper) for part in getattr(nets, name).modules())
        for name in ("real", "fake", "generator")
    }
    stored = {name: next(getattr(nets, name).parameters()).dtype for name in wrapped}
    assert wrapped == {"real": False, "fake": True, "generator": True}
    assert stored == {"real": torch.bfloat16, "fake": torch.float32, "generator": torch.float32}
    exact = zip(source.denoiser.parameters(), nets.generator.parameters(), strict=True)
    assert all(p.equal(q) for p, q in exact)                    # the copies are of the weights before they were cast
