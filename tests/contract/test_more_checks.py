"""Conformance checks that a plugin may fail while it passes all others: each is shown to fail, in the right words."""

import threading
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from dmd2_plugins.toy.gmm import encode
from dmd2_plugins.toy.mlp import MLP
from torch import nn

from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.core.heads import linear_head
from dmd2cli.core.noise import Karras
from dmd2cli.core.parametrization import edm
from dmd2cli.protocols import Example
from dmd2cli.testing import check_dataset, check_loss, check_metric, check_sampler, check_teacher, toy
from dmd2cli.testing.network import deep_copies
from dmd2cli.testing.said import Broken
from dmd2cli.testing.sharded import sharding
from dmd2cli.testing.step import players, same_again, student
from dmd2cli.testing.teacher import CHECKS, rows


def complaint(check, *args):
    with pytest.raises(Broken) as caught:
        check(*args)
    return str(caught.value)


# -- teachers --------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Two layers, the second read as `wrong` says."""

    def __init__(self, wrong=""):
        super().__init__()
        self.first, self.last, self.wrong = nn.Linear(5, 16), nn.Linear(16, 2), wrong
        self.first_block = Block() if wrong == "block" else nn.Identity()

    def encode(self, x, c_noise, cond):
        return (self.first(torch.cat([x, c_noise[:, None].to(x), cond["label"]], 1)).tanh(),)

    def decode(self, state):
        if self.wrong == "block":
            return F.linear(state[0], self.first_block.inner.weight)
        return self.last(state[0])


class Block(nn.Module):
    """A unit of sharding."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 2, bias=False)


def learned(net=None, units=(), seed=0):
    torch.manual_seed(seed)
    schedule = Karras(sigma_max=10.0)
    denoiser = Preconditioned(net or Net(), schedule, edm(1.0), lambda t: 5 * t)
    plain = replace(toy(), denoiser=denoiser.eval().requires_grad_(False), schedule=schedule, network=None)
    return replace(plain, encode=lambda raw: encode(raw, 2), head=lambda: linear_head(16, 16), units=units)


class Normed(nn.Module):
    """A denoiser whose rows see each other at high noise alone, and never under the null condition."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x_t, t, cond):
        x_hat = self.inner(x_t, t, cond)
        seen = cond["label"].any(1, keepdim=True) & (t > 0.1)[:, None]
        return x_hat + seen * 0.1 * (x_t - x_t.mean(0))

    def features(self, x_t, t, cond):
        return self.inner.features(x_t, t, cond)


def test_a_teacher_whose_rows_influence_each_other_is_named():
    teacher = learned()
    assert "changes with its company" in complaint(rows, replace(teacher, denoiser=Normed(teacher.denoiser)))
    rows(teacher)


def test_a_network_that_holds_a_handle_cannot_be_copied_and_that_is_named():
    teacher = learned()
    teacher.denoiser.lock = threading.Lock()
    said = complaint(deep_copies, teacher)
    assert "cannot be deep-copied: cannot pickle '_thread.lock'" in said and "keep files, locks" in said


def test_a_network_that_reads_the_weights_of_a_block_from_outside_cannot_be_sharded_and_that_is_named():
    torch.manual_seed(0)
    sharding(learned(Net("block")))                                # as one unit, it can
    said = complaint(sharding, learned(Net("block"), units=(Block,)))
    assert "does not run under FSDP" in said and "call layers" in said
    assert not torch.distributed.is_initialized()


class Stuck(Preconditioned):
    """Its features and x_hat come without a gradient to any weight."""

    def forward(self, x_t, t, cond):
        return x_t / (1 + t[:, None]) + 0 * super().forward(x_t, t, cond).detach()


def test_a_generator_that_learns_nothing_is_named():
    teacher = learned()
    stuck = Stuck(Net(), teacher.schedule, edm(1.0), lambda t: 5 * t).eval().requires_grad_(False)
    with pytest.raises((Broken, RuntimeError), match="does not move the generator|does not require grad"):
        players(replace(teacher, denoiser=stuck))


def test_a_teacher_that_passes_has_gone_through_every_check():
    check_teacher(learned())
    assert len(CHECKS) == 13 and all(check.__doc__ for check in CHECKS)


def test_a_function_that_draws_other_weights_each_time_is_named():
    def make():
        net, schedule = MLP(16, 3, 2), Karras(sigma_max=10.0)
        return replace(learned(), denoiser=Preconditioned(net, schedule, edm(1.0), lambda t: 5 * t))

    assert "two calls give other weights" in complaint(same_again, make)
    same_again(learned)


