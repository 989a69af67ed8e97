"""The plan of a recipe: what it counts, what it answers, how it is told."""

import json
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch
import typer
from plans import EDM, SMALL, Blobs, shaped
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from dmd2cli import registry
from dmd2cli.cli import plan as command
from dmd2cli.engine.distill import job
from dmd2cli.engine.plan import fit as plan_fit
from dmd2cli.engine.plan.cost import CARDS, Cost, cycle
from dmd2cli.engine.plan.fit import largest, parse, sharded, taken, tries
from dmd2cli.engine.plan.memory import memory
from dmd2cli.engine.plan.networks import players
from dmd2cli.engine.plan.plan import Question, plan
from dmd2cli.errors import UserError
from dmd2cli.recipe import load

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def blobs():
    with registry.override("datasets", "blobs", Blobs):
        yield


@cache
def rehearsed(*overrides, kind="cpu"):
    """Memory of a recipe, counted once: the largest take seconds."""
    return memory(shaped(*overrides), kind)


@pytest.fixture(scope="module")
def found():
    """A plan whose peak is that of an update."""
    return memory(shaped("run.batch=1024", "data.real=digits"), "cpu")


def test_what_lasts_is_what_the_players_hold():
    work = job(shaped("critic.per_call=true", "student.times=[1.0, 0.5]"), CPU)
    for step in range(6):
        work.step(step)
    found = {n.name: n for n in memory(work.recipe, "cpu").networks}
    for name, player in work.players().items():
        states = [t for state in player.optimiser.state.values() for k, t in state.items() if k != "step"]
        tensors = [*player.module.parameters(), *player.module.buffers(), *states]
        tensors += (player.ema or {}).values()
        assert found[name].lasting == sum(t.nbytes for t in tensors), name
        assert found[name].gradients == sum(p.nbytes for p in player.parameters)
    assert found["teacher"].parameters == sum(p.numel() for p in work.distillation.teacher.denoiser.parameters())


@pytest.mark.parametrize("more", [(), ("turns=alternate", "ttur=3"), ("losses.distribution_matching.guidance=2.0",)])
def test_the_operations_of_a_cycle_are_those_that_torch_counts(more):
    recipe = shaped(*more)
    found, work = rehearsed(*more), job(recipe, CPU)
    with FlopCounterMode(display=False) as counter:
        for step in range(recipe.ttur):
            work.step(step)
    assert cycle(*found.stages[0]).flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_a_student_of_several_calls_is_called_to_make_its_own_input():
    one, four = (rehearsed(f"student.times={times}") for times in ("[1.0]", "[1.0, 0.75, 0.5, 0.25]"))
    more = cycle(*four.stages[0]).flops - cycle(*one.stages[0]).flops
    assert more == pytest.approx(2 * 1.5 * 32 * one.stages[0][1].sample.flops)


@pytest.mark.parametrize(("preset", "millions"), [("imagenet64", 295.9), ("cifar10-cond", 55.7)])
def test_published_networks_have_their_published_sizes(preset, millions):
    cast = players(load("digits", [f"teacher={{use: edm, preset: {preset}}}"]), "cuda")
    for net in (cast.teacher.denoiser, cast.generator, cast.critics[0]["fake"]):
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.slow
def test_the_real_network_of_imagenet_64_is_planned():
    facts = plan(load("imagenet64"), Question(parse("80G")))
    assert {n["name"]: round(n["parameters"] / 1e6, 1) for n in facts["networks"]}["teacher"] == 295.9
    assert facts["fit"]["fits"] and facts["left_out"] == {}


# -- what is asked ---------------------------------------------------------------------------------------------


def test_nothing_is_opened():
    data = ["data.real={use: blobs, path: nowhere}", "data.prompts={use: blobs, path: nowhere}"]
    teacher = "teacher={use: edm, preset: tiny-adm, weights: nowhere.safetensors}"
    facts = plan(shaped(*EDM[1:], *data, teacher), Question(parse("24G")))
    assert facts["fit"]["fits"] and facts["networks"][0]["parameters"] > 0


