"""Processes that have imported everything before they begin: each is a fork of this one, which has computed nothing.

A request is a line of JSON on stdin, its answer one on stdout:

    {"argv": [..], "fault": {..} or null, "env": {..}, "cwd": "..", "to": "file for stdout and stderr"} -> {"pid": N}
    {"wait": N, "seconds": S} -> {"code": C}, as subprocess has it; null if it had to be killed for being too slow
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import faulty

MODULES = (
    "torch.distributed.tensor", "torch.distributed.fsdp", "torch.utils.tensorboard", "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.hf_storage", "sklearn.datasets", "safetensors.torch", "torch._dynamo",
    "dmd2cli.cli.app", "dmd2cli.cli.training", "dmd2cli.recipe_build", "dmd2cli.engine.distill", "dmd2cli.engine.run",
    "dmd2_plugins.digits.teacher", "dmd2_plugins.digits.data", "dmd2_plugins.toy.gmm", "dmd2_plugins.edm.teacher",
)  # fmt: skip


def begin(request):
    """Become the process that was asked for: its arguments, folder and files."""
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    out = os.open(request["to"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["dmd2", *request["argv"]]
    faulty.install(request["fault"] or {})


def wait(pid, seconds):
    """The exit code of a child; None if it was killed after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def serve():
    """Answer until stdin ends; returns in a child, which is then the command."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    for name in (*MODULES, *sys.argv[1:]):
        importlib.import_module(name)
    faulty.disk()
    print("{}", file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(json.dumps({"code": wait(request["wait"], request["seconds"])}), file=answers)
        elif pid := os.fork():
            print(json.dumps({"pid": pid}), file=answers)
        else:
            begin(request)
            return True
    return False


if __name__ == "__main__" and serve():
    from dmd2cli.cli.app import main

    main()
