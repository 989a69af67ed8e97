"""Where the student's inputs come from in training."""

import torch

from dmd2cli.core.noise import Karras
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch, PairBatch
from dmd2cli.engine.inputs import Inputs
from dmd2cli.samplers.few_step import few_step

B, SHAPE, TIMES, CPU = 4, (1, 2, 2), (1.0, 0.6, 0.3), torch.device("cpu")
REAL = torch.randn(B, *SHAPE, generator=torch.Generator().manual_seed(1))


def half(x_t, t):
    return x_t / 2


def batch(**more):
    return Batch(slice(0, B), B, {}, {}, REAL, {}, **more)


def drawn(step=0, given=None, **options):
    rng = Rng(0, step).at(slice(0, B), B)
    inputs = Inputs(Karras(), SHAPE, TIMES, **options)
    call = inputs.call(rng)
    return *inputs.draw(half, given or batch(), call, rng, CPU), rng, call


def steps_of(k):
    """The first step whose random call is number k."""
    return next(s for s in range(100) if Rng(0, s).index("k", len(TIMES)) == k)


def test_simulated_inputs_are_those_of_the_inference_sampler():
    for k in range(3):
        for stochastic in (True, False):
            x_t, t, rng, found = drawn(steps_of(k), stochastic=stochastic)
            noise = rng.normal("noise", REAL)
            same = few_step(half, Karras(), noise, TIMES, rng, stop=found, stochastic=stochastic)
            assert found == k and x_t.equal(same[0]) and t.equal(same[1])


def test_the_ode_keeps_the_noise_that_the_prediction_implies():
    x_t, t, rng, _ = drawn(steps_of(1), stochastic=False)
    noise, sigma = rng.normal("noise", REAL), Karras()(t)[1].view(-1, 1, 1, 1)
    x_1 = 80 * noise
    assert torch.allclose(x_t, (x_1 / 2 + sigma * (x_1 - x_1 / 2) / 80).float(), rtol=1e-4)


def test_noised_real_data_replaces_the_students_own_samples_but_not_the_first_noise():
    x_t, t, rng, _ = drawn(steps_of(2), noised_real=True)
    noise, sigma = rng.normal("noise", REAL), Karras()(t)[1].view(-1, 1, 1, 1)
    assert torch.allclose(x_t, REAL + sigma.float() * noise)
    x_t, _, rng, _ = drawn(steps_of(0), noised_real=True)
    assert x_t.equal(80 * rng.normal("noise", REAL))


def test_the_first_input_may_be_noised_real_data_too():
    x_t, _, rng, _ = drawn(steps_of(0), first_real=True)
    assert torch.allclose(x_t, REAL + 80 * rng.normal("noise", REAL))


def test_matched_pairs_put_their_noise_into_the_batch():
    noise = torch.full((2, *SHAPE), 0.5)
    given = batch(pair=PairBatch(noise, noise, {}, where=torch.tensor([0, 2])))
    x_t, _, rng, _ = drawn(steps_of(0), given)
    own = 80 * rng.normal("noise", REAL)
    assert (x_t[[0, 2]] == 40).all() and x_t[[1, 3]].equal(own[[1, 3]])


def test_a_student_that_reads_the_scale_gets_one_per_sample_in_its_range():
    inputs = Inputs(Karras(), SHAPE, guidance=(1.0, 5.0))
    found = inputs.conditioned(batch(), Rng(0, 0).at(slice(0, B), B), CPU)
    scale = found.cond["guidance"]
    assert scale.shape == (B,) and len(scale.unique()) == B and (scale >= 1).all() and (scale < 5).all()
    assert found.real_cond["guidance"].equal(scale)
    assert Inputs(Karras(), SHAPE).conditioned(batch(), Rng(0, 0), CPU).cond == {}
