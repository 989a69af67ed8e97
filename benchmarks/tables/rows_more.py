"""Comparisons that stand in no paper as one table: calls against distance, convergence, divergences, guidance."""

from __future__ import annotations

from tables.parts import DMD, FOUR_STEPS, GAN_ONLY, NO_GAN, TWO_STEPS
from tables.table import Row, Table

HEUN = (1, 2, 3, 4, 6, 9, 12, 18, 24, 32, 64)
"""Steps; each but the last makes two network calls."""

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
        "one-step": Row("student, 1 call", group="student, DMD2"),
        "two-steps": Row("student, 2 calls", overrides=(*TWO_STEPS, "run.steps=5400"), group="student, DMD2"),
        "four-steps": Row("student, 4 calls", overrides=(*FOUR_STEPS, "run.steps=7200"), group="student, DMD2"),
    },
)

CONVERGENCE = Table(
    title="Distance during training",
    source="one-step students of the objectives of [DMD2] Table 3",
    recipe="digits",
    pairs=2000,
    points=40,
    picture="curves",
    rows={
        "dmd2": Row("DMD2"),
        "no-gan": Row("without GAN", overrides=NO_GAN),
        "no-ttur": Row("without GAN and TTUR", overrides=(*NO_GAN, "ttur=1", "run.steps=2300")),
        "dmd": Row("DMD: regression, no TTUR, no GAN", overrides=(*DMD, "run.steps=2300")),
        "gan": Row("GAN only", overrides=GAN_ONLY),
    },
)

DIVERGENCES = Table(
    title="f-divergences, one step, with the GAN's discriminator as density ratio",
    source="f-distill (Xu et al. 2025, arXiv 2502.15681)",
    recipe="digits",
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

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)

GUIDANCE = Table(
    title="Classifier-free guidance of the teacher, and of the real score that a student is trained with",
    source="as the scales of [DMD] Sec. 4.3 and [DMD2] Sec. 5",
    recipe="digits",
    picture="frontier",
    x="guidance scale",
    x_log=False,
    rows={
        f"{who}-{scale:g}": Row(
            f"{who}, guidance {scale:g}",
            overrides=(f"losses.distribution_matching.guidance={scale}",),
            teacher=who == "teacher",
            x=scale,
            group={"teacher": "teacher, 35 calls", "student": "student, 1 call"}[who],
        )
        for who in ("teacher", "student")
        for scale in SCALES
    },
)

TABLES = {"fd-nfe": FD_NFE, "convergence": CONVERGENCE, "divergences": DIVERGENCES, "guidance": GUIDANCE}
