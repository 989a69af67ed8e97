"""The bytes of one network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """One network. All but `parameters` in bytes."""

    name: str
    parameters: int
    weights: int
    gradients: int = 0
    moments: int = 0
    average: int = 0
    copies: int = 0
    """Of what is not contiguous in memory, made while a checkpoint is written: of a GPU's weights in host memory."""
    host: int = 0
    """What waits in the CPU's memory (run.offload)."""

    @property
    def lasting(self) -> int:
        """What is there all the time."""
        return self.weights + self.moments + self.average
