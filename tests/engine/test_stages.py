"""Stages in training: what changes, what carries over, what starts fresh, and resuming in the middle of any."""

import pytest
import torch
from safetensors.torch import load_file

from dmd2cli.engine.distill import job
from dmd2cli.engine.pairs import make, maker
from dmd2cli.engine.run import run
from dmd2cli.errors import UserError
from dmd2cli.recipe import load

RECIPE = """
extends: digits
losses: {gan_generator: null, joint_critic: null, denoising: {weight: 1.0}}
run: {steps: 12, batch: 8, threads: 1, save_every: 3, log_every: 1, preview_every: 50, keep: 20}
student: {lr: 1.0e-3, decay_from: 1.0, ema_halflife_images: null, warmup_steps: 2}
critic: {lr: 1.0e-3, decay_from: 1.0}
ttur: 2
stages:
  - {until: 5}
  - until: 8
    losses: {gan_generator: {weight: 0.03}, gan_critic: {weight: 1.0}}
    student: {lr: 2.0e-3, ema_halflife_images: 16}
    critic: {warmup: 2}
  - {run: {batch: 4}, ttur: 1, student: {warmup_steps: 0}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "staged.yaml"
    path.write_text(RECIPE)
    return path


def made(recipe, *changes):
    return job(load(recipe, changes), torch.device("cpu"))


def walked(work, steps, first=0):
    return [dict(work.step(i)) for i in range(first, steps)]


def test_every_stage_has_its_own_terms_ratio_batch_and_rates(recipe):
    work = made(recipe)
    logs = walked(work, 12)
    assert [int(log["stage"]) for log in logs] == [0] * 5 + [1] * 3 + [2] * 4
    assert all(("critic/gan_critic" in log) == (i >= 5) for i, log in enumerate(logs))
    moved = [i for i, log in enumerate(logs) if "generator/gradient_norm" in log]
    assert moved == [0, 2, 4, 7, 10, 11]             # the warm-up of stage 1 holds in stage 2 too: stages add up
    assert work.loader.batch == 4 and work.distillation.generator.config.lr == 2e-3


WARM = """
extends: digits
losses: {gan_generator: null, joint_critic: null, distribution_matching: {guidance: 2.0}, denoising: {}}
run: {steps: 6, batch: 4, threads: 1, save_every: 3, log_every: 1, preview_every: null}
sampler: {use: ddim, steps: 2}
ttur: 1
stages:
  - until: 3
    losses: {distribution_matching: null, denoising: null, regression: {distance: l2}}
    data: {pairs: {use: pairs, path: PAIRS, matched: true}}
  - losses: {distribution_matching: {guidance: 2.0}, denoising: {}, regression: null}
    data: {pairs: null}
