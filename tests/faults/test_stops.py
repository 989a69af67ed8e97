"""Being asked to stop in any phase: the state is saved within 30 seconds, and the same command continues."""

import pytest
import tiny_pipelines
from left import good, last
from processes import SMALL, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.faults]
STEPS = 12
EVERY = (f"run.steps={STEPS}", "run.save_every=5", "run.preview_every=4", "run.log_every=1", "run.threads=1")
PHASES = [("data", 2), ("generator", 4), ("critic", 6), ("preview", 8), ("save", 10)]
LIMIT = 30
"""Seconds from the signal to the end of the process."""
RECIPES = {
    "digits": ("digits", *SMALL, *EVERY),
    "edm": ("imagenet64-nogan", "tier=cpu-smoke", *EVERY),
    "sd": ("sd15-4step", "tier=cpu-smoke", *EVERY),
}


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory):
    """As zygote, for recipes of Stable Diffusion."""
    found = Zygote(tmp_path_factory.mktemp("processes"), "diffusers", "transformers")
    yield found
    found.close()


@pytest.fixture(scope="module")
def command(tmp_path_factory, zygote, diffusers):
    """The name of a recipe -> (what runs it, arguments, the run that was never asked to stop)."""
    made = {}
    folder = tmp_path_factory.mktemp("whole")

    def command(name):
        if name not in made:
            runner, argv = (diffusers if name == "sd" else zygote), ("distill", *RECIPES[name])
            if name == "sd":
                argv += (f"teacher.model={tiny_pipelines.sd15(folder / 'sd15')}",)
            done = runner.run(*argv, "-o", folder / name)
            assert done.code == 0, done.said
            made[name] = runner, argv, folder / name
        return made[name]

    return command


def as_whole(run, whole):
    """Assert that both made the same student."""
    one, other = (folder / "student/model.safetensors" for folder in (run, whole))
    assert one.read_bytes() == other.read_bytes() and good(run)[-1] == STEPS


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("signal", ["TERM", "INT", "USR1"])
def test_a_signal_in_any_phase_saves_the_state_and_the_same_command_continues(tmp_path, command, name, signal):
    zygote, argv, whole = command(name)
    for phase, step in PHASES:
        done = zygote.run(*argv, "-o", tmp_path / "run", fault={"do": signal, "phase": phase, "step": step})
        assert done.code in (0, 130) and done.fault, done.said
        assert done.end - done.fault["time"] < LIMIT
        assert f"saved at step {step} of {STEPS}; the same command continues" in done.said
        assert good(tmp_path / "run")[-1] == step
    assert zygote.run(*argv, "-o", tmp_path / "run").code == 0
    as_whole(tmp_path / "run", whole)


@pytest.mark.parametrize("name", RECIPES)
def test_a_time_limit_saves_the_state_and_the_same_command_continues(tmp_path, command, name):
    zygote, argv, whole = command(name)
    done = zygote.run(*argv, "run.time_limit=0.0001", "-o", tmp_path / "run")       # over before the second step
    assert done.code == 0 and f"of {STEPS}; the same command continues" in done.said
    assert 0 < good(tmp_path / "run")[-1] < STEPS and last(tmp_path / "run")
    assert zygote.run(*argv, "-o", tmp_path / "run").code == 0
    as_whole(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("signal", "phase", "step", "rank"),
    [("TERM", "critic", 3, 1), ("INT", "preview", 4, "all"), ("USR1", "data", 6, 0), ("TERM", "save", 5, "all"),
     ("INT", "generator", 6, 1)],
)  # fmt: skip
def test_a_signal_to_one_of_two_ranks_or_both_saves_the_state_of_the_run(tmp_path, zygote, signal, phase, step, rank):
    argv = ("distill", *RECIPES["digits"], "run.steps=8", "-o", tmp_path / "run")
    done = zygote.ranks(*argv, fault={"do": signal, "phase": phase, "step": step, "rank": rank})
    assert all(one.code in (0, 130) for one in done), done
    began = next(one.fault["time"] for one in done if one.fault)
    assert all(one.end - began < LIMIT for one in done)
    assert good(tmp_path / "run")[-1] == step and f"saved at step {step} of 8" in done[0].said
    assert [one.code for one in zygote.ranks(*argv)] == [0, 0]
