"""Whole steps of the variants: what each option changes in training, on the digits."""

import pytest
import torch

from dmd2cli.engine.distill import job
from dmd2cli.errors import UserError
from dmd2cli.recipe import load

APART = ["losses.joint_critic=null", "losses.denoising.weight=1.0", "losses.gan_critic.weight=1.0"]


def made(*changes, steps=20):
    return job(load("digits", ["run.batch=8", f"run.steps={steps}", *changes]), torch.device("cpu"))


def trained(work, steps):
    return [dict(work.step(i)) for i in range(steps)]


def test_weight_auto_equalises_the_gradients_then_stands_still_and_is_published(tmp_path):
    work = made("ttur=1", "losses.gan_generator.weight=auto", "losses.gan_generator.auto_updates=3")
    found = [step["generator/weight/gan_generator"].item() for step in trained(work, 5)]
    assert found[2] == found[3] == found[4] > 0 and len(set(found[:3])) == 3
    work.publish(tmp_path, 5)
    from dmd2cli.student import load_student

    assert load_student(tmp_path).contract["trained"]["auto_weights"]["gan_generator"] == pytest.approx(found[-1])


def test_the_automatic_weight_is_part_of_the_state():
    work = made("ttur=1", "losses.gan_generator.weight=auto", "losses.gan_generator.auto_updates=2")
    trained(work, 3)
    again = made("ttur=1", "losses.gan_generator.weight=auto", "losses.gan_generator.auto_updates=2")
    again.load_state(work.state())
    assert again.balances()["gan_generator"].weight == work.balances()["gan_generator"].weight


def test_measuring_the_lag_changes_nothing_of_the_training():
    plain, measured = made(), made("critic.lag_every=2")
    logs = [trained(work, 4) for work in (plain, measured)]
    assert ["critic/lag" in step for step in logs[1]] == [False, True, False, True]
    for a, b in zip(plain.distillation.critic.parameters, measured.distillation.critic.parameters, strict=True):
        assert a.equal(b)


def test_a_critic_that_was_left_behind_has_a_larger_lag_than_one_that_caught_up():
    from dmd2cli.engine.lag import critic_lag

    work = made("student.lr=5.0e-3", "critic.lr=1.0e-4", "ttur=1", "run.batch=32", *APART, "losses.gan_critic=null",
                "losses.gan_generator=null")  # fmt: skip
    trained(work, 10)
    d = work.distillation
    behind = critic_lag(d, work.loader(10, d.teacher), 10)
    for group in d.critic.optimiser.param_groups:
        group["lr"] = 1e-4
    d.turns = type(d.turns)(ttur=1, warmup=10**9)                  # the student stands still
    for step in range(11, 71):
        work.distillation.step(work.loader(step, d.teacher), step)
    assert behind > critic_lag(d, work.loader(10, d.teacher), 10)


def test_the_frozen_teacher_can_be_judged_at_several_depths_and_only_the_heads_learn_from_it():
    work = made("critic.head.reads=teacher", "critic.head.depths=[0, 1, 3]", *APART, "losses.denoising.weight=0.0")
    before = [p.clone() for p in work.distillation.nets.fake.parameters()]
    trained(work, 1)
    decay = 1 - 1e-3 * 0.01                                        # AdamW's, the only thing that moves the critic
    for p, old in zip(work.distillation.nets.fake.parameters(), before, strict=True):
        assert torch.allclose(p, old * decay) or torch.allclose(p, old)
    assert len(work.distillation.nets.head.heads) == 3


@pytest.mark.parametrize("depths", ["[4]", "[0, 9]"])
def test_a_depth_that_is_not_there_is_refused(depths):
    with pytest.raises(UserError, match=r"critic.head.depths: .* are not all depths of this network"):
        made(f"critic.head.depths={depths}", *APART)


def test_a_clip_of_its_own_overrides_the_runs():
    work = made("critic.clip=null", "student.clip=0.5", "run.clip=3.0")
    assert (work.distillation.generator.clip, work.distillation.critic.clip) == (0.5, None)
    assert made("run.clip=3.0").distillation.critic.clip == 3.0


