"""The networks of a small Stable Diffusion, of diffusers' and transformers' own classes, and the folder they make."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dmd2_plugins.captioned_digits.tokenizer import TOKENS, tokenizer
from dmd2_plugins.stable_diffusion.folder import quiet
from dmd2cli.errors import UserError

SIDE, FACTOR, CHANNELS, WIDTH = 8, 2, 4, 32
"""Pixels of a side, pixels per latent, channels of the latents, width of the encoded text."""
GROUPS = 8
"""Of the normalisations."""
TABLE = (0.00085, 0.012, 1000)
"""Stable Diffusion's timesteps: first and last beta, linear in their square roots, and how many."""


class Parts(nn.Module):
    """vae, text_encoder and unet, from scratch: Stable Diffusion 1.5 in small, but predicting v."""

    def __init__(self, vae: tuple[int, int], unet: tuple[int, int]) -> None:
        """vae, unet: channels of their two resolutions. Raises UserError for others than multiples of 8."""
        super().__init__()
        if bad := [n for n in (*vae, *unet) if n < 1 or n % GROUPS]:
            raise UserError(f"channels must be multiples of {GROUPS}, got {bad[0]}")
        self.vae = autoencoder(vae)
        self.text_encoder = text_encoder()
        self.unet = network(unet)

    def read(self, texts: list[str]) -> Float[Tensor, "b 77 32"]:
        """What the UNet reads of some captions, each of them encoded once."""
        once = list(dict.fromkeys(texts))
        given = tokenizer()(once, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        place = self.text_encoder.device
        found = self.text_encoder(given["input_ids"].to(place)).last_hidden_state
        return found[torch.tensor([once.index(text) for text in texts], device=place)]

    def save(self, folder: Path, scale: float) -> None:
        """Write what StableDiffusionPipeline.from_pretrained reads. scale: VAE's units times it are the UNet's."""
        import diffusers

        self.vae.register_to_config(scaling_factor=scale)
        parts = (self.vae, self.text_encoder, tokenizer(), self.unet, scheduler(), None, None)
        made: Any = diffusers.StableDiffusionPipeline
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        with quiet():
            made(*parts, requires_safety_checker=False).save_pretrained(draft)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)


def scheduler() -> Any:
    """Stable Diffusion's table for a network that predicts v."""
    import diffusers

    made: Any = diffusers.DDIMScheduler
    first, last, steps = TABLE
    betas = {"beta_start": first, "beta_end": last, "beta_schedule": "scaled_linear", "num_train_timesteps": steps}
    ends = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return made(**betas, **ends, prediction_type="v_prediction")


def autoencoder(channels: tuple[int, int]) -> Any:
    """An AutoencoderKL."""
    import diffusers

    made: Any = diffusers.AutoencoderKL
    return made(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=CHANNELS,
        norm_num_groups=GROUPS,
        sample_size=SIDE,
    )


def text_encoder() -> Any:
    """A CLIPTextModel of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def network(channels: tuple[int, int]) -> Any:
    """A UNet2DConditionModel that reads the text at its finer resolution and in the middle."""
    import diffusers

    made: Any = diffusers.UNet2DConditionModel
    return made(
        sample_size=SIDE // FACTOR,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=GROUPS,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )
