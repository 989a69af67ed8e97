"""Distributions that are broken in every way stand beside each other, and none reaches the command or the others."""

import os
import subprocess
import sys

import pytest
from distributions import install

from dmd2cli import registry

BROKEN = {
    "import-error": "import no_such_package_at_all",
    "syntax-error": "def (:",
    "exception": "raise RuntimeError('on import')",
    "exits": "import sys; sys.exit(7)",
    "kills": "import os; os._exit(9)",
    "slow": "import time; time.sleep(60)",
    "wrong-object": "plugin = 3",
    "loud": "print('printed on import')",
}


def fill(site):
    """All of them, each with a teacher and a loss; and one that is right."""
    for name, source in BROKEN.items():
        module = f"bad_{name.replace('-', '_')}"
        entries = f"[dmd2.teachers]\n{name} = {module}:plugin\n[dmd2.losses]\n{name} = {module}:plugin\n"
        install(site, f"dmd2-{name}", entries, **{module: source})
    install(site, "dmd2-nowhere", "[dmd2.metrics]\nnowhere = there_is_no_such_module:Metric\n")
    install(site, "dmd2-malformed", "[dmd2.metrics]\nmalformed = this is: no target!\n")
    install(site, "dmd2-same", "[dmd2.teachers]\ngmm = bad_loud:plugin\n")
    install(site, "dmd2-no-equals", "[dmd2.teachers]\nno equals sign\n")
    install(site, "dmd2-nameless", "[dmd2.teachers]\nnameless = m:a\n")
    (site / "dmd2_nameless-1.2.dist-info/METADATA").unlink()
    install(site, "dmd2-bytes", "[dmd2.teachers]\nbytes = m:a\n")
    (site / "dmd2_bytes-1.2.dist-info/entry_points.txt").write_bytes(b"[dmd2.teachers]\n\xff\xfe = m:a\n")
    install(site, "dmd2-good", "[dmd2.teachers]\ngood = good_module:plugin\n", good_module="def plugin(): ...")


@pytest.fixture
def beside(tmp_path):
    """Run the command in a process of its own, beside all of them; returns (exit code, stdout, stderr)."""
    fill(tmp_path)

    def dmd2(*args):
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "dmd2cli", *args], env=env, capture_output=True, text=True, timeout=50
        )
        return done.returncode, done.stdout, done.stderr

    return dmd2


def test_help_is_as_without_them(beside):
    code, out, err = beside("--help")
    assert (code, err) == (0, "") and "plugins" in out and "printed on import" not in out


def test_list_has_all_that_can_be_read_and_tells_the_rest(beside):
    code, out, err = beside("plugins", "list")
    assert code == 0 and "Traceback" not in err and "printed on import" not in out
    assert all(f" {name} " in out for name in (*BROKEN, "nowhere", "malformed", "good", "digits", "denoising"))
    problems = [line for line in err.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 4 and all(line in problems for line in err.splitlines())
    assert sum("dist-info: cannot be read" in line for line in problems) == 3
    assert sum("teacher 'gmm' is provided by" in line for line in problems) == 1


def test_each_that_is_loaded_is_told_in_one_line_and_the_others_work(site):
    fill(site)
    for name in set(BROKEN) - {"kills", "slow", "wrong-object", "loud"}:
        with pytest.raises(registry.UserError, match=f"'{name}'"):
            registry.load("teachers", name)
    for name in ("nowhere", "malformed"):
        with pytest.raises(registry.UserError, match=f"metric '{name}' of dmd2-{name} 1.2 cannot be imported"):
            registry.load("metrics", name)
    assert registry.load("teachers", "good")() is None and registry.load("teachers", "digits")
    assert registry.load("losses", "denoising")
