"""Tables of DMD2 (Yin et al. 2024, arXiv 2405.14867) on the digits."""

from __future__ import annotations

from tables.table import Row, Table

NO_GAN = ("losses.gan_generator=null", "losses.joint_critic=null", "losses.denoising.weight=1.0")
NO_DM = ("losses.distribution_matching=null", "losses.joint_critic=null", "losses.denoising=null")
GAN_ONLY = (*NO_DM, "losses.gan_generator.weight=1.0", "losses.gan_critic.weight=1.0")
REGRESSION = (
    "losses.regression.weight=0.25",
    "losses.regression.distance=l2",
    "data.pairs.use=pairs",
    "data.pairs.path={pairs}",
)

# 720 generator updates, or the CPU seconds of 720 cycles with ttur 5 (one costs 3.2 times a cycle with ttur 1).
TTUR_1 = {"equal updates": ("ttur=1", "run.steps=720"), "equal compute": ("ttur=1", "run.steps=2300")}
TTUR_5 = {"equal updates": ("ttur=5", "run.steps=3600"), "equal compute": ("ttur=5", "run.steps=3600")}

FID = "FID, ImageNet-64"

TABLE_3 = Table(
    title="DMD2 without its parts, one step",
    source="[DMD2] Table 3",
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

# Equal compute: the steps that cost as much as 3,600 at ratio 5, where a cycle costs 1 + 1.22 ttur.
TTUR = Table(
    title="Critic updates per generator update, distribution matching alone",
    source="[DMD2] Sec. 4.2 and the figure of its appendix",
    recipe="digits",
    overrides=NO_GAN,
    points=40,
    picture="curves",
    rows={
        "1": Row("ratio 1", overrides=("ttur=1", "run.steps=2300")),
        "2": Row("ratio 2", overrides=("ttur=2", "run.steps=2960")),
        "5": Row("ratio 5", overrides=("ttur=5", "run.steps=3600")),
        "10": Row("ratio 10", overrides=("ttur=10", "run.steps=3880")),
    },
)

TABLES = {"dmd2-table3": TABLE_3, "ttur": TTUR}
