"""Images and prompts encoded once by a recipe's teacher: shard by shard, from what lies in the folder already.

Item i is a function of the contract and of i: image and caption i of the data, and for a sample of the posterior the
noise of (seed, i), drawn on the CPU. So any machine can make any slice, and copying shards into one folder merges
slices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from dmd2cli.core.random import Numbered
from dmd2cli.data.cache_files import CACHE, COND, NULL, SHORT, identity
from dmd2cli.data.images import Images
from dmd2cli.data.latents import Latents, is_lmdb
from dmd2cli.data.progress import progress
from dmd2cli.engine import build
from dmd2cli.engine.phases import as_dict
from dmd2cli.engine.shard_folder import Made, ShardFolder
from dmd2cli.errors import UserError
from dmd2cli.protocols import Dataset, Example, Teacher
from dmd2cli.recipe import Recipe

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
CPU = torch.device("cpu")
PIXELS, PROMPTS = 2**21, 64
"""Of the images that are encoded at once, eight of 512 x 512; and prompts."""


class Named(Dataset, Protocol):
    """A data set whose items have names, told from others by a fingerprint."""

    def name(self, i: int) -> str:
        """Item i as a person looks for it."""

    def fingerprint(self) -> str:
        """SHA-256."""


@dataclass(frozen=True)
class Options:
    """What is made of an item. latents: how images are encoded. text: whether conditions are."""

    latents: str = "posterior"
    text: bool = True
    dtype: str = "fp16"
    seed: int = 0
    batch: int | None = None
    """Items encoded at once; None: images of PIXELS together, or PROMPTS prompts."""

    def __post_init__(self) -> None:
        for name, choices in (("latents", ("posterior", "mean")), ("dtype", tuple(DTYPES))):
            if getattr(self, name) not in choices:
                raise UserError(f"--{name} {getattr(self, name)}: must be one of {', '.join(choices)}")


@dataclass(frozen=True)
class Encoder:
    """What makes item i of i. latents: posterior, mean, stored (in model units already), or None for prompts."""

    teacher: Teacher
    data: Named
    latents: Literal["posterior", "mean", "stored"] | None
    options: Options
    contract: Mapping[str, Any]
    workers: int = 2

    @property
    def batch(self) -> int:
        """Items encoded at once."""
        if self.options.batch is not None or self.latents not in ("posterior", "mean"):
            return self.options.batch or PROMPTS
        return min(PROMPTS, max(1, PIXELS // prod(cast(Images, self.data).side)))

    def shard(self, batches: Iterable[range], show: Callable[[int], None]) -> tuple[list[int], Made]:
        """Encode some batches."""
        numbers, parts, conditions = list[int](), list[dict[str, Tensor]](), list[Any]()
        for batch, found in ahead(self.data, batches, self.workers):
            if not numbers:
                self.check(found[0], batch[0])
            parts.append(self.encoded(found, batch))
            conditions += [example.condition for example in found]
            numbers += batch
            show(len(batch))
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return numbers, ({**tensors, **self.null()}, conditions)

    @torch.no_grad()
    def encoded(self, found: Sequence[Example], numbers: range) -> dict[str, Tensor]:
        """The tensors of one batch, as they are stored. Raises UserError naming an item that is not finite."""
        made = dict[str, Tensor]()
        if self.latents is not None:
            x = self.x(torch.stack([example.x for example in found if example.x is not None]), numbers)
            made["x"] = self.stored("latent", x, numbers)
        if self.options.text:
            cond, _ = self.teacher.encode([example.condition for example in found])
            made |= {f"{COND}{name}": self.stored("text", value, numbers) for name, value in cond.items()}
        return made

    def x(self, given: Tensor, numbers: range) -> Tensor:
        """Latents in model units, of images in [-1, 1] or of themselves."""
        if self.latents == "stored":
            return given
        encode = cast(Any, self.teacher.decode).latents
        if self.latents == "mean":
            return encode(given, None)
        like = torch.empty(len(given), *self.teacher.shape)
        return encode(given, Numbered(self.options.seed, numbers).normal("posterior", like))

    @torch.no_grad()
    def check(self, example: Example, number: int) -> None:
        """Raise UserError if the latents of an image are of another resolution than the teacher's."""
        if self.latents not in ("posterior", "mean") or example.x is None:
            return
        found = cast(Any, self.teacher.decode).latents(example.x[None], None)[0]
        if tuple(found.shape) != self.teacher.shape:
            ours, theirs = (" x ".join(map(str, shape)) for shape in (found.shape, self.teacher.shape))
            side = min(example.x.shape[1:]) * min(self.teacher.shape[1:]) // min(found.shape[1:])
            advice = f"dmd2 data prepare PATH -o OUT.zip --captions --size {side}"
            raise UserError(f"{self.data.name(number)}: becomes latents {ours}, the teacher's are {theirs}; {advice}")

    def stored(self, what: str, value: Tensor, numbers: range) -> Tensor:
        """As it is written. Raises UserError for the first row that is not finite, or too large for the type."""
        short = value[0].numel() <= SHORT and what != "latent"
        kept = (value.float() if short else value.to(DTYPES[self.options.dtype])).cpu()
        fine = kept.flatten(1).isfinite().all(1)
        if not fine.all():
            row = int(fine.logical_not().nonzero()[0])
            name = self.data.name(numbers[row])
            if value[row].isfinite().all():
                raise UserError(f"{name}: its {what} is too large for {self.options.dtype}; use --dtype bf16")
            advice = "encode in float32 (teacher.vae_dtype=fp32), or take it out"
            raise UserError(f"{name}: its {what} is not finite; {advice}")
        return kept

    def null(self) -> dict[str, Tensor]:
        """The null condition, one row."""
        null = self.teacher.encode([None])[1] if self.options.text else {}
        return {f"{NULL}{name}": self.stored("null condition", value, range(1)) for name, value in null.items()}


