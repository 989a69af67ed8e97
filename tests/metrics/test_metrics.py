"""Every metric keeps the protocol of metrics, and answers in the direction it says."""

import pytest
import torch
from dmd2_plugins.metrics.fd import fd, fid
from dmd2_plugins.metrics.inception_score import InceptionScore
from dmd2_plugins.metrics.kid import Kid
from dmd2_plugins.metrics.precision_recall import PrecisionRecall
from dmd2_plugins.metrics.tiny import Tiny
from pictured import pictures

from dmd2cli import registry
from dmd2cli.errors import UserError
from dmd2cli.features import Features
from dmd2cli.testing import check_metric

ALL = {
    "fd": lambda path: fd("tiny", path, allow_small=True),
    "kid": lambda path: Kid(path, extractor="tiny", subsets=5, subset_size=20),
    "precision-recall": lambda path: PrecisionRecall(path, extractor="tiny"),
    "inception-score": lambda path: InceptionScore(path, extractor="tiny"),
}


class Published(Tiny):
    """tiny under the name of a published space."""

    name = "inception-edm"


class Silent(Tiny):
    """tiny without logits."""

    def forward(self, images):
        return Features(super().forward(images).vectors)


def of(make, path, images):
    metric = make(str(path))
    metric.update(images, [None] * len(images))
    return metric.compute()["value"]


@pytest.mark.parametrize("name", ALL)
def test_a_metric_keeps_the_protocol_of_metrics(name, folder):
    check_metric(lambda: ALL[name](str(folder)), pictures(50, seed=3), [None] * 50)


@pytest.mark.parametrize("name", [name for name in ALL if name != "inception-score"])
def test_images_like_the_real_ones_are_better_than_noise(name, folder):
    noise = 255 * torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)).round().to(torch.uint8)
    better, worse = (of(ALL[name], folder, images) for images in (pictures(60, seed=4), noise))
    higher = "higher" in ALL[name](str(folder)).protocol["direction"]
    assert (better > worse) if higher else (better < worse)


def test_published_spaces_give_a_number_its_known_name_and_others_do_not(folder):
    with registry.override("extractors", "inception-edm", Published):
        named = [fid(str(folder)), fd("inception-edm", str(folder)), Kid(str(folder)), InceptionScore()]
        assert [m.name for m in named] == [
            "fid/edm", "fd/inception-edm", "kid/inception-edm", "inception-score/inception-edm"
        ]  # fmt: skip
    assert [make(str(folder)).name for make in ALL.values()] == [
        "fd/tiny", "kd/tiny", "precision-recall/tiny", "class-score/tiny"
    ]  # fmt: skip


def test_fid_by_the_edm_protocol_is_the_distance_in_its_space(folder):
    with registry.override("extractors", "inception-edm", Published):
        x = pictures(60, seed=5)
        assert of(lambda path: fid(path, allow_small=True), folder, x) == of(ALL["fd"], folder, x)


def test_kid_is_a_function_of_its_seed_and_its_subsets_are_drawn_anew(folder):
    make = lambda seed: lambda path: Kid(path, extractor="tiny", subsets=3, subset_size=10, seed=seed)   # noqa: E731
    values = [of(make(seed), folder, pictures(50, seed=3)) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    every = of(lambda path: Kid(path, extractor="tiny", subsets=2000, subset_size=10), folder, pictures(60, seed=3))
    whole = of(lambda path: Kid(path, extractor="tiny"), folder, pictures(60, seed=3))
    assert every == pytest.approx(whole, abs=0.2 * abs(whole) + 2e-3)                # unbiased: the size is no matter


def test_the_order_of_images_does_not_decide_the_inception_score_by_class(folder):
    """Sorted by class, splits would each hold one class, and score 1."""
    logits = Tiny()(pictures(500)).logits
    order = logits.argmax(1).argsort()
    score = lambda images: of(lambda path: InceptionScore(extractor="tiny"), folder, images)              # noqa: E731
    assert score(pictures(500)[order]) == pytest.approx(score(pictures(500)), rel=0.02)


def test_an_extractor_without_logits_has_no_inception_score(folder):
    with registry.override("extractors", "silent", Silent), pytest.raises(UserError, match="tiny gives no logits"):
        of(lambda path: InceptionScore(extractor="silent"), folder, pictures(20))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: Kid(path, extractor="tiny", subsets=0), "needs at least 1 subset of 2 images, got 0 of 1000"),
        (lambda path: PrecisionRecall(path, extractor="tiny", k=0), "k must be at least 1, got 0"),
        (lambda path: InceptionScore(extractor="tiny", splits=0), "splits must be at least 1, got 0"),
    ],
)
def test_options_without_sense_are_refused(make, said, folder):
    with pytest.raises(UserError, match=said):
        make(str(folder))
