"""The VAE in both directions, its guard against overflow, tiles, and the small decoder."""

import tiny_pipelines as tiny
import torch
from dmd2_plugins.stable_diffusion.codec import Codec

X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
close = torch.testing.assert_close


def literal(pipe, x):
    """Pixels in [-1, 1] as a pipeline decodes its latents."""
    config = pipe.vae.config
    with torch.no_grad():
        return pipe.vae.decode(x / config.scaling_factor + (config.shift_factor or 0), return_dict=False)[0]


def test_decoding_is_that_of_the_pipeline(teacher, pipe):
    for name in ("sd15", "sdxl", "sd3"):
        source, wanted = teacher(name), literal(pipe(name), X)
        close(source.decoders["full"](X), wanted)
        assert source.decode(X).equal(((wanted + 1) * 127.5).clamp(0, 255).to(torch.uint8))


def test_encoding_is_the_posterior_of_the_vae_in_model_units(teacher, pipe):
    images, noise = torch.rand(3, 3, 16, 16) * 2 - 1, torch.randn(3, 4, 8, 8)
    for name in ("sdxl", "sd3"):
        codec, vae = teacher(name).decode, pipe(name).vae
        with torch.no_grad():
            posterior = vae.encode(images).latent_dist
        units = lambda z, config=vae.config: (z - (config.shift_factor or 0)) * config.scaling_factor  # noqa: E731
        close(codec.latents(images), units(posterior.mean))
        close(codec.latents(images, noise), units(posterior.mean + posterior.std * noise))
        whole = ((images + 1) * 127.5).round().to(torch.uint8)
        close(codec.latents(whole), codec.latents(whole / 127.5 - 1))


def test_the_full_decoder_has_a_gradient_and_the_drawing_one_has_none(teacher):
    source, x = teacher("sd15"), X.clone().requires_grad_()
    source.decoders["full"](x).square().mean().backward()
    assert x.grad.abs().sum() > 0 and not source.decode.images(x)[0].requires_grad
    assert not any(p.requires_grad for p in source.helpers[1].parameters())


def test_a_small_decoder(teacher, tmp_path):
    from diffusers import AutoencoderTiny

    folder = tiny.tiny_vae(tmp_path / "taesd")
    source, x = teacher("sd15", tiny=str(folder)), X.clone().requires_grad_()
    with torch.no_grad():
        wanted = AutoencoderTiny.from_pretrained(folder).decode(X, return_dict=False)[0]
    found = source.decoders["tiny"](x)
    close(found, wanted)
    found.sum().backward()
    assert x.grad.any() and len(source.helpers) == 3 and set(source.decoders) == {"full", "tiny"}
    assert source.decode.with_tiny()(X).equal(((wanted + 1) * 127.5).clamp(0, 255).to(torch.uint8))
    assert set(teacher("sd15").decoders) == {"full"}


def test_another_vae_decodes_in_the_units_of_the_base(teacher, tmp_path):
    torch.manual_seed(9)
    tiny.vae(scaling_factor=7.0).save_pretrained(tmp_path / "vae")
    source = teacher("sd15", vae=str(tmp_path / "vae"))
    assert source.decode.scale == 0.18215
    assert not torch.allclose(source.decoders["full"](X), teacher("sd15").decoders["full"](X), atol=1e-3)


def overflowing(source):
    """Make a half-precision VAE say NaN, as SDXL's does in float16."""
    codec = source.decode
    codec.vae.get().decoder.conv_in.register_forward_hook(
        lambda module, args, out: out * torch.nan if out.dtype == torch.bfloat16 else out
    )
    return codec


def test_an_overflowing_vae_is_told_once_and_decodes_in_float32(teacher, capsys):
    codec, wanted = overflowing(teacher("sd15", vae_dtype="bf16")), teacher("sd15").decode(X)
    for _ in range(2):
        difference = codec(X).int() - wanted.int()
        assert difference.abs().max() == 0                            # its weights are read again, not rounded
    said = capsys.readouterr().err
    assert said == "the VAE overflows in bfloat16: in float32 from here on (teacher.vae_dtype: fp32)\n"


def test_latents_that_are_nan_are_not_blamed_on_the_vae(teacher, capsys):
    codec = teacher("sd15", vae_dtype="bf16").decode
    codec(X * torch.nan)
    assert capsys.readouterr().err == "" and codec.vae.place.dtype == torch.bfloat16


def test_large_images_are_tiled_and_small_ones_are_not(teacher):
    codec = teacher("sd15", tile_above=16).decode
    vae, used = codec.vae.get(), []
    tiled = vae.tiled_decode
    vae.tiled_decode = lambda *args, **kwargs: (used.append(1), tiled(*args, **kwargs))[1]
    codec(X)
    assert not used
    wide = torch.randn(1, 4, 8, 24)
    assert codec(wide).shape == (1, 3, 16, 48) and used
    codec(X)
    assert len(used) == 1


def test_batches_are_decoded_in_pieces(teacher, monkeypatch):
    source = teacher("sd15")
    whole = source.decode(X)
    monkeypatch.setattr("dmd2_plugins.stable_diffusion.codec.PIXELS", 16 * 16 * 2)
    calls = []
    monkeypatch.setattr(Codec, "pixels", lambda self, x, old=Codec.pixels: (calls.append(len(x)), old(self, x))[1])
    difference = source.decode(X).int() - whole.int()
    assert calls == [2, 1] and difference.abs().max() <= 1
