"""Feature spaces: every extractor keeps the protocol, batches do not matter, and a batch is seen once."""

import pytest
import torch
from dmd2_plugins.digits.data import images, to_uint8
from dmd2_plugins.digits.extractor import DigitFeatures
from dmd2_plugins.digits.metric import FdDigits
from dmd2_plugins.metrics.fd import fd
from dmd2_plugins.metrics.tiny import Tiny
from pictured import pictures, save

from dmd2cli import registry
from dmd2cli.errors import UserError
from dmd2cli.features import Features, Space, space
from dmd2cli.testing import check_extractor

CPU = torch.device("cpu")


class Counting(Tiny):
    """tiny, noting how many images each call had."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images):
        self.calls.append(len(images))
        return super().forward(images)


class Mixing(Tiny):
    """An extractor in training mode, so to speak: a vector depends on the batch."""

    def forward(self, images):
        found = super().forward(images).vectors
        return Features(found - found.mean(0))


@pytest.mark.parametrize("side", [2, 8, 33])
def test_tiny_keeps_the_protocol_at_any_size(side):
    check_extractor(Tiny, pictures(5, side=side))


def test_the_digit_features_keep_the_protocol():
    check_extractor(DigitFeatures, to_uint8(images()[0][:9]))


def test_the_check_finds_a_vector_that_depends_on_its_batch():
    with pytest.raises(AssertionError, match="must not depend on the rest of its batch"):
        check_extractor(Mixing, pictures(5))


def test_tiny_is_the_same_whatever_the_global_random_state():
    torch.manual_seed(0)
    one = Tiny()
    torch.manual_seed(1)
    assert all(a.equal(b) for a, b in zip(one.state_dict().values(), Tiny().state_dict().values(), strict=True))


def test_images_go_through_the_extractor_in_batches():
    x, extractor = pictures(10), Counting()
    found = Space(extractor, CPU, batch=4)(x)
    assert extractor.calls == [4, 4, 2]
    whole = Tiny()(x)
    assert found.vectors.allclose(whole.vectors, atol=1e-6) and found.logits.allclose(whole.logits, atol=1e-5)


def test_a_batch_that_several_metrics_ask_about_is_seen_once():
    x, extractor = pictures(6), Counting()
    seen = Space(extractor, CPU)
    assert seen(x) is seen(x) and extractor.calls == [6]
    seen(x.clone())
    assert extractor.calls == [6, 6]


def test_a_batch_that_was_changed_in_place_is_seen_again():
    x, seen = pictures(6), Space(Tiny(), CPU)
    before = seen(x).vectors
    x[0] = 255 - x[0]
    assert not seen(x).vectors[0].equal(before[0])


def test_images_of_inference_mode_are_taken_too():
    with torch.inference_mode():
        x = pictures(4) + 0
    assert Space(Tiny(), CPU)(x).vectors.shape == (4, 64)


def test_the_same_arguments_give_the_same_space_and_another_object_under_the_name_another():
    one = space("tiny")
    assert space("tiny") is one and space("tiny", batch=3) is not one
    with registry.override("extractors", "tiny", Counting):
        assert isinstance(space("tiny").extractor, Counting)


def test_the_frechet_distance_in_the_digit_features_against_all_digits_is_fd_digits(tmp_path):
    real = to_uint8(images()[0])
    metric, other = fd("digits", str(save(real, tmp_path / "real")), allow_small=True), FdDigits()
    for found in (metric, other):
        found.update(255 - real[:300], [None] * 300)
    assert metric.compute()["value"] == pytest.approx(other.compute()["value"], rel=1e-5)


def test_what_an_extractor_cannot_do_is_said():
    with pytest.raises(UserError, match="extractor 'tiny' reads no weights file; leave weights out"):
        space("tiny", weights="x.pth")
    with pytest.raises(UserError, match="extractor 'tinny' is not installed; did you mean 'tiny'"):
        space("tinny")
    with pytest.raises(UserError, match="at least 1 image goes through the extractor at a time, got 0"):
        space("tiny", batch=0)
    with pytest.raises(UserError, match="images must be 8 x 8, got 9 x 9"):
        space("digits")(pictures(1, side=9))


def test_a_package_that_an_extractor_lacks_is_named(monkeypatch):
    def needing():
        raise ModuleNotFoundError("No module named 'nonsense'", name="nonsense")

    told = lambda kind, name, err: UserError(f"{kind} {name} needs {err.name}")                     # noqa: E731
    monkeypatch.setattr(registry, "import_problem", told)
    with registry.override("extractors", "needing", needing), pytest.raises(UserError, match="needing needs nonsense"):
        space("needing")
