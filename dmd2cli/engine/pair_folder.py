"""A folder of pairs: what of a set lies there whole, what of it is missing, and the record of both."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dmd2cli.data.pair_files import FORMAT, MANIFEST, Shard, difference, parse_manifest, read_header
from dmd2cli.engine import checkpoint
from dmd2cli.errors import UserError


def survey(folder: Path, contract: Mapping[str, Any]) -> list[Shard]:
    """The whole shards in a folder, in order, none overlapping another. A damaged one is told of and left out.

    Raises UserError naming the first difference if something there was made under another contract.
    """
    listed: dict[str, Shard] = {}
    if (manifest := parse_manifest(folder)) is not None:
        check_same(folder, manifest["contract"], contract)
        listed = {shard.name: shard for shard in manifest["shards"]}
    found: list[Shard] = []
    for path in sorted(folder.glob("pairs-*.safetensors")):
        shard = examine(path, contract)
        if shard is None or listed.get(path.name, shard).sha256 != shard.sha256:
            print(f"{path}: damaged; its pairs are made again", file=sys.stderr)
        elif found and found[-1].stop > shard.first:
            print(f"{path}: left out; {found[-1].name} has some of its pairs already", file=sys.stderr)
        else:
            found.append(shard)
    return found


def examine(path: Path, contract: Mapping[str, Any]) -> Shard | None:
    """A file as a shard of this contract, or None if it is damaged. UserError if it is of another contract."""
    header = read_header(path)
    if header is None:
        return None
    check_same(path, header["contract"], contract)
    return Shard(header["first"], len(header["conditions"]), path.stat().st_size, checkpoint.sha256(path))


def check_same(path: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UserError if pairs there were made under another contract."""
    found = difference(held, json.loads(json.dumps(asked)))
    if found is not None:
        key, old, new = found
        raise UserError(
            f"{path}: made with {key} = {old!r}, now it is {new!r}; "
            "take the old value to continue, or another -o to start anew"
        )


def check_range(folder: Path, held: Sequence[Shard], wanted: range) -> None:
    """Raise UserError if the folder holds pairs that are not wanted."""
    if held and not (wanted.start <= held[0].first and held[-1].stop <= wanted.stop):
        first, stop = min(held[0].first, wanted.start), max(held[-1].stop, wanted.stop)
        raise UserError(
            f"{folder}: holds pairs from {held[0].first} to {held[-1].stop - 1} already; "
            f"ask for --first {first} -n {stop - first}, or choose another -o"
        )


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


def write_manifest(folder: Path, contract: Mapping[str, Any], wanted: range, size: int, held: Sequence[Shard]) -> None:
    """Write it whole or not at all."""
    asked = {"shard_size": size, "first": wanted.start, "n": len(wanted)}
    shards = [asdict(shard) for shard in held]
    checkpoint.write_json(folder / MANIFEST, {"format": FORMAT, "contract": contract, **asked, "shards": shards})
