"""check_reward: a reward that is right passes, and every way of being wrong is named."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dmd2cli.testing import check_reward, toy


def complaint(*args):
    with pytest.raises(AssertionError) as caught:
        check_reward(*args)
    return str(caught.value)


def sharpness(images, conditions):
    return images.diff(dim=-1).abs().flatten(1).mean(1)


class Moody(nn.Module):
    """Has dropout, which is off where rewards are used."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images, conditions):
        return sharpness(self.drop(images), conditions)


def tell(images):
    """Two numbers and a half tone to RGB: the toy has no decoder of its own."""
    return images[:, :, None, None].expand(-1, -1, 4, 4)[:, [0, 1, 0]]


def test_a_reward_that_is_right_passes_with_and_without_a_teacher():
    check_reward(sharpness)
    check_reward(Moody())
    check_reward(lambda images, raw: images.mean((1, 2, 3)), replace(toy(), decoders={"full": tell}))


def test_a_teacher_without_decoder_is_named():
    assert 'a decoder "full"' in complaint(sharpness, toy())


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (lambda images, raw: images.mean(), r"one number per image, (4,), not ()"),
        (lambda images, raw: images.flatten(1).mean(1, keepdim=True), r"not (4, 1)"),
        (lambda images, raw: sharpness(images, raw) * math.nan, "must be finite"),
        (lambda images, raw: sharpness(images, raw) + torch.rand(4), "a second call gave another"),
        (lambda images, raw: sharpness(images, raw).detach(), "without gradient teaches nothing"),
        (lambda images, raw: images.flatten(1).mean(1) * torch.tensor([1.0, 1, 0, 1]), "does not reach every image"),
        (lambda images, raw: images.flatten(1).mean(1) - 2 * images.mean(), "must judge each image alone"),
        (lambda images, raw: sharpness(images, raw) * len(images), "must judge each image alone"),
    ],
)
def test_a_reward_that_is_wrong_is_named(reward, words):
    assert words in complaint(reward)
