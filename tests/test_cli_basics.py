"""The command line around its commands: exit codes, one-line errors, what is imported, plugins, recipes, env."""

import errno
import json
import os
import subprocess
import sys

import pytest
from distributions import install
from typer.testing import CliRunner

from dmd2cli import __version__, recipe_files
from dmd2cli.cli import app as cli
from dmd2cli.errors import Diverged, UserError
from dmd2cli.recipe import load_any

NAME = next(iter(recipe_files.packaged()))


@pytest.fixture
def failing(dmd2, monkeypatch):
    """Run `dmd2 env` with its body raising an error; returns as dmd2 does."""

    def failing(err, *args):
        def fail():
            raise err

        monkeypatch.setattr("dmd2cli.cli.env._machine", fail)
        return dmd2("env", *args)

    return failing


# -- errors and exit codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("err", "code", "line"),
    [
        (UserError("x.yaml:3: ttur: no"), 2, "dmd2: error: x.yaml:3: ttur: no"),
        (Diverged("loss is nan at step 7"), 3, "dmd2: diverged: loss is nan at step 7"),
        (OSError(errno.ENOSPC, "No space left on device", "/d/f"), 2, "dmd2: error: /d/f: No space left on device; "),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "dmd2: error: while writing: No space left on device; "),
        (PermissionError(errno.EACCES, "Permission denied", "/d"), 2, "dmd2: error: /d: Permission denied; choose"),
        (OSError(errno.EROFS, "Read-only file system", "/d"), 2, "dmd2: error: /d: Read-only file system; choose"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/d/f"), 2, "dmd2: error: /d/f: Not a directory; "),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/d"), 2, "dmd2: error: /d: Is a directory; "),
        (ValueError("two\nlines"), 1, "dmd2: internal error: ValueError: two lines (run again with --debug; "),
        (OSError("odd"), 1, "dmd2: internal error: OSError: odd (run again with --debug; please report)"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_its_exit_code(failing, err, code, line):
    got, out, stderr = failing(err)
    assert (got, out) == (code, "")
    assert stderr.startswith(line) and stderr.count("\n") == 1


def test_ctrl_c_exits_with_130(failing):
    code, _, stderr = failing(KeyboardInterrupt())
    assert code == 130 and "Traceback" not in stderr


def test_a_closed_pipe_is_quiet(failing):
    code, _, stderr = failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert code == 1 and stderr == ""


def test_debug_shows_the_traceback_and_keeps_the_exit_code(failing):
    code, _, stderr = failing(UserError("no"), "--debug")
    assert code == 2 and "Traceback" in stderr and stderr.endswith("dmd2: error: no\n")


@pytest.mark.parametrize("args", [["--debug", "recipes", "show", "x"], ["recipes", "show", "x", "--debug"]])
def test_debug_stands_before_or_after_the_command(dmd2, args):
    code, _, stderr = dmd2(*args)
    assert code == 2 and "Traceback" in stderr


def test_debug_after_a_double_dash_is_an_argument(dmd2):
    code, _, stderr = dmd2("recipes", "show", "--", "--debug")
    assert code == 2 and "--debug: no such file" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("args", [["nonsense"], ["recipes", "show"], ["env", "--nonsense"]])
def test_a_wrong_command_line_exits_with_2_and_no_traceback(dmd2, args):
    code, out, stderr = dmd2(*args)
    assert code == 2 and out == "" and "Traceback" not in stderr


def test_version_is_printed(dmd2):
    assert dmd2("--version") == (0, f"dmd2 {__version__}\n", "")


def test_help_has_every_command_and_no_colour(dmd2):
    code, out, _ = dmd2("--help")
    assert code == 0 and "\x1b" not in out
    for command in ("distill", "sample", "eval", "export", "pretrain", "demo", "env", "plugins", "recipes"):
        assert f"\n  {command} " in out


# -- what is imported ------------------------------------------------------------------------------------------

HEAVY = {"torch", "numpy", "pydantic", "yaml", "rich"}


def test_the_app_imports_nothing_heavy():
    assert not HEAVY & imported_by("import dmd2cli.cli.app")


def test_help_imports_nothing_heavy():
    assert not HEAVY & imported_by(command("--help"))


@pytest.mark.parametrize("args", ["distill --help", "plugins list", "recipes list", f"recipes show {NAME}"])
def test_help_plugins_and_recipes_import_no_torch(args):
    assert not {"torch", "numpy"} & imported_by(command(*args.split()))


def command(*args):
    return f"import runpy; sys.argv[1:] = {list(args)}; runpy.run_module('dmd2cli', run_name='__main__')"


def imported_by(code):
    """Names of all modules in a fresh interpreter after `code`."""
    program = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_a_reader_that_leaves_early_sees_no_noise():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "dmd2cli", "plugins", "list"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.stderr == "" and done.returncode == 1


# -- plugins, recipes, env -------------------------------------------------------------------------------------


def test_plugins_list_has_name_and_package(dmd2):
    code, out, stderr = dmd2("plugins", "list")
    assert code == 0 and stderr == ""
    assert ["samplers", "heun", "dmd2cli", __version__] in [line.split() for line in out.splitlines()]


def test_plugins_list_as_json_has_the_same_plugins(dmd2):
    found = json.loads(dmd2("plugins", "list", "--json")[1])
    assert {"losses", "samplers", "teachers"} <= {plugin["kind"] for plugin in found}
    assert len(found) == len(dmd2("plugins", "list")[1].splitlines()) - 1


def test_plugins_list_tells_problems_on_stderr_and_still_lists(dmd2, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("dmd2-one", "dmd2-two"):
        install(tmp_path, name, "[dmd2.teachers]\ntwice = m:a\n")
    code, out, stderr = dmd2("plugins", "list")
    assert code == 0 and out.count("twice") == 2
    assert stderr.startswith("problem: teacher 'twice' is provided by ") and stderr.count("\n") == 1


def test_recipes_list_has_every_packaged_recipe_with_its_first_comment(dmd2):
    found = json.loads(dmd2("recipes", "list", "--json")[1])
    assert [recipe["name"] for recipe in found] == list(recipe_files.packaged())
    assert all(recipe["about"] for recipe in found)
    assert NAME in dmd2("recipes", "list")[1]


def test_recipes_show_prints_the_resolved_recipe(dmd2, tmp_path):
    code, out, _ = dmd2("recipes", "show", NAME, "run.steps=7")
    (tmp_path / "shown.yaml").write_text(out)
    assert code == 0 and load_any(tmp_path / "shown.yaml").run.steps == 7


def test_recipes_copy_keeps_the_comments_and_overwrites_nothing(dmd2, tmp_path):
    code, out, _ = dmd2("recipes", "copy", NAME, tmp_path)
    copied = tmp_path / f"{NAME.rpartition('/')[2]}.yaml"
    assert code == 0 and out == f"{copied}\n"
    assert copied.read_text() == recipe_files.find(NAME).read_text()
    copied.write_text("mine")
    code, _, stderr = dmd2("recipes", "copy", NAME, tmp_path)
    assert code == 2 and "exists already" in stderr and copied.read_text() == "mine"


def test_recipes_copy_into_a_folder_that_is_not_there_is_refused(dmd2, tmp_path):
    code, _, stderr = dmd2("recipes", "copy", NAME, tmp_path / "no" / "such.yaml")
    assert code == 2 and "No such file or directory" in stderr


def test_recipes_schema_is_json(dmd2):
    assert "losses" in json.loads(dmd2("recipes", "schema")[1])["properties"]


def test_env_is_the_same_report_as_text_and_json(dmd2):
    found = json.loads(dmd2("env", "--json")[1])
    assert found["dmd2"] == __version__ and {"python", "device", "cores", "torch"} <= set(found)
    assert {line.split("  ")[0] for line in dmd2("env")[1].splitlines()} == set(found)


def test_the_app_runs_under_typer_s_own_test_runner():
    assert CliRunner().invoke(cli.app, ["--version"]).output == f"dmd2 {__version__}\n"