def test_a_teacher_that_needs_its_weights_is_named():
    with registry.override("teachers", "closed", lambda: None), pytest.raises(UserError) as refused:
        plan(load("digits", ["teacher=closed"]), Question())
    assert str(refused.value) == (
        "override 'teacher=closed': teacher: closed cannot be built without its weights (it takes no skeleton): "
        "no plan for it"
    )


def test_the_largest_micro_batch_fits_and_the_next_does_not(found):
    for rows, more in ((64, 128), (256, 512)):
        assert found.peak(rows) < found.peak(more)
        assert largest(found, found.peak(rows), "cpu") == rows
        assert largest(found, found.peak(more) - 1, "cpu") == rows
    assert largest(found, found.lasting, "cpu") is None
    assert largest(found, found.peak(1024), "cpu", gpus=4) == 256


def test_the_first_option_that_makes_it_fit_is_the_answer(found):
    recipe = shaped("run.batch=1024")
    fits = tries(recipe, found, found.peak(1024), "cpu")
    assert [(one.overrides, one.fits) for one in fits] == [((), True)]
    smaller = tries(recipe, found, found.peak(256), "cpu")
    assert [(one.overrides, one.fits) for one in smaller] == [((), False), (("run.micro_batch=256",), True)]
    hopeless = tries(recipe, found, found.data, "cpu")
    assert not any(one.fits for one in hopeless)


class Flat:
    """Memory that is a line in the micro-batch, of a recipe with these options."""

    batch = 8

    def __init__(self, run):
        self.base = 50 if run.teacher_weights == "bf16" else 60
        self.slope = (10 if run.checkpointing else 30) if not run.compile else 10
        self.base -= 8 * (run.optimiser == "8bit") + 4 * ("optimiser" in run.offload) + 3 * ("teacher" in run.offload)

    def peak(self, rows):
        return self.base + rows * self.slope


MOST = ["run.micro_batch=1", "run.checkpointing=true", "run.teacher_weights=bf16", "run.optimiser=8bit"]


@pytest.mark.parametrize(
    ("device", "more", "answer"),
    [
        (300, (), []),
        (120, (), ["run.micro_batch=2"]),
        (100, (), ["run.micro_batch=1"]),
        (80, (), ["run.micro_batch=2", "run.checkpointing=true"]),
        (65, (), ["run.micro_batch=1", "run.checkpointing=true", "run.teacher_weights=bf16"]),
        (65, ("run.checkpointing=true",), ["run.micro_batch=1", "run.teacher_weights=bf16"]),
        (65, ("run.compile=true",), ["run.micro_batch=1", "run.teacher_weights=bf16"]),
        (55, (), ["run.micro_batch=1", "run.checkpointing=true", "run.teacher_weights=bf16", "run.optimiser=8bit"]),
        (48, (), [*MOST, "run.offload=[optimiser]"]),
        (45, (), [*MOST, "run.offload=[optimiser,teacher]"]),
        (45, ("run.offload=[teacher]",), [*MOST, "run.offload=[teacher,optimiser]"]),
        (45, ("run.optimiser=8bit", "run.offload=[teacher,optimiser]"), MOST[:-1]),
        (44, (), None),
    ],
)
def test_options_that_help_are_added_until_it_fits(monkeypatch, device, more, answer):
    recipe = shaped("run.batch=8", *more)
    monkeypatch.setattr(plan_fit, "memory", lambda recipe, kind: Flat(recipe.run))
    monkeypatch.setattr(plan_fit, "stored", lambda recipe, found, kind: Flat(recipe.run))
    made = tries(recipe, Flat(recipe.run), device, "cpu")
    assert made[-1].fits == (answer is not None) and not any(one.fits for one in made[:-1])
    assert answer is None or list(made[-1].overrides) == answer


def test_checkpointing_takes_less_and_counts_more_operations():
    plain, less = (rehearsed(*EDM, "run.batch=64", f"run.checkpointing={on}") for on in ("false", "true"))
    assert less.peak(64) < 0.5 * plain.peak(64)
    assert cycle(*less.stages[0]).flops > 1.1 * cycle(*plain.stages[0]).flops


