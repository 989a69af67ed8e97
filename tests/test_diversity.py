"""The diversity of images: the mean distance of two different ones of a condition, and what it does not see."""

import itertools

import numpy as np
import pytest
import torch

from dmd2cli.diversity import MOST, Diversity, diversity


def pictures(n, seed=0, spread=60):
    g = torch.Generator().manual_seed(seed)
    return (128 + spread * torch.randn(n, 3, 4, 4, generator=g)).clamp(0, 255).to(torch.uint8)


def literal(images, conditions):
    """The mean over conditions of the mean over pairs, by loops, in float64."""
    means = []
    for condition in set(conditions):
        rows = [i for i, c in enumerate(conditions) if c == condition]
        pairs = list(itertools.combinations(images[rows].double().numpy() / 255, 2))
        if pairs:
            means.append(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs]))
    return np.mean(means)


def test_it_is_the_mean_over_conditions_of_the_mean_distance_of_two_images():
    images, conditions = pictures(14), [0, 1, 2, 0, 1, 0, 0, 0, 0, 0, "a cat", "a cat", None, None]
    assert diversity(images, conditions) == pytest.approx(literal(images, conditions), rel=1e-6)


def test_black_and_white_are_one_apart_whatever_the_size():
    for side in (1, 8, 64):
        images = torch.zeros(2, 3, side, side, dtype=torch.uint8)
        images[1] = 255
        assert diversity(images, [None, None]) == pytest.approx(1.0)


def test_equal_images_are_not_apart():
    assert diversity(pictures(1).expand(9, -1, -1, -1), [7] * 9) == 0


def test_a_condition_with_one_image_does_not_count():
    images = pictures(5)
    assert diversity(images, [0, 0, 0, 0, 1]) == diversity(images[:4], [0] * 4)


def test_without_two_images_of_a_condition_there_is_no_number():
    assert diversity(pictures(3), [0, 1, 2]) is None and Diversity().compute() is None


def test_distances_between_conditions_do_not_count():
    images = torch.cat([pictures(1).expand(4, -1, -1, -1), 255 - pictures(1).expand(4, -1, -1, -1)])
    assert diversity(images, [0] * 4 + [1] * 4) == 0 < diversity(images, [None] * 8)


def test_a_large_condition_weighs_as_much_as_a_small_one():
    images = torch.cat([pictures(30), pictures(2, seed=1, spread=5)])
    both = diversity(images, [0] * 30 + [1] * 2)
    assert both == pytest.approx((diversity(images[:30], [0] * 30) + diversity(images[30:], [1] * 2)) / 2)


def test_the_first_images_of_a_condition_are_compared_and_no_more_are_kept():
    images, found = pictures(MOST + 9), Diversity()
    found.update(images, [0] * len(images))
    assert found.compute() == diversity(images[:MOST], [0] * MOST) and len(found.kept[0]) == MOST


def test_images_in_pieces_give_what_they_give_at_once():
    images, found = pictures(10), Diversity()
    for start in range(0, 10, 4):
        found.update(images[start : start + 4], [i % 2 for i in range(start, min(start + 4, 10))])
    assert found.compute() == diversity(images, [i % 2 for i in range(10)])


def test_noise_scores_higher_which_is_why_precision_stands_beside_it():
    images = pictures(40, spread=20)
    noisy = (images.int() + (40 * torch.randn(images.shape)).int()).clamp(0, 255).to(torch.uint8)
    assert diversity(noisy, [None] * 40) > 1.5 * diversity(images, [None] * 40)
