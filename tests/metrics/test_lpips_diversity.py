"""diversity: pairs of images of one prompt, in LPIPS of every backbone and in other spaces."""

from itertools import combinations

import numpy as np
import pytest
import torch
from dmd2_plugins.metrics.diversity import ByPrompt
from dmd2_plugins.metrics.tiny import Tiny
from pictured import pictures
from PIL import Image

from dmd2cli.errors import UserError
from dmd2cli.losses.perceptual import BACKBONES, lpips_net
from dmd2cli.testing import check_metric

SIDE = 32
PROMPTS = [prompt for prompt in ("a", "b", "c") for _ in range(4)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Backbone -> a file of random weights under torchvision's names."""
    import torchvision.models

    def write(net):
        path = folder / f"{net}.pth"
        if not path.exists():
            with torch.device("meta"):
                state = getattr(torchvision.models, BACKBONES[net].torchvision)().state_dict()
            g = torch.Generator().manual_seed(0)
            shapes = {k: v.shape for k, v in state.items() if k.startswith("features.")}
            torch.save({k: torch.randn(s, generator=g) * (2 / s[1:].numel()) ** 0.5 for k, s in shapes.items()}, path)
        return str(path)

    folder = tmp_path_factory.mktemp("backbones")
    return write


def resized(image):
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def wide(n):
    return pictures(n, side=40)[:, :, 5:30]


@pytest.mark.parametrize("net", BACKBONES)
def test_it_is_the_packages_lpips_over_six_pairs_then_over_prompts(net, file):
    images, network = wide(12), lpips_net(BACKBONES[net], file(net), torch.device("cpu"))
    metric = ByPrompt(extractor=f"lpips-{net}", weights=file(net), size=SIDE, device="cpu")
    metric.update(images[:7], PROMPTS[:7])
    metric.update(images[7:], PROMPTS[7:])
    x, means = [resized(image) for image in images], []
    for first in (0, 4, 8):
        pairs = list(combinations(range(first, first + 4), 2))
        assert len(pairs) == 6
        means.append(float(np.mean([network(x[i], x[j]).item() for i, j in pairs])))
    found = metric.compute()
    assert found["value"] == pytest.approx(np.mean(means), rel=1e-5) and found["prompts"] == 3
    assert found["standard_error"] == pytest.approx(np.std(means, ddof=1) / 3**0.5, rel=1e-4)
    assert metric.name == f"diversity/lpips-{net}"


def test_the_size_and_the_backbone_are_512_and_vgg_and_said(file):
    metric = ByPrompt(weights=file("vgg"), device="cpu")
    said = metric.protocol
    assert metric.name == "diversity/lpips-vgg" and metric.per_prompt == 4
    assert "Lanczos to 512 x 512" in said["resize"] and "VGG-16" in said["distance"]
    assert said["images"] == "4 of each prompt, all 6 pairs, mean over prompts"
    assert len(said["weights"].split()[1]) == 64


def literal(images, conditions, k):
    """1 - cosine in tiny, over sets of k images of a condition, in their order."""
    sets, means = {}, []
    for image, condition in zip(images, conditions, strict=True):
        sets.setdefault(condition, []).append(((resized(image) + 1) * 127.5).round().to(torch.uint8))
        if len(sets[condition]) == k:
            v = Tiny()(torch.cat(sets.pop(condition))).vectors.double()
            v = v / v.norm(dim=1, keepdim=True)
            means.append(np.mean([1 - float(v[i] @ v[j]) for i, j in combinations(range(k), 2)]))
    return np.mean(means), len(means)


@pytest.mark.parametrize(
    ("conditions", "k"),
    [(PROMPTS, 4), ([i % 3 for i in range(12)], 4), (["a"] * 12, 4), ([None] * 12, 2), (["a", "b", "c"] * 4, 3)],
)
def test_images_of_a_condition_are_compared_in_sets_wherever_they_lie(conditions, k):
    metric = ByPrompt(k, "tiny", size=SIDE)
    metric.update(wide(12), conditions)
    value, sets = literal(wide(12), conditions, k)
    found = metric.compute()
    assert found["value"] == pytest.approx(value, rel=1e-5) and found["prompts"] == sets and metric.bytes >= 0
    assert metric.name == "diversity/tiny" and "no LPIPS" in metric.protocol["distance"]


def test_images_that_are_all_alike_have_none():
    metric = ByPrompt(extractor="tiny", size=SIDE)
    metric.update(wide(1).repeat(4, 1, 1, 1), ["a"] * 4)
    assert metric.compute()["value"] == pytest.approx(0, abs=1e-9)


def test_it_keeps_the_protocol_of_metrics():
    check_metric(lambda: ByPrompt(extractor="tiny", size=SIDE), wide(12), PROMPTS)


def test_too_few_images_of_a_prompt_are_refused():
    metric = ByPrompt(extractor="tiny", size=SIDE)
    metric.update(wide(3), ["a", "b", "a"])
    with pytest.raises(UserError, match="needs 4 images of a prompt, there are 2; draw them: --per-prompt 4"):
        metric.compute()
    with pytest.raises(UserError, match="3 images are too few; it needs 4 of a prompt"):
        metric.check(3)


def test_prompts_that_wait_for_images_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("dmd2_plugins.metrics.diversity.BYTES", 8 * 3 * 25 * 40)
    metric = ByPrompt(extractor="tiny", size=SIDE)
    metric.update(wide(12), PROMPTS)
    with pytest.raises(UserError, match="12 prompts lack images; draw them with --per-prompt 4"):
        metric.update(wide(12), range(12))


BAD = {
    "one": ({"per_prompt": 1}, "per_prompt must be at least 2, got 1"),
    "size": ({"size": 0}, "size must be at least 1, got 0"),
    "name": ({"extractor": "lpips-vg"}, "no extractor 'lpips-vg'; did you mean 'lpips-vgg'?"),
    "weights": ({}, "diversity: LPIPS needs the weights of VGG-16"),
    "alex": ({"extractor": "lpips-alex"}, "m.alexnet(weights=m.AlexNet_Weights.DEFAULT)"),
    "tiny": ({"extractor": "tiny", "weights": "x.pth"}, "extractor 'tiny' reads no weights file"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_had_is_one_line(what, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    options, said = BAD[what]
    with pytest.raises(UserError) as caught:
        ByPrompt(**options)
    assert said in str(caught.value) and "\n" not in str(caught.value) and "distance: l2" not in str(caught.value)
