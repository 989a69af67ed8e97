"""From the options of `dmd2 sample` to the images that are ordered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dmd2cli.cli.again import Drawn, about, compare, digest, recall
from dmd2cli.cli.drawing import Wishes, check_seeds, numbers
from dmd2cli.cli.subject import Subject, count, pick_labels, subject
from dmd2cli.engine.generate import Order
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw

ELSEWHERE = ("steps", "guidance", "sampler")
"""Wishes that Order.made says in other words."""


@dataclass(frozen=True)
class Asked:
    """The options, as given; None where they were not."""

    student: str | None
    teacher: str | None
    wishes: Wishes
    texts: Sequence[Raw]
    labels: str | None
    n: int | None
    seed: int | None
    seeds: str | None
    batch: int | None
    again: Path | None
    download: bool = False
    """Whether a published student may be fetched without asking."""
    pipeline: str | None = None


def ordered(asked: Asked, device: str) -> tuple[str, Order, list[Raw]]:
    """The subject's name, what it is to draw, and which conditions were taken in turn. Raises UserError."""
    if asked.seed is not None and asked.seeds is not None:
        raise UserError("--seed and --seeds exclude each other: one seed for all images, or one for each")
    count(asked.n, 1)
    held = None if asked.again is None else recall(asked.again)
    wishes, found = wanted(asked, held, device)
    turn = in_turn(asked, held, found)
    seeds = seeds_of(asked, held)
    number = how_many(asked, held, len(turn), seeds)
    raw = [turn[i % len(turn)] for i in range(number)] if turn else found.source.conditions(number)
    if seeds is not None:
        check_seeds(seeds, len(turn) or len(found.source.reads.conditions), number)
        seeds = [seeds[i % len(seeds)] for i in range(number)]
    seed = asked.seed if asked.seed is not None else held.seed if held else 0
    batch = asked.batch if asked.batch is not None else (held and held.batch) or found.source.batch
    same = held is not None and number == 1 and asked.batch is None and held.n is None
    first = held.number if held is not None and asked.seeds is None else 0
    order = Order(found.source, raw, seed, batch, seeds, first, held.row if held and same else None, found.network)
    order = replace(order, asked=functions_of(wishes))
    return found.name, replace(order, about=about(found.name, found.kind, wishes, order)), turn


def wanted(asked: Asked, held: Drawn | None, device: str) -> tuple[Wishes, Subject]:
    """Who draws, and how: as it is asked, and otherwise as a picture says. Of its options another keeps the size."""
    if held is None or asked.again is None:
        return asked.wishes, found_for(asked, asked, asked.wishes, device)
    before = Wishes(**held.options)
    if asked.student or asked.teacher or asked.pipeline:
        wishes = asked.wishes.over(Wishes(size=before.size))
        return wishes, found_for(asked, asked, wishes, device)
    wishes = asked.wishes.over(before)
    try:
        found = found_for(held, asked, wishes, device)
    except UserError as err:
        raise UserError(f"--from {asked.again}: {err}") from err
    compare(asked.again, held, found.name, found.network, found.source.device.type)
    return wishes, found


def found_for(named: Asked | Drawn, asked: Asked, wishes: Wishes, device: str) -> Subject:
    """The subject as it is to draw. named: whose student, teacher or pipeline it is."""
    steps, guidance, pipeline = wishes.steps, wishes.guidance, named.pipeline
    allowed = asked.download or None
    return subject(named.student, named.teacher, steps, guidance, device, wishes, asked.texts, allowed, pipeline)


def in_turn(asked: Asked, held: Drawn | None, found: Subject) -> list[Raw]:
    """The conditions that images are drawn for in turn; none for all that there are. UserError for missing prompts."""
    reads = found.source.reads
    turn = pick_labels(asked.labels, list(reads.conditions)) or list(asked.texts)
    if not turn and held is not None:
        turn = held.conditions or ([] if held.n else [None])
    if not turn and reads.prompts:
        raise UserError('no prompts: these images are drawn from text; give some, as in dmd2 sample "a llama"')
    return turn


def seeds_of(asked: Asked, held: Drawn | None) -> list[int] | None:
    """A seed for each image, if that is wanted."""
    if asked.seeds is not None:
        return numbers(asked.seeds)
    return held.seeds if held is not None and asked.seed is None else None


def how_many(asked: Asked, held: Drawn | None, conditions: int, seeds: Sequence[int] | None) -> int:
    """-n; else as many as a picture has, unless conditions or seeds are new; else one for each of these, or 16."""
    new = asked.seeds is not None or asked.labels is not None or bool(asked.texts)
    if held is not None and not new:
        return count(asked.n, held.n or 1)
    return count(asked.n, max(conditions, len(seeds or ())) or 16)


def functions_of(wishes: Wishes) -> dict[str, object]:
    """What images are functions of besides the network, its sampler and guidance."""
    found = {key: value for key, value in wishes.given.items() if key not in ELSEWHERE}
    return found | ({"init_image": digest(wishes.init_image)} if wishes.init_image else {})


@contextmanager
def precisely(dtype: str | None) -> Iterator[None]:
    """What a device cannot compute in a type, as one line."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as err:
        if dtype in (None, "fp32") or "not implemented for" not in str(err):
            raise
        raise UserError(f"--dtype {dtype}: this device cannot ({str(err).splitlines()[0]}); use bf16 or fp32") from err
