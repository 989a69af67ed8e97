"""The dmd2 command: its subcommands, and what becomes of their errors.

Exit codes: 0 done, 1 our fault, 2 the user's input or machine, 3 the run diverged, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Annotated

import typer

from dmd2cli import __version__
from dmd2cli.cli import (
    convert,
    data,
    demo,
    distill,
    doctor,
    env,
    eval,
    export,
    pairs,
    plan,
    plugins,
    pretrain,
    recipes,
    report,
    sample,
    study,
)
from dmd2cli.errors import Diverged, UserError

_ADVICE = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EACCES: "choose a place you may use, or change its permissions",
    errno.EPERM: "choose a place you may use, or change its permissions",
    errno.EROFS: "choose a place that can be written",
    errno.ENOTDIR: "a part of this path is a file; choose another path",
    errno.EISDIR: "this is a folder; name a file",
    errno.EEXIST: "choose another name, or move what is there",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "check the path",
}
"""What a person can do about an error of the file system."""

app = typer.Typer(
    help="Distil a diffusion model into a generator of one to four steps.",
    no_args_is_help=True,
    rich_markup_mode=None,                     # plain help: half the start-up time, and it pastes well
    pretty_exceptions_enable=False,
)
app.command()(distill.distill)
app.command()(sample.sample)
app.command()(export.export)
app.command()(pretrain.pretrain)
app.command()(pairs.pairs)
app.command()(convert.convert)
app.command()(plan.plan)
app.command()(doctor.doctor)
app.command()(report.report)
app.command()(demo.demo)
app.command()(env.env)
app.add_typer(data.app, name="data")
app.add_typer(eval.app, name="eval")
app.add_typer(plugins.app, name="plugins")
app.add_typer(recipes.app, name="recipes")
app.add_typer(study.app, name="study")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dmd2 {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand after the command.")] = False,
) -> None:
    """Options of every command. main() has taken --debug out before; it stands here for the help."""


def main() -> None:
    """Run the command line on sys.argv and exit with its code."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        _main()
        return
    code = 0
    try:
        _main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    from dmd2cli.engine.parallel import leave

    leave(code)


def _main() -> None:
    args, debug = _without_debug(sys.argv[1:])
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")       # threads that wait by spinning starve a shared machine
    try:
        try:
            app(args=args, prog_name="dmd2")
        finally:
            sys.stdout.flush()                 # a closed pipe is noticed here, not at interpreter exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as err:
        if debug:
            traceback.print_exc()
        code, message = outcome(err)
        print(f"dmd2: {message}", file=sys.stderr)
        sys.exit(code)


def outcome(err: Exception) -> tuple[int, str]:
    """Exit code and one-line message of an error."""
    text = " ".join(str(err).splitlines())
    if isinstance(err, UserError):
        return 2, f"error: {text}"
    if isinstance(err, Diverged):
        return 3, f"diverged: {text}"
    from dmd2cli.installation.problem import problem

    if told := problem(err):
        return 2, f"error: {told}"
    if isinstance(err, OSError) and err.errno in _ADVICE:
        return 2, f"error: {err.filename or 'while writing'}: {err.strerror}; {_ADVICE[err.errno]}"
    return 1, f"internal error: {type(err).__name__}: {text} (run again with --debug; please report)"


def _without_debug(args: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, wherever it stood before a "--", and whether it was there."""
    end = args.index("--") if "--" in args else len(args)
    return [arg for arg in args[:end] if arg != "--debug"] + args[end:], "--debug" in args[:end]
