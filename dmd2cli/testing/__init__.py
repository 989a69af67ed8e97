"""Conformance checks for plugins: call one in a test of your own, and it says in words what breaks the protocol.

    from dmd2cli.testing import check_teacher

    def test_teacher():
        check_teacher(teacher("tiny-random"))

Each raises AssertionError at the first thing that is wrong; `dmd2 plugins check` runs them all and lists what it finds.
They run on the CPU, in seconds for a network of toy size.
"""

from __future__ import annotations

from dmd2cli.testing.dataset import check_dataset
from dmd2cli.testing.exporter import check_exporter
from dmd2cli.testing.extractor import check_extractor
from dmd2cli.testing.loss import check_loss
from dmd2cli.testing.metric import check_metric
from dmd2cli.testing.reward import check_reward
from dmd2cli.testing.sampler import check_sampler
from dmd2cli.testing.schedule import check_schedule, check_weighting
from dmd2cli.testing.setting import toy
from dmd2cli.testing.teacher import check_teacher

__all__ = [
    "check_dataset", "check_exporter", "check_extractor", "check_loss", "check_metric", "check_reward",
    "check_sampler", "check_schedule", "check_teacher", "check_weighting", "toy",
]  # fmt: skip
