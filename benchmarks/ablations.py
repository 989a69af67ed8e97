"""The tables of the papers on small data, one command each.

    python benchmarks/ablations.py list
    python benchmarks/ablations.py dmd2-table3

A table is rows x variants x training seeds; each cell is a run of its own. The same command again goes on where it
stopped: finished cells stay, a cell that was stopped continues, one whose recipe has changed is run anew.
Prints the table and writes OUT/NAME.json and OUT/NAME.png after each cell.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import plots, report, rows_dmd, rows_dmd2, rows_more, scheduler
from tables.table import Cell, cells

from dmd2cli.engine.checkpoint import write_json
from dmd2cli.errors import UserError, suggest
from dmd2cli.recipe import load

SAMPLES = 5000
TABLES = rows_dmd2.TABLES | rows_dmd.TABLES | rows_more.TABLES


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("name", help="a table, or list")
    made.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="over the recipes of all rows")
    made.add_argument("--seeds", type=int, default=3, help="training seeds of every row")
    made.add_argument("--out", type=Path, default=Path("runs/ablations"))
    made.add_argument("--rows", help="some rows only, as a,b")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once, one thread each")
    made.add_argument("--budget", type=float, default=75, metavar="MINUTES", help="start no cell after that")
    made.add_argument("--samples", type=int, default=SAMPLES, help="of the measurement of a cell")
    made.add_argument("--cell", nargs=3, metavar=("ROW", "VARIANT", "SEED"), help="run this cell only, here")
    return made


def main(words: Sequence[str]) -> int:
    """Run it; returns the exit code. Raises UserError for a name or an override that is wrong."""
    args = parser().parse_intermixed_args(words)
    if args.name == "list":
        for name, table in TABLES.items():
            print(f"{name:14} {table.title} ({table.source}): {', '.join(table.rows)}")
        return 0
    if args.name not in TABLES:
        raise UserError(f"{args.name}: no such table{suggest(args.name, TABLES)}")
    load(TABLES[args.name].recipe, args.overrides)
    if args.cell:
        from tables.cell import run_cell

        row, variant, seed = args.cell
        place = (TABLES[args.name], row, variant, int(seed), args.out)
        run_cell(Cell(args.name, *place, args.samples, tuple(args.overrides)))
        return 0
    return whole(args, chosen(args), command(args))


def command(args: argparse.Namespace) -> str:
    """What gives the same numbers: everything but where and how fast."""
    parts = ["python", "benchmarks/ablations.py", args.name, "--seeds", args.seeds, *args.overrides]
    parts += ["--samples", args.samples] if args.samples != SAMPLES else []
    return " ".join(map(str, parts + (["--rows", args.rows] if args.rows else [])))


def chosen(args: argparse.Namespace) -> list[Cell]:
    """The cells of the table, of all rows or of those asked for."""
    table = TABLES[args.name]
    rows = args.rows.split(",") if args.rows else list(table.rows)
    if unknown := [row for row in rows if row not in table.rows]:
        raise UserError(f"--rows {unknown[0]}: {args.name} has no such row{suggest(unknown[0], table.rows)}")
    return [c for c in cells(args.name, table, args.seeds, args.out, args.samples, args.overrides) if c.row in rows]


def whole(args: argparse.Namespace, found: list[Cell], command: str) -> int:
    """Run what is not finished, and show the table after each cell."""
    started, table, failed = time.monotonic(), TABLES[args.name], dict[Cell, str]()
    target = args.out / f"{args.name}.json"
    earlier = found[0].held(target) or {"minutes": 0.0}
    signal.signal(signal.SIGTERM, interrupt)

    def show(cell: Cell | None = None, failure: str = "") -> None:
        if cell is not None and failure:
            failed[cell] = failure
        minutes = (time.monotonic() - started) / 60
        held = report.results(found)
        made = report.lines(found, held, failed)
        write_json(target, report.summary(table, made, command, args.budget, earlier["minutes"] + minutes))
        plots.draw(table, found, held, target.with_suffix(".png"))
        print(report.text(table, made), f"{minutes:.1f} of {args.budget:g} minutes", "", sep="\n", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    unfinished = [cell for cell in found if not cell.finished() and paired(cell, failed)]
    show()
    try:
        scheduler.run(unfinished, args.jobs, args.budget, show)
    except KeyboardInterrupt:
        return 130
    return 1 if failed else 0


def paired(cell: Cell, failed: dict[Cell, str]) -> bool:
    """Are its pairs there, or can they be made? If not, the cell has failed."""
    try:
        scheduler.make_pairs(cell)
    except UserError as err:
        failed[cell] = str(err)
    return cell not in failed


def interrupt(*_: Any) -> None:
    """SIGTERM is taken as Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
