"""One process here does as the ranks do."""

import pytest


@pytest.fixture(autouse=True)
def as_a_rank(one_thread):
    """With several threads, sums have another order."""
