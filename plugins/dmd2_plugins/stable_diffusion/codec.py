"""The VAE around the latents: to pixels with and without a gradient, to uint8, and from pixels."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2_plugins.stable_diffusion.late import Late

PIXELS = 2**22
"""Of all images that are decoded at once: four of 1024 x 1024."""


@dataclass(frozen=True)
class Codec:
    """Teacher.decode of latent families. Model units are scaled latents: x = scale (z - shift)."""

    vae: Late
    """Of an AutoencoderKL."""
    scale: float
    shift: float = 0.0
    factor: int = 8
    """Pixels per latent, along a side."""
    tiny: Late | None = None
    """Of an AutoencoderTiny (TAESD), which decodes model units as they are."""
    tile_above: int = 1536
    """Images with a longer side than this are decoded in overlapping tiles."""

    def __call__(self, x: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b 3 H W"]:
        """Truncated as in the DMD2 release; anything outside [-1, 1] is clipped."""
        return torch.cat([((image + 1) * 127.5).clamp(0, 255).to(torch.uint8) for image in self.images(x)])

    @torch.no_grad()
    def images(self, x: Tensor) -> list[Float[Tensor, "n 3 H W"]]:
        """Pixels in [-1, 1] without gradient, in pieces; again in float32 if a half-precision VAE overflowed."""
        at_once = max(1, PIXELS // (x.shape[-2] * x.shape[-1] * self.factor**2))
        return [self.finite(x[i : i + at_once]) for i in range(0, len(x), at_once)]

    def finite(self, x: Tensor) -> Tensor:
        """Pixels; the VAE stays in float32 once it had to be."""
        found = self.pixels(x)
        if found.isfinite().all() or not x.isfinite().all() or self.vae.place.dtype == torch.float32:
            return found
        was = str(self.vae.place.dtype).removeprefix("torch.")
        print(f"the VAE overflows in {was}: in float32 from here on (teacher.vae_dtype: fp32)", file=sys.stderr)
        self.vae.to(torch.float32)
        return self.pixels(x)

    def pixels(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Pixels in [-1, 1], float32, differentiable; neither clipped nor rounded."""
        place, vae = self.vae.place, self.vae.get()
        long = max(x.shape[-2:]) * self.factor > self.tile_above
        (vae.enable_tiling if long else vae.disable_tiling)()
        z = x.to(place.device) / self.scale + self.shift
        return vae.decode(z.to(place.dtype), return_dict=False)[0].float()

    def tiny_pixels(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """The same by the small decoder."""
        assert self.tiny is not None, "offered only where there is one"
        place = self.tiny.place
        return self.tiny.get().decode(x.to(place), return_dict=False)[0].float()

    @torch.no_grad()
    def latents(self, images: Tensor, noise: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        """Model units of images, uint8 or in [-1, 1] (b, 3, H, W): the posterior's mean, or a sample of it.

        noise: unit normal of the latents' shape, for a sample.
        """
        pixels = images / 127.5 - 1 if images.dtype == torch.uint8 else images
        place = self.vae.place
        posterior: Any = self.vae.get().encode(pixels.to(place)).latent_dist
        z = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(place)
        return (z.float() - self.shift) * self.scale

    def with_tiny(self) -> Codec:
        """The same, drawing by the small decoder."""
        assert self.tiny is not None, "offered only where there is one"
        return replace(self, vae=self.tiny, scale=1.0, shift=0.0)
