"""`dmd2` with a fault in it, placed by the progress of the run and never by the clock: faulty.py FAULT ARGUMENTS...

FAULT is JSON, or the value of DMD2_FAULT in a process that has tests/faults/site on its PYTHONPATH:

    {"do": DO, "phase": P, "step": S}      when phase P of step S begins; S counts steps from 1, as files do
    {"do": DO, "save": S, "instant": N}    at the N-th touch of the disk since the save of step S began;
                                           S = 0: since the process began
    {"do": "nan", ...}                     numbers that are not finite (nans.py)
    {"do": "rss", "every": S, "to": F}     no fault: every S steps the resident memory, as [step, bytes], into F-RANK

DO: kill, stop, sleep, the name of a signal, the name of an error of the system (from then on), fill: the folder "disk"
has no byte left, or tell: nothing, but every touch from then on is told.
"rank": which rank it happens to, 0 by default, or "all".

A touch is an opening, a renaming, a deletion, a sync of a file of checkpoints/ or student/, or half a write to one.
"""

import errno
import json
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from dmd2cli.engine import watch

PLACES = ("/checkpoints/", "/student/")
CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


class Fault:
    """What happens in this process, and when."""

    def __init__(self, given):
        rank = given.get("rank", 0)
        self.mine = rank in ("all", int(os.environ.get("RANK", "0")))
        self.given, self.count, self.lasts = given, 0, False
        self.counting = given.get("save") == 0

    def at(self, phase, done):
        """A phase begins, in the training thread."""
        mine = self.given.get("phase") == phase and self.given["step"] == done
        begins = phase == "save" and self.given.get("save") == done
        if begins or (mine and phase != "end"):
            for thread in threading.enumerate():
                if thread.name.startswith("checkpoint of step"):        # the save before: how far it is tells the clock
                    thread.join()
        self.counting |= begins
        if mine:
            self.happen(f"phase {phase}")
        if self.given.get("do") == "rss" and phase == "data" and done % self.given["every"] == 0:
            with open(f"{self.given['to']}-{os.environ.get('RANK', 0)}", "a") as file:
                file.write(json.dumps([done, resident()]) + "\n")

    def touch(self, what, path):
        """The disk is touched, in whatever thread."""
        if not self.counting or getattr(busy, "now", False):
            return
        self.count += 1
        if self.lasts or self.count == self.given["instant"]:
            busy.now = True
            try:
                self.happen(f"{what} {Path(str(path)).name}", str(path))
            finally:
                busy.now = False

    def happen(self, where, path=""):
        """The fault. stderr gets a line that says where it was, and the second."""
        do = self.given["do"]
        if do == "tell" or not self.lasts:
            os.write(2, f"\nFAULT {json.dumps({'where': where, 'time': time.time()})}\n".encode())
        if do == "tell":
            self.lasts = True
        elif do == "sleep":
            time.sleep(3600)
        elif do == "fill":
            fill(Path(self.given["disk"]))
        elif hasattr(errno, do):
            self.lasts = self.given.get("lasts", True)
            raise OSError(getattr(errno, do), os.strerror(getattr(errno, do)), path)
        else:
            number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}.get(do) or getattr(signal, f"SIG{do}")
            os.kill(os.getpid(), number)


busy = threading.local()
fault = None


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fill(disk):
    """Take what is free on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return


def at(phase, step=None, honest=watch.at):
    honest(phase, step)
    if fault is not None and fault.mine:
        fault.at(phase, watch.here.step + 1)


def hook(event, args):
    """Of sys.addaudithook: names relative to an open folder are those of an rmtree."""
    if event in CALLS and fault is not None and fault.counting and fault.mine:
        path = str(args[0])
        if any(place in path for place in PLACES) or (event in ("os.remove", "os.rmdir") and not os.path.isabs(path)):
            fault.touch(event, path)


def disk():
    """Make syncs and writes of shards touches too."""
    from torch.distributed.checkpoint.filesystem import FileSystem

    fsync, stream = os.fsync, FileSystem.create_stream

    def synced(number):
        if fault is not None and fault.mine:
            fault.touch("fsync", os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    @contextmanager
    def halfway(self, path, mode):
        with stream(self, path, mode) as file:
            yield Halfway(file, path) if "w" in mode else file

    os.fsync, FileSystem.create_stream = synced, halfway
    sys.addaudithook(hook)


class Halfway:
    """A file that is touched in the middle of every write."""

    def __init__(self, file, path):
        self.file, self.path = file, path

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        if fault is not None and fault.mine:
            fault.touch("half a write", self.path)
        return half + self.file.write(data[half:])


def install(given):
    """Put a fault into this process, before it imports the trainer or after."""
    global fault
    fault = Fault(given)
    if given.get("do") == "nan" and fault.mine:
        import nans

        nans.install(given)


watch.at = at


def begin(given):
    """In a process of its own."""
    if "save" in given:
        disk()
    install(given)


if __name__ == "__main__":
    begin(json.loads(sys.argv[1]))
    sys.argv = ["dmd2", *sys.argv[2:]]
    from dmd2cli.cli.app import main

    main()
