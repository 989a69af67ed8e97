"""Running mean and covariance: numpy's, in pieces and merged, and accurate where sums of squares are not."""

import numpy as np
import pytest
import torch

from dmd2cli.moments import Moments


def vectors(n=203, d=7, shift=0.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + shift


def seen(*parts):
    found = Moments(parts[0].shape[1])
    for part in parts:
        found.update(part)
    return found


def same(found, x, rel=1e-12):
    mean, covariance = found.numpy()
    x = x.double().numpy()
    np.testing.assert_allclose(mean, x.mean(0), rtol=rel, atol=rel)
    np.testing.assert_allclose(covariance, np.cov(x, rowvar=False), rtol=rel, atol=rel)
    assert mean.dtype == covariance.dtype == np.float64 and found.n == len(x)


@pytest.mark.parametrize("size", [1, 10, 64, 203])
def test_vectors_in_batches_have_numpys_mean_and_covariance(size):
    x = vectors()
    same(seen(*x.split(size)), x)


def test_parts_of_ranks_merge_into_the_whole():
    x = vectors()
    ranks = [seen(part) for part in x.split([100, 3, 1, 99])]
    whole = Moments.of(ranks[0].state())
    for rank in ranks[1:]:
        whole.merge(Moments.of(rank.state()))
    same(whole, x)


def test_the_order_of_merging_does_not_matter_and_an_empty_part_changes_nothing():
    x = vectors()
    a, b = seen(x[:50]), seen(x[50:])
    b.merge(a)
    b.merge(Moments(7))
    empty = Moments(7)
    empty.merge(b)
    b.update(x[:0])
    same(b, x)
    same(empty, x)


def test_merging_leaves_the_other_as_it_was():
    a, b = seen(vectors(20)), seen(vectors(30, seed=1))
    before = b.state()
    a.merge(b)
    a.update(vectors(5))
    assert all(before[name].equal(value) for name, value in b.state().items())


def test_means_far_from_zero_cost_no_accuracy():
    """A sum of x x^T minus n mean mean^T keeps no digit of this covariance."""
    x = vectors(shift=1e8)
    same(seen(*x.split(32)), x, rel=1e-7)
    naive = (x.T @ x - len(x) * torch.outer(x.mean(0), x.mean(0))) / (len(x) - 1)
    assert (naive.numpy() - np.cov(x.numpy(), rowvar=False)).max() > 1


def test_float32_features_are_summed_in_float64():
    x = vectors(2000).float()
    same(seen(*x.split(7)), x)


def test_a_covariance_needs_two_vectors():
    with pytest.raises(AssertionError):
        seen(vectors(1)).covariance()