def test_a_device_takes_more_than_torch_hands_out():
    assert taken(10**9, "cpu") == 10**9 and taken(10**9, "cuda") > 1.5 * 10**9


def test_sharding_spreads_what_lasts_but_not_activations(found):
    lasting = sum(network.lasting for network in found.networks)
    assert sharded(found, 2, "cpu") <= found.peak(1) - lasting // 2
    assert sharded(found, 10**6, "cpu") > found.data


@pytest.mark.parametrize(
    ("text", "size"), [("24G", 24 * 2**30), ("80GB", 80 * 2**30), ("1.5GiB", 3 * 2**29), ("64m", 2**26)]
)
def test_sizes_are_powers_of_1024(text, size):
    assert parse(text) == size


@pytest.mark.parametrize("text", ["24X", "", "-1G", "0G", "G"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="--device-memory .*: write a size such as 24G or 80G"):
        parse(text)


@pytest.mark.parametrize("wrong", [{"efficiency": 0.0}, {"efficiency": 1.5}, {"tflops": -1.0}, {"gpus": 0}])
def test_a_question_without_sense_is_refused(wrong):
    (name, _), *_ = wrong.items()
    with pytest.raises(UserError, match=f"--{name} "):
        Question(**wrong)


def test_hours_are_operations_over_what_the_card_does():
    run = Cost(1, 1, 1, flops=3.6e18)
    assert run.hours(1000, 0.5) == pytest.approx(2) and run.hours(1000, 0.5, gpus=4) == pytest.approx(0.5)
    assert all(card.memory >= 24 and card.peak > 50 for card in CARDS)


def test_a_measured_step_gives_hours_and_what_was_reached():
    facts = plan(shaped("run.steps=3600"), Question(measured_step=0.5, tflops=1.0))
    (found,) = facts["time"]
    assert found["hours"] == 0.5
    assert found["tflops_reached"] == pytest.approx(facts["run"]["flops"] / 1800 / 1e12)
    assert found["efficiency"] == pytest.approx(found["tflops_reached"])


def test_every_stage_is_planned_and_the_largest_decides():
    stages = "[{until: 10, losses: {joint_critic: {gan: 0.5}, gan_generator: null}}, {losses: {gan_generator: {}}}]"
    facts = plan(shaped("run.steps=20", f"stages={stages}"), Question())
    peaks = {p["stage"]: p["peak"] for p in facts["phases"] if p["name"] == "generator update"}
    assert peaks[0] < peaks[1] and facts["peak"] >= peaks[1]
    assert facts["run"]["critic_updates"] == 20


@dataclass(frozen=True)
class Asking:
    """A term that asks for a value."""

    player: ClassVar = "generator"
    reads_real: ClassVar = False

    def __call__(self, s, nets, rng):
        return s.x.mean() if s.x.mean() > 0 else -s.x.mean()


def test_a_term_that_depends_on_values_is_left_out_and_named():
    with registry.override("losses", "asking", Asking):
        facts = plan(shaped("losses.asking.weight=0.1"), Question())
    assert list(facts["left_out"]) == ["asking"]
    assert not plan(shaped("losses.diversity.weight=0.1"), Question())["left_out"]


# -- what is kept where ----------------------------------------------------------------------------------------


def row(name, *overrides, kind="cuda"):
    """What is said of one network."""
    return next(n for n in rehearsed(*overrides, kind=kind).networks if n.name == name)


def test_moments_of_eight_bits_are_what_the_optimiser_keeps():
    work = job(shaped("run.optimiser=8bit"), CPU)
    for step in range(4):
        work.step(step)
    for name, player in work.players().items():
        kept = [t for state in player.optimiser.state.values() for t in state.values()]
        states = [t for t in kept if torch.is_tensor(t) and t.ndim]
        assert row(name, "run.optimiser=8bit", kind="cpu").moments == sum(t.nbytes for t in states)
    assert row("generator", "run.optimiser=8bit").moments < 0.31 * row("generator").moments


def test_what_is_offloaded_waits_in_the_memory_of_the_cpu():
    plain, waits = (row("generator", *more) for more in ((), ("run.offload=[optimiser]",)))
    largest = max(p.numel() for p in players(shaped(), "cuda").generator.parameters())
    assert waits.host == plain.moments and waits.moments == 8 * largest and plain.host == 0
    plain, waits = (row("teacher", *EDM, *more) for more in ((), ("run.offload=[teacher]",)))
    assert 0.95 * plain.weights < waits.host <= plain.weights and waits.weights < 0.9 * plain.weights
    assert row("generator", "run.offload=[optimiser]", kind="cpu").host == 0
    facts = plan(shaped("run.device=auto", "run.offload=[optimiser]"), Question())
    assert facts["host"] == sum(network["host"] for network in facts["networks"]) > 0


def test_a_teacher_that_cannot_be_offloaded_is_refused_and_not_suggested(found):
    learns = ("critic.head.reads=teacher", *EDM[1:])
    with pytest.raises(UserError, match="run.offload: teacher"):
        memory(shaped(*learns, "run.offload=[teacher]"), "cuda")
    made = tries(recipe := shaped(*learns), memory(recipe, "cuda"), 2**20, "cuda")
    assert not any("teacher" in override for one in made for override in one.overrides if "offload" in override)


def test_selective_checkpointing_lies_between():
    ways = ("false", "selective", "true")
    all_kept, selective, none = (rehearsed(*EDM, "run.batch=64", f"run.checkpointing={way}") for way in ways)
    assert none.peak(64) < selective.peak(64) < all_kept.peak(64)
    flops = [cycle(*found.stages[0]).flops for found in (all_kept, selective, none)]
    assert flops[0] == flops[1] < flops[2]


@pytest.mark.parametrize(("asked", "said"), [("fp16", "fp16"), ("bf16", "bf16"), ("auto", "fp32")])
def test_the_precision_is_said(asked, said):
    assert plan(shaped(f"run.precision={asked}"), Question())["precision"] == said


def test_lpips_counts_without_its_weights():
    pairs = ("data.pairs={use: pairs, path: nowhere}", "run.batch=4")
    plain, lpips = (
        memory(shaped(*pairs, f"losses.regression={{distance: {name}, resize: 32}}"), "cpu") for name in ("l2", "lpips")
    )
    assert [n.name for n in lpips.networks] == [*(n.name for n in plain.networks), "lpips"]
    assert lpips.networks[-1].weights > 14.7e6 * 4 and lpips.peak(4) > plain.peak(4) + lpips.networks[-1].weights


# -- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def planned():
    app = typer.Typer()
    app.command()(command.plan)

    def planned(*args):
        done = CliRunner().invoke(app, ["digits", *SMALL, *args], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    return planned


def test_people_get_tables(planned):
    out = planned("run.device=auto", "--device-memory", "24G", "--efficiency", "0.3")
    assert out.startswith("digits: batch 32, bf16 on cuda; sizes in MiB\n\nNETWORK ")
    assert "24.00 GiB: fits; the largest micro-batch that does is 32" in out
    assert "H100 SXM   80.00   32                   989           < 0.1" in out
    assert out.endswith("one GPU, 30% of the dense bf16 peak of the data sheet\n")


def test_what_does_not_fit_ends_with_0_and_what_helps(planned, found):
    out = planned("run.batch=1024", "--device-memory", f"{found.peak(256) / 2**20 + 0.5}M")
    assert "GiB: does not fit" in out and "to make it fit, add: run.micro_batch=256" in out
    assert "CARD" not in out


def test_machines_get_json(planned):
    facts = json.loads(planned("--json", "--tflops", "2", "--gpus", "2"))
    assert facts["recipe"] == "digits" and facts["time"][0].keys() == {"tflops", "efficiency", "gpus", "hours"}
    assert facts["peak"] == max(p["peak"] for p in facts["phases"])
    assert {n["name"] for n in facts["networks"]} == {"teacher", "generator", "critic"}
