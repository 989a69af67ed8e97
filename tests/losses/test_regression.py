"""The regression term, [DMD] Eq. 9: each distance against its literal, and the pairs it needs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.losses.perceptual import lpips_vgg
from dmd2cli.losses.regression import Regression
from dmd2cli.protocols import Pair, Sample
from dmd2cli.testing import toy

SHAPE = (1, 8, 8)


def decode(x):
    """One channel of twice the range to RGB: what a teacher of grey images has."""
    return (x / 2).expand(-1, 3, -1, -1)


def sample(b=4, spread=1.0):
    """A micro-batch of two, beside pairs of another number."""
    g = torch.Generator().manual_seed(1)
    target, x = spread * torch.randn(2, b, *SHAPE, generator=g)
    return Sample(torch.zeros(2, *SHAPE), slice(0, 2), 2, {}, {}, pair=Pair(target, x.requires_grad_()))


DECODERS = {"full": decode, "tiny": lambda x: decode(x.flip(-1) / 2)}
NETS = SimpleNamespace(decoders=DECODERS, generator=torch.nn.Linear(1, 1))


def value(term, s):
    return term(s, NETS, Rng(0, 0))


def arrays(s):
    return s.pair.x.detach().double().numpy(), s.pair.target.double().numpy()


def test_l2_is_eq9_with_the_mean_squared_error_of_each_pair():
    s = sample()
    x, y = arrays(s)
    literal = np.mean([np.mean((one - two) ** 2) for one, two in zip(x, y, strict=True)])
    assert value(Regression("l2"), s).item() == pytest.approx(literal, rel=1e-6)


@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_huber_is_quadratic_below_delta_and_linear_above(delta):
    s = sample(spread=1.5)
    error = np.abs(np.subtract(*arrays(s)))
    literal = np.where(error < delta, error**2 / 2, delta * (error - delta / 2)).mean()
    assert value(Regression("huber", delta=delta), s).item() == pytest.approx(literal, rel=1e-6)


@pytest.mark.parametrize("decoder", ["full", "tiny"])
def test_lpips_compares_decoded_images_enlarged(vgg_file, decoder):
    s = sample()
    x, y = (F.interpolate(DECODERS[decoder](v), (32, 32), mode="bilinear") for v in (s.pair.x, s.pair.target))
    literal = lpips_vgg(vgg_file, torch.device("cpu"))(x, y).mean()
    found = value(Regression(decoder=decoder, resize=32, weights=vgg_file), s)
    assert found.item() == pytest.approx(literal.item(), rel=1e-6)


def test_by_default_images_are_compared_at_224_pixels(vgg_file):
    s = sample(b=1)
    x, y = (F.interpolate(decode(v), (224, 224), mode="bilinear") for v in (s.pair.x, s.pair.target))
    with torch.no_grad():
        literal = lpips_vgg(vgg_file, torch.device("cpu"))(x, y).mean()
        assert value(Regression(weights=vgg_file), s).item() == pytest.approx(literal.item(), rel=1e-6)


@pytest.mark.parametrize("distance", ["lpips", "l2", "huber"])
def test_the_gradient_reaches_the_students_images_and_descends(vgg_file, distance):
    s, term = sample(), Regression(distance, resize=16, weights=vgg_file)
    before = value(term, s)
    before.backward()
    grad = s.pair.x.grad
    assert grad.abs().flatten(1).sum(1).gt(0).all()
    step = 0.01 * before.item() / grad.square().sum()
    nearer = replace(s, pair=Pair(s.pair.target, s.pair.x.detach() - step * grad))
    assert value(term, nearer) < before


@pytest.mark.parametrize("distance", ["lpips", "l2", "huber"])
def test_the_term_is_a_mean_over_pairs(vgg_file, distance):
    s, term = sample(), Regression(distance, resize=16, weights=vgg_file)
    halves = [replace(s, pair=Pair(s.pair.target[part], s.pair.x[part])) for part in (slice(0, 2), slice(2, 4))]
    assert value(term, s).item() == pytest.approx(np.mean([value(term, half).item() for half in halves]), rel=1e-5)


@pytest.mark.parametrize("distance", ["lpips", "l2", "huber"])
def test_a_student_that_makes_the_teachers_images_has_nothing_to_learn(vgg_file, distance):
    s = sample()
    same = replace(s, pair=Pair(s.pair.target, s.pair.target.clone()))
    assert value(Regression(distance, resize=16, weights=vgg_file), same) == 0


# -- what it needs ---------------------------------------------------------------------------------------------


def complaint(act):
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_pairs_a_person_is_told_where_they_come_from():
    s = replace(sample(), pair=None)
    assert "add data.pairs" in complaint(lambda: value(Regression("l2"), s))


def test_images_too_small_for_vgg_are_named_with_their_size(vgg_file):
    term = Regression(resize=None, weights=vgg_file)
    assert "at least 16 pixels, not 8 x 8: set resize" in complaint(lambda: value(term, sample()))


@pytest.mark.parametrize(("options", "words"), [({"resize": 8}, "resize 8"), ({"delta": 0.0}, "delta 0")])
def test_impossible_options_are_the_users_error(options, words):
    assert words in complaint(lambda: Regression(**options))


def test_the_check_passes_where_lpips_has_all_it_needs(vgg_file):
    Regression(weights=vgg_file).check(replace(toy(), decoders={"full": decode}), NETS)


@pytest.mark.parametrize(
    ("decoders", "words"),
    [({}, "it has none; take distance: l2"), ({"tiny": decode}, "no such way to pixels: it has tiny")],
)
def test_the_check_names_the_decoders_there_are(vgg_file, decoders, words):
    teacher = replace(toy(), decoders=decoders)
    assert words in complaint(lambda: Regression(weights=vgg_file).check(teacher, NETS))
    Regression("l2").check(teacher, NETS)


def test_the_check_loads_lpips_before_training_does(tmp_path):
    teacher = replace(toy(), decoders={"full": decode})
    term = Regression(weights=str(tmp_path / "vgg.pth"))
    assert "nothing is downloaded" in complaint(lambda: term.check(teacher, NETS))
