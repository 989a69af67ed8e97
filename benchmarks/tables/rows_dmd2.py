"""Tables and figures of DMD2 (Yin et al. 2024, arXiv 2405.14867) on the digits."""

from __future__ import annotations

from tables.parts import FOUR_STEPS, GAN_ONLY, HEAVY, NO_GAN, REGRESSION, SMALL
from tables.table import FD, Row, Table

FID, PATCH, CLIP = "FID", "patch FID", "CLIP"


def budgets(ttur: int, compute: int) -> dict[str, tuple[str, str]]:
    """Both variants of a row: 440 generator updates, and the steps that cost what DMD2's 440 cycles do.

    In forward passes of a batch, a cycle costs about 31 for DMD2, 24 without the GAN and 21 for the GAN alone; with one
    critic update 8 without the GAN, 11 with regression, 6.6 for the GAN alone. The CPU seconds are in the table.
    """
    return {
        "equal-updates": (f"ttur={ttur}", f"run.steps={440 * ttur}"),
        "equal-compute": (f"ttur={ttur}", f"run.steps={compute}"),
    }


TABLE_3 = Table(
    title="DMD2 without its parts, one step",
    source="[DMD2] Table 3, ImageNet-64",
    recipe="digits",
    overrides=(SMALL,),
    pairs=2000,
    rows={
        "dmd": Row("DMD: regression, no TTUR, no GAN", {FID: 2.62}, (*NO_GAN, *REGRESSION), budgets(1, 1250)),
        "dmd-heavy": Row("DMD, regression weight 2", {}, (*NO_GAN, *REGRESSION, HEAVY), budgets(1, 1250)),
        "no-regression": Row("no regression", {FID: 3.48}, NO_GAN, budgets(1, 1700)),
        "ttur": Row("no regression, TTUR", {FID: 2.61}, NO_GAN, budgets(5, 2800)),
        "dmd2": Row("no regression, TTUR, GAN: DMD2", {FID: 1.51}, (), budgets(5, 2200)),
        "gan": Row("GAN only", {FID: 2.56}, GAN_ONLY, budgets(1, 2050)),
        "gan-ttur": Row("GAN only, TTUR", {FID: 2.52}, GAN_ONLY, budgets(5, 3200)),
    },
)

TABLE_4 = Table(
    title="DMD2 without its parts, four steps",
    source="[DMD2] Table 4, SDXL",
    recipe="digits",
    overrides=(SMALL, *FOUR_STEPS, "run.steps=3000"),
    rows={
        "no-gan": Row("without GAN", {FID: 26.90, PATCH: 27.66, CLIP: 0.328}, NO_GAN),
        "no-dm": Row("without distribution matching", {FID: 13.77, PATCH: 27.96, CLIP: 0.307}, GAN_ONLY),
        "no-simulation": Row(
            "without backward simulation", {FID: 20.66, PATCH: 24.21, CLIP: 0.332}, ("student.input=real",)
        ),
        "dmd2": Row("DMD2", {FID: 19.32, PATCH: 20.86, CLIP: 0.332}),
    },
)

# Steps of about equal cost: a cycle costs about 1 + ttur.
TTUR = Table(
    title="Critic updates per generator update, distribution matching alone",
    source="[DMD2] Sec. 4.2 and its figure of brightness",
    recipe="digits",
    overrides=(SMALL, *NO_GAN),
    points=20,
    picture="curves",
    panels=(("generator_updates", "brightness"), ("generator_updates", "value"), ("cpu_seconds", "value")),
    rows={
        "1": Row("ratio 1", overrides=("ttur=1", "run.steps=1700")),
        "2": Row("ratio 2", overrides=("ttur=2", "run.steps=2100")),
        "5": Row("ratio 5", overrides=("ttur=5", "run.steps=2800")),
        "10": Row("ratio 10", overrides=("ttur=10", "run.steps=3000")),
    },
)

LONG = Table(
    title="One step, trained for longer, against the teacher's sampler",
    source="[DMD2] Table 1, ImageNet-64: student 1.28, teacher 2.32 at 511 calls",
    recipe="digits-long",
    points=20,
    picture="curves",
    rows={
        "dmd2": Row("student, 1 call", {FID: 1.28}),
        "teacher-17": Row("teacher, 17 calls", overrides=("sampler.steps=9",), teacher=True),
        "teacher-35": Row("teacher, 35 calls", teacher=True),
    },
)

DIVERSITY = Table(
    title="Distance between images of one class",
    source="[DMD2], diversity score on SDXL: LPIPS between images of one prompt",
    recipe="digits",
    columns={"diversity": "diversity", **FD},
    rows={
        "teacher": Row("teacher", {"diversity": 0.64}, teacher=True),
        "teacher-2": Row("teacher, guidance 2", overrides=("losses.distribution_matching.guidance=2.0",), teacher=True),
        "four-steps": Row("DMD2, four steps", {"diversity": 0.61}, (SMALL, *FOUR_STEPS, "run.steps=3000")),
        "dmd2": Row("DMD2, one step", overrides=(SMALL, *budgets(5, 2200)["equal-compute"])),
        "no-gan": Row("without GAN, one step", overrides=(SMALL, *NO_GAN, *budgets(5, 2800)["equal-compute"])),
        "term": Row(
            "without GAN, with the diversity term",
            overrides=(SMALL, *NO_GAN, "losses.diversity.weight=0.3", *budgets(5, 2800)["equal-compute"]),
        ),
    },
)

TABLES = {"dmd2-table3": TABLE_3, "dmd2-table4": TABLE_4, "ttur": TTUR, "long": LONG, "diversity": DIVERSITY}
