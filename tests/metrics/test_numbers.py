"""The numbers of clean-fid, torch-fidelity and scipy on the same features, to 1e-6; conventions against loops."""

import numpy as np
import pytest
import scipy.linalg
import torch
from dmd2_plugins.metrics.inception_score import scores
from dmd2_plugins.metrics.kid import discrepancies, discrepancy

from dmd2cli import frechet
from dmd2cli.frechet import distance, gaussian_distance, precision_recall
from dmd2cli.moments import Moments

CLOSE = pytest.approx


def features(n, seed, d=16, shift=0.0):
    """Correlated, skewed and not negative, as those of a network after its last rectifier."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return (torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + shift).relu()


X, Y = features(400, 0), features(300, 1, shift=0.3)


# -- Frechet distance ------------------------------------------------------------------------------------------


def streamed(x, y):
    """As the metric computes it: moments in batches, then the distance."""
    found = []
    for set_ in (x, y):
        moments = Moments(set_.shape[1])
        for part in set_.split(64):
            moments.update(part)
        found += moments.numpy()
    return gaussian_distance(*found)


def test_the_distance_is_that_of_scipys_matrix_root():
    a, b = np.cov(X.numpy(), rowvar=False), np.cov(Y.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((X.mean(0) - Y.mean(0)) ** 2).sum().item() + np.trace(a + b - 2 * root)
    assert streamed(X, Y) == CLOSE(expected, rel=1e-6) and expected > 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_distance_is_clean_fids():
    clean = pytest.importorskip("cleanfid.fid")
    assert streamed(X, Y) == CLOSE(clean.fid_from_feats(X.numpy(), Y.numpy()), rel=1e-6)


def test_the_distance_is_torch_fidelitys():
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    one, other = (fidelity.fid_features_to_statistics(x) for x in (X, Y))
    expected = fidelity.fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]
    assert streamed(X, Y) == CLOSE(expected, rel=1e-6)


def test_in_one_dimension_it_is_known_in_closed_form():
    a, b = np.array([[4.0]]), np.array([[9.0]])
    assert gaussian_distance(np.array([1.0]), a, np.array([3.0]), b) == CLOSE((1 - 3) ** 2 + (2 - 3) ** 2)


def test_fewer_samples_than_features_still_have_a_finite_distance_that_is_not_negative():
    few = features(10, 3)
    assert streamed(few, few) == CLOSE(0, abs=1e-6) and np.isfinite(streamed(few, Y)) and streamed(few, Y) > 0
    assert distance(few, Y) == CLOSE(streamed(few, Y), rel=1e-6)


# -- kernel distance -------------------------------------------------------------------------------------------


def loops(x, y):
    """The unbiased estimator, term by term."""
    k = lambda a, b: (float(a @ b) / len(a) + 1) ** 3                                               # noqa: E731
    m = len(x)
    apart = [(i, j) for i in range(m) for j in range(m) if i != j]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in apart) / (m * (m - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / m**2


def test_the_kernel_distance_is_the_unbiased_one():
    assert discrepancy(X[:20], Y[:20]).item() == CLOSE(loops(X[:20], Y[:20]), rel=1e-9)


def test_over_the_same_subsets_it_is_torch_fidelitys():
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    expected = fidelity.kid_features_to_metric(X, Y, kid_subsets=5, kid_subset_size=100, rng_seed=7, verbose=False)
    draw = np.random.RandomState(7)
    rows = [[torch.from_numpy(draw.choice(len(z), 100, replace=False)) for z in (X, Y)] for _ in range(5)]
    found = discrepancies(X, Y, rows)
    assert found.mean().item() == CLOSE(expected["kernel_inception_distance_mean"], rel=1e-6)
    assert found.std(correction=0).item() == CLOSE(expected["kernel_inception_distance_std"], rel=1e-6)


def test_of_all_samples_it_is_clean_fids():
    clean = pytest.importorskip("cleanfid.fid")
    expected = clean.kernel_distance(X[:300].numpy(), Y.numpy(), num_subsets=1, max_subset_size=300)
    every = torch.arange(300)
    assert discrepancies(X[:300], Y, [(every, every)]).item() == CLOSE(expected, rel=1e-6)


# -- precision and recall --------------------------------------------------------------------------------------


def inside(points, manifold, k):
    """Points within the k-th neighbour radius of some point of the manifold, by loops; the point itself is none."""
    apart = lambda a, b: float((a - b).norm())                                                      # noqa: E731
    radius = [sorted(apart(m, o) for j, o in enumerate(manifold) if j != i)[k - 1] for i, m in enumerate(manifold)]
    return np.mean([any(apart(p, m) <= r for m, r in zip(manifold, radius, strict=True)) for p in points])


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("entries", [2**26, 100])
def test_precision_asks_for_real_balls_and_recall_for_those_of_samples(k, entries, monkeypatch):
    monkeypatch.setattr(frechet, "ENTRIES", entries)                     # in one piece, and one or two rows at a time
    fake, real = X[:60], Y[:45]
    found = precision_recall(fake, real, k)
    assert found == CLOSE((inside(fake, real, k), inside(real, fake, k)), abs=1e-12) and 0 < found[0] != found[1]


def test_precision_and_recall_are_torch_fidelitys():
    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    expected = fidelity.prc_features_to_metric(X, Y, prc_neighborhood=3, prc_batch_size=100, verbose=False)
    assert precision_recall(X, Y, 3) == CLOSE((expected["precision"], expected["recall"]), abs=1e-6)


def test_samples_of_one_mode_are_precise_and_recall_little():
    one, both = features(200, 4), torch.cat([features(100, 5), features(100, 6) + 50])
    precision, recall = precision_recall(one, both, 3)
    assert precision > 0.8 and 0.3 < recall < 0.6
    assert precision_recall(both, one, 3) == (recall, precision)


# -- inception score -------------------------------------------------------------------------------------------


def test_the_score_of_each_split_is_torch_fidelitys():
    fidelity = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(403, 12, generator=torch.Generator().manual_seed(0))
    expected = fidelity.isc_features_to_metric(logits, splits=10, shuffle=False)
    found = scores(logits, 10)
    assert found.mean().item() == CLOSE(expected["inception_score_mean"], rel=1e-6)
    assert found.std(correction=0).item() == CLOSE(expected["inception_score_std"], rel=1e-6)


def test_sure_and_evenly_spread_answers_score_the_number_of_classes_and_equal_ones_score_1():
    sure = 1000 * torch.eye(5).repeat(20, 1)
    assert scores(sure, 4).tolist() == CLOSE([5] * 4)
    assert scores(sure[:1].repeat(100, 1), 4).tolist() == CLOSE([1] * 4)
