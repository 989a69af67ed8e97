"""Commands with faults in them."""

import json
import os
import subprocess
import sys

import pytest
from processes import HERE, SECONDS, Zygote, ended


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    found = Zygote(tmp_path_factory.mktemp("processes"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def real():
    """Start a command of its own, without anything imported before; returns how it ended. ranks: 0, or of --nproc."""

    def real(*command, fault=None, seconds=SECONDS, cwd=None):
        paths = f"{HERE / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        environment |= {"DMD2_FAULT": json.dumps(fault)} if fault else {}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run([sys.executable, *map(str, command)], **pipes, env=environment, timeout=seconds, cwd=cwd)
        return ended(done.returncode, done.stdout)

    return real
