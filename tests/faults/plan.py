"""Where the 100 kills are: chains of one run each, in the order in which they meet it.

A save touches the disk 37 times (faulty.py says what counts), a start up to 20 times: here every one of the first is
met once, and of the second those that differ. Instants before 8 of a save are those of the student; up to 21 its
checkpoint has no name yet; from 32 on, the oldest one is deleted.
"""

STEPS, RANK_STEPS = 40, 30
EVERY = 5
"""Steps between two saves."""


def phase(name, step):
    return {"do": "kill", "phase": name, "step": step}


def save(step, instant):
    return {"do": "kill", "save": step, "instant": instant}


def start(instant):
    return {"do": "kill", "save": 0, "instant": instant}


FIRST = [phase("data", 1), phase("generator", 1), phase("critic", 1), phase("data", 5), phase("save", 5), save(5, 9),
         save(5, 20)]  # fmt: skip
EARLY = [phase("generator", 6), phase("critic", 6), phase("data", 7), phase("critic", 8), phase("preview", 10),
         phase("save", 10), phase("generator", 11)]  # fmt: skip
STARTS = [(1, 16), (2, 17), (4, 18), (5, 2), (8, 3), (10, 15), (12, 11)]
"""Two of each chain, the first after a kill in the middle of a save, whose leftovers are deleted from 16 on."""
LATE = [phase("data", 39), phase("critic", 37), phase("generator", 36), phase("preview", 40), phase("end", 40),
        save(40, 36), save(40, 37)]  # fmt: skip


def single(chain):
    """Ten kills of a run of one process; seven such chains meet every instant of a save."""
    saves = [save(15 + 5 * i, 1 + chain + 7 * i) for i in range(5)]
    one, two = STARTS[chain]
    return [FIRST[chain], EARLY[chain], saves[0], saves[1], start(two), saves[2], start(one), *saves[3:], LATE[chain]]


def ranks(chain):
    """Ten kills of a run of two ranks. Of a save rank 1 sees its own shard: made, opened, half written, synced."""
    found = [
        [(1, phase("critic", 2)), (0, phase("data", 4)), ("both", phase("save", 5))],
        [(0, phase("generator", 6)), ("both", phase("critic", 8)), (1, phase("data", 9))],
        [("both", save(10, 3)), (1, save(10, 3)), (0, save(10, 19))],
        [(1, phase("preview", 10)), (0, phase("preview", 10)), ("both", phase("save", 10))],
        [(0, save(15, 14)), ("both", save(15, 17)), (1, save(15, 2))],
        [("both", phase("critic", 16)), (1, phase("generator", 16)), (0, phase("data", 17))],
        [(1, start(2)), (0, start(4)), ("both", start(9))],
        [(0, save(20, 2)), ("both", save(20, 25)), (1, save(20, 1))],
        [("both", save(25, 36)), (1, save(25, 4)), (0, save(25, 29))],
        [(1, phase("end", 30)), (0, phase("critic", 29)), ("both", phase("preview", 30))],
    ]
    return [fault | {"rank": who} for who, fault in (kills[chain] for kills in found)]
