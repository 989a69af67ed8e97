"""An LMDB of latents in the layout of the official DMD2 code (`sd_image_dataset.py`).

    latents_shape       the shape as text: count 4 height width
    latents_{i}_data    float16 (4, height, width): sampled from the posterior, times the VAE's scaling factor
    prompts_{i}_data    the prompt, UTF-8; may be missing
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from dmd2cli.data.corrupt import Corrupt
from dmd2cli.data.sources.lmdb_rows import environment
from dmd2cli.data.sources.source import SAMPLED
from dmd2cli.errors import UserError


class LmdbLatents:
    """Latents by position. array, prompts: what its two arrays are called. Raises UserError if it has no latents."""

    def __init__(self, path: str, array: str = "latents", prompts: str = "prompts") -> None:
        self.where, self.array, self.prompts = path, array, prompts
        found = self._get(f"{array}_shape")
        words = found.split() if found is not None else []
        if len(words) != 4 or not all(word.isdigit() for word in words) or not int(words[0]):
            told = "is not there" if found is None else f"is {found.decode(errors='replace')!r}"
            raise UserError(f"{path}: {array}_shape {told}; expected count, channels, height, width of latents")
        self.n, *self.item = (int(word) for word in words)
        self.captioned = self._get(f"{prompts}_0_data") is not None

    def __len__(self) -> int:
        return self.n

    def name(self, i: int) -> str:
        """Row i as a person looks for it."""
        return f"{self.where}/{self.array}_{i}_data"

    def x(self, i: int) -> NDArray[np.float32]:
        """Latent i (channels, height, width). Raises Corrupt if it is missing, cut or not finite."""
        raw = self._get(f"{self.array}_{i}_data")
        if raw is None:
            raise Corrupt(self.name(i), "no such key")
        if len(raw) != 2 * int(np.prod(self.item)):
            raise Corrupt(self.name(i), f"{len(raw)} bytes, not {2 * int(np.prod(self.item))}")
        found = np.frombuffer(raw, "<f2").reshape(self.item).astype(np.float32)
        if not np.isfinite(found).all():
            raise Corrupt(self.name(i), "its values are not finite")
        return found

    def prompt(self, i: int) -> str | None:
        """Of latent i; None if there are no prompts."""
        return (self._get(f"{self.prompts}_{i}_data") or b"").decode(errors="replace") if self.captioned else None

    def fingerprint(self) -> str:
        """SHA-256 over shape and SAMPLED rows with their prompts, evenly spaced."""
        digest, n = hashlib.sha256(f"{self.n} {self.item}".encode()), min(self.n, SAMPLED)
        for i in (k * self.n // n for k in range(n)):
            digest.update(self._get(f"{self.array}_{i}_data") or b"")
            digest.update((self.prompt(i) or "").encode())
        return digest.hexdigest()

    def _get(self, key: str) -> bytes | None:
        with environment(self.where).begin() as transaction:
            found: bytes | None = transaction.get(key.encode())
            return found
