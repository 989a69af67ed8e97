"""The teacher keeps dmd2's protocol, and draws what its label asks for."""

import pytest
from dmd2cli.errors import UserError
from dmd2cli.samplers.heun import Heun
from dmd2cli.source import Source
from dmd2cli.testing import check_teacher

from dmd2_example.teacher import teacher


def test_it_keeps_the_protocol() -> None:
    check_teacher(teacher(steps=20))


def test_the_label_decides_how_the_bar_runs() -> None:
    made = teacher()
    x = Source(made, made.denoiser, Heun(18)).latents([0] * 16 + [1] * 16, 0, range(32))[:, 0]
    lying = (x.mean(2).amax(1) > x.mean(1).amax(1)).tolist()               # the brightest row or column
    assert sum(lying[:16]) >= 14 and sum(lying[16:]) <= 2


def test_it_refuses_a_class_that_there_is_not() -> None:
    with pytest.raises(UserError, match="classes 0 to 1"):
        teacher(skeleton={}).encode([2])
