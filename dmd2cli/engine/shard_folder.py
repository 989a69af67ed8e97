"""A folder of shards: what of a set lies there whole, what of it is missing and made now, and the record of both."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dmd2cli.data.pair_files import difference
from dmd2cli.data.shard_files import MANIFEST, Kind, Shard, parse_manifest, read_header
from dmd2cli.engine import checkpoint, trainer
from dmd2cli.engine.signals import Stop, interruptible
from dmd2cli.errors import UserError
from dmd2cli.protocols import Raw
from dmd2cli.weights import save_weights

Made = tuple[Mapping[str, Tensor], Sequence[Raw]]
"""The tensors of a shard, and its conditions."""

Write = Callable[[Iterable[range], Callable[[int], None]], tuple[Sequence[int], Made]]
"""(batches of numbers, what counts things) -> (the numbers that were made, what they are). It may stop early."""


@dataclass(frozen=True)
class ShardFolder:
    """A folder, what is to lie in it, and what that is a function of."""

    path: Path
    kind: Kind
    contract: Mapping[str, Any]

    def survey(self) -> list[Shard]:
        """The whole shards there, in order, none overlapping another. A damaged one is told of and left out.

        Raises UserError naming the first difference if something there was made under another contract.
        """
        listed: dict[str, Shard] = {}
        if (manifest := parse_manifest(self.path, self.kind)) is not None:
            self.check_same(self.path, manifest["contract"])
            listed = {self.kind.file(shard.first): shard for shard in manifest["shards"]}
        found: list[Shard] = []
        for path in sorted(self.path.glob(f"{self.kind.files}-*.safetensors")):
            shard = self.examine(path)
            if shard is None or listed.get(path.name, shard).sha256 != shard.sha256:
                print(f"{path}: damaged; its {self.kind.what} are made again", file=sys.stderr)
            elif found and found[-1].stop > shard.first:
                other = self.kind.file(found[-1].first)
                print(f"{path}: left out; {other} has some of its {self.kind.what} already", file=sys.stderr)
            else:
                found.append(shard)
        return found

    def examine(self, path: Path) -> Shard | None:
        """A file as a shard of this contract, or None if it is damaged. UserError if it is of another contract."""
        header = read_header(path, self.kind)
        if header is None:
            return None
        self.check_same(path, header["contract"])
        return Shard(header["first"], len(header["conditions"]), path.stat().st_size, checkpoint.sha256(path))

    def check_same(self, path: Path, held: Mapping[str, Any]) -> None:
        """Raise UserError if what is there was made under another contract."""
        found = difference(held, json.loads(json.dumps(self.contract)))
        if found is not None:
            key, old, new = found
            raise UserError(
                f"{path}: made with {key} = {old!r}, now it is {new!r}; "
                "take the old value to continue, or another -o to start anew"
            )

    def check_range(self, held: Sequence[Shard], wanted: range) -> None:
        """Raise UserError if the folder holds things that are not wanted."""
        if held and not (wanted.start <= held[0].first and held[-1].stop <= wanted.stop):
            first, stop = min(held[0].first, wanted.start), max(held[-1].stop, wanted.stop)
            raise UserError(
                f"{self.path}: holds {self.kind.what} from {held[0].first} to {held[-1].stop - 1} already; "
                f"ask for --first {first} -n {stop - first}, or choose another -o"
            )

    def fill(
        self,
        wanted: range,
        size: int,
        batch: int,
        write: Write,
        progress: Callable[[int, int], AbstractContextManager[Callable[[int], None]]],
    ) -> dict[str, int]:
        """Make what is missing of the wanted things; returns {"n", "made", "shards"}.

        size: of a shard; shards end at its multiples. progress: (wanted, there) -> what counts them. SIGINT and SIGTERM
        end the batch, keep it, and raise KeyboardInterrupt. Raises UserError if the folder holds something else, or
        cannot be written.
        """
        trainer.check_folder(self.path)
        held = self.survey()
        self.check_range(held, wanted)
        there = sum(shard.n for shard in held)
        with interruptible() as stop, progress(len(wanted), there) as show:
            if held:                               # else there is nothing to record yet, and nothing to contradict
                self.record(wanted, size, held)
            for part in list(missing(held, wanted, size)):
                numbers, made = write(until(stop, batched(part, size, batch)), show)
                held = sorted([*held, self.put(numbers, made)], key=lambda shard: shard.first)
                self.record(wanted, size, held)
                if stop.signals:
                    n = sum(shard.n for shard in held)
                    told = f"{n} of {len(wanted)} {self.kind.what} are there; the same command continues"
                    print(told, file=sys.stderr)
                    raise KeyboardInterrupt
        return {"n": len(wanted), "made": len(wanted) - there, "shards": len(held)}

    def put(self, numbers: Sequence[int], made: Made) -> Shard:
        """Write one shard."""
        tensors, conditions = made
        header = {"format": self.kind.format, "contract": self.contract, "first": numbers[0]}
        path = self.path / self.kind.file(numbers[0])
        text = json.dumps({**header, "conditions": list(conditions)})
        save_weights(tensors, path, {self.kind.metadata: text})
        return Shard(numbers[0], len(numbers), path.stat().st_size, checkpoint.sha256(path))

    def record(self, wanted: range, size: int, held: Sequence[Shard]) -> None:
        """Write the manifest, whole or not at all."""
        asked = {"shard_size": size, "first": wanted.start, "n": len(wanted)}
        shards = [asdict(shard) for shard in held]
        found = {"format": self.kind.format, "contract": self.contract, **asked, "shards": shards}
        checkpoint.write_json(self.path / MANIFEST, found)


def missing(held: Iterable[Shard], wanted: range, size: int) -> Iterator[range]:
    """The parts of wanted that no shard has, none across a multiple of size."""
    ends = [*((shard.first, shard.stop) for shard in held), (wanted.stop, wanted.stop)]
    at = wanted.start
    for first, stop in ends:
        while at < first:
            end = min(first, (at // size + 1) * size)
            yield range(at, end)
            at = end
        at = max(at, stop)


def batched(part: range, size: int, batch: int) -> Iterator[range]:
    """A part of a shard in batches that start at multiples of batch, counted from a multiple of size."""
    origin, at = part.start // size * size, part.start
    while at < part.stop:
        end = min(origin + ((at - origin) // batch + 1) * batch, part.stop)
        yield range(at, end)
        at = end


def until(stop: Stop, batches: Iterable[range]) -> Iterator[range]:
    """The batches, up to the one during which someone asked to stop."""
    for batch in batches:
        yield batch
        if stop.signals:
            return
