"""Write the tables of docs/results.md from the JSON that benchmarks/ablations.py left in docs/results/.

    python docs/generate_results.py

A table stands between "<!-- results: NAME -->" and "<!-- end -->" on the page; the rest of the page is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "results.md"
FOLDER = Path(__file__).parent / "results"
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADINGS = {
    "brightness": "brightness",
    "value": "FD-digits",
    "precision": "precision",
    "recall": "recall",
    "class_accuracy": "accuracy",
    "diversity": "diversity",
}
TOY = {"value": "modes of 25", "quality": "share in a mode", "kl": "KL of mode weights"}


def page() -> str:
    """The page, its tables made anew."""
    return BLOCK.sub(lambda found: found[1] + table(found[2]) + found[3], TARGET.read_text(encoding="utf-8"))


def table(name: str) -> str:
    """One table as Markdown, with the command and the hardware behind it."""
    held = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    lines = held["lines"]
    columns = TOY if held["metric"] == "modes" else {k: v for k, v in HEADINGS.items() if k in lines[0]["ours"]}
    papers = list(dict.fromkeys(heading for line in lines for heading in line["paper"]))
    variants = len({line["variant"] for line in lines}) > 1
    head = ["", *(["budget"] if variants else []), *(f"paper: {p}" for p in papers), *columns.values()]
    head += ["updates G / critic", "CPU s", "seeds"]
    rows = [[line["title"], *([line["variant"].replace("-", " ")] if variants else [])] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        row += [str(line["paper"].get(p, "")) for p in papers] + [spread(line["ours"].get(c)) for c in columns]
        row += [updates(line), f"{line['cpu_seconds']:.0f}" if line.get("cpu_seconds") else "", seeds(line["cells"])]
    machine = f"{held['minutes']:.0f} minutes on {held['cores']} shared cores of {held['hardware']}"
    text = [f"`{held['command']}`, {machine}.", ""]
    text += [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n" + "\n".join(text) + "\n\n"


def spread(found: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation over training seeds."""
    if found is None or found["mean"] is None:
        return "not run"
    return f"{found['mean']:.3f}" + (f" ± {found['std']:.3f}" if found["n"] > 1 else "")


def updates(line: Mapping[str, Any]) -> str:
    """Of generator and critic."""
    made = line.get("generator_updates")
    return f"{made:.0f} / {line['critic_updates']:.0f}" if made else ""


def seeds(cells: Mapping[str, int]) -> str:
    """How many there are, and what became of the others."""
    return ", ".join(f"{n} {what}" if what != "finished" else str(n) for what, n in cells.items() if n)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(TARGET)
