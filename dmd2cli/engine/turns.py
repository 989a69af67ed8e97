"""Whose turn it is: two time scales ([DMD2] Sec. 4.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Turns:
    """The generator moves at every ttur-th step after `warmup`; the critic at every step.

    alternate: not at the steps of the generator (FastGen). first: the step from which all this is counted.
    """

    ttur: int = 1
    warmup: int = 0
    alternate: bool = False
    first: int = 0

    def generator(self, step: int) -> bool:
        """Does the generator move at this step?"""
        since = step - self.first - self.warmup
        return since >= 0 and since % self.ttur == 0

    def critic(self, step: int) -> bool:
        """Does the critic move at this step?"""
        return not (self.alternate and self.generator(step))

    def moved(self, until: int) -> int:
        """How often the generator has moved in the steps before `until`."""
        since = until - self.first - self.warmup
        return -(-since // self.ttur) if since > 0 else 0
