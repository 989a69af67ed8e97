"""`dmd2 distill --nproc 2` and `dmd2 pretrain` under torchrun: what is said is said once, whatever happens."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from group import torchrun

pytestmark = pytest.mark.slow
TINY = ("digits", "run.steps=4", "run.batch=8", "run.threads=1", "run.preview_every=4", "run.log_every=2")


def dmd2(*arguments):
    command, place = [sys.executable, "-m", "dmd2cli", *map(str, arguments)], os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=place, capture_output=True, text=True, timeout=600)


def test_two_ranks_say_everything_once_and_one_process_continues_them(tmp_path):
    done = dmd2("distill", *TINY, "--nproc", "2", "run.micro_batch=2", "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines() + done.stdout.splitlines()
    assert len(lines) == len(set(lines)), done.stderr
    for part in ("run.parallel: auto -> replicate: a replica takes ", "step 4/4"):
        assert sum(line.startswith(part) for line in lines) == 1
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["ranks"] == {"count": 2, "on_a_node": 2, "parallel": "replicate"}
    again = dmd2("distill", *TINY[:1], "run.steps=6", *TINY[2:], "-o", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()] == [2, 4, 6]


@pytest.mark.parametrize("mode", ["replicate", "shard"])
def test_two_ranks_measure_their_health_as_one_process_does(tmp_path, mode):
    asked = ("health.every=2", "health.samples=40", "critic.lag_every=4")
    asked += ("health.validation.every=2", "health.validation.n=41")
    found = {}
    for name, more in (("one", ()), ("two", ("--nproc", "2", f"run.parallel={mode}"))):
        done = dmd2("distill", *TINY, *asked, *more, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        found[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    for one, two in zip(found["one"], found["two"], strict=True):
        assert one.keys() == two.keys()
        assert two["validation/fd-digits"] == pytest.approx(one["validation/fd-digits"], rel=1e-3)
        assert two["health/teacher/error"] == pytest.approx(one["health/teacher/error"], rel=1e-3)
        assert two["health/contrast"] == pytest.approx(one["health/contrast"], abs=0.1)
    assert found["two"][-1]["critic/lag"] == pytest.approx(found["one"][-1]["critic/lag"], abs=1e-3)


@pytest.mark.parametrize(("change", "said"), [
    ("teacher.weights=nowhere.safetensors", "nowhere.safetensors"),              # the first rank alone reads it
    ("run.channels_last=true", "run.channels_last: weights in that order"),      # all ranks find that
])  # fmt: skip
def test_what_cannot_be_is_one_line_and_exit_code_2(tmp_path, change, said):
    done = dmd2("distill", *TINY, change, "--nproc", "2", "-o", tmp_path / "run")
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_pipeline_trained_from_scratch_by_two_ranks_is_whole(tmp_path):
    small = ("run.steps=3", "run.batch=8", "task.vae_steps=1", "run.threads=1", "run.parallel=shard")
    command = ("pretrain", "sd-tiny-digits-teacher", *small, "-o", tmp_path / "run")
    done = torchrun(2, "-m", "dmd2cli", *command)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and (tmp_path / "run/weights.safetensors").is_file()
    asked = (f"teacher.model={tmp_path}/run/pipeline", "run.steps=2", "run.batch=4", "run.preview_every=null")
    assert dmd2("distill", "sd-tiny-digits", *asked, "-o", tmp_path / "s").returncode == 0


def test_ranks_that_a_scheduler_started_and_warns_save_and_leave_with_130(tmp_path):
    """The Slurm script of docs/distributed.md: no torchrun, and SIGUSR1 to every rank."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    asked = ("distill", TINY[0], "run.steps=100000", *TINY[2:], "-o", str(tmp_path / "run"))
    ranks = []
    for rank in ("0", "1"):
        place = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "dmd2cli", *asked]
        ranks.append(subprocess.Popen(command, env=place, stderr=subprocess.PIPE, text=True))
    for line in ranks[0].stderr:
        if line.startswith("step 2/"):
            break
    for rank in ranks:
        rank.send_signal(signal.SIGUSR1)
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [130, 130], said
    assert "stopping after this step" in said[0] and "the same command continues" in said[0]
    assert "stopping" not in said[1] and "continues" not in said[1]
    assert (tmp_path / "run/student/model.safetensors").is_file() and (tmp_path / "run/checkpoints/latest").is_file()
