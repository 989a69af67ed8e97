"""What a pre-flight would set: overrides to paste, each with the number that it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmd2cli.core.noise import NoiseSchedule
from dmd2cli.engine.preflight.conditions import Asked, Scale, error_at, largest
from dmd2cli.engine.preflight.times import KNOWS, SEES, STEPS, Open, noise_at, proposed, shown


@dataclass(frozen=True)
class Proposal:
    """One override."""

    override: str
    because: str


def proposals(
    scales: Sequence[Scale], curve: Sequence[Open], schedule: NoiseSchedule, std: float, asked: Asked
) -> list[Proposal]:
    """Of a teacher in which nothing is wrong: student times for 1, 2 and 4 steps, guidance."""
    high, low = noise_at(curve, SEES), noise_at(curve, KNOWS)
    why = f"equal steps in log-SNR between {high:.2g} and {low:.2g} standard deviations of noise, where one prediction "
    why += f"leaves {SEES:.0%} and {KNOWS:.0%} open of what pure noise leaves"
    spots = {n: f"student.times={shown(proposed(curve, schedule, std, n))}" for n in STEPS}
    found = [Proposal(spot, why if n > 1 else "one step: from pure noise") for n, spot in spots.items()]
    if (most := largest(scales, 1.0)) is not None:
        because = f"the largest of the scales whose error is below 1: {error_at(scales, most):.3g}"
        known = f"; at {asked.scale:g}, as the recipe has it, {error_at(scales, asked.scale):.3g}"
        found.append(Proposal(asked.override(most), because + known * (asked.scale != 1.0)))
    return found
