"""--nproc, and what the end of its ranks means."""

import signal
import sys
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from dmd2cli.cli.app import main
from dmd2cli.cli.training import without_nproc
from dmd2cli.engine.launch import code, launch
from dmd2cli.errors import UserError


def failed(*ends):
    """What torchrun raises when ranks ended with (rank, seconds, exit code)."""
    found = {rank: SimpleNamespace(timestamp=when, exitcode=number) for rank, when, number in ends}
    return ChildFailedError.__new__(ChildFailedError), found


def end(*ends):
    error, error.failures = failed(*ends)
    return code(error, 4)


def test_the_code_is_that_of_the_rank_that_ended_first_by_itself():
    assert end((0, 20, 1), (1, 10, 2)) == 2
    assert end((0, 10, -signal.SIGTERM), (2, 11, 3)) == 3       # torchrun's own signal to the others, stamped before
    assert end((3, 10, 130)) == 130


def test_a_rank_that_a_signal_ended_is_named_and_so_is_the_likely_cause():
    with pytest.raises(UserError, match=r"rank 2 of 4 was ended by SIGKILL; the system kills .*; checkpoints are int"):
        end((2, 10, -signal.SIGKILL), (0, 12, 2))
    with pytest.raises(UserError, match=r"rank 1 of 4 was ended by SIGSEGV; checkpoints are intact: the same command"):
        end((1, 10, -signal.SIGSEGV))
    with pytest.raises(UserError, match=r"rank 0 of 4 was ended by SIGTERM"):
        end((0, 10, -signal.SIGTERM), (1, 11, -signal.SIGTERM))


@pytest.mark.parametrize("arguments", [
    ["distill", "digits", "--nproc", "2", "-o", "x"], ["distill", "--nproc=2", "digits", "-o", "x"],
    ["distill", "digits", "-o", "x", "--nproc", "2"],
])  # fmt: skip
def test_the_ranks_are_not_asked_to_start_ranks(arguments):
    assert without_nproc(arguments) == ["distill", "digits", "-o", "x"]


def test_a_rank_does_not_start_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="--nproc 2: this is a rank of torchrun already; leave --nproc out"):
        launch(2, ["distill", "digits"])


@pytest.mark.parametrize(("ranks", "more", "why"), [
    ("3", [], "128 samples cannot be shared out evenly among 3 ranks"),
    ("2", ["run.parallel=none"], "2 ranks would train 2 copies of one run"),
])  # fmt: skip
def test_what_ranks_cannot_train_is_refused_before_any_starts(monkeypatch, capsys, tmp_path, ranks, more, why):
    monkeypatch.setattr("dmd2cli.engine.launch.launch", lambda *args: pytest.fail("started"))
    command = ["dmd2", "distill", "digits", *more, "--nproc", ranks, "-o", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and why in said
    assert len(said.splitlines()) == 1 and not (tmp_path / "run").exists()
