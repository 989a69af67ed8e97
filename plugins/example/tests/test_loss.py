"""The term keeps dmd2's protocol."""

import pytest
from dmd2cli.errors import UserError
from dmd2cli.testing import check_loss

from dmd2_example.loss import Smooth


def test_it_keeps_the_protocol() -> None:
    check_loss(Smooth())


def test_it_refuses_an_eps_that_makes_no_sense() -> None:
    with pytest.raises(UserError, match="eps must be positive"):
        Smooth(eps=0.0)
