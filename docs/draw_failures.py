"""Draw docs/images/failures.png: the last preview of runs that are broken on purpose, and what the doctor says of them.

    python tests/doctor/broken.py "ttur 1" runs/ttur1      # and so on, once for each folder in SHOWN
    python docs/draw_failures.py runs
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from dmd2cli.doctor.finding import UNKNOWN
from dmd2cli.doctor.record import read
from dmd2cli.doctor.verdict import Verdict, diagnose

TARGET = Path(__file__).parent / "images/failures.png"
SHOWN = {
    "healthy": "nothing: as packaged",
    "eps": "EDM weights read as eps",
    "v": "EDM weights read as v",
    "ttur1": "ttur 1",
    "slow-critic": "critic 10 times too slow",
    "stale-samples": "critic learns from old samples",
    "gan100": "GAN weight 100 times as large",
    "guidance": "guidance 8",
    "lr10": "both rates 10 times as large",
    "labels": "one label for all samples",
    "batch4": "batch of 4",
    "ema": "moving average far too long",
}
"""Folder of a run -> what is wrong with it."""
COLUMNS = 3
GOOD, BAD = "#1b7a4b", "#a3341f"


def draw(folder: Path, target: Path) -> None:
    """A panel for each run of SHOWN in the folder."""
    rows = -(-len(SHOWN) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(11.4, 2.0 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06)
    for axis, (name, wrong) in zip(axes.flat, SHOWN.items(), strict=True):
        panel(axis, folder / name, wrong)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    plt.close(figure)


def panel(axis: Axes, run: Path, wrong: str) -> None:
    """The newest preview of a run, between what was done to it and what the doctor says."""
    newest = max(run.glob("samples/step-*.png"))
    found = diagnose(read(run))
    axis.imshow(Image.open(newest), interpolation="nearest")
    axis.set_title(wrong, loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel(says(found), loc="left", fontsize=10, color=BAD if found.findings else GOOD)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def says(found: Verdict) -> str:
    """The first finding in a line."""
    if not found.findings:
        return f"doctor: {found.verdict}"
    first = found.findings[0]
    return f"doctor: {first.rule}" + (f", {UNKNOWN}" if first.cause == UNKNOWN else "")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), TARGET)
    print(TARGET)
