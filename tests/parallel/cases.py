"""What one process and several ranks must train alike: small runs by name, and how one is walked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from dmd2cli.engine.distill import job
from dmd2cli.engine.parallel import ALONE
from dmd2cli.engine.pretrain import pretraining
from dmd2cli.engine.sharding import gathered
from dmd2cli.recipe import PretrainRecipe, load

EACH = ("run.device=cpu", "run.threads=1", "run.timeout=2", "run.log_every=2", "run.preview_every=null")
SMALL = ("run.batch=8", "run.steps=8", "ttur=2")
APART = ("losses.joint_critic=null", "losses.denoising.weight=1.0", "losses.gan_critic.weight=1.0")
LORA = ("student.lora={rank: 2}", "critic.lora={rank: 2}", "student.decay_from=1.0", "student.ema_halflife_images=null")
SHARED = (*LORA, "shared_base=true", *APART)
BF16 = ("run.precision=bf16", "run.teacher_weights=bf16")
TOY = ("teacher.pretrain_steps=20", "teacher.width=16", "losses.gan_generator.weight=0.1",
       "losses.gan_critic.weight=1.0", "data.real=gmm", *SMALL)  # fmt: skip
LATER = (
    "run.steps=6", "student.ema_halflife_images=null", "student.decay_from=1.0", "losses.joint_critic=null",
    "losses.gan_generator=null", "losses.denoising.weight=1.0",
    "stages=[{until: 2}, {losses: {gan_generator: {weight: 0.03}, gan_critic: {weight: 1.0}}, "
    "student: {ema_halflife_images: 16}}]",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Some steps of a recipe with changes, in which {data} is a folder that the test has filled.

    bound: of everything logged, relative. drift: of the weights, how far apart they end by how far they went.
    """

    recipe: str = "digits"
    changes: tuple[str, ...] = SMALL
    modes: tuple[str, ...] = ("replicate", "shard")
    steps: int = 3
    bound: float = 1e-4
    drift: float = 2e-3


def digits(*changes, modes=("replicate", "shard"), **more):
    return Case("digits", (*SMALL, *changes), modes, **more)


def smoke(recipe, *changes, **more):
    return Case(recipe, ("tier=cpu-smoke", *changes), **more)


FAST = {
    "toy": Case("toy-grid25", TOY, ("replicate",)),
    "ragged": digits("run.batch=12", "run.micro_batch=4"),
    "shared base": digits(*SHARED, "run.micro_batch=2", modes=("shard",)),
    "auto": digits("ttur=1", "losses.gan_generator.weight=auto", "losses.gan_generator.auto_updates=2",
                   modes=("replicate",)),
    "depths of the teacher": digits("critic.head.reads=teacher", "critic.head.depths=[0, 1, 3]", *APART,
                                    modes=("shard",)),
    "stages": digits(*LATER, modes=("shard",)),
    "pairs": Case("digits-dmd1", (*SMALL, "ttur=1", "data.pairs.path={data}/pairs", "sampler.steps=3"), ("shard",)),
    "pretraining": Case("digits-teacher", SMALL[:2], ("shard",)),
}  # fmt: skip

SLOW = {
    "toy": Case("toy-grid25", TOY),
    "toy judged by its teacher": Case("toy-grid25", (*TOY, "critic.head.reads=teacher")),
    "digits": digits(),
    "GAN term first": digits(*APART, "losses.distribution_matching=null", "losses.gan_generator.weight=1.0"),
    "lora": digits(*LORA),
    "shared base": digits(*SHARED, "run.micro_batch=2", modes=("replicate",)),
    "lora with an average": digits("student.lora={rank: 2}", "student.ema_halflife_images=50", "student.ema_ramp=null"),
    "average": digits("student.ema_halflife_images=50", "student.ema_ramp=null"),
    "micro": digits("run.micro_batch=2"),
    "lag": digits("critic.lag_every=2"),
    "auto": digits("ttur=1", "losses.gan_generator.weight=auto", "losses.gan_generator.auto_updates=2"),
    "per call": digits("critic.per_call=true", "student.times=[1.0, 0.5]", steps=6),
    "depths": digits("critic.head.depths=[0, 2]", *APART),
    "guidance": digits("student.guidance.min=1", "student.guidance.max=6"),
    "stages": digits(*LATER, modes=("replicate",), steps=5),
    "pairs": Case("digits-dmd1", (*SMALL, "ttur=1", "data.pairs.path={data}/pairs", "sampler.steps=3"), ("replicate",)),
    "matched pairs": Case("digits-dmd1", (*SMALL, "ttur=1", "data.pairs.path={data}/pairs", "sampler.steps=3",
                                          "data.pairs.matched=true", "data.pairs.batch=4")),
    "prompts of real": digits("data.prompts_of_real=true", "data.workers=2"),
    "real input": digits("student.input=real", "student.times=[1.0, 0.5]"),
    "begun from a student": digits("student.init={data}/student"),
    "checkpointing": digits("run.checkpointing=true"),
    "selective": digits("run.checkpointing=selective"),
    "shared base, checkpointed": digits(*SHARED, "run.checkpointing=true"),
    "alternate turns": digits("turns=alternate", "critic.warmup=1"),
    "clipped": digits("run.clip=0.01"),
    "foreach": digits("run.optimiser=foreach"),
    "moments in memory": digits("run.offload=[optimiser]"),
    "reward": Case("digits-reward", SMALL),
    "pretraining": Case("digits-teacher", (*SMALL[:2], "run.micro_batch=2")),
    "pipeline from scratch": Case("sd-tiny-digits-teacher", (*SMALL[:2], "task.vae_steps=2"), steps=4),
    "bf16": digits("run.precision=bf16", bound=0.05, drift=0.3),
    "bf16, shared base": digits(*SHARED, *BF16, bound=0.2, drift=0.8),
    "edm": smoke("imagenet64-onestage"),
    "edm in stages": smoke("imagenet64", "stages.0.until=1", "stages.1.until=3", "run.steps=3"),
    "sd15": smoke("sd15-4step", "teacher.model={data}/sd15"),
    "sdxl with a LoRA": smoke("sdxl-4step-lora", "teacher.model={data}/sdxl"),
    "sdxl on one base": smoke("sdxl-4step-24gb", "teacher.model={data}/sdxl"),
}  # fmt: skip

