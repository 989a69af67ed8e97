"""The VAE around the latents: to pixels with and without a gradient, to uint8, and from pixels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2_plugins.stable_diffusion.late import Late
from dmd2cli.errors import UserError

PIXELS = 2**20
"""Of all images that are decoded at once, one of 1024 x 1024: in float32 that takes 3 GiB."""


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
    """Images with a longer side than this are decoded, and encoded, in overlapping tiles."""
    small: bool = False
    """Whether images are drawn by the small decoder."""

    def __call__(self, x: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b 3 H W"]:
        """Truncated as in the DMD2 release; anything outside [-1, 1] is clipped."""
        return torch.cat([((image + 1) * 127.5).clamp(0, 255).to(torch.uint8) for image in self.images(x)])

    @torch.no_grad()
    def images(self, x: Tensor) -> list[Float[Tensor, "n 3 H W"]]:
        """Pixels in [-1, 1] without gradient, in pieces; again in float32 if a half-precision VAE overflowed."""
        at_once = max(1, PIXELS // (x.shape[-2] * x.shape[-1] * self.factor**2))
        return [self.finite(x[i : i + at_once]) for i in range(0, len(x), at_once)]

    def finite(self, x: Tensor) -> Tensor:
        """Pixels by the decoder that draws."""
        work, part = (self.tiny_pixels, self.tiny) if self.small else (self.pixels, self.vae)
        return self.guarded(work, x, part)

    def guarded(self, work: Callable[[Tensor], Tensor], x: Tensor, part: Late | None = None) -> Tensor:
        """What the VAE makes of x; it stays in float32 once it had to be."""
        part, found = part or self.vae, work(x)
        if found.isfinite().all() or not x.isfinite().all():
            return found
        if part.place.dtype == torch.float32:
            said = "the VAE gives values that are not finite, in float32 too; its pictures mean nothing"
            print(f"warning: {said}", file=sys.stderr)
            return found
        was = str(part.place.dtype).removeprefix("torch.")
        print(f"the VAE overflows in {was}: in float32 from here on (teacher.vae_dtype: fp32)", file=sys.stderr)
        part.exact()
        return self.guarded(work, x, part)

    def pixels(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Pixels in [-1, 1], float32, differentiable; neither clipped nor rounded."""
        place, vae = self.vae.place, self.tiled(self.vae.get(), max(x.shape[-2:]) * self.factor)
        z = x.to(place.device) / self.scale + self.shift
        return vae.decode(z.to(place.dtype), return_dict=False)[0].float()

    def tiled(self, vae: Any, side: int) -> Any:
        """A VAE that works in tiles where an image has a long side of so many pixels."""
        (vae.enable_tiling if side > self.tile_above else vae.disable_tiling)()
        return vae

    def tiny_pixels(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """The same by the small decoder."""
        assert self.tiny is not None, "offered only where there is one"
        place, vae = self.tiny.place, self.tiled(self.tiny.get(), max(x.shape[-2:]) * self.factor)
        return vae.decode(x.to(place), return_dict=False)[0].float()

    @torch.no_grad()
    def latents(self, images: Tensor, noise: Tensor | None = None) -> Float[Tensor, "b c h w"]:
        """Model units of images, uint8 or in [-1, 1] (b, 3, H, W): the posterior's mean, or a sample of it.

        noise: unit normal of the latents' shape, for a sample. Whether the VAE overflowed is asked in float16 alone,
        where it may: in training the host waits for the answer at every step.
        """
        pixels = images / 127.5 - 1 if images.dtype == torch.uint8 else images
        encode, wary = partial(self.encoded, noise=noise), self.vae.place.dtype == torch.float16
        return ((self.guarded(encode, pixels) if wary else encode(pixels)) - self.shift) * self.scale

    def encoded(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """What the VAE gives, in its own units, float32."""
        place, vae = self.vae.place, self.tiled(self.vae.get(), max(pixels.shape[-2:]))
        posterior: Any = vae.encode(pixels.to(place)).latent_dist
        z = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(place)
        return z.float()

    def with_tiny(self) -> Codec:
        """The same, drawing by the small decoder. Raises UserError if there is none."""
        if self.tiny is None:
            raise UserError("this teacher names no small decoder; name one (TAESD, TAESDXL)")
        return replace(self, small=True)
