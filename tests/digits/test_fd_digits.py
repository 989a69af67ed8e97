"""fd-digits: its protocol, and its direction on sets of images whose faults are known."""

import numpy as np
import pytest
import torch
from dmd2_plugins.digits.captions import caption
from dmd2_plugins.digits.classifier import SEEDS, load
from dmd2_plugins.digits.data import Digits, images, to_uint8
from dmd2_plugins.digits.metric import FdDigits, leave_one_out, nearest, small

from dmd2cli.errors import UserError

FLOOR, FLOOR_SPREAD = 0.037, 0.005
"""Of 5,000 bootstrapped real digits: mean and standard deviation over seeds 1000, 1001 and 1002."""


@pytest.fixture(scope="module")
def real():
    return to_uint8(images()[0])


def measured(pictures, labels=None, classifier=0):
    metric = FdDigits(classifier)
    metric.update(pictures, labels if labels is not None else [None] * len(pictures))
    return metric.compute()


# -- the protocol ----------------------------------------------------------------------------------------------


def test_the_data_are_1797_digits_in_17_grey_levels():
    x, labels = images()
    assert x.shape == (1797, 1, 8, 8) and x.min() == -1 and x.max() == 1
    assert x.unique().tolist() == [i / 8 - 1 for i in range(17)] and labels.unique().tolist() == list(range(10))
    assert len(Digits("train")) + len(Digits("test")) == len(Digits()) == 1797


def test_decoding_rounds_and_clips():
    x = torch.tensor([-9.0, -1.0, -0.999, 0.0, 1.0, 9.0]).view(-1, 1, 1, 1)
    assert to_uint8(x)[:, 0, 0, 0].tolist() == [0, 0, 0, 128, 255, 255]


def test_features_are_scaled_by_one_number_to_a_mean_variance_of_one():
    for classifier in SEEDS:
        metric = FdDigits(classifier)
        assert metric.real_features.shape == (1797, 64)
        assert metric.real_features.var(dim=0).mean() == pytest.approx(1.0, abs=1e-3)


def test_the_floor_of_5000_real_samples_is_that_of_the_protocol():
    values = [FdDigits().real(5000, seed)["value"] for seed in (0, 1)]
    assert np.mean(values) == pytest.approx(FLOOR, abs=2 * FLOOR_SPREAD)
    assert values[0] != values[1]


def test_the_shipped_classifiers_agree_with_the_labels_they_were_not_shown():
    x, labels = images()
    for seed in SEEDS:
        assert (load(seed)(x[1437:]).argmax(1) == labels[1437:]).double().mean() > 0.95


# -- its direction ---------------------------------------------------------------------------------------------


def test_the_real_digits_themselves_are_perfect_but_memorised(real):
    found = measured(real, images()[1].tolist())
    assert found["value"] == pytest.approx(0, abs=1e-3) and found["precision"] == found["recall"] == 1
    assert found["memorisation_ratio"] < 1e-3 and found["class_accuracy"] > 0.97


def test_missing_classes_cost_recall_and_fd_but_not_precision(real):
    found = measured(real[images()[1] < 5])
    assert found["value"] > 1 and found["precision"] == 1 and found["recall"] < 0.75


def test_noise_costs_precision_and_fd(real):
    noisy = (real.int() + torch.randint(-90, 91, (1797, 1, 8, 8))).clamp(0, 255).to(torch.uint8)
    found = measured(noisy)
    assert found["value"] > 1 and found["precision"] < 0.9 and found["memorisation_ratio"] > 1


def test_wrong_labels_cost_class_accuracy_alone(real):
    labels = images()[1]
    right, wrong = measured(real, labels.tolist()), measured(real, ((labels + 1) % 10).tolist())
    assert wrong["class_accuracy"] < 0.02 and wrong["value"] == right["value"]


def test_without_labels_there_is_no_class_accuracy(real):
    assert "class_accuracy" not in measured(real)


def test_a_caption_asks_for_the_digit_that_it_names(real):
    labels = images()[1].tolist()
    texts = [caption(label, i % 3) for i, label in enumerate(labels)]
    assert measured(real, texts) == measured(real, labels)
    assert "class_accuracy" not in measured(real, [*texts[:-1], "a llama"])


def test_larger_images_are_measured_as_the_grey_averages_of_their_blocks(real):
    larger = real.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert measured(larger) == measured(real)
    coloured = torch.stack([torch.zeros_like(real[:, 0]), real[:, 0], 2 * (real[:, 0] // 2)], 1)
    assert small(coloured)[:, 0].float().allclose((coloured.float().mean(1)).round())
    assert small(coloured).shape == real.shape and (small(coloured)[:, 0] == small(coloured)[:, 2]).all()


def test_memorisation_is_the_distance_to_the_nearest_real_digit_over_that_of_a_real_one(real):
    flat = real[:, 0].flatten(1).double() / 127.5
    apart = torch.cdist(flat, flat).fill_diagonal_(torch.inf).amin(1).mean().item()
    assert leave_one_out(real) == pytest.approx(apart, rel=1e-4)
    to_others = torch.cdist(flat[:50], flat[50:]).amin(1).mean().item()
    assert nearest(real[:50], real[50:]) == pytest.approx(to_others, rel=1e-4)


# -- what it refuses -------------------------------------------------------------------------------------------


def test_images_of_another_size_and_unknown_feature_spaces_are_refused(real):
    with pytest.raises(UserError, match="images must be 8k x 8k with 3 channels, got .3, 30, 30."):
        FdDigits().update(torch.zeros(1, 3, 30, 30, dtype=torch.uint8), [None])
    with pytest.raises(UserError, match="classifier must be one of"):
        FdDigits(classifier=9)
    with pytest.raises(UserError, match="split must be one of all, train, test, got 'val'"):
        Digits("val")


def test_too_few_images_for_its_neighbourhoods_are_refused(real):
    with pytest.raises(UserError, match="fd-digits: "):
        measured(real[:5])