FOUR = {
    "toy": Case("toy-grid25", TOY, ("hybrid", "shard")),
    "digits": digits(modes=("hybrid",)),
    "ragged": digits("run.batch=24", "run.micro_batch=4", modes=("hybrid",)),
    "shared base": digits(*SHARED, modes=("hybrid", "shard")),
    "average": digits("student.ema_halflife_images=50", "student.ema_ramp=null", modes=("hybrid",)),
}

WHOLE = digits("student.ema_halflife_images=50", "student.ema_ramp=null", modes=("shard",))
FILES = ("run.steps=4", "run.save_every=2", "run.preview_every=4", "run.log_every=1")


def recipe_of(case, mode, data, *more):
    """The recipe of a case."""
    changes = [change.replace("{data}", str(data)) for change in (*case.changes, *EACH, *more)]
    extra = ["run.shard_size=2"] if mode == "hybrid" else []
    kind = {"model": PretrainRecipe} if case.recipe.endswith("teacher") else {}
    return load(case.recipe, [*changes, *extra, f"run.parallel={mode}"], **kind)


def walk(case, mode, data, world=ALONE, *more):
    """Train a case: what was logged at every step, the weights before and after, and facts about the networks."""
    recipe = recipe_of(case, mode, data, *more)
    made = (pretraining if isinstance(recipe, PretrainRecipe) else job)(recipe, torch.device("cpu"), world)
    try:
        before = weights(made)
        numbers = [world.mean(dict(made.step(step))) for step in range(case.steps)]
        return {"numbers": numbers, "before": before, "after": weights(made), "facts": facts(made)}
    finally:
        made.close()


def weights(made):
    """All that learned, and the moving averages, whole: on the first rank."""
    found = {}
    for name, player in made.players().items():
        found |= {f"{name}/{key}": t for key, t in gathered(player.module).items()}
        with player.averaged() as averaged:
            found |= {f"{name}, averaged/{key}": t for key, t in gathered(averaged).items()}
    return {key: t.float() for key, t in found.items() if t.is_floating_point()}


def facts(made):
    """What is to be so on every rank."""
    learned = [p for player in made.players().values() for p in player.parameters]
    teacher = [p for name, module in made.watched().items() if name == "teacher" for p in module.parameters()]
    return {
        "no gradient is left": all(p.grad is None for p in (*learned, *teacher)),
        "all is sharded": all(isinstance(p, DTensor) for p in (*learned, *teacher)),
        "all is whole": not any(isinstance(p, DTensor) for p in (*learned, *teacher)),
        "weights are there": not any(p.is_meta for p in (*learned, *teacher)),
    }


def difference(case, mode, one, other):
    """Where two walks differ by more than the case allows, in words."""
    wrong = []
    for step, (a, b) in enumerate(zip(one["numbers"], other["numbers"], strict=True)):
        if a.keys() != b.keys():
            wrong.append(f"step {step}: logged {a.keys() ^ b.keys()} once")
        wrong += [f"step {step}: {key}: {a[key]} and {b[key]}" for key in a.keys() & b.keys()
                  if abs(a[key] - b[key]) > case.bound * abs(a[key]) + 1e-7]  # fmt: skip
    for player in {key.partition("/")[0] for key in one["after"]}:
        keys = [key for key in one["after"] if key.partition("/")[0] == player]
        if any(not one["before"][key].equal(other["before"][key]) for key in keys):
            wrong.append(f"{player} begins with other weights")
        apart, way = (sum((a[key] - b[key]).double().square().sum() for key in keys) ** 0.5
                      for a, b in ((one["after"], other["after"]), (one["after"], one["before"])))  # fmt: skip
        if apart > case.drift * way:
            wrong.append(f"{player}: {apart:.1e} apart, after {way:.1e}")
    return wrong + [f"not: {fact}" for fact, so in other["facts"].items() if so is False and needed(fact, mode)]


def needed(fact, mode):
    """Must a fact be so in this mode?"""
    return fact != ("all is sharded" if mode == "replicate" else "all is whole")
