"""LoRA students and critics, on bases of their own and on one that teacher, critic and student share."""

import json

import pytest
import torch
from torch.utils.checkpoint import CheckpointError

from dmd2cli.adapters import Adapters, View
from dmd2cli.engine import build, cut
from dmd2cli.engine.distill import job
from dmd2cli.errors import UserError
from dmd2cli.images import to_pil
from dmd2cli.recipe import load
from dmd2cli.student import load_student
from dmd2cli.weights import read_metadata, read_weights, save_weights

CPU = torch.device("cpu")
LORA = ["student.lora={rank: 4, alpha: 4}", "critic.lora={rank: 4, alpha: 4}"]
PAIR = ["losses.joint_critic=null", "losses.denoising.weight=1.0", "losses.gan_critic.weight=1.0"]
SMALL = ["run.batch=8", "run.steps=40", "ttur=2", "student.ema_halflife_images=null"]


def made(*overrides):
    return job(load("recipes/digits.yaml", [*SMALL, *PAIR, *LORA, *overrides]), CPU)


def both(*overrides):
    """The same run on bases of their own and on a shared one."""
    return made(*overrides), made("shared_base=true", *overrides)


def weights(player):
    return torch.cat([p.detach().flatten() for p in player.parameters]).clone()


def gradients(work, step):
    """Of both players, at a step of both turns, before the optimisers have them."""
    d, found = work.distillation, {}
    for name, player in work.players().items():
        def optimise(step, objective, name=name, player=player):
            found[name] = torch.cat([p.grad.flatten() for p in player.parameters if p.grad is not None]).clone()
            player.optimiser.zero_grad()
            return torch.zeros(())

        player._optimise = optimise
    d.step(work.loader(step, d.teacher), step)
    return found


