"""The networks of a small Stable Diffusion 1.5 of diffusers' and transformers' own classes, and their folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dmd2_plugins.captioned_digits.tokenizer import TOKENS, tokenizer

SIDE, FACTOR, CHANNELS, WIDTH = 8, 2, 4, 32
"""Pixels of a side, pixels per latent, channels of the latents, width of the encoded text."""

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
"""Stable Diffusion 1.5's, for a DDIMScheduler."""


class Parts(nn.Module):
    """vae, text_encoder and unet, from scratch. As in Stable Diffusion 1.5, but for their sizes."""

    def __init__(self, vae: tuple[int, ...], unet: tuple[int, ...]) -> None:
        """vae, unet: channels of their resolutions, from the finest."""
        super().__init__()
        self.vae: Any = vae_of(vae)
        self.text_encoder: Any = text_encoder_of()
        self.unet: Any = unet_of(unet)

    def encode(self, images: Float[Tensor, "b 3 8 8"], noise: Tensor) -> tuple[Any, Tensor]:
        """(posterior, a sample of it by unit noise of the latents' shape), in the VAE's own units."""
        posterior = self.vae.encode(images).latent_dist
        return posterior, posterior.mean + posterior.std * noise

    def read(self, texts: list[str]) -> Float[Tensor, "b 77 32"]:
        """Captions, each of them encoded once."""
        once = list(dict.fromkeys(texts))
        given = tokenizer()(once, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        place = self.text_encoder.device
        found = self.text_encoder(given["input_ids"].to(place)).last_hidden_state
        return found[torch.tensor([once.index(text) for text in texts], device=place)]

    def save(self, folder: Path, scale: float) -> None:
        """Write a folder for StableDiffusionPipeline. scale: from the VAE's units to those of the UNet."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        self.vae.register_to_config(scaling_factor=scale)
        words = tokenizer()
        parts = (self.vae, self.text_encoder, words, self.unet, DDIMScheduler(**SCHEDULER), None, None)
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        StableDiffusionPipeline(*parts, requires_safety_checker=False).save_pretrained(draft)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)


def vae_of(channels: tuple[int, ...]) -> nn.Module:
    """An AutoencoderKL whose latents are FACTOR times smaller."""
    from diffusers import AutoencoderKL

    down, up = (f"{name}Block2D" for name in ("DownEncoder", "UpDecoder"))
    blocks = {"down_block_types": (down,) * len(channels), "up_block_types": (up,) * len(channels)}
    return AutoencoderKL(
        block_out_channels=channels, latent_channels=CHANNELS, norm_num_groups=8, sample_size=SIDE, **blocks
    )


def text_encoder_of() -> nn.Module:
    """A CLIPTextModel of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer()
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "projection_dim": WIDTH, "num_attention_heads": 4}
    config = CLIPTextConfig(
        vocab_size=len(words), num_hidden_layers=2, max_position_embeddings=TOKENS, **sizes, **ids
    )
    return CLIPTextModel(config)


def unet_of(channels: tuple[int, ...]) -> nn.Module:
    """A UNet2DConditionModel that reads the text at its finest resolution and in its middle."""
    from diffusers import UNet2DConditionModel

    more = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=SIDE // FACTOR,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=channels,
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", *["DownBlock2D"] * more),
        up_block_types=(*["UpBlock2D"] * more, "CrossAttnUpBlock2D"),
    )
