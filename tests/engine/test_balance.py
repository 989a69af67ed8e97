"""`weight: auto` makes two gradients at the sample equal, and remembers the number."""

import pytest
import torch

from dmd2cli.engine.balance import Balance
from dmd2cli.errors import UserError


def test_the_weight_is_the_ratio_of_the_gradient_norms_at_the_sample():
    x, balance = torch.ones(4, requires_grad=True), Balance("gan_generator", 2)
    balance.measure(x, 6 * x.sum(), 2 * x.sum())
    assert balance.weight == pytest.approx(3)
    balance.measure(x, 2 * x.sum(), 2 * x.sum())
    assert balance.weight == pytest.approx(8 / 4)


def test_a_term_that_does_not_read_the_sample_is_refused():
    x, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with pytest.raises(UserError, match=r"losses.regression: weight auto needs a term of the student's samples"):
        Balance("regression", 2).measure(x, x.sum(), other.sum())


def test_a_continued_run_has_the_same_weight():
    x, balance = torch.ones(3, requires_grad=True), Balance("gan_generator", 5)
    balance.measure(x, 6 * x.sum(), 4 * x.sum())
    balance.measured = 5
    again = Balance("gan_generator", 5)
    again.load_state(balance.state())
    assert again.weight == balance.weight == pytest.approx(1.5) and again.done