def encoder(recipe: Recipe, device: torch.device, data: Callable[[Teacher], Named], options: Options) -> Encoder:
    """A recipe's teacher as an encoder of some data. The denoiser stays on the CPU: it is only fingerprinted.

    data: of the teacher. Raises UserError for a teacher without latents, and for data that do not fit it.
    """
    teacher = build.teacher(recipe, CPU)
    for helper in teacher.helpers:
        helper.to(device)
    found = data(teacher)
    latents = how(recipe, teacher, found, options)
    if latents is None and not options.text:
        raise UserError("--no-text: of prompts nothing else is encoded; leave it out, or add --data")
    contract = {
        "teacher": as_dict(recipe.teacher),
        **identity(teacher),
        "latents": latents,
        "text": options.text,
        "dtype": options.dtype,
        "seed": options.seed if latents == "posterior" else None,
        "data": {"fingerprint": found.fingerprint(), "n": len(found)},
    }
    return Encoder(teacher, found, latents, options, contract, recipe.data.workers)


def how(
    recipe: Recipe, teacher: Teacher, data: Named, options: Options
) -> Literal["posterior", "mean", "stored"] | None:
    """How latents are made of the data. Raises UserError for a teacher that cannot make any."""
    if isinstance(data, Latents):
        data.check_teacher(teacher)
        return "stored"
    if not isinstance(data, Images):
        return None
    if not hasattr(teacher.decode, "latents"):
        why = "works on pixels: there are no latents to keep"
        raise UserError(f"teacher {recipe.teacher.use} {why}; give its images to data.real as they are")
    return "mean" if options.latents == "mean" else "posterior"


def images(path: str, split: str, captions: bool | str, teacher: Teacher) -> Named:
    """The data at a path: an LMDB of latents, or images with the conditions that a teacher reads.

    captions: True or their name, for a teacher that reads text; False: no captions.
    """
    if is_lmdb(path):
        return Latents(path, max_corrupt=0)
    labels = bool(teacher.conditions)
    return Images(path=path, split=split, captions=captions if not labels else False, labels=labels, max_corrupt=0)


def make(by: Encoder, folder: Path, wanted: range, size: int) -> dict[str, Any]:
    """Encode what is missing of the wanted items; returns {"out", "n", "made", "shards", "seconds"}.

    size: of a shard. Raises KeyboardInterrupt and UserError as ShardFolder.fill does.
    """
    if not 0 <= wanted.start < wanted.stop <= len(by.data):
        have = f"the data have items 0 to {len(by.data) - 1}"
        raise UserError(f"--first {wanted.start} -n {len(wanted)}: {have}; ask for some of them")
    started = time.perf_counter()
    found = ShardFolder(folder, CACHE, by.contract).fill(wanted, size, by.batch, by.shard, partial(progress, "items"))
    return {"out": str(folder), **found, "seconds": round(time.perf_counter() - started, 3)}


def ahead(data: Dataset, batches: Iterable[range], workers: int) -> Iterator[tuple[range, list[Example]]]:
    """(batch, its items), the items of the next batch read by threads meanwhile."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = None
        for batch in batches:
            asked = batch, [pool.submit(data.__getitem__, i) for i in batch]
            if waiting is not None:
                yield waiting[0], [one.result() for one in waiting[1]]
            waiting = asked
        if waiting is not None:
            yield waiting[0], [one.result() for one in waiting[1]]
