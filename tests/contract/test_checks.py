"""The conformance checks themselves: a plugin that is right passes, and every way of being wrong is named."""

import math
from collections import namedtuple
from copy import deepcopy
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from dmd2_plugins.toy.mlp import MLP
from torch import nn

from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.core.heads import linear_head
from dmd2cli.core.noise import Karras, RectifiedFlow
from dmd2cli.core.parametrization import edm
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example
from dmd2cli.testing import (
    check_dataset,
    check_exporter,
    check_loss,
    check_metric,
    check_sampler,
    check_schedule,
    check_teacher,
    check_weighting,
    toy,
)


def complaint(check, *args):
    with pytest.raises(AssertionError) as caught:
        check(*args)
    return str(caught.value)


# -- schedules -------------------------------------------------------------------------------------------------


class Bumpy(RectifiedFlow):
    def __call__(self, t):
        alpha, sigma = super().__call__(t)
        return alpha, sigma + 0.2 * torch.sin(12 * t.double()) ** 2


class Backwards(RectifiedFlow):
    def __call__(self, t):
        return super().__call__(1 - t)


class Deaf(Karras):
    def time(self, ratio):
        return 0.99 * super().time(ratio)


class Rising(Karras):
    def clock(self, steps):
        return super().clock(steps).flip(0)


class Flat(Karras):
    def __call__(self, t):
        return torch.ones_like(t), torch.ones_like(t)


class Scalar(Karras):
    def __call__(self, t):
        return torch.ones(1).double(), super().__call__(t)[1]


class Quiet(RectifiedFlow):
    prior_std = 0.0


@pytest.mark.parametrize("schedule", [Karras(), RectifiedFlow(), RectifiedFlow(3.0)])
def test_a_schedule_that_is_right_passes(schedule):
    check_schedule(schedule)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Bumpy(), "SNR is not monotone"),
        (Backwards(), "SNR is not monotone"),
        (Flat(), "SNR is not monotone"),
        (Deaf(), "must invert the clock"),
        (Rising(), "falling times"),
        (Scalar(), "of the shape of t"),
        (Quiet(), "prior_std"),
    ],
)
def test_a_schedule_that_is_wrong_is_named(schedule, words):
    assert words in complaint(check_schedule, schedule)


# -- teachers --------------------------------------------------------------------------------------------------


def learned():
    """An untrained network as a teacher, the kind a stranger wraps."""
    torch.manual_seed(0)
    net = Preconditioned(MLP(16, 3, 2), Karras(sigma_max=10.0), edm(1.0), lambda t: 5 * t)
    return replace(toy(), denoiser=net.eval().requires_grad_(False), schedule=net.schedule, network=None)


class Wrapped(nn.Module):
    """A denoiser around another, with something wrong in between."""

    def __init__(self, inner, x_hat=lambda x: x, features=lambda h: h):
        super().__init__()
        self.inner, self.change, self.change_features = inner, x_hat, features

    def forward(self, x_t, t, cond):
        return self.change(self.inner(x_t, t, cond))

    def features(self, x_t, t, cond):
        return self.change_features(self.inner.features(x_t, t, cond))


class Closure(nn.Module):
    """Calls a network that it does not own: the mistake of handing `pipe.transformer` to a lambda."""

    def __init__(self, inner, registered):
        super().__init__()
        self.call, self.call_features = (lambda *a: inner(*a)), (lambda *a: inner.features(*a))
        self.registered = inner if registered else None

    def forward(self, x_t, t, cond):
        return self.call(x_t, t, cond)

    def features(self, x_t, t, cond):
        return self.call_features(x_t, t, cond)


class Sharing(Wrapped):
    """Its copies keep the same inner network."""

    def __deepcopy__(self, memo):
        return Sharing(self.inner)


def wrapped(**changes):
    teacher = learned()
    return replace(teacher, denoiser=Wrapped(teacher.denoiser, **changes))


def with_weights(*names):
    """A teacher whose condition has other names than its null condition."""
    teacher = learned()
    return replace(teacher, encode=lambda raw: (teacher.encode(raw)[0], {"other": teacher.encode(raw)[1]["label"]}))


