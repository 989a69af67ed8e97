"""Tables and figures of DMD2 (Yin et al. 2024, arXiv 2405.14867) on the digits."""

from __future__ import annotations

from tables.parts import FOUR_STEPS, GAN_ONLY, NO_GAN, REGRESSION
from tables.table import FD, Row, Table

# 720 generator updates, or the CPU seconds of 720 cycles with ttur 5 (one costs 3.2 times a cycle with ttur 1).
TTUR_1 = {"equal-updates": ("ttur=1", "run.steps=720"), "equal-compute": ("ttur=1", "run.steps=2300")}
TTUR_5 = {"equal-updates": ("ttur=5", "run.steps=3600"), "equal-compute": ("ttur=5", "run.steps=3600")}

FID, PATCH, CLIP = "FID", "patch FID", "CLIP"

TABLE_3 = Table(
    title="DMD2 without its parts, one step",
    source="[DMD2] Table 3, ImageNet-64",
    recipe="digits",
    pairs=2000,
    rows={
        "dmd": Row("DMD: regression, no TTUR, no GAN", {FID: 2.62}, (*NO_GAN, *REGRESSION), TTUR_1),
        "no-regression": Row("no regression", {FID: 3.48}, NO_GAN, TTUR_1),
        "ttur": Row("no regression, TTUR", {FID: 2.61}, NO_GAN, TTUR_5),
        "dmd2": Row("no regression, TTUR, GAN: DMD2", {FID: 1.51}, (), TTUR_5),
        "gan": Row("GAN only", {FID: 2.56}, GAN_ONLY, TTUR_1),
        "gan-ttur": Row("GAN only, TTUR", {FID: 2.52}, GAN_ONLY, TTUR_5),
    },
)

TABLE_4 = Table(
    title="DMD2 without its parts, four steps",
    source="[DMD2] Table 4, SDXL",
    recipe="digits",
    overrides=(*FOUR_STEPS, "run.steps=7200"),
    rows={
        "no-gan": Row("without GAN", {FID: 26.90, PATCH: 27.66, CLIP: 0.328}, NO_GAN),
        "no-dm": Row("without distribution matching", {FID: 13.77, PATCH: 27.96, CLIP: 0.307}, GAN_ONLY),
        "no-simulation": Row(
            "without backward simulation", {FID: 20.66, PATCH: 24.21, CLIP: 0.332}, ("student.input=real",)
        ),
        "dmd2": Row("DMD2", {FID: 19.32, PATCH: 20.86, CLIP: 0.332}),
    },
)

# Steps that cost as much as 3,600 at ratio 5, where a cycle costs 1 + 1.22 ttur.
TTUR = Table(
    title="Critic updates per generator update, distribution matching alone",
    source="[DMD2] Sec. 4.2 and its figure of brightness",
    recipe="digits",
    overrides=NO_GAN,
    points=40,
    picture="curves",
    panels=(("generator_updates", "brightness"), ("generator_updates", "value"), ("cpu_seconds", "value")),
    rows={
        "1": Row("ratio 1", overrides=("ttur=1", "run.steps=2300")),
        "2": Row("ratio 2", overrides=("ttur=2", "run.steps=2960")),
        "5": Row("ratio 5", overrides=("ttur=5", "run.steps=3600")),
        "10": Row("ratio 10", overrides=("ttur=10", "run.steps=3880")),
    },
)

LONG = Table(
    title="Longer training",
    source="[DMD2] Table 1, ImageNet-64",
    recipe="digits",
    points=40,
    picture="curves",
    rows={
        "dmd2": Row("DMD2", {FID: 1.51}),
        "longer": Row("DMD2, five times as long", {FID: 1.28}, ("run.steps=18000",)),
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
        "four-steps": Row("DMD2, four steps", {"diversity": 0.61}, (*FOUR_STEPS, "run.steps=7200")),
        "dmd2": Row("DMD2, one step"),
        "no-gan": Row("without GAN, one step", overrides=NO_GAN),
        "no-ttur": Row("without GAN and TTUR, one step", overrides=(*NO_GAN, *TTUR_1["equal-compute"])),
        "gan": Row("GAN only, one step", overrides=GAN_ONLY),
    },
)

TABLES = {"dmd2-table3": TABLE_3, "dmd2-table4": TABLE_4, "ttur": TTUR, "long": LONG, "diversity": DIVERSITY}
