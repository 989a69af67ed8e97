"""What an installation that is not whole makes of a command: one line, the command that mends it, exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from dmd2cli.installation import packages
from dmd2cli.installation.problem import demands, problem

PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from dmd2cli.cli import env
def fails():
    {body}
env._machine = fails
from dmd2cli.cli.app import main
sys.argv = ["dmd2", "env"]
main()
"""


@pytest.fixture
def site(tmp_path):
    """Write fake packages: site(name, version, {file: source}) shadows the real ones in said()."""

    def add(name, version, files):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text("\n".join({Path(file).parts[0].removesuffix(".py") for file in files}))
        for file, source in files.items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(source)

    add.folder = tmp_path
    return add


@pytest.fixture
def said(site, monkeypatch):
    """Run `dmd2 env` in a process of its own with this code for its body; returns its only line."""

    def said(body, code=2):
        program = PROGRAM.format(body=body.replace("\n", "\n    "))
        command = [sys.executable, "-c", program, str(site.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
        return done.stderr.removeprefix("dmd2: ").rstrip("\n")

    return said


# -- missing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("onnx", "pip install 'dmd2cli[onnx]'"),
        ("onnxruntime.capi", "pip install 'dmd2cli[onnx]'"),
        ("torch_fidelity", "pip install 'dmd2cli[metrics]'"),
        ("bitsandbytes", "pip install 'dmd2cli[8bit]'"),
        ("lmdb", "pip install 'dmd2cli[data]'"),
        ("pyarrow.parquet", "pip install 'dmd2cli[data]'"),
        ("wandb", "pip install 'dmd2cli[wandb]'"),
        ("no_such_package", "pip install no_such_package"),
    ],
)
def test_a_missing_module_is_named_with_its_extra(said, module, command):
    top = module.partition(".")[0]
    line = said(f"sys.modules[{top!r}] = None\nimport {module}")
    assert line == f"error: this needs {top}, which is not installed: {command}"


@pytest.mark.parametrize(
    ("module", "begin"), [("sklearn", "scikit-learn>="), ("PIL", "pillow>="), ("scipy", "scipy>=")]
)
def test_a_missing_requirement_is_installed_as_we_require_it(module, begin):
    assert packages.install(module).startswith(f"pip install '{begin}")


def test_what_a_dependency_misses_is_said_of_it(site, said):
    site("needy-lib", "3.1", {"needy/__init__.py": "import no_such_package"})
    line = "error: needy-lib 3.1 needs no_such_package, which is not installed: pip install no_such_package"
    assert said("import needy") == line


def test_metadata_that_a_dependency_misses_is_installed(site, said):
    site("needy", "3.1", {"needy.py": "from importlib.metadata import version; version('no-such-package')"})
    line = "error: needy 3.1 needs no-such-package, which is not installed: pip install no-such-package"
    assert said("import needy") == line


def test_a_part_of_python_that_is_missing_is_no_package(said):
    assert "this Python was built without _lzma" in said("sys.modules['_lzma'] = None\nimport lzma; import _lzma")


# -- refused -----------------------------------------------------------------------------------------------------

REFUSALS = {
    "ValueError('The version of PEFT you are using is not compatible, please use a version >= {v}')": ">={v}",
    "ImportError('peft>={v} is required for a normal functioning of this module, but found peft==0.5.')": ">={v}",
    "ImportError('`peft >= {v}` is needed')": ">={v}",
    "RuntimeError('Found an incompatible version of peft. Found 0.5, only versions above {v} are supported')": ">{v}",
    "ImportError('This needs peft {v} or newer.')": ">={v}",
    "ImportError('peft must be there: peft at least {v}')": ">={v}",
    "VersionConflict('(peft 0.5 (/x), Requirement.parse(\\'peft>={v},<99\\'))')": ">={v},<99",
}  # fmt: skip


@pytest.mark.parametrize("error", REFUSALS)
def test_a_version_that_a_library_refuses_is_one_line_with_the_command(site, said, error):
    site("peft", "0.5", {"peft.py": ""})
    source = f"class VersionConflict(Exception): pass\ndef use(): raise {error.format(v='0.22.0')}"
    site("picky-lib", "5.24", {"picky.py": source})
    wanted = REFUSALS[error].format(v="0.22.0")
    line = said("import picky; picky.use()")
    assert line.startswith(f"error: picky-lib 5.24 needs peft{wanted}, and 0.5 is installed: ")
    assert f"pip install -U 'peft{wanted}'" in line and line.endswith("pip install -c constraints.txt .")


