"""How much one client may ask for: a bucket of requests that fills again with time."""

from __future__ import annotations

import time
from collections.abc import Callable

PER_SECOND, BURST = 40.0, 240.0
"""Requests of a client: on average, and at once. A person at the keyboard makes about four a second."""
MOST_CLIENTS = 10_000
"""That are remembered; the one that was idle for longest is forgotten first."""


class Limits:
    """Requests that are left to each client. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> bool:
        """Whether one more request is granted."""
        now = self._clock()
        left, before = self._left.pop(client, (BURST, now))
        left = min(BURST, left + (now - before) * PER_SECOND)
        self._left[client] = (max(0.0, left - 1), now)                 # last: the first is the longest idle
        if len(self._left) > MOST_CLIENTS:
            del self._left[next(iter(self._left))]
        return left >= 1
