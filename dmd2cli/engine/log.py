"""Metrics of a run: metrics.jsonl always, TensorBoard beside it. Nothing here touches the training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from dmd2cli.engine.checkpoint import write_text


class Log:
    """One JSON object per logged step; a continued run drops what lies beyond its checkpoint."""

    def __init__(self, folder: Path, step: int) -> None:
        """step: the first step that is still to come."""
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _step(line) <= step]
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tb"), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the numbers of a step (steps done, counted from 1); null for one that is not finite."""
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **known}) + "\n")
        for name, value in known.items():
            if value is not None:
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush to disk."""
        self.board.close()


def _step(line: str) -> float:
    """The step of a line; a line cut short by a crash belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return float("inf")
