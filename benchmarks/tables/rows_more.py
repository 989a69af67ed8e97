"""Comparisons that stand in no paper as one table: calls against distance, convergence, divergences, rewards."""

from __future__ import annotations

from tables.parts import EVEN, FOUR_STEPS, NO_GAN, OWN, SMALL, TWO_STEPS
from tables.table import FD, Row, Table

HEUN = (1, 2, 3, 4, 6, 9, 12, 18, 24, 32, 64)
"""Steps; each but the last makes two network calls."""

SLOW = (SMALL, *NO_GAN, "run.steps=8000", "student.lr=3.0e-4")
"""What students of one step and of several are compared with: distribution matching alone, at a third of the rate."""

FD_NFE = Table(
    title="Distance against network calls",
    source="as [DMD2] Table 1: the teacher's sampler against its student",
    recipe="digits",
    picture="frontier",
    rows={
        **{
            f"teacher-{2 * steps - 1}": Row(
                f"teacher, {2 * steps - 1} calls",
                overrides=(f"sampler.steps={steps}",),
                teacher=True,
                group="teacher, Heun",
            )
            for steps in HEUN
        },
        "one-step": Row("student, 1 call", overrides=SLOW, group="student"),
        "two-steps": Row("student, 2 calls", overrides=(*SLOW, *TWO_STEPS, OWN), group="student"),
        "four-steps": Row("student, 4 calls", overrides=(*SLOW, *EVEN, OWN), group="student"),
    },
)

CONVERGENCE = Table(
    title="One, two and four steps during training",
    source="[DMD2] Sec. 4.4: each call of a student is a task of its own",
    recipe="digits",
    overrides=(SMALL, "run.steps=8000"),
    points=24,
    picture="curves",
    rows={
        "one-gan": Row("1 step, with GAN"),
        "one": Row("1 step", overrides=NO_GAN),
        "two": Row("2 steps", overrides=(*NO_GAN, *TWO_STEPS)),
        "four": Row("4 steps, SDXL's times", overrides=(*NO_GAN, *FOUR_STEPS)),
        "two-own": Row("2 steps, a critic for each", overrides=(*NO_GAN, *TWO_STEPS, OWN)),
        "four-own": Row("4 steps, SDXL's times, a critic for each", overrides=(*NO_GAN, *FOUR_STEPS, OWN)),
        "four-even-own": Row("4 steps, at sigma 20, 3, 1, 0.3, a critic for each", overrides=(*NO_GAN, *EVEN, OWN)),
        "four-even": Row("4 steps, at sigma 20, 3, 1, 0.3", overrides=(*NO_GAN, *EVEN)),
    },
)

STEPS = Table(
    title="One, two and four steps, each call with a critic of its own",
    source="[DMD2] Sec. 4.4, with critic.per_call",
    recipe="digits",
    overrides=SLOW,
    points=24,
    picture="curves",
    rows={
        "one": Row("1 step"),
        "two-own": Row("2 steps, a critic for each", overrides=(*TWO_STEPS, OWN)),
        "four-even-own": Row("4 steps, a critic for each", overrides=(*EVEN, OWN)),
        "four-even": Row("4 steps, one critic for all", overrides=EVEN),
    },
)

DIVERGENCES = Table(
    title="f-divergences, one step, with the GAN's discriminator as density ratio",
    source="f-distill (Xu et al. 2025, arXiv 2502.15681)",
    recipe="digits",
    overrides=(SMALL, "run.steps=2200"),
    rows={
        name: Row(title, overrides=(f"losses.distribution_matching.divergence={name}",))
        for name, title in {
            "reverse_kl": "reverse KL: DMD2",
            "softened": "softened reverse KL",
            "jensen_shannon": "Jensen-Shannon",
            "hellinger": "squared Hellinger",
            "forward_kl": "forward KL",
        }.items()
    },
)

REWARD = Table(
    title="A reward for bright strokes, with distribution matching as the anchor",
    source="no paper: an option of this project",
    recipe="digits-reward",
    columns={"brightness": "brightness, 0 to 255", **FD},
    rows={
        "none": Row("no reward", overrides=("losses.reward=null",)),
        "0.1": Row("weight 0.1", overrides=("losses.reward.weight=0.1",)),
        "0.3": Row("weight 0.3"),
        "1": Row("weight 1", overrides=("losses.reward.weight=1.0",)),
    },
)

TABLES = {"fd-nfe": FD_NFE, "convergence": CONVERGENCE, "steps": STEPS, "divergences": DIVERGENCES, "reward": REWARD}