def test_a_version_that_is_good_enough_is_no_reason(site, said):
    site("peft", "0.30", {"peft.py": ""})
    site("picky", "1", {"picky.py": "def use(): raise ValueError('peft>=0.22.0 reads this file, but it is damaged')"})
    assert said("import picky; picky.use()", code=1).startswith("internal error: ValueError: peft>=0.22.0 reads")


def test_words_that_are_no_package_ask_for_nothing(site, said):
    site("picky", "1", {"picky.py": "def use(): raise ValueError('rank >= 4 and steps>=9 or newer')"})
    assert said("import picky; picky.use()", code=1).startswith("internal error: ValueError: rank >= 4")


def test_our_own_words_are_no_version_check(said):
    line = said("raise ValueError('peft>=99.0 is required')", code=1)
    assert line.startswith("internal error: ValueError: peft>=99.0")


def test_the_message_of_the_newest_transformers_is_read():
    from transformers.utils import peft_utils

    try:
        peft_utils.check_peft_version("999.0")
    except (ValueError, ImportError) as err:
        told = problem(err)
        assert "peft>=999.0" in told and "pip install -U 'peft>=999.0'" in told
    else:
        pytest.fail("transformers takes any peft")


def test_several_comparisons_stay_together():
    assert next(demands("tokenizers>=0.22, <0.23 is required")) == ("tokenizers", ">=0.22,<0.23")


# -- broken ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import ctypes; ctypes.CDLL('libnowhere.so.12')", "OSError: libnowhere.so.12: cannot open shared object file"),
        ("raise ImportError('libx.so: undefined symbol: _Z3foo')", "ImportError: libx.so: undefined symbol: _Z3foo"),
        ("import os; os.no_such_name", "AttributeError: module 'os' has no attribute 'no_such_name'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("open('/no/such/file')", "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/file'"),
    ],
)
def test_an_import_that_fails_inside_a_dependency_says_which_and_how_to_mend_it(site, said, source, reason):
    site("cracked-lib", "2.1", {"cracked/__init__.py": "from cracked import inner", "cracked/inner.py": source})
    line = said("import cracked")
    assert line.startswith(f"error: cracked-lib 2.1 is broken: import cracked.inner fails ({reason}")
    assert line.endswith("): pip install --force-reinstall --no-deps 'cracked-lib==2.1'")


def test_torchvision_of_another_torch_is_reinstalled_with_it(site, said):
    error = "RuntimeError('operator torchvision::nms does not exist')"
    site("torchvision", "0.1", {"torchvision/__init__.py": f"raise {error}"})
    lazy = "def use():\n try: import torchvision\n except RuntimeError as e: raise RuntimeError('Failed') from e"
    site("lazy", "1", {"lazy.py": lazy})
    for body in ("import torchvision", "import lazy; lazy.use()"):
        line = said(body)
        assert line.startswith("error: torchvision 0.1 is broken: import torchvision fails (RuntimeError: operator")
        assert line.endswith(": pip install --force-reinstall torch torchvision")


def test_a_name_that_one_dependency_misses_in_another_mends_both(site, said):
    site("base-lib", "1", {"baselib.py": ""})
    site("upper", "2", {"upper.py": "from baselib import gone"})
    line = said("import upper")
    assert line.startswith("error: upper 2 is broken: import upper fails (ImportError: cannot import name 'gone'")
    assert line.endswith("pip install --force-reinstall --no-deps 'upper==2' 'base-lib==1'")


def test_a_name_that_we_miss_in_an_untested_version_is_answered_with_the_tested_one(site, said):
    site("peft", "0.1", {"peft.py": ""})
    line = said("from peft import LoraConfig")
    assert line.startswith("error: peft 0.1 lacks what dmd2 imports (ImportError: cannot import name 'LoraConfig'")
    assert "pip install 'peft==" in line


@pytest.mark.parametrize(
    "body",
    [
        "from dmd2cli.errors import no_such_name",
        "import dmd2cli.no_such_module",
        "raise RuntimeError('ours')",
        "import numpy; numpy.zeros(2).no_such_attribute",
        "from json import no_such_name",
    ],
)
def test_our_own_mistakes_stay_internal_errors(said, body):
    assert said(body, code=1).startswith("internal error: ")


def test_an_error_of_a_dependency_at_work_is_no_broken_installation(site, said):
    site("worker", "1", {"worker.py": "def work(): raise RuntimeError('shapes differ')"})
    assert said("import worker; worker.work()", code=1).startswith("internal error: RuntimeError: shapes differ")
