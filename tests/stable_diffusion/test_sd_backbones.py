"""The two halves of each network are the network of diffusers, and the first alone makes the features."""

import pytest
import tiny_pipelines as tiny
import torch
from dmd2_plugins.stable_diffusion import transformer, unet
from torch import nn

diffusers = pytest.importorskip("diffusers")
TEXT = {"text": 32, "pooled": 24}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cond(b, width, pooled=None, n=7):
    found = {"text": random(b, n, width, seed=1)}
    if pooled:
        sizes = torch.tensor([[64.0, 32, 0, 0, 64, 32]]).repeat(b, 1)
        found |= {"pooled": random(b, pooled, seed=2), "time_ids": sizes}
    return found


def noisy(net):
    """Weights that are all in use: no zero-initialised layer hides what is behind it."""
    torch.manual_seed(0)
    for p in net.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return net.eval().requires_grad_(False)


def sd15(**options):
    torch.manual_seed(0)
    return unet.UNet(noisy(tiny.unet(**options)))


def sdxl():
    return sd15(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 48,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def sd3():
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 12, "num_layers": 3}
    width = {"attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32}
    text = {"joint_attention_dim": 32, "pooled_projection_dim": 24, "qk_norm": "rms_norm"}
    return transformer.SD3(noisy(diffusers.SD3Transformer2DModel(**sizes, **width, **text)))


def pixart(sized=True):
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 8, "num_layers": 3, "interpolation_scale": 1}
    width = {"num_attention_heads": 4, "attention_head_dim": 12, "cross_attention_dim": 48, "caption_channels": 32}
    net = diffusers.PixArtTransformer2DModel(**sizes, **width, use_additional_conditions=sized)
    return transformer.PixArt(noisy(net))


def flux(guided=False):
    width = {"attention_head_dim": 8, "num_attention_heads": 4, "axes_dims_rope": (2, 2, 4), "in_channels": 16}
    text = {"joint_attention_dim": 32, "pooled_projection_dim": 24, "guidance_embeds": guided}
    return transformer.Flux(noisy(diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=3, **width, **text)))


