"""What a rank is and does, without any other: its rows, agreement with itself, what auto picks, how it joins."""

import pytest
import torch
from torch import nn

from dmd2cli.engine.layout import lasting, lay_out, picked
from dmd2cli.engine.parallel import ALONE, World, joined, seed_networks
from dmd2cli.engine.share import Share, share
from dmd2cli.errors import UserError
from dmd2cli.recipe import Run

GIB = 2**30


def settings(**changes):
    return Run(**{"steps": 4, "batch": 8, **changes})


def test_ranks_share_out_the_rows_of_a_batch_in_order_and_evenly():
    assert [World(rank, 4).rows(12) for rank in range(4)] == [slice(i, i + 3) for i in (0, 3, 6, 9)]
    assert ALONE.rows(7) == slice(0, 7)


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused():
    with pytest.raises(UserError, match=r"9 samples cannot be shared out evenly among 2 ranks; change run.batch"):
        World(0, 2).rows(9)


def test_one_process_agrees_with_itself():
    assert ALONE.any(True) and not ALONE.any(False)
    assert ALONE.shared(lambda: {"a": [1, None]}) == {"a": [1, None]}
    assert ALONE.total(torch.tensor(3.0)) == 3 and ALONE.agree(torch.tensor(1.0)) == 1
    assert ALONE.mean({"a": torch.tensor(1.5), "n": torch.tensor(2)}) == {"a": 1.5, "n": 2.0} and ALONE.mean({}) == {}


def test_a_shard_size_that_does_not_divide_the_ranks_is_refused():
    with pytest.raises(UserError, match=r"run.shard_size: 4 ranks are no multiple of 3; change it"):
        World(0, 4).lay("hybrid", 3, torch.device("cpu"))


def test_one_rank_alone_says_that_there_is_nothing_to_share_out(capsys):
    lay_out(ALONE, settings(parallel="shard"), [], [], torch.device("cpu"))
    assert capsys.readouterr().err == "run.parallel=shard: there is one rank, and nothing to share out\n"
    lay_out(ALONE, settings(), [], [], torch.device("cpu"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("ranks", "node", "needed", "mode"),
    [
        (8, 8, 40, "replicate"),
        (8, 8, 60, "shard"),                               # more than 0.6 of the memory
        (16, 8, 60, "hybrid"),
        (16, 8, 384, "hybrid"),                            # 48 on each of 8
        (16, 8, 400, "shard"),
        (16, 1, 60, "shard"),                              # one rank on a node: nothing to shard within
    ],
)
def test_auto_replicates_what_fits_and_says_the_sizes(ranks, node, needed, mode):
    found, why = picked(World(0, ranks, node), needed * GIB, 80 * GIB)
    assert found == mode
    assert f"a replica takes {needed:.2g} GiB of the 80 GiB of each rank" in why


def test_what_lasts_is_weights_gradients_and_moments_of_learners_and_weights_of_others():
    learner, frozen = nn.Linear(10, 10, bias=False), nn.Linear(7, 1, bias=False).requires_grad_(False)
    assert lasting([learner], [frozen, learner]) == 4 * 100 * 4 + 7 * 4


def test_a_rank_reads_what_torchrun_says_and_refuses_what_cannot_be():
    assert share({}) == Share(0, 1) and share({"RANK": "3", "WORLD_SIZE": "4"}) == Share(3, 4)
    for rank, size in (("4", "4"), ("-1", "2"), ("a", "2"), ("0", "0")):
        with pytest.raises(UserError, match=rf"RANK={rank} WORLD_SIZE={size}: a rank is a whole number below"):
            share({"RANK": rank, "WORLD_SIZE": size})


def test_on_one_gpu_machine_names_stay(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert Share(6, 8).device("auto") == Share(6, 8).device("cuda") == "cuda:2"
    assert Share(6, 8).device("cpu") == "cpu" and Share().device("auto") == "auto"


def test_a_process_that_torchrun_did_not_start_is_alone():
    with joined(settings(parallel="none")) as world:
        assert (world.size, world.first, world.mode) == (1, True, "none")


def test_several_ranks_are_never_silently_several_runs(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"run.parallel=none: 2 ranks would train 2 copies of one run; set it to auto"):
        joined(settings(parallel="none")).__enter__()


@pytest.mark.parametrize("name", ["MASTER_ADDR", "MASTER_PORT"])
def test_ranks_that_cannot_find_each_other_say_what_is_missing(monkeypatch, name):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv(name)
    with pytest.raises(UserError, match=rf"{name} is not set, and WORLD_SIZE is 2; start the ranks with torchrun"):
        joined(settings()).__enter__()


def test_dropout_differs_between_ranks_and_is_that_of_one_process_on_the_first():
    drawn = []
    for world, step in ((ALONE, 3), (World(0, 2), 3), (World(1, 2), 3), (World(1, 2), 4), (World(1, 2), 3)):
        seed_networks(0, step, world)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1] and drawn[2] == drawn[4] and len({str(values) for values in drawn}) == 3
