"""Commands with faults in them, in processes that end as they will."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SMALL = (
    "run.batch=8", "run.threads=1", "run.device=cpu", "run.save_every=5", "run.log_every=2", "run.preview_every=10",
    "sampler.steps=4",
)  # fmt: skip
SECONDS = 120
"""After which a process is taken to hang."""


class Ended(NamedTuple):
    """How a process ended: exit code (negative: the signal), what it wrote, where and when the fault was."""

    code: int | None
    said: str
    fault: dict | None
    end: float
    """The second at which it was seen to have ended."""

    @property
    def lines(self):
        """What a person reads of errors."""
        return [line for line in self.said.splitlines() if line.startswith("dmd2: ")]


def ended(code, text, end=None):
    """From everything that a process wrote."""
    found = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("FAULT ")]
    return Ended(code, text, found[0] if found else None, end or time.time())


class Zygote:
    """tests/faults/zygote.py, from outside."""

    def __init__(self, folder, *modules):
        self.folder, self.count = folder, 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(HERE / "zygote.py"), *modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen(command, **pipes, env=environment)
        assert self.process.stdout.readline() == "{}\n"

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        return json.loads(self.process.stdout.readline())

    def start(self, *argv, fault=None, env=None):
        """A process that runs `dmd2 ARGV`: (number, the file it writes to)."""
        self.count += 1
        to = self.folder / f"{self.count}.txt"
        request = {"argv": [*map(str, argv)], "fault": fault, "env": env or {}, "cwd": str(self.folder), "to": str(to)}
        return self.ask(**request)["pid"], to

    def wait(self, started, seconds=SECONDS):
        pid, to = started
        return ended(self.ask(wait=pid, seconds=seconds)["code"], to.read_text())

    def run(self, *argv, fault=None, seconds=SECONDS):
        """`dmd2 ARGV` with a fault, to its end."""
        return self.wait(self.start(*argv, fault=fault), seconds)

    def ranks(self, *argv, fault=None, both=False, seconds=SECONDS):
        """The same in two ranks, without torchrun: what each came to. both: when rank 0 has ended, rank 1 is killed."""
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        where |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        one, two = [self.start(*argv, fault=fault, env=where | {"RANK": r, "LOCAL_RANK": r}) for r in "01"]
        first = self.wait(one, seconds)
        if both:
            os.kill(two[0], signal.SIGKILL)
        return [first, self.wait(two, seconds)]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