WRONG = {
    "schedule": (lambda: replace(learned(), schedule=Bumpy()), "SNR is not monotone"),
    "names of the null condition": (with_weights, "the same names"),
    "rows of the condition": (
        lambda: replace(learned(), encode=lambda raw: ({"label": torch.zeros(1, 2)},) * 2),
        "one row per raw condition",
    ),
    "random condition": (
        lambda: replace(learned(), encode=lambda raw: ({"label": torch.rand(len(raw), 2)},) * 2),
        "the same condition each time",
    ),
    "float64": (lambda: wrapped(x_hat=lambda x: x.double()), "x_hat must be float32, not torch.float64"),
    "shape": (lambda: wrapped(x_hat=lambda x: x[:, :1]), "x_hat must have the shape of x_t, (4, 2), not (4, 1)"),
    "NaN": (lambda: wrapped(x_hat=lambda x: x * math.nan), "x_hat is not finite"),
    "dropout": (lambda: wrapped(x_hat=lambda x: x + 0.01 * torch.randn_like(x)), "is dropout off"),
    "batch statistics": (lambda: wrapped(x_hat=lambda x: x + x.mean(0)), "rows of one batch must not influence"),
    "wrong at low noise": (lambda: wrapped(x_hat=lambda x: x + 0.1), "x_hat must tend to x as t -> 0, but errs"),
    "float images": (lambda: replace(learned(), decode=lambda x: toy().decode(x).float()), "must give uint8 images"),
    "grey images": (lambda: replace(learned(), decode=lambda x: toy().decode(x)[:, :1]), "must give (b, 3, h, w)"),
    "head": (lambda: replace(learned(), head=lambda: linear_head(8, 8)), "head() does not fit features() of shape"),
    "wide head": (lambda: replace(learned(), head=lambda: nn.Linear(16, 2)), "head() must give one logit (b, 1)"),
    "flat head": (
        lambda: replace(learned(), head=lambda: nn.Sequential(nn.Linear(16, 1), nn.Flatten(0))),
        "head() must give one logit (b, 1)",
    ),
    "float64 features": (lambda: wrapped(features=lambda h: h.double()), "features() must be float32"),
    "detached features": (lambda: wrapped(features=lambda h: h.detach()), "carry no gradient"),
    "pooled features": (lambda: wrapped(features=lambda h: h[:1]), "one row per sample"),
    "closure": (lambda: with_denoiser(lambda net: Closure(net, False)), "no parameters to train; hand the network in"),
    "closure beside": (lambda: with_denoiser(lambda net: Closure(net, True)), "it calls another network"),
    "shared weights": (lambda: with_denoiser(Sharing), "copies share storage"),
    "weighting": (lambda: replace(learned(), weighting=lambda a, s: a / 0), "step is not finite: critic/denoising"),
}  # fmt: skip


def with_denoiser(wrap):
    teacher = learned()
    return replace(teacher, denoiser=wrap(teacher.denoiser))


def test_a_teacher_that_is_right_passes_and_is_left_as_it_was():
    teacher = learned()
    before = deepcopy(teacher.denoiser.state_dict())
    check_teacher(teacher)
    check_teacher(wrapped())
    assert all(before[k].equal(v) for k, v in teacher.denoiser.state_dict().items())


@pytest.mark.parametrize("what", WRONG)
def test_a_teacher_that_is_wrong_is_told_what_and_what_to_do(what):
    make, words = WRONG[what]
    assert words in complaint(check_teacher, make())


# -- losses ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """The distance of what a player makes to zero; `wrong` says what is wrong with it."""

    wrong: str = ""
    player: ClassVar = "generator"
    reads_real: ClassVar = False

    def __call__(self, s, nets, rng):
        x = s.x.detach() if self.wrong == "detached" else s.x
        noise = torch.randn_like(x) if self.wrong == "global" else rng.normal("eps", x)
        error = (x - noise).square()
        reduce = {"sum": error.sum(), "rows": error.mean(1), "nan": error.mean() * math.nan}
        return reduce.get(self.wrong, error.mean())


class Bystander(Term):
    player: ClassVar = "judge"


class Critical(Term):
    player: ClassVar = "critic"


def test_a_loss_that_is_right_passes():
    check_loss(Term())
    check_loss(Term(), learned())


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Term("sum"), "must be a mean over its micro-batch"),
        (Term("rows"), "must be one finite number"),
        (Term("nan"), "must be one finite number"),
        (Term("global"), "must draw from its rng alone"),
        (Term("detached"), "teaches the generator nothing"),
        (Critical(), "teaches the critic nothing"),
        (Bystander(), "not 'judge'"),
        (SimpleNamespace(player="critic", reads_real=False), "must be a frozen dataclass"),
    ],
)
def test_a_loss_that_is_wrong_is_named(loss, words):
    assert words in complaint(check_loss, loss)


# -- samplers and weightings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoCalls:
    """A sampler of two network calls; `wrong` says what is wrong with it."""

    wrong: str = ""
    nfe: ClassVar = 2
    deterministic: ClassVar = True

    def __call__(self, denoise, schedule, noise, rng):
        if self.wrong == "refuses":
            raise UserError("no schedule is good enough")
        if self.wrong == "in place":
            noise.mul_(2)
        start = schedule.prior_std * noise
        t = torch.full((len(noise),), -1.0 if self.wrong == "negative" else 1.0)
        x = denoise(start.double() if self.wrong == "double" else start, t)
        x = x if self.wrong == "one call" else denoise(x, t / 2)
        eps = torch.randn_like(x) if self.wrong == "global" else rng.normal("last", x)
        x = denoise(x + 0.0 * eps, t / 2) if self.wrong == "three calls" else x
        x = x + 1e-6 * eps if self.wrong in ("global", "random") else x
        ends = {"noisy": x + start, "long": x.double()}
        return ends.get(self.wrong, x)


