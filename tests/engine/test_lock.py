"""A run folder has one process at a time."""

import subprocess
import sys

import pytest

from dmd2cli.engine.lock import held
from dmd2cli.errors import UserError

OTHER = """
import sys
from pathlib import Path
from dmd2cli.engine.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_in_one_line_until_the_first_has_ended(tmp_path):
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"{tmp_path}: another process trains there"), held(tmp_path):
            pass
        other.kill()
        other.wait()
        with held(tmp_path):
            assert list(tmp_path.iterdir()) == []


def test_the_same_process_may_train_there_again(tmp_path):
    for _ in range(2):
        with held(tmp_path):
            pass