def test_a_student_that_reads_the_scale_starts_as_the_teacher_and_learns_from_the_scale():
    work = made("student.guidance.min=1", "student.guidance.max=6")
    d, (batch,) = work.distillation, work.loader(0, work.distillation.teacher)
    x, t = torch.randn(8, 1, 8, 8), torch.linspace(0.1, 1, 8)
    told = {**batch.cond, "guidance": torch.linspace(1, 6, 8)}
    assert torch.allclose(d.nets.generator(x, t, told), d.nets.real(x, t, batch.cond), atol=1e-5)
    trained(work, 3)
    other = {**batch.cond, "guidance": torch.full((8,), 2.0)}
    assert not torch.allclose(d.nets.generator(x, t, told), d.nets.generator(x, t, other), atol=1e-5)


def test_one_scale_for_all_equals_the_same_fixed_scale():
    """The conditioned student at the first step, its range shrunk to a point, has the gradient of the fixed one."""
    free = ["losses.gan_generator=null", *APART, "losses.gan_critic=null", "ttur=1"]
    fixed = made("losses.distribution_matching.guidance=3.0", *free)
    ranged = made("student.guidance.min=2.9999999", "student.guidance.max=3.0000001", *free)
    a, b = (trained(work, 1)[0]["generator/distribution_matching"] for work in (fixed, ranged))
    assert torch.allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["losses.gan_critic.weight=auto"], "weight auto is for generator terms"),
        (["losses.distribution_matching.weight=auto"], "weight auto is for generator terms"),
        (["student.input=real", "data.real=null", "losses.gan_critic=null"], "add data.real"),
        (["losses.distribution_matching.divergence=hellinger", "losses.gan_critic=null"], "reads the discriminator"),
        (["losses.gan_critic=null"], "losses.gan_generator reads the discriminator, which no term trains"),
        (["losses.joint_critic.weight=1.0"], "joint_critic is denoising and gan_critic in one: set denoising to null"),
        (["turns=alternate", "ttur=1"], "turns: must be together where ttur is 1"),
        (["critic.head.depths=[-1]"], "critic.head.depths.0: must be greater than or equal to 0"),
        (["losses.distribution_matching.divergence=renyi"], "unknown divergence 'renyi'"),
        (["losses.distribution_matching.guidance_interval=[0.8, 0.2]"], "must rise"),
    ],
)
def test_combinations_that_cannot_work_are_refused_before_training(changes, says):
    with pytest.raises(UserError, match=says):
        made(*APART, *changes)


def toy(*changes):
    small = ["teacher.pretrain_steps=0", "teacher.width=16", "run.batch=8", "run.steps=4"]
    return job(load("toy-grid25", [*small, *changes]), torch.device("cpu"))


def test_guidance_on_an_unconditional_teacher_is_refused():
    with pytest.raises(UserError, match=r"losses.distribution_matching: guidance 3: this teacher is unconditional"):
        toy("losses.distribution_matching.guidance=3.0")


def test_steps_between_the_timesteps_of_a_table_are_refused():
    with pytest.raises(UserError, match=r"student.times: 0.666667 is between two of the 1000 timesteps .* divide 1000"):
        toy("teacher.schedule=ddpm", "student.times=[1.0, 0.6666667, 0.3333333]")
    toy("teacher.schedule=ddpm", "student.times=[1.0, 0.75, 0.5, 0.25]")
    toy("student.times=[1.0, 0.6666667, 0.3333333]")


def test_a_teacher_without_a_network_for_the_scale_says_so():
    with pytest.raises(UserError, match=r"student.guidance: a gmm student cannot read the scale"):
        toy("teacher.classes=5", "student.guidance.min=1", "student.guidance.max=2")


def test_an_analytic_teacher_can_be_judged_too():
    gan = ["losses.gan_generator.weight=0.1", "losses.gan_critic.weight=1.0", "data.real=gmm"]
    work = toy("critic.head.reads=teacher", *gan)
    assert all(value.isfinite() for value in work.step(0).values())


@pytest.mark.parametrize("which", ["input", "first_input"])
def test_real_inputs_come_with_the_conditions_of_the_real_batch(which):
    work = made(f"student.{which}=real", "student.times=[1.0, 0.5]")
    (batch,) = work.loader(0, work.distillation.teacher)
    assert batch.cond["label"].equal(batch.real_cond["label"])