def test_a_sampler_that_is_right_passes():
    check_sampler(TwoCalls())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("in place", "changes the noise"),
        ("negative", "not negative"),
        ("double", "float32 x_t"),
        ("one call", "nfe says 2 network calls per sample, counted 1"),
        ("three calls", "nfe says 2 network calls per sample, counted 3"),
        ("global", "must draw from its rng alone"),
        ("noisy", "must end at t = 0"),
        ("long", "shape and type of the noise"),
        ("refuses", "must take one of the schedules"),
        ("random", "deterministic is True, but other streams change it"),
    ],
)
def test_a_sampler_that_is_wrong_is_named(wrong, words):
    assert words in complaint(check_sampler, TwoCalls(wrong))


@pytest.mark.parametrize(
    ("weighting", "words"),
    [
        (lambda alpha, sigma: -sigma, "positive and finite"),
        (lambda alpha, sigma: sigma / 0, "positive and finite"),
        (lambda alpha, sigma: sigma.mean(), "one weight per sample"),
        (lambda x, x_real, alpha, sigma: x_real - x, "one weight per sample"),
    ],
)
def test_a_weighting_that_is_wrong_is_named(weighting, words):
    assert words in complaint(check_weighting, weighting)


# -- datasets --------------------------------------------------------------------------------------------------


class Items:
    """Three items, from a function of their index."""

    def __init__(self, item, n=3):
        self.item, self.n = item, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.item(i)


def test_a_dataset_that_is_right_passes():
    check_dataset(Items(lambda i: Example(torch.full((2,), float(i)), i % 2)), toy())
    check_dataset(Items(lambda i: Example(condition=None)))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (lambda i: Example(torch.randn(2)), "differs each time"),
        (lambda i: Example(torch.zeros(2).double()), "must be finite float32"),
        (lambda i: Example(torch.full((2,), math.nan)), "differs each time"),
        (lambda i: Example(torch.full((2,), math.inf)), "must be finite float32"),
        (lambda i: Example(torch.zeros(3)), "must have the shape (2,), not (3,)"),
        (lambda i: Example(torch.zeros(2), int(torch.randint(1 << 30, ()))), "another condition each time"),
        (lambda i: (torch.zeros(2), 0), "must be an Example, not tuple"),
    ],
)
def test_a_dataset_that_is_wrong_is_named(item, words):
    assert words in complaint(check_dataset, Items(item), toy())


def test_an_empty_dataset_is_named():
    assert "at least one item" in complaint(check_dataset, Items(Example, n=0))


# -- metrics and exporters -------------------------------------------------------------------------------------


class Brightness:
    """The mean of all pixels; `wrong` says what is wrong with it."""

    name = "brightness"

    def __init__(self, wrong=""):
        self.wrong, self.seen = wrong, []
        self.protocol = {} if wrong == "direction" else {"direction": "higher is better"}

    def update(self, images, conditions):
        self.seen = [images] if self.wrong == "forgets" else [*self.seen, images]

    def compute(self):
        value = torch.cat(self.seen).float().mean().item()
        return {"v" if self.wrong == "value" else "value": math.nan if self.wrong == "nan" else value}

    def real(self, n, seed):
        if self.wrong == "random":
            return {"value": torch.rand(()).item()}
        return {"floor": 0.0} if self.wrong == "real" else {"value": float(n + seed)}


IMAGES = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 2, 2)


def test_a_metric_that_is_right_passes():
    check_metric(Brightness, IMAGES, [None] * 9)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("value", "under 'value'"),
        ("nan", "must be finite"),
        ("forgets", "in two updates must give the same"),
        ("direction", "under 'direction'"),
        ("random", "a function of n and seed"),
        ("real", "for real data"),
    ],
)
def test_a_metric_that_is_wrong_is_named(wrong, words):
    assert words in complaint(check_metric, lambda: Brightness(wrong), IMAGES, [None] * 9)


class Drawing:
    """Stands for a student."""

    def __init__(self):
        self.image = torch.zeros(1)

    def __call__(self, n):
        return self.image.expand(n)


Fake = namedtuple("Fake", "write draft change answer", defaults=(True, False, False, {"max_pixel_difference": 0}))


def exporter(fake):
    def export(student, out):
        if fake.write:
            out.write_text("weights")
        if fake.draft:
            out.with_name(".draft").touch()
        if fake.change:
            student.image = student.image + 1
        return fake.answer

    return export


def test_an_exporter_that_is_right_passes(tmp_path):
    check_exporter(exporter(Fake()), Drawing(), tmp_path / "out")


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (Fake(write=False), "must write to the path"),
        (Fake(draft=True), "no drafts behind: ['.draft']"),
        (Fake(change=True), "leave the student as it was"),
        (Fake(answer={}), "'max_pixel_difference'"),
    ],
)
def test_an_exporter_that_is_wrong_is_named(tmp_path, fake, words):
    assert words in complaint(check_exporter, exporter(fake), Drawing(), tmp_path / "out")
