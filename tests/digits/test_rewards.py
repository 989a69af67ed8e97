"""The rewards for digits: what they like, and that both can be climbed."""

import pytest
import torch
from dmd2_plugins.digits.classifier import load
from dmd2_plugins.digits.data import images
from dmd2_plugins.digits.rewards import confidence, ink
from dmd2_plugins.digits.teacher import teacher, to_rgb

from dmd2cli.engine.distill import job
from dmd2cli.engine.run import run
from dmd2cli.errors import UserError
from dmd2cli.recipe import load as recipe
from dmd2cli.student import load_student
from dmd2cli.testing import check_reward

X, LABELS = images()[0][:60], images()[1][:60].tolist()


@pytest.mark.parametrize("make", [confidence, ink, lambda: confidence(2)])
def test_it_keeps_the_protocol(make):
    check_reward(make(), teacher())


@pytest.mark.parametrize("seed", [1, 2])
def test_confidence_is_the_log_probability_of_the_asked_digit(seed):
    found = confidence(seed)(to_rgb(X), LABELS)
    literal = load(seed)(X).softmax(1)[torch.arange(60), LABELS].log()
    assert torch.allclose(found, literal, atol=1e-5) and (found <= 0).all()


def test_a_digit_is_liked_as_itself_and_not_as_another():
    reward = confidence()
    right, wrong = reward(to_rgb(X), LABELS), reward(to_rgb(X), [(label + 1) % 10 for label in LABELS])
    assert right.exp().mean() > 0.95 and wrong.exp().mean() < 0.05


def test_the_metrics_own_classifier_is_no_reward():
    with pytest.raises(UserError, match=r"classifier: must be one of \[1, 2\], got 0; fd-digits measures with 0"):
        confidence(0)


def test_confidence_without_a_class_is_the_users_error():
    with pytest.raises(UserError, match="set data.prompts to class-labels"):
        confidence()(to_rgb(X[:2]), [3, None])


def test_ink_is_the_brightness_between_black_and_white():
    grey = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    assert ink()(grey, [None] * 3).tolist() == [0.0, 0.5, 1.0]
    assert ink()(to_rgb(images()[0]), [None] * 1797).mean() == pytest.approx(0.31, abs=0.01)


def test_the_decoder_of_the_teacher_is_what_its_pictures_are_rounded_from():
    x, found = X.clone().requires_grad_(), teacher()
    pixels = found.decoders["full"](x)
    assert pixels.shape == (60, 3, 8, 8)
    assert ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).equal(found.decode(x.detach()))
    (grad,) = torch.autograd.grad(pixels.sum(), x)
    assert grad.eq(3).all()
    assert found.decoders["full"](torch.full((1, 1, 8, 8), 2.0)).max() == 2


def test_a_student_rewarded_for_ink_draws_bolder_strokes(tmp_path):
    def brightness(name, *overrides):
        short = ["run.steps=40", "run.batch=16", "run.threads=1", "student.ema_halflife_images=null"]
        run(recipe("digits", [*short, *overrides]), tmp_path / name, job)
        return load_student(tmp_path / name)(n=100).float().mean() / 255

    assert brightness("ink", "losses.reward={model: digits-ink, weight: 3.0}") > brightness("plain") + 0.05
