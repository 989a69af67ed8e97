"""Networks of the EDM family: sizes, names, how they start, precision, labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dmd2_plugins.edm.block import Block
from dmd2_plugins.edm.layers import Conv, GroupNorm, Linear, Resample
from dmd2_plugins.edm.network import network
from dmd2_plugins.edm.presets import PRESETS
from dmd2_plugins.edm.teacher import teacher
from torch import nn

from dmd2cli.core.heads import conv_head

TINY = ("tiny-adm", "tiny-ddpmpp", "tiny-ncsnpp")


def inputs(config, rows=2):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, config.img_resolution, config.img_resolution, generator=rng)
    cond = {"label": torch.eye(config.label_dim)[:rows]} if config.label_dim else {}
    return x, torch.linspace(0.3, 0.9, rows), cond


def moved(name):
    """A tiny network away from its start, whose last layers are (nearly) zero."""
    made = network(PRESETS[name].config, seed=1).eval()
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=rng))
    return made


def numbers(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("imagenet64", 295.9), ("cifar10-cond", 55.7), ("cifar10-uncond", 55.7), ("ffhq", 61.8), ("afhqv2-ve", 62.8)],
)
def test_published_networks_have_the_published_sizes(name, millions):
    with torch.device("meta"):
        assert round(numbers(network(PRESETS[name].config)) / 1e6, 1) == millions


def test_the_head_of_imagenet_64_has_the_released_size():
    with torch.device("meta"):
        found = teacher("imagenet64", skeleton={})
        head = found.head()
        assert numbers(head) == 18_879_745
        x, t, cond = (v.to("meta") if isinstance(v, torch.Tensor) else v for v in inputs(PRESETS["imagenet64"].config))
        features = found.denoiser.features(x, t, {"label": cond["label"].to("meta")})
    assert features.shape == (2, 768, 8, 8) and head(features).shape == (2, 1)


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("tiny")])
def test_every_published_network_fits_its_head(name):
    channels, side = PRESETS[name].config.bottleneck
    with torch.device("meta"):
        assert conv_head(channels, side)(torch.zeros(2, channels, side, side)).shape == (2, 1)


@pytest.mark.parametrize("name", TINY)
def test_a_fresh_network_hardly_predicts_anything(name):
    made = network(PRESETS[name].config)
    x, t, cond = inputs(PRESETS[name].config)
    c_skip, *_ = (c.float() for c in made._coefficients(x, t))
    assert torch.allclose(made(x, t, cond), c_skip * x, atol=1e-4)


def test_layers_start_as_published():
    adm, song = (network(PRESETS[name].config).requires_grad_(False).backbone for name in ("tiny-adm", "tiny-ddpmpp"))
    conv = adm.enc["16x16_block0"].conv0
    assert 0.9 < float(conv.weight.abs().max()) * (9 * 32) ** 0.5 <= 1 and conv.bias.any()
    assert not adm.enc["16x16_block0"].conv1.weight.any() and not adm.dec["8x8_in0"].proj.weight.any()
    assert 0.8 < float(adm.map_label.weight.std()) < 1.2
    conv, bound = song.enc["16x16_block0"].conv0, (6 / (9 * 32 + 9 * 32)) ** 0.5
    assert 0.95 < float(conv.weight.abs().max()) / bound <= 1 and not conv.bias.any()
    assert 0 < float(song.enc["16x16_block0"].conv1.weight.abs().max()) < 1e-4
    assert 0.9 < float(song.dec["8x8_in0"].qkv.weight.abs().max()) / (0.2 * 6 / (64 + 192)) ** 0.5 <= 1


def test_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, again, other = (network(PRESETS["tiny-ncsnpp"].config, seed) for seed in (3, 3, 4))
    assert torch.get_rng_state().equal(before)
    assert all(a.equal(b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert not one.backbone.map_noise.freqs.equal(other.backbone.map_noise.freqs)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_features_are_what_the_last_block_of_the_encoder_gives(name):
    made, (x, t, cond) = moved(name), inputs(PRESETS[name].config)
    seen = []
    list(made.backbone.enc.values())[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
    assert made.features(x, t, cond).equal(seen[0])
    fine, bottleneck = made.taps(x, t, cond, (0, 1))
    assert fine.shape == (2, 32, 16, 16) and bottleneck.equal(seen[0])
    x_hat, features = made.joint(x, t, cond, 1)
    assert features.equal(seen[0]) and torch.allclose(x_hat, made(x, t, cond)[:1], atol=1e-5)


@torch.no_grad()
def test_in_bfloat16_blocks_compute_in_it_and_the_embedding_does_not():
    made, (x, t, cond) = moved("tiny-adm"), inputs(PRESETS["tiny-adm"].config)
    seen: dict[type, set] = {}
    for part in made.modules():
        if isinstance(part, Conv | GroupNorm | Resample | Linear):
            part.register_forward_hook(lambda m, _, out: seen.setdefault(type(m), set()).add(out.dtype))
    exact = made(x, t, cond)
    seen.clear()
    made.autocast = torch.bfloat16
    found = made(x, t, cond)
    assert seen[Linear] == {torch.float32} and seen.pop(Linear)
    assert set.union(*seen.values()) == {torch.bfloat16}
    assert found.dtype == torch.float32 and torch.allclose(found, exact, atol=0.03)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@torch.no_grad()
def test_weights_may_be_stored_in_bfloat16(precision):
    made, (x, t, cond) = moved("tiny-ncsnpp"), inputs(PRESETS["tiny-ncsnpp"].config)
    made.autocast = precision
    exact = made(x, t, cond)
    for p in made.parameters():
        p.data = p.data.bfloat16()
    assert 0 < float((made(x, t, cond) - exact).norm() / exact.norm()) < 0.03


@torch.no_grad()
def test_labels_and_augmentation_reach_the_output_and_zeros_are_no_label():
    made = moved("tiny-ddpmpp")
    x, t, cond = inputs(PRESETS["tiny-ddpmpp"].config)
    plain = made(x, t, cond)
    assert not made(x, t, {"label": cond["label"].roll(1, 1)}).equal(plain)
    assert not made(x, t, {**cond, "augment": torch.ones(2, 9)}).equal(plain)
    assert torch.allclose(made(x, t, {**cond, "augment": torch.zeros(2, 9)}), plain, atol=1e-6)


def test_label_dropout_hides_labels_in_training_alone():
    config = replace(PRESETS["tiny-adm"].config, label_dropout=0.5)
    backbone = network(config).backbone.train()
    cond = {"label": torch.eye(10).repeat(20, 1)}
    torch.manual_seed(0)
    shown = backbone.labels(cond).sum(1)
    assert set(shown.tolist()) == {0.0, 1.0} and 0.3 < float(shown.mean()) < 0.7
    assert backbone.eval().labels(cond).equal(cond["label"])


def test_dropout_acts_in_training_alone():
    config = replace(PRESETS["tiny-adm"].config, dropout=0.5)
    block: Block = network(config).backbone.enc["16x16_block0"]
    nn.init.ones_(block.conv1.weight)
    h, embedding = torch.randn(1, 32, 4, 4), torch.zeros(1, 128)
    torch.manual_seed(0)
    assert not block.train()(h, embedding).equal(block(h, embedding))
    assert block.eval()(h, embedding).equal(block(h, embedding))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling_keeps_the_mean_and_halves_or_doubles_the_side(taps):
    x = torch.full((1, 2, 16, 16), 3.0)
    down, up = Resample("down", taps)(x), Resample("up", taps)(x)
    assert down.shape[-1] == 8 and up.shape[-1] == 32
    for found in (down, up):
        assert torch.allclose(found[..., 2:-2, 2:-2], torch.tensor(3.0))


def test_the_box_is_the_filter_of_two_ones():
    x = torch.randn(2, 3, 8, 8)
    for direction in ("down", "up"):
        fast = Resample(direction, (1, 1))
        slow = Resample(direction, (1, 1))
        slow.box = False
        assert torch.allclose(fast(x), slow(x), atol=1e-6)


def test_weights_lie_channels_last():
    made = network(PRESETS["tiny-adm"].config)
    weight = made.backbone.enc["16x16_block0"].conv0.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