def whole(backbone, x, c, given):
    """The forward pass of diffusers, as its pipelines call it."""
    net = getattr(backbone, "unet", None) or backbone.transformer
    named = {"pooled_projections": given.get("pooled"), "encoder_hidden_states": given["text"], "timestep": c}
    if isinstance(backbone, unet.UNet):
        added = {"text_embeds": given.get("pooled"), "time_ids": given.get("time_ids")} if "pooled" in given else None
        return net(x, c, given["text"], added_cond_kwargs=added).sample
    if isinstance(backbone, transformer.SD3):
        return net(x, **named).sample
    if isinstance(backbone, transformer.PixArt):
        size = given["time_ids"][:, :2]
        sizes = {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}
        added = sizes if net.use_additional_conditions else {"resolution": None, "aspect_ratio": None}
        found = net(x, given["text"], c, added, encoder_attention_mask=given["mask"]).sample
        return found.chunk(2, dim=1)[0]
    pack, unpack = diffusers.FluxPipeline._pack_latents, diffusers.FluxPipeline._unpack_latents
    b, channels, h, w = x.shape
    ids = diffusers.FluxPipeline._prepare_latent_image_ids(b, h // 2, w // 2, x.device, x.dtype)
    scale = given.get("guidance", torch.full((b,), 3.5)) if net.config.guidance_embeds else None
    rest = {"img_ids": ids, "txt_ids": torch.zeros(given["text"].shape[1], 3), "guidance": scale}
    found = net(pack(x, b, channels, h, w), **{**named, "timestep": c / 1000}, **rest).sample
    return unpack(found, 8 * h, 8 * w, 8)


NETWORKS = {
    "sd15": lambda: (sd15(), {}),
    "sdxl": lambda: (sdxl(), {"pooled": 24}),
    "sd3": lambda: (sd3(), {"pooled": 24}),
    "pixart": lambda: (pixart(), {"pooled": 24}),
    "pixart-sigma": lambda: (pixart(sized=False), {"pooled": 24}),
    "flux": lambda: (flux(), {"pooled": 24}),
    "flux-guided": lambda: (flux(guided=True), {"pooled": 24}),
}


def case(name, b, h=8, w=8):
    backbone, extra = NETWORKS[name]()
    given = cond(b, 32, **extra) | {"mask": torch.tensor([[1.0] * 5 + [0.0] * 2]).repeat(b, 1)}
    x, c = random(b, 4, h, w), torch.tensor([999.0, 3, 499, 20][:b])
    return backbone, x, c, given


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("b, h, w", [(1, 8, 8), (4, 8, 8), (2, 4, 12)])
def test_both_halves_are_the_network_of_diffusers(name, b, h, w):
    backbone, x, c, given = case(name, b, h, w)
    with torch.no_grad():
        found, wanted = backbone.decode(backbone.encode(x, c, given)), whole(backbone, x, c, given)
    assert wanted.abs().mean() > 0.05
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_state_is_batch_first_and_starts_with_the_features(name):
    backbone, x, c, given = case(name, 3)
    with torch.no_grad():
        state, alone = backbone.encode(x, c, given), backbone.encode(x[:1], c[:1], {k: v[:1] for k, v in given.items()})
    assert all(len(s) == 3 for s in state) and state[0].ndim == 4 and state[0].shape[2:] == (4, 4)
    first = backbone.decode(tuple(s[:1] for s in state))
    torch.testing.assert_close(first, backbone.decode(alone), atol=1e-5, rtol=1e-5)
    assert backbone.taps(state)[-1] is state[0]


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_features_are_those_after_the_mid_block(name):
    backbone, x, c, given = case(name, 2)
    seen = []
    backbone.unet.mid_block.register_forward_hook(lambda module, args, out: seen.append(out))
    backbone.unet.up_blocks.register_module("0", nn.Identity())                # calling it would raise
    with torch.no_grad():
        features = backbone.encode(x, c, given)[0]
    assert seen[0].equal(features)


def test_taps_are_what_the_down_blocks_give():
    backbone, x, c, given = case("sd15", 2)
    seen = []
    for block in backbone.unet.down_blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out[0]))
    with torch.no_grad():
        *taps, last = backbone.taps(backbone.encode(x, c, given))
    assert len(taps) == len(seen) == 2 and all(a.equal(b) for a, b in zip(taps, seen, strict=True))
    assert [tuple(tap.shape[1:]) for tap in (*taps, last)] == [(16, 4, 4), (32, 4, 4), (32, 4, 4)]


def test_odd_sizes_are_upsampled_to_the_skips():
    backbone, x, c, given = case("sd15", 2, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(backbone.decode(backbone.encode(x, c, given)), whole(backbone, x, c, given))


@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_autocast_with_float32_and_with_frozen_bf16_weights(name):
    """Storing the weights in bf16 changes no more than computing in bf16 does; half precision alone works as well."""
    backbone, x, c, given = case(name, 2)
    with torch.no_grad():
        exact = backbone.decode(backbone.encode(x, c, given))
        with torch.autocast("cpu", torch.bfloat16):
            cast = backbone.decode(backbone.encode(x, c, given)).float()
        backbone.to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            stored = backbone.decode(backbone.encode(x, c, given)).float()
        alone = backbone.decode(backbone.encode(x, c, given)).float()
    for found in (cast, stored, alone):
        assert found.isfinite().all() and (found - exact).norm() < 0.05 * exact.norm()


def test_the_guidance_scale_is_embedded_as_in_diffusers():
    """A UNet with time_cond_proj_dim reads the scale, as diffusers' LCM pipelines give it."""
    backbone, x, c, given = case("sd15", 2)
    backbone = sd15(time_cond_proj_dim=16)
    pipe = diffusers.LatentConsistencyModelPipeline
    w = pipe.get_guidance_scale_embedding(None, torch.tensor([6.5, 0.0]), embedding_dim=16)
    with torch.no_grad():
        found = backbone.decode(backbone.encode(x, c, given | {"guidance": torch.tensor([7.5, 1.0])}))
        wanted = backbone.unet(x, c, given["text"], timestep_cond=w).sample
        ignored = backbone.decode(backbone.encode(x, c, given))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, ignored, atol=1e-3)
