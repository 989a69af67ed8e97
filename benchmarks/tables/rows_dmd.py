"""Tables and figures of DMD (Yin et al. 2024, arXiv 2311.18828): Table 2 on the digits, Figure 3 in the plane."""

from __future__ import annotations

from tables.parts import DMD, HEAVY, REGRESSION, SMALL
from tables.table import MODES, Row, Table

CIFAR, IMAGENET = "FID, CIFAR-10", "FID, ImageNet-64"

TABLE_2 = Table(
    title="DMD without its parts, and with the weightings of others",
    source="[DMD] Table 2",
    recipe="digits",
    overrides=(SMALL, *DMD, "run.steps=1250"),
    pairs=2000,
    rows={
        "no-dm": Row(
            "without distribution matching", {CIFAR: 3.82, IMAGENET: 9.21}, ("losses.distribution_matching=null",)
        ),
        "no-regression": Row(
            "without regression", {CIFAR: 5.58, IMAGENET: 5.61}, ("losses.regression=null", "data.pairs=null")
        ),
        "dmd": Row("DMD", {CIFAR: 2.66, IMAGENET: 2.62}),
        "dmd-heavy": Row("DMD, regression weight 2", overrides=(HEAVY,)),
        "dreamfusion": Row(
            "weighting sigma / alpha (DreamFusion)",
            {CIFAR: 3.60},
            ("losses.distribution_matching.weighting=dreamfusion",),
        ),
        "prolificdreamer": Row(
            "weighting sigma^3 / alpha (ProlificDreamer)",
            {CIFAR: 3.71},
            ("losses.distribution_matching.weighting=prolificdreamer",),
        ),
    },
)

FIGURE_3 = Table(
    title="Three objectives from the same start",
    source="[DMD] Figure 3",
    recipe="toy-grid25",
    overrides=("ttur=1", "run.steps=3000"),
    metric="modes",
    columns=MODES,
    pairs=2000,
    picture="scatter",
    rows={
        "real-score": Row("real score alone", overrides=("losses.distribution_matching.score=real",)),
        "dm": Row("distribution matching"),
        "dmd": Row("distribution matching and regression", overrides=REGRESSION),
    },
)

TABLES = {"dmd-table2": TABLE_2, "dmd-figure3": FIGURE_3}
