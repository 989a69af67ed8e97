"""Twenty raters at once, and a server that is killed in the middle: no vote is lost, none is doubled."""

import json
import random
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
import studies

from dmd2cli.study.counted import counted
from dmd2cli.study.results import summed
from dmd2cli.study.set import load
from dmd2cli.study.votes import read_votes

pytestmark = [pytest.mark.slow, pytest.mark.faults]

RATERS, PAIRS = 20, 50
VOTES = RATERS * PAIRS * 2


class Serving:
    """`dmd2 study serve` as a process of its own."""

    def __init__(self, folder, port=0):
        command = [sys.executable, "-m", "dmd2cli", "study", "serve", str(folder), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()
        self.link = self.process.stdout.readline().strip()
        self.port = int(self.link.split(":")[2].split("/")[0])

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Rater(threading.Thread):
    """Votes on everything, sends again what was not acknowledged, and now and then what was."""

    def __init__(self, link, number):
        super().__init__()
        self.base, _, self.token = link.partition("/?token=")
        self.number, self.acknowledged, self.failed = number, {}, 0
        self.cookies = {}

    def ask(self, path, body=None):
        headers = {"content-type": "application/json", "cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        data = None if body is None else json.dumps(body).encode()
        for _ in range(600):
            try:
                request = urllib.request.Request(f"{self.base}{path}?token={self.token}", data, headers)
                with urllib.request.urlopen(request, timeout=10) as answer:
                    if cookie := answer.headers.get("set-cookie"):
                        key, _, value = cookie.partition(";")[0].partition("=")
                        self.cookies[key] = value
                    return json.loads(answer.read())
            except urllib.error.HTTPError as err:
                assert err.code in (429, 503), err.code
            except (OSError, ValueError):                      # cut off in the middle, or nobody there
                self.failed += 1
            time.sleep(0.1)
        raise AssertionError("the server did not come back")

    def run(self):
        choose = random.Random(self.number)
        state = self.ask("/api/join", {"name": f"Rater {self.number}"})
        while state["pair"]:
            pair = state["pair"]
            question = next(q for q in ("quality", "alignment") if q not in pair["answers"])
            side = choose.choice(("left", "none", "right"))
            vote = {"pair": pair["number"], "question": question, "side": side, "key": f"{choose.getrandbits(64):016x}"}
            state = self.ask("/api/vote", vote)
            self.acknowledged[pair["number"], question] = side
            if choose.random() < 0.1:
                self.ask("/api/vote", vote)


def test_none_of_2000_votes_is_lost_or_doubled_when_the_server_is_killed(tmp_path):
    folder = studies.study(tmp_path, texts=[f"prompt {i}" for i in range(PAIRS)])
    first = Serving(folder)
    raters = [Rater(first.link, k) for k in range(RATERS)]
    for rater in raters:
        rater.start()
    while sum(len(rater.acknowledged) for rater in raters) < VOTES // 2:
        time.sleep(0.02)
    first.kill()
    time.sleep(0.5)
    second = Serving(folder, first.port)
    for rater in raters:
        rater.join()
    second.kill()
    assert second.link == first.link and sum(rater.failed for rater in raters) > 0
    votes, names = read_votes(folder, load(folder).id)
    held = {(names[v.rater], v.pair, v.question): v.side for v in votes}
    said = {(f"Rater {r.number}", *asked): side for r in raters for asked, side in r.acknowledged.items()}
    assert len(votes) == len(held) == VOTES and held == said
    found = summed(counted(folder))
    assert (found["raters"], found["votes"]) == (RATERS, VOTES)
