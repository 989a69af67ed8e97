"""The reward term: minus the mean reward of decoded samples, a model that is built once, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from dmd2_plugins.digits import rewards
from dmd2_plugins.digits.teacher import teacher, to_rgb
from torch import nn

from dmd2cli import registry
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.losses.reward import Reward, reward, some_conditions
from dmd2cli.protocols import Sample
from dmd2cli.testing import check_loss, toy

CPU = torch.device("cpu")
NETS = SimpleNamespace(decoders={"full": to_rgb, "tiny": lambda x: to_rgb(x.flip(-1) / 2)}, generator=nn.Linear(1, 1))


class Likes(nn.Module):
    """Pixels towards `tone`, times the label; counts how often it is built."""

    built = 0

    def __init__(self, tone: float = 0.5, colour: str = "grey"):
        super().__init__()
        type(self).built += 1
        self.tone, self.drop = nn.Parameter(torch.tensor(tone)), nn.Dropout(0.5)

    def forward(self, images, conditions):
        near = -(self.drop(images) - self.tone).square().flatten(1).mean(1)
        return near * torch.tensor([1.0 if c is None else float(c) for c in conditions])


@pytest.fixture(autouse=True)
def registered():
    with registry.override("rewards", "likes", Likes), registry.override("rewards", "confidence", rewards.confidence):
        yield


def sample(b=4):
    x = torch.randn(b, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Sample(x.requires_grad_(), slice(0, b), b, {}, {}, raw=list(range(1, b + 1)))


def value(term, s):
    return term(s, NETS, Rng(0, 0))


@pytest.mark.parametrize(("decoder", "tone"), [("full", 0.5), ("tiny", -0.25)])
def test_it_is_minus_the_mean_reward_of_the_decoded_samples_under_their_conditions(decoder, tone):
    s, term = sample(), Reward("likes", decoder, {"tone": tone})
    pixels = NETS.decoders[decoder](s.x)
    literal = sum((c * (image - tone).square().mean()).item() for c, image in zip(s.raw, pixels, strict=True)) / 4
    assert value(term, s).item() == pytest.approx(literal, rel=1e-5)


def test_a_step_down_its_gradient_raises_the_reward():
    s, term = sample(), Reward("likes")
    before = value(term, s)
    before.backward()
    assert value(term, replace(s, x=s.x.detach() - s.x.grad)) < before


def test_the_model_is_built_once_and_frozen():
    before, options = Likes.built, {"tone": 0.125}
    for _ in range(3):
        value(Reward("likes", options=options), sample())
    assert Likes.built == before + 1
    model = reward("likes", options, CPU)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert reward("likes", {"tone": 0.25}, CPU) is not model


def test_it_is_a_mean_over_rows_that_teaches_the_generator():
    check_loss(Reward("confidence"), teacher())


# -- before training -------------------------------------------------------------------------------------------


def complaint(term, source=None):
    with pytest.raises(UserError) as caught:
        term.check(source or teacher(), NETS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_check_passes_where_everything_is_there():
    Reward("confidence", options={"classifier": 2}).check(teacher(), NETS)
    Reward("likes").check(teacher(), NETS)


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Reward("lkies"), "reward 'lkies' is not installed; did you mean 'likes'?"),
        (Reward("likes", options={"tnoe": 1.0}), "options.tnoe: unknown key; did you mean 'tone'?"),
        (Reward("likes", options={"tone": "dark"}), 'options.tone: must be a valid number, got "dark"'),
        (Reward("confidence", options={"classifier": 0}), "options: classifier: must be one of [1, 2], got 0"),
        (Reward("likes", "tiny"), "decoder 'tiny': this teacher has no such way to pixels: it has full"),
    ],
)
def test_what_cannot_be_built_is_the_users_error(term, words):
    assert words in complaint(term)


def test_a_teacher_without_a_way_to_pixels_is_named():
    assert "it has none" in complaint(Reward("likes"), toy())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda images, raw: images.mean(), "one finite number per image, (2,), not"),
        (lambda images, raw: images.flatten(1).mean(1) / 0, "one finite number per image"),
        (lambda images, raw: images.detach().flatten(1).mean(1), "gives no gradient"),
    ],
)
def test_a_model_that_can_teach_nothing_is_refused_before_training(model, words):
    with registry.override("rewards", "bad", lambda: model):
        assert words in complaint(Reward("bad"))


def test_the_probe_asks_for_labels_for_text_or_for_nothing():
    assert some_conditions(teacher()) == [0, 1]
    text = replace(toy(), conditions=(), encode=lambda raw: ({"prompt": torch.zeros(len(raw), 1)},) * 2)
    assert some_conditions(text) == ["a photo"] * 2
    assert some_conditions(replace(text, encode=lambda raw: ({}, {}))) == [None, None]
