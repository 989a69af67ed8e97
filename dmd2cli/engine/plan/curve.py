"""Bytes alive over the operations of a phase, as lines in the micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmd2cli.engine.plan.tape import Tape


@dataclass(frozen=True)
class Curve:
    """One phase, rehearsed once: after each of its n operations, what is alive."""

    fixed: npt.NDArray[np.float64]
    """Bytes, whatever the micro-batch."""
    per_row: npt.NDArray[np.float64]
    """Bytes per sample of the micro-batch."""
    formed: npt.NDArray[np.float64]
    """Of the fixed bytes, those of gradients."""
    flops: float
    """Floating point operations per sample."""

    def peak(self, rows: int, gradients: int | None = None) -> tuple[int, int]:
        """(bytes alive, of these gradients) at the worst moment of a micro-batch.

        gradients: bytes of all of them, where they are there from the micro-batch before; None for the first.
        """
        held = self.formed if gradients is None else np.full_like(self.formed, gradients)
        alive = self.fixed - self.formed + held + rows * self.per_row
        worst = int(alive.argmax())
        return round(alive[worst]), round(held[worst])


def curve(tape: Tape, rows: int) -> Curve:
    """What was recorded of a micro-batch of `rows`."""
    fixed, grown, formed = (np.array(part, float) for part in (tape.fixed, tape.grown, tape.formed))
    return Curve(fixed, grown / rows, formed, tape.flops / rows)
