"""How much memory there is, by what the system says."""

import sys

import pytest
import torch

from dmd2cli.engine import room as module
from dmd2cli.engine.room import Room, peak, room, size

CPU = torch.device("cpu")
KIB, MIB, GIB = 2**10, 2**20, 2**30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine of 16 GiB, of which 4 are in use, 1 of them by this process; files below cgroup may limit it."""

    def system(groups="", address_space="unlimited", **limits):
        for path, text in {
            "meminfo": f"MemTotal:       {16 * MIB} kB\nMemFree:  1 kB\nMemAvailable:   {12 * MIB} kB\n",
            "self/status": f"Name: x\nVmSize:\t {3 * MIB} kB\nVmHWM:\t {2 * MIB} kB\nVmRSS:\t {MIB} kB\n",
            "self/cgroup": groups,
            "self/limits": f"Limit  Soft Limit  Hard Limit\nMax address space  {address_space}  unlimited  bytes\n",
            **{f"cgroup/{path.replace('__', '/')}": f"{value}\n" for path, value in limits.items()},
        }.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        monkeypatch.setattr(module, "PROC", tmp_path)
        monkeypatch.setattr(module, "GROUPS", tmp_path / "cgroup")
        return room(CPU)

    return system


def test_a_machine_without_limits_is_shared_with_others(system):
    found = system(groups="0::/\n")
    assert found == Room(16 * GIB, 4 * GIB, GIB) and found.others == 3 * GIB and peak(CPU) == 2 * GIB


@pytest.mark.parametrize("where", ["job__step__", "job__", ""])
def test_the_limit_of_any_control_group_above_counts(system, where):
    (name, limit) = (f"{where}memory.max", 8 * GIB)
    assert system("0::/job/step\n", **{name: limit, "job__step__memory.current": 5}) == Room(8 * GIB, GIB, GIB)


@pytest.mark.parametrize("where", ["memory__docker__abc__", "memory__"])
def test_so_does_that_of_the_older_kind_of_groups(system, where):
    groups = "5:devices:/other\n4:memory:/docker/abc\n0::/\n"
    assert system(groups, **{f"{where}memory.limit_in_bytes": 8 * GIB}).total == 8 * GIB


def test_a_group_without_a_limit_does_not(system):
    assert system("0::/job\n", **{"job__memory.max": "max"}).total == 16 * GIB
    assert system("4:memory:/\n", **{"memory__memory.limit_in_bytes": 2**63 - 4096}).total == 16 * GIB


def test_of_a_limited_address_space_what_is_not_in_memory_is_lost(system):
    assert system("0::/\n", address_space=6 * GIB).total == 4 * GIB


def test_a_system_that_says_nothing_has_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROC", tmp_path)
    assert room(CPU) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_this_process_rises_with_what_it_takes():
    held = torch.ones(64 * MIB)
    assert peak(CPU) >= room(CPU).own - 16 * MIB > 4 * len(held)


@pytest.mark.parametrize(("number", "text"), [(80 * GIB, "80.0 GiB"), (1353 * MIB, "1.3 GiB"), (310 * MIB, "310 MiB")])
def test_sizes_are_written_for_people(number, text):
    assert size(number) == text
