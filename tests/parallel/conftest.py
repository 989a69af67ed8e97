"""One process here does as the ranks do."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """As a rank has; with several, sums have another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
