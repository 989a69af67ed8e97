"""What a distillation measures of itself: each signal on a run in which it is known what it must be."""

from contextlib import contextmanager

import pytest
import torch
from dmd2_plugins.digits import teacher as digits

from dmd2cli import registry
from dmd2cli.core.parametrization import eps
from dmd2cli.data.base import Batch
from dmd2cli.engine.distill import job
from dmd2cli.engine.health import data, scores
from dmd2cli.engine.health.health import head, over_ranks
from dmd2cli.recipe import load

CPU = torch.device("cpu")
SMALL = ("run.steps=4", "run.batch=32", "health.every=2", "health.samples=40")


def made(*overrides, recipe="digits"):
    return job(load(recipe, [*SMALL, *overrides]), CPU)


def measured(ready, step=1):
    """The signals of a job after some steps."""
    return {name: float(value) for name, value in ready.step(step).items() if name.startswith("health/")}


@pytest.fixture(scope="module")
def signals():
    """After one step of a student that still is the teacher's network in one call."""
    return measured(made())


def test_they_are_measured_at_their_interval_alone():
    ready = made()
    assert measured(ready, 0) == {} and len(measured(ready, 1)) > 15 and measured(ready, 2) == {}
    assert measured(made("health.every=null")) == {}


def test_they_change_nothing_of_the_training():
    def weights(*overrides):
        ready = made(*overrides)
        for step in range(4):
            ready.step(step)
        return torch.cat([p.flatten() for player in ready.players().values() for p in player.parameters])

    assert weights().equal(weights("health.every=null"))


def test_a_measurement_is_a_function_of_the_step():
    first, again = made(), made()
    measured(first)
    for step in (0, 2, 3):
        first.step(step)
    again.load_state(first.state())
    one, other = measured(first, 5), measured(again, 5)
    assert one == other and len(one) > 15


def test_at_first_both_scores_are_the_teachers():
    ready = made()
    d, batch = ready.distillation, ready.batches(0)[0]
    s = d.student(batch, scores.Rng(0, 0), grad=False)
    found = scores.gap(d, s, scores.Rng(0, 0).stream("gap"))
    assert len(found) == scores.BANDS and all(float(value) < 1e-3 for value in found.values())


def test_one_call_of_the_teachers_network_is_told_from_the_teacher(signals):
    assert signals["health/diversity"] < 0.4 and signals["health/ema"] < 0.1


def test_the_teacher_is_what_its_wrapper_says(signals):
    assert 0.1 < signals["health/teacher/error"] < 0.8 and abs(signals["health/teacher/slope"]) < 0.04


def test_a_discriminator_that_has_learned_nothing_is_right_half_of_the_time(signals):
    both = signals["health/accuracy/fake"] + signals["health/accuracy/real"]
    assert 0.5 < both < 1.5


def test_the_data_are_all_different(signals):
    assert signals["health/real/distinct"] == 1 and signals["health/conditions"] == pytest.approx(1, abs=0.15)


def test_the_ratio_of_gradients_is_as_large_as_the_weight():
    one, many = (measured(made(f"losses.gan_generator.weight={w}")) for w in ("3.0e-2", "3.0"))
    ratio = many["health/gradient/gan_generator"] / one["health/gradient/gan_generator"]
    assert ratio > 20                                                        # not 100: one step has been trained


def test_a_teacher_read_as_what_it_is_not_errs_more_than_a_linear_prediction():
    def wrong(weights=None, skeleton=None):
        found = digits.teacher(weights, skeleton)
        found.denoiser.parametrization = eps
        return found

    with registry.override("teachers", "digits", wrong):
        assert measured(made())["health/teacher/error"] > 1


def test_guidance_drives_the_teacher_away_from_the_data():
    mild, strong = (measured(made(f"losses.distribution_matching.guidance={g}")) for g in ("1.5", "8.0"))
    assert mild["health/teacher/guided_error"] < 1 < 3 < strong["health/teacher/guided_error"]


@pytest.mark.parametrize("recipe", ["digits-4step", "toy-grid25", "digits-guidance"])
def test_other_kinds_of_recipe_are_measured_too(recipe):
    found = measured(made(recipe=recipe))
    assert {"health/mean_shift", "health/gap/band-3"} < set(found) and all(abs(v) < 1e6 for v in found.values())


# -- data ------------------------------------------------------------------------------------------------------


def batch(raw=(), x=None):
    return Batch(slice(0, max(len(raw), 1)), max(len(raw), 1), {}, {}, x, {}, raw)


@pytest.mark.parametrize("n", [32, 128, 1000])
def test_random_labels_have_about_the_conditions_that_chance_gives(n):
    labels = torch.randint(10, (n,), generator=torch.Generator().manual_seed(0)).tolist()
    assert float(data.conditions([batch(labels)], 10)["conditions"]) == pytest.approx(1, abs=0.1)


def test_one_label_for_all_is_told():
    assert float(data.conditions([batch([3] * 64)], 10)["conditions"]) < 0.2
    assert float(data.conditions([batch(["a dog"] * 64)], 0)["conditions"]) < 0.05
    assert data.conditions([batch([None] * 64)], 0) == {}


def test_samples_that_repeat_are_counted_over_micro_batches():
    x = torch.randn(4, 3, 2, 2)
    assert float(data.distinct([batch(x=x), batch(x=x)])["real/distinct"]) == 0.5
    assert data.distinct([batch()]) == {}


def test_the_head_of_a_micro_batch_is_a_micro_batch():
    ready = made()
    first = ready.batches(0)[0]
    found = head(first, 8)
    assert len(found) == 8 and found.x.equal(first.x[:8]) and found.cond["label"].equal(first.cond["label"][:8])
    assert len(head(first, 1000)) == len(first)


def test_ranks_agree_on_names_and_average_over_those_that_have_a_number():
    held, names = [], ["gap/band-0", "gap/band-1", "gap/band-2", "diversity"]

    class Rank:
        """One of two: the first is asked first, and the second adds what it said."""

        def total(self, mine):
            held.append(mine.clone())
            return mine + held[0] if len(held) == 2 else mine

    first = {"gap/band-0": torch.tensor(1.0), "diversity": torch.tensor(0.5)}
    over_ranks(first, names, Rank())
    found = over_ranks({"gap/band-1": torch.tensor(3.0), "diversity": torch.tensor(0.7)}, names, Rank())
    assert {name: float(value) for name, value in found.items()} == {
        "gap/band-0": 1.0, "gap/band-1": 3.0, "diversity": pytest.approx(0.6)
    }  # fmt: skip


# -- on several ranks, simulated: each draws its share --------------------------------------------------------------


@contextmanager
def seen_as(ready, rank, size):
    world = type(ready.world)(rank=rank, size=size)
    yield type(ready.checkup.health.probe)(**{**vars(ready.checkup.health.probe), "world": world})


def test_ranks_draw_as_many_images_each_of_other_conditions_or_of_other_noise():
    ready, numbers = made(), []
    for rank in (0, 1):
        with seen_as(ready, rank, 2) as probe, ready.source(False) as source:
            drawn = probe.draw(source, 1)
            numbers.append((drawn.x, [example.condition for example in probe.examples]))
    assert numbers[0][0].shape == numbers[1][0].shape and not numbers[0][0].equal(numbers[1][0])
    assert set(numbers[0][1]) != set(numbers[1][1])