def test_a_function_without_skeleton_is_named():
    assert "must take skeleton" in complaint(student, lambda: learned())


def test_details_that_are_no_json_are_named():
    def make(skeleton=None):
        return replace(learned(), details={"widths": {1, 2}})

    assert "details must be JSON values" in complaint(student, make)


def test_a_student_that_comes_back_another_is_named():
    def make(skeleton=None):
        teacher = learned()
        return teacher if skeleton is None else replace(teacher, decode=lambda x: 255 - teacher.decode(x))

    assert "draws other images" in complaint(student, make)
    student(lambda skeleton=None: learned())


# -- losses ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """The square of the samples, and what `wrong` says."""

    wrong: str = ""
    player: ClassVar = "generator"
    reads_real: ClassVar = False

    def __call__(self, s, nets, rng):
        with torch.no_grad():
            if self.wrong == "samples":
                s.x.mul_(1.5)
            if self.wrong == "fake":
                next(iter(nets.fake.parameters())).add_(0.1)
            if self.wrong == "teacher":
                next(iter(nets.real.parameters())).add_(0.1)
        if self.wrong == "opens":
            for p in nets.fake.parameters():
                p.requires_grad_(True)
            return s.x.square().mean() + nets.fake(s.x, torch.ones(len(s)), s.cond).square().mean()
        return s.x.square().mean()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("samples", "changes the samples"),
        ("fake", "changes the weights of the fake score"),
        ("teacher", "changes the weights of the teacher"),
        ("opens", "a generator term gives the critic a gradient"),
    ],
)
def test_a_term_that_reaches_further_than_its_player_is_named(wrong, words):
    assert words in complaint(check_loss, Term(wrong), learned())
    check_loss(Term(), learned())


@dataclass
class Thawed:
    """Its options can be changed while it trains."""

    player: ClassVar = "generator"
    reads_real: ClassVar = False


class Vague(Term):
    reads_real: ClassVar = "sometimes"


def test_a_term_that_declares_itself_badly_is_named():
    assert "must be a frozen dataclass" in complaint(check_loss, Thawed())
    assert "reads_real must say" in complaint(check_loss, Vague())


# -- samplers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneCall:
    wrong: str = ""
    nfe: ClassVar = 1
    deterministic: ClassVar = True

    def __call__(self, denoise, schedule, noise, rng):
        start = noise if self.wrong == "unit" else schedule.prior_std * noise
        x = denoise(start, torch.ones(len(noise)))
        return x + 0.1 * (x - x.mean(0)) if self.wrong == "batch" else x


def test_a_sampler_that_forgets_the_prior_s_scale_is_named():
    assert "scale it by schedule.prior_std" in complaint(check_sampler, OneCall("unit"))


def test_a_sampler_whose_rows_influence_each_other_is_named():
    assert "changes with its company" in complaint(check_sampler, OneCall("batch"))
    check_sampler(OneCall())


# -- data sets and metrics -------------------------------------------------------------------------------------


class Cursor:
    """Item i by way of a shared place: right alone, wrong when several threads read."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        self.place = i
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait(0.01)
        return Example(torch.full((2,), float(self.place)))


def test_a_dataset_that_threads_cannot_share_is_named():
    assert "when several threads read" in complaint(check_dataset, Cursor())


class Inverting:
    """The mean brightness of the images, which it inverts in place; or with a tensor in its answer."""

    name, protocol = "inverting", {"direction": "higher is brighter"}

    def __init__(self, wrong):
        self.wrong, self.seen = wrong, []

    def update(self, images, conditions):
        self.seen.append(images.float().mean((1, 2, 3)))
        if self.wrong == "in place":
            images.copy_(255 - images)

    def compute(self):
        value = torch.cat(self.seen).mean()
        return {"value": value if self.wrong == "tensor" else value.item()}

    def real(self, n, seed):
        return {}


@pytest.mark.parametrize(("wrong", "words"), [("in place", "leave its images"), ("tensor", "must be JSON values")])
def test_a_metric_that_spoils_its_images_or_answers_in_tensors_is_named(wrong, words):
    images = (100 + torch.arange(9, dtype=torch.uint8)).view(9, 1, 1, 1).repeat(1, 3, 4, 4)
    with pytest.raises(Broken, match=f"{words}|in two updates"):
        check_metric(lambda: Inverting(wrong), images, [None] * 9)
