"""A teacher of latents and text in small, and images with captions for it."""

import json
from dataclasses import dataclass, field

import image_files
import torch
from torch import nn

from dmd2cli.core.noise import RectifiedFlow
from dmd2cli.core.weighting import uniform
from dmd2cli.errors import UserError
from dmd2cli.protocols import Teacher

SHAPE, SIDE, N = (4, 4, 4), 8, 10
CAPTIONS = [f"a {'très ' if i == 3 else ''}small llama number {i}" for i in range(N)]


class Net(nn.Module):
    """x_hat = scale x_t + the mean of the text."""

    def __init__(self, scale=0.5):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, x_t, t, cond):
        text = cond["text"].mean((1, 2))[:, None, None, None] if cond else 0.0
        return self.scale * x_t + text

    def features(self, x_t, t, cond):
        return self.forward(x_t, t, cond)


@dataclass
class Codec:
    """Latents are the grey image at half the size, four times; a sample of the posterior is 0.1 noise away."""

    encoded: list = field(default_factory=list)
    bad: float | None = None
    """Latents of images whose first pixel is 1 become this."""

    def __call__(self, x):
        grey = nn.functional.interpolate(x.mean(1, keepdim=True), scale_factor=2.0)
        return ((grey + 1) * 127.5).clamp(0, 255).round().byte().expand(-1, 3, -1, -1)

    def latents(self, images, noise=None):
        self.encoded.append(len(images))
        x = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 2).expand(-1, 4, -1, -1)
        if self.bad is not None:
            x = torch.where(images[:, :1, :1, :1] == 1, self.bad, x)
        return x.clone() if noise is None else x + 0.1 * noise


@dataclass
class Words:
    """Text (b, 5, 20) by the letters of the prompt, size (b, 2); the null condition is that of the empty prompt."""

    encoded: list = field(default_factory=list)

    def one(self, prompt):
        letters = torch.tensor([float(ord(c)) for c in prompt] + [0.0] * 100)[:100] / 150
        return letters.view(5, 20)

    def __call__(self, raw):
        self.encoded.append(list(raw))
        if bad := [c for c in raw if c is not None and not isinstance(c, str)]:
            raise UserError(f"condition {bad[0]!r}: this teacher reads prompts; give text instead of a class label")
        blank = torch.empty(0, 5, 20)
        both = (raw, [None] * len(raw))
        text, null = (torch.cat([blank, *(self.one(c or "")[None] for c in found)]) for found in both)
        size = torch.tensor([[2049.0, 0.1]]).repeat(len(raw), 1)
        return {"text": text, "size": size}, {"text": null, "size": size}


def teacher(scale=0.5, shape=SHAPE, codec=None, words=None, **more):
    """The teacher, its network, codec and words given or new."""
    found = codec or Codec()
    return Teacher(
        Net(scale), RectifiedFlow(), shape, uniform, words or Words(), found, lambda: nn.Flatten(), **more
    )


def images(folder, n=N, side=SIDE, captions=CAPTIONS):
    """PNG files with text files beside them."""
    image_files.folder(folder, [f"{i}.png" for i in range(n)], image_files.values(n, side))
    for i, caption in enumerate(captions[:n]):
        (folder / f"{i}.txt").write_text(f"{caption}\n", encoding="utf-8")
    return folder


def prompts(path, texts=CAPTIONS):
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def lmdb_of_latents(path, latents, texts=None):
    """As the official code writes it: float16, the prompts beside."""
    import lmdb

    with lmdb.open(str(path), map_size=2**22) as env, env.begin(write=True) as write:
        write.put(b"latents_shape", " ".join(map(str, latents.shape)).encode())
        for i, latent in enumerate(latents):
            write.put(f"latents_{i}_data".encode(), latent.numpy().astype("<f2").tobytes())
        for i, text in enumerate(texts or ()):
            write.put(f"prompts_{i}_data".encode(), text.encode())
    return path


def metadata(folder, captions, key="text"):
    """The list that Hugging Face reads beside images."""
    rows = ({"file_name": f"{i}.png", key: caption} for i, caption in enumerate(captions))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