def stirred(work, seed=0):
    """A run whose adapters say something."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for player in work.players().values():
            for p in player.parameters:
                p.add_(0.05 * torch.randn(p.shape, generator=source))
    return work


@pytest.mark.parametrize("reads", ["critic", "teacher"])
@pytest.mark.parametrize("micro", ["8", "4"])
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_on_a_shared_base_gradients_are_those_of_separate_networks(checkpointing, micro, reads):
    more = (f"run.checkpointing={checkpointing}", f"run.micro_batch={micro}", f"critic.head.reads={reads}")
    separate, shared = (gradients(stirred(work), 0) for work in both(*more))
    assert separate.keys() == shared.keys() == {"generator", "critic"}
    for name, gradient in separate.items():
        assert gradient.norm() > 0
        assert torch.allclose(shared[name], gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())


def test_without_the_switch_before_it_a_backward_pass_goes_wrong(monkeypatch):
    """What the order protects from: checkpointing computes again with the adapter that was active last."""
    monkeypatch.setattr(cut, "activate", lambda network: None)
    with pytest.raises(CheckpointError):
        gradients(stirred(made("shared_base=true", "run.checkpointing=true")), 0)


def test_runs_on_separate_and_on_shared_bases_stay_together():
    separate, shared = both()
    for step in range(4):
        a, b = separate.step(step), shared.step(step)
        assert all(torch.allclose(a[k], b[k], rtol=1e-3, atol=1e-5) for k in a)
    for name, player in separate.players().items():
        assert torch.allclose(weights(player), weights(shared.players()[name]), rtol=1e-2, atol=1e-4)


def test_one_network_is_in_memory_and_the_teacher_is_its_base_alone():
    work = made("shared_base=true")
    d = work.distillation
    views = [d.nets.real, d.nets.fake, d.nets.generator]
    assert all(isinstance(view, View) for view in views) and len({id(view.adapters.base) for view in views}) == 1
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)
    cond = d.teacher.encode([1, 2])[0]
    plain = build.teacher(work.recipe, CPU).denoiser
    for step in range(3):
        work.step(step)
    assert torch.allclose(d.nets.real(x, t, cond), plain(x, t, cond), atol=1e-6)
    assert not torch.allclose(d.nets.fake(x, t, cond), plain(x, t, cond), atol=1e-4)
    assert sum(p.numel() for p in d.generator.parameters) < 0.3 * sum(p.numel() for p in plain.parameters())


def test_switching_leaves_what_learns_as_it_is():
    work = made("shared_base=true")
    adapters = work.distillation.nets.real.adapters
    own = [p.requires_grad for p in adapters.own]
    assert all(own)
    for name in ("critic", None, "student", "critic"):
        adapters.use(name)
        assert [p.requires_grad for p in adapters.own] == own
    for p in work.distillation.critic.parameters:
        p.requires_grad_(False)
    adapters.use("student")
    assert not any(p.requires_grad for p in work.distillation.critic.parameters)
    assert all(p.requires_grad for p in work.distillation.generator.parameters)


@pytest.mark.parametrize("shared", ["false", "true"])
@pytest.mark.parametrize("average", ["null", "1000.0"])
def test_an_adapted_student_is_saved_alone_and_loaded_on_its_base(tmp_path, shared, average):
    work = made(f"shared_base={shared}", f"student.ema_halflife_images={average}", "run.checkpointing=true")
    for step in range(3):
        work.step(step)
    work.publish(tmp_path, 3)
    found = load_student(tmp_path / "student")
    assert found.contract["lora"]["rank"] == 4
    with work.source() as source:
        assert found.source.images([1, 2, 3], 0).equal(source.images([1, 2, 3], 0))
    assert (tmp_path / "student/model.safetensors").stat().st_size < 400_000
    assert to_pil(found(labels=[1])[0]).size == (8, 8)


@pytest.mark.parametrize("shared", ["false", "true"])
def test_a_continued_run_is_the_same_as_one_in_one_go(shared):
    options = (f"shared_base={shared}", "student.ema_halflife_images=1000.0")
    whole, first, second = made(*options), made(*options), made(*options)
    for step in range(5):
        whole.step(step)
    for step in range(2):
        first.step(step)
    second.load_state(first.state())
    for step in range(2, 5):
        second.step(step)
    for a, b in zip(whole.players().values(), second.players().values(), strict=True):
        assert weights(a).equal(weights(b))
    averages = [work.distillation.generator.ema.values() for work in (whole, second)]
    assert all(a.equal(b) for a, b in zip(*averages, strict=True))


@pytest.mark.parametrize("shared", ["false", "true"])
def test_dropout_acts_in_training_and_not_in_a_loaded_student(tmp_path, shared):
    work = stirred(made(f"shared_base={shared}", "student.lora={rank: 4, alpha: 4, dropout: 0.5}"))
    generator = work.distillation.nets.generator
    x, t, cond = torch.randn(2, 1, 8, 8), torch.ones(2), work.distillation.teacher.encode([1, 2])[0]
    assert not generator(x, t, cond).equal(generator(x, t, cond))
    assert generator.eval()(x, t, cond).equal(generator(x, t, cond))
    work.publish(tmp_path, 0)
    found = load_student(tmp_path / "student").source.network
    assert found(x, t, cond).equal(found(x, t, cond)) and torch.allclose(found(x, t, cond), generator(x, t, cond))


def test_a_critic_for_each_call_has_an_adapter_each():
    work = made("shared_base=true", "critic.per_call=true", "student.times=[1.0,0.5]")
    assert set(work.distillation.nets.real.adapters.configs) == {"student", "critic", "critic-1"}
    for step in range(4):
        work.step(step)


def test_a_full_critic_may_judge_an_adapted_student():
    work = made("critic.lora=null")
    work.step(0)
    assert isinstance(work.distillation.nets.generator, View) and not isinstance(work.distillation.nets.fake, View)


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(UserError, match=r"shared_base: needs student\.lora and critic\.lora"):
        load("recipes/digits.yaml", ["shared_base=true"])
    with pytest.raises(UserError, match=r"student\.lora: LoRA: .*nothing"):
        made("student.lora={targets: [nothing]}")
    with pytest.raises(UserError, match=r"student\.lora: the student is not a copy"):
        made("student.guidance={min: 1, max: 3}")


def test_an_adapter_on_another_base_is_refused(tmp_path):
    work = made()
    work.publish(tmp_path, 0)
    path = tmp_path / "student/model.safetensors"
    contract = json.loads(read_metadata(path)["dmd2_student"])
    contract["details"]["channels"] = [8, 16, 32]
    save_weights(read_weights(path), path, {"dmd2_student": json.dumps(contract)})
    with pytest.raises(UserError, match="a LoRA of another base"):
        load_student(tmp_path / "student")


def test_a_fresh_adapter_changes_nothing_and_its_start_is_a_function_of_the_seed():
    recipe = load("recipes/digits.yaml", SMALL)
    source = build.teacher(recipe, CPU)
    x, t, cond = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5), source.encode([1, 2])[0]
    before = source.denoiser(x, t, cond)
    lora = load("recipes/digits.yaml", LORA).student.lora
    bases = [Adapters(build.teacher(recipe, CPU).denoiser) for _ in range(3)]
    views = [base.add("a", lora, source.lora_targets, seed) for base, seed in zip(bases, (0, 0, 1), strict=True)]
    assert all(view(x, t, cond).equal(before) for view in views)
    a, b, c = (torch.cat([p.flatten() for p in view.parameters()]) for view in views)
    assert a.equal(b) and not a.equal(c)


def test_the_switch_is_that_of_peft_but_for_requires_grad():
    adapters = made("shared_base=true").distillation.nets.generator.adapters
    own = adapters.own
    for p in own[::3]:
        p.requires_grad_(False)
    wanted = [p.requires_grad for p in own]
    for name in ("critic", None, "student"):
        adapters.use(name)
        assert [p.requires_grad for p in own] == wanted
        ours = [(layer.disable_adapters, layer.active_adapters) for layer in adapters.layers.values()]
        for layer in adapters.layers.values():
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        assert ours == [(layer.disable_adapters, layer.active_adapters) for layer in adapters.layers.values()]
        for p, flag in zip(own, wanted, strict=True):
            p.requires_grad_(flag)
