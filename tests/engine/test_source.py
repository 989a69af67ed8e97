"""One sampling path: image i is a function of (seed, i) and its condition, and of nothing around it."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from dmd2cli.core.noise import RectifiedFlow
from dmd2cli.core.random import Numbered
from dmd2cli.core.weighting import uniform
from dmd2cli.protocols import Teacher
from dmd2cli.samplers.ddim import Ddim
from dmd2cli.samplers.edm_sde import EdmSde
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.samplers.heun import Heun
from dmd2cli.source import Source

SHAPE = (2, 3)


class Shrink(nn.Module):
    """x_hat = x_t / 2 + condition: elementwise, so that equal inputs give equal bits in any batch."""

    def forward(self, x_t, t, cond):
        return 0.5 * x_t + cond["shift"][:, :, None]


def encode(raw):
    shift = torch.tensor([[0.0 if c is None else float(c)] for c in raw])
    return {"shift": shift}, {"shift": torch.zeros_like(shift)}


def decode(x):
    return (40 * x + 128).clamp(0, 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Spy:
    """A sampler that returns its noise and counts its batches."""

    batches: list = field(default_factory=list)
    nfe = 0

    def __call__(self, denoise, schedule, noise, rng):
        self.batches.append(len(noise))
        return noise


def source(sampler, guidance=1.0, conditions=(0, 1, 2)):
    teacher = Teacher(Shrink(), RectifiedFlow(), SHAPE, uniform, encode, decode, nn.Identity, conditions=conditions)
    return Source(teacher, teacher.denoiser, sampler, guidance)


SAMPLERS = [FewStep((1.0,)), FewStep((1.0, 0.6, 0.3)), Heun(3), Ddim(4), EdmSde(4)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{type(s).__name__}-{s.nfe}")
def test_an_image_does_not_depend_on_what_is_drawn_with_it(sampler):
    drawn, raw = source(sampler), [0, 1, 2, 1, 0, 2, 2]
    whole = drawn.images(raw, seed=5)
    assert torch.equal(drawn.images(raw[:3], seed=5), whole[:3])
    assert torch.equal(torch.cat(list(drawn.draw(raw, seed=5, batch=2))), whole)
    for i in range(len(raw)):
        assert torch.equal(drawn.images(raw[i : i + 1], seed=5, first=i), whole[i : i + 1])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: f"{type(s).__name__}-{s.nfe}")
def test_an_image_depends_on_its_seed_its_number_and_its_condition(sampler):
    drawn = source(sampler)
    image = drawn.images([1], seed=5)
    assert not torch.equal(drawn.images([1], seed=6), image)
    assert not torch.equal(drawn.images([1], seed=5, first=1), image)
    assert not torch.equal(drawn.images([2], seed=5), image)
    assert torch.equal(drawn.images([1], seed=5), image)


def test_the_global_random_state_is_neither_read_nor_moved():
    drawn = source(EdmSde(4))
    torch.manual_seed(1)
    before, image = torch.get_rng_state(), drawn.images([1, 2], seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(drawn.images([1, 2], seed=0), image)


def test_images_come_in_batches_of_the_asked_size():
    spy = Spy()
    list(source(spy).draw([0] * 7, seed=0, batch=3))
    assert spy.batches == [3, 3, 1]


def test_guidance_is_bound_into_what_the_sampler_calls():
    plain, strong = (source(FewStep(), guidance).latents([2], 0, [0]) for guidance in (1.0, 3.0))
    torch.testing.assert_close(strong - plain, torch.full((1, *SHAPE), 4.0))


def test_nothing_drawn_carries_a_graph():
    drawn = source(FewStep())
    assert not drawn.latents([0], 0, [0]).requires_grad and drawn.images([0], 0).device.type == "cpu"


def test_conditions_go_through_all_of_the_teacher_s_in_turn():
    assert source(Spy()).conditions(5) == [0, 1, 2, 0, 1]
    assert source(Spy(), conditions=()).conditions(3) == [None, None, None]


def test_a_numbered_stream_gives_every_row_the_noise_of_its_number():
    like = torch.empty(3, *SHAPE)
    whole = Numbered(7, [0, 1, 2]).normal("noise", like)
    assert torch.equal(Numbered(7, [2, 0]).normal("noise", like[:2]), whole[[2, 0]])
    assert not torch.equal(Numbered(7, [0, 1, 2]).normal("renoise/1", like), whole)
    assert not torch.equal(Numbered(8, [0, 1, 2]).normal("noise", like), whole)


def test_another_network_draws_from_the_same_noise():
    spy = source(Spy())
    other = replace(spy, network=nn.Linear(1, 1))
    assert torch.equal(spy.images([0, 1], seed=3), other.images([0, 1], seed=3))