"""


def test_a_student_warms_up_on_pairs_alone_before_the_critic_learns(tmp_path):
    """The one-step SDXL of [DMD2] App. F: regression first. Its guidance is that of what comes after."""
    (tmp_path / "warm.yaml").write_text(WARM.replace("PAIRS", str(tmp_path / "pairs")))
    found = load(tmp_path / "warm.yaml")
    make(maker(found, torch.device("cpu"), 1, None), tmp_path / "pairs", range(16), 8)
    work = job(found, torch.device("cpu"))
    critic = [p.clone() for p in work.distillation.critic.parameters]
    logs = walked(work, 3)
    assert all({k for k in log if k.startswith("critic/")} == set() and "generator/regression" in log for log in logs)
    assert all(p.equal(q) for p, q in zip(critic, work.distillation.critic.parameters, strict=True))
    assert work.guidance() == 2.0 and work.state()["players"]["critic"]["updates"] == 0
    last = walked(work, 6, first=3)[-1]
    assert "critic/denoising" in last and "generator/regression" not in last
    plain = load(tmp_path / "warm.yaml", ["losses.denoising=null"])
    with pytest.raises(UserError, match="no term for the critic: it would never learn"):
        job(plain.model_copy(update={"stages": ()}), torch.device("cpu"))


def test_the_rate_warms_up_again_in_a_new_stage(recipe):
    work, rates = made(recipe), []
    for step in range(8):
        work.step(step)
        rates.append(work.distillation.critic.optimiser.param_groups[0]["lr"])
    assert rates == [1e-3] * 8
    generator = work.distillation.generator
    generator._optimise = lambda step: rates.append(step) or torch.zeros(())
    from dmd2cli.engine.player import learning_rate

    assert learning_rate(generator.config, 5 - generator.first, generator.steps) == 0       # the first of its stage


def test_weights_and_moments_carry_over_and_what_is_new_starts_fresh(recipe):
    work = made(recipe)
    head = [p.clone() for p in work.distillation.nets.head.parameters()]
    walked(work, 5)
    d = work.distillation
    assert all(p.equal(q) for p, q in zip(d.nets.head.parameters(), head, strict=True))
    assert not any(p in d.critic.optimiser.state for p in d.nets.head.parameters())
    weights, moment = [p.clone() for p in d.generator.parameters], next(iter(d.generator.optimiser.state.values()))
    before = moment["exp_avg"].clone()
    work.seek(5)
    assert all(p.equal(q) for p, q in zip(d.generator.parameters, weights, strict=True))
    assert moment["exp_avg"].equal(before) and d.generator.ema is not None
    walked(work, 6, first=5)
    assert all(d.critic.optimiser.state[p]["step"] == 1 for p in d.nets.head.parameters())


STOPS = [stop if stop in (1, 4, 9) else pytest.param(stop, marks=pytest.mark.slow) for stop in range(1, 12)]
"""In every stage; slow: at every step."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without a stop, with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "staged.yaml").write_text(RECIPE)
    run(load(folder / "staged.yaml", ["run.save_every=1"]), folder / "run", job)
    return folder / "run"


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_continued_from_any_checkpoint_ends_like_one_without_a_stop(recipe, tmp_path, whole, stop):
    parts = tmp_path / "parts"
    run(load(recipe, ["run.save_every=1"]), parts, job, resume=str(whole / f"checkpoints/step-{stop:08d}"))
    for name in ("student/model.safetensors", "metrics.jsonl"):
        ours, theirs = (folder / name for folder in (parts, whole))
        if name.endswith(".jsonl"):
            assert ours.read_text().splitlines() == theirs.read_text().splitlines()[stop:]
        else:
            a, b = load_file(ours), load_file(theirs)
            assert a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)


def test_a_run_cut_short_stays_in_its_stage(recipe):
    work = made(recipe, "run.steps=4")
    assert len(work.phases) == 1 and work.phases[0].stage.until == 4


def test_a_term_of_a_later_stage_is_refused_before_the_first_step(recipe):
    with pytest.raises(UserError, match=r"reads pairs: make some with `dmd2 pairs`"):
        made(recipe, "stages.2.losses.regression.weight=1.0", "stages.2.losses.regression.distance=l2")
    with pytest.raises(UserError, match=r"losses.distribution_matching: 0 <= t_min < t_max"):
        made(recipe, "stages.1.losses.distribution_matching.t_max=0.01")


def test_the_head_may_not_read_something_else_in_a_later_stage(recipe):
    with pytest.raises(UserError, match=r"critic.head: belongs to the whole run"):
        made(recipe, "stages.1.critic.head.reads=teacher")


def test_the_twelve_stages_of_table_5_are_those_of_the_paper():
    from dmd2cli.recipe_stages import staged

    found = [
        (
            s.until, s.recipe.data.pairs.options["count"] / 1e6, s.recipe.losses["regression"].weight,
            s.recipe.losses["distribution_matching"].options["t_max"] * 1000,
            s.recipe.losses["regression"].options["decoder"], s.recipe.run.batch // 80, s.recipe.data.pairs.batch // 80,
        )
        for s in staged(load("sd15-dmd-table5"))
    ]  # fmt: skip
    assert found == [
        (5_400, 2.5, 0.1, 980, "tiny", 32, 16), (8_600, 2.5, 0.5, 980, "tiny", 32, 16),
        (21_100, 2.5, 1, 980, "tiny", 32, 16), (56_300, 4, 1, 980, "tiny", 32, 16), (60_100, 6, 1, 980, "tiny", 32, 16),
        (68_000, 9, 1, 980, "tiny", 32, 16), (74_000, 12, 1, 980, "tiny", 32, 16), (80_000, 12, 1, 500, "tiny", 32, 16),
        (127_000, 12, 1, 500, "full", 16, 4), (149_500, 12, 0.75, 500, "full", 16, 4),
        (162_500, 12, 0.5, 500, "full", 16, 4), (165_000, 12, 0.25, 500, "full", 16, 4),
    ]  # fmt: skip
