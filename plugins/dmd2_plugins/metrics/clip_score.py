"""clip-score: how well images fit their prompts, as the cosine of their CLIP vectors (Hessel et al. 2021, unscaled)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dmd2_plugins.metrics.clip_model import MODEL, clip, with_prefix
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError, suggest
from dmd2cli.pictures import open_pictures
from dmd2cli.protocols import Raw
from dmd2cli.views import square

PREFIX = "A photo depicts"
PROTOCOLS = ("paper", "plain")


class ClipScore:
    """The mean over images of the cosine between image and prompt, not scaled; higher is better.

    protocol: paper, as the release of [DMD2] prepares images and prompts, or plain, as open_clip does. model: NAME or
    NAME/TAG of open_clip, a configuration .json, or a folder with one. weights: its file; None = where it usually is.
    reference: images with captions, whose own score stands beside it. batch: images through the model at once.
    """

    reads_prompts, any_size = True, True

    def __init__(
        self,
        protocol: str = "paper",
        model: str = MODEL,
        weights: str | None = None,
        reference: str | None = None,
        batch: int = 32,
        device: str = "auto",
    ) -> None:
        if protocol not in PROTOCOLS:
            raise UserError(f"clip-score: unknown protocol {protocol!r}{suggest(protocol, PROTOCOLS)}")
        if batch < 1:
            raise UserError(f"clip-score: batch must be at least 1, got {batch}")
        self.view = square(256) if protocol == "paper" else None
        path = Path(reference).expanduser() if reference is not None else None
        self.reference = open_pictures(path, self.view, self.view is None, captions=True) if path else None
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.clip, self.batch = clip(model, weights, place), batch
        if self.view is not None and not self.clip.own_tokens:
            raise UserError(f"clip-score: {self.clip.name} has another tokenizer than CLIP's; --protocol plain")
        self.name = f"clip-score/{protocol}-{self.clip.name.partition('/')[0]}"
        self.cosines: list[Tensor] = []

    @property
    def protocol(self) -> Mapping[str, Any]:
        texts = f"CLIP's tokens, those of '{PREFIX}' after the first, cut to the length"
        return {
            "direction": "higher is better",
            "score": "mean cosine of image and prompt, not scaled",
            "network": f"open_clip {self.clip.name}",
            "resize": f"{self.view.words}, then open_clip's own" if self.view else "open_clip's own",
            "text": texts if self.view is not None else "open_clip's tokens",
            "precision": "float32, TF32 off",
            "weights": f"sha256 {self.clip.sha256}",
            **({"reference": self._about} if self.reference is not None else {}),
        }

    @property
    def _about(self) -> dict[str, Any]:
        assert self.reference is not None
        facts = {"images": len(self.reference), "data": self.reference.fingerprint}
        return {"path": str(self.reference.path), **facts}

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        seen = self.view(images) if self.view is not None else images
        self.cosines.append(self._scores(seen, conditions))

    def compute(self) -> Mapping[str, float]:
        return {"value": torch.cat(self.cosines).double().mean().item()}

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """n images of the reference with their own captions, drawn with replacement; {} without one."""
        if self.reference is None:
            return {}
        source = Rng(seed, 0).generator("bootstrap", torch.device("cpu"))
        rows = torch.randint(len(self.reference), (n,), generator=source).tolist()
        found, first = list[Tensor](), 0
        for images in self.reference.draw(rows):
            captions = [self.reference.source.caption(i) for i in rows[first : first + len(images)]]
            found.append(self._scores(images, captions))
            first += len(images)
        return {"value": torch.cat(found).double().mean().item()}

    def _scores(self, images: Tensor, conditions: Sequence[Raw]) -> Float[Tensor, " b"]:
        texts = [one for one in conditions if isinstance(one, str)]
        if len(texts) < len(images):
            other = next(one for one in conditions if not isinstance(one, str))
            raise UserError(f"{self.name}: an image has no prompt, only {other!r}; say them: --prompts FILE")
        pairs = zip(torch.split(images, self.batch), _split(texts, self.batch), strict=True)
        return torch.cat([self._cosines(*pair) for pair in pairs])

    def _cosines(self, images: Tensor, texts: Sequence[str]) -> Float[Tensor, " b"]:
        """Of one batch on the device; each text is encoded once."""
        own = list(dict.fromkeys(texts))
        tokens = with_prefix(self.clip.tokenize, own, PREFIX) if self.view is not None else self.clip.tokenize(own)
        vectors = self.clip.of_tokens(tokens)[[own.index(text) for text in texts]]
        return (self.clip.of_images(images) * vectors).sum(1).cpu()


def _split(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
