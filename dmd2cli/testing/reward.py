"""check_reward: what the reward term takes for granted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd2cli.core.random import Rng
from dmd2cli.losses.reward import frozen
from dmd2cli.protocols import Raw, Reward, Teacher
from dmd2cli.testing.said import every, say
from dmd2cli.testing.setting import ROWS, own_samples, some


def check_reward(reward: Reward, teacher: Teacher | None = None) -> None:
    """One finite number per image, a function of that image and its condition alone, that says how to raise it.

    The images are the teacher's own, by its decoder "full"; without a teacher, random ones of 64 pixels with text.
    """
    every(CHECKS, judging(reward, teacher))


@dataclass(frozen=True)
class Judging:
    """A reward, with images (ROWS, 3, h, w) in [-1, 1] that carry a gradient, and their conditions."""

    reward: Reward
    images: Tensor
    raw: Sequence[Raw]

    def __call__(self) -> Tensor:
        return self.reward(self.images, self.raw)


def judging(reward: Reward, teacher: Teacher | None = None) -> Judging:
    """A reward and what it is to judge. Raises Broken for a teacher without pixels."""
    if teacher is None:
        images = Rng(0, 0).uniform("images", torch.empty(ROWS * 3 * 64**2, 1), -1, 1).view(ROWS, 3, 64, 64)
        raw: list[Raw] = [f"a photo of {n} cats" for n in range(ROWS)]
    else:
        say("full" in teacher.decoders, "the teacher needs a decoder \"full\" for its images to be rewarded")
        images, raw = teacher.decoders["full"](own_samples(teacher)).detach(), some(teacher)
    return Judging(frozen(reward, torch.device("cpu")), images.requires_grad_(), raw)


def numbers(asked: Judging) -> None:
    """One finite number per image."""
    found = asked()
    say(found.shape == (ROWS,), f"a reward must give one number per image, ({ROWS},), not {tuple(found.shape)}")
    say(found.isfinite().all(), f"a reward must be finite, not {found.tolist()}")


def same_again(asked: Judging) -> None:
    """The same images and conditions have the same reward, whatever torch's global random state."""
    torch.manual_seed(0)
    found = asked()
    torch.manual_seed(1)
    say(asked().equal(found), "a reward must be a function of its arguments: a second call gave another")


def gradient(asked: Judging) -> None:
    """A finite gradient reaches every image."""
    found = asked()
    say(found.requires_grad, "a reward without gradient teaches nothing; is it under no_grad()?")
    (grad,) = torch.autograd.grad(found.sum(), asked.images, allow_unused=True)
    reached = grad is not None and grad.isfinite().all() and grad.flatten(1).any(1).all()
    say(reached, "the gradient does not reach every image, or is not finite")


def rows(asked: Judging) -> None:
    """Each image is judged alone, whatever its company in the batch."""
    alone = torch.cat([asked.reward(asked.images[i : i + 1], asked.raw[i : i + 1]) for i in range(ROWS)])
    say(torch.allclose(alone, asked(), rtol=1e-3, atol=1e-4), "a reward must judge each image alone: others change it")


CHECKS = (numbers, same_again, gradient, rows)
