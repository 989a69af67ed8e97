"""check_metric: what `dmd2 eval` takes for granted of a metric."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from torch import Tensor

from dmd2cli.protocols import Metric, Raw
from dmd2cli.testing.said import every, say


def check_metric(make: Callable[[], Metric], images: Tensor, conditions: Sequence[Raw]) -> None:
    """Images in pieces give what they give at once; real data has the same kind of numbers; all of it is JSON."""
    every(CHECKS, Measuring(make, images, conditions))


@dataclass(frozen=True)
class Measuring:
    """How a metric is made, uint8 images (b, 3, h, w) for it, and what they were drawn for."""

    make: Callable[[], Metric]
    images: Tensor
    conditions: Sequence[Raw]

    def __call__(self, *cuts: int) -> Mapping[str, float]:
        """The numbers of a new metric that gets the images in pieces, cut at these places."""
        metric, ends = self.make(), [0, *cuts, len(self.images)]
        for begin, end in pairwise(ends):
            metric.update(self.images[begin:end], self.conditions[begin:end])
        return metric.compute()

    @cached_property
    def whole(self) -> Mapping[str, float]:
        return self()


def numbers(measuring: Measuring) -> None:
    """compute() gives finite numbers; its own is under "value"."""
    found = measuring.whole
    say("value" in found, f"compute() must put the metric's own number under 'value'; it has {sorted(found)}")
    say(all(math.isfinite(v) for v in found.values()), f"every number must be finite: {dict(found)}")


def pieces(measuring: Measuring) -> None:
    """Images in two updates give the numbers that they give at once, and the images stay as they are."""
    before, found = measuring.images.clone(), measuring.whole
    again = measuring(len(measuring.images) // 3)
    near = all(math.isclose(v, again.get(k, math.nan), rel_tol=1e-4, abs_tol=1e-6) for k, v in found.items())
    say(near, f"the same images in two updates must give the same numbers: {dict(found)}, {dict(again)}")
    say(measuring.images.equal(before), "a metric must leave its images as they are; work on a copy")


def real_data(measuring: Measuring) -> None:
    """real(n, seed) gives the same kind of numbers, or {}, as a function of n and seed."""
    n = len(measuring.images)
    found = measuring.make().real(n, 1)
    say(not found or "value" in found, "real() must give the same numbers for real data, or {}: 'value' is missing")
    say(dict(found) == dict(measuring.make().real(n, 1)), "real(n, seed) must be a function of n and seed")


def protocol(measuring: Measuring) -> None:
    """It has a name, says whether lower or higher is better, and all that it answers is JSON."""
    metric = measuring.make()
    say(getattr(metric, "name", ""), "a metric needs a name that carries its protocol")
    say("direction" in metric.protocol, "protocol must say under 'direction' whether lower or higher is better")
    try:
        json.dumps([measuring.whole, metric.real(len(measuring.images), 1), dict(metric.protocol)])
    except TypeError as err:
        say(False, f"numbers and protocol must be JSON values: {err}; call .item() on tensors")


CHECKS = (numbers, pieces, real_data, protocol)
