"""The toy's ground truth: the exact denoiser against brute force, conditions, draws, pictures, metrics."""

import math

import pytest
import torch
from dmd2_plugins.toy.gmm import Draws, teacher
from dmd2_plugins.toy.metrics import Modes, mode_counts, sliced_wasserstein
from dmd2_plugins.toy.mixture import LAYOUTS, Exact, mixture
from dmd2_plugins.toy.picture import pixels, to_points, to_uint8
from helpers_toy import SCHEDULES

from dmd2cli.core.denoiser import guided
from dmd2cli.core.noise import RectifiedFlow, scales
from dmd2cli.errors import UserError

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
X_T = torch.tensor([[0.3, -0.2], [0.9, 0.1], [-0.4, 0.7]], dtype=torch.float64)


def brute_force(found, schedule, x_t, t, side=400):
    """E[x | x_t] by summing p(x) p(x_t | x) over a lattice, (b, 2)."""
    line = torch.linspace(-2, 2, side, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    density = torch.exp(-torch.cdist(x, found.means.double()) ** 2 / (2 * found.std**2)) @ found.weights.double()
    alpha, sigma = scales(schedule, t, x_t)
    likelihood = torch.exp(-((x_t[:, None] - alpha[..., None] * x) ** 2).sum(-1) / (2 * sigma**2))
    posterior = likelihood * density
    return posterior @ x / posterior.sum(1, keepdim=True)


@every_schedule
@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0])
def test_the_denoiser_is_the_posterior_mean(schedule, ratio):
    found = mixture("ring8", std=0.2)
    t = schedule.time(torch.full((3,), ratio, dtype=torch.float64))
    alpha, _ = scales(schedule, t, X_T)
    expected = brute_force(found, schedule, alpha * X_T, t)
    assert (Exact(found, schedule)(alpha * X_T, t, {}) - expected).abs().max() <= 1e-5


def test_pure_noise_of_a_flow_denoises_to_the_mean():
    x_hat = Exact(mixture(), RectifiedFlow())(torch.randn(5, 2), torch.ones(5), {})
    assert x_hat.abs().max() <= 1e-6


@every_schedule
def test_clean_data_denoises_to_itself(schedule):
    """Nearly so: a table begins at sigma / alpha = 0.03, and a mode has std 0.05."""
    x, _ = mixture().draw(100, torch.Generator().manual_seed(0))
    alpha, _ = scales(schedule, t := torch.zeros(100), x)
    assert (Exact(mixture(), schedule)(alpha.float() * x, t, {}) - x).abs().max() <= 0.05


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_centred_and_separate(layout):
    found = mixture(layout)
    apart = torch.pdist(found.means)
    assert found.means.mean(0).abs().max() <= 1e-6 and apart.min() > 2 * 4 * found.std


def test_data_std_is_that_of_the_draws():
    x, _ = mixture("grid25", std=0.2).draw(50_000, torch.Generator().manual_seed(0))
    assert math.isclose(x.std().item(), mixture("grid25", std=0.2).data_std, rel_tol=0.01)


def test_a_class_is_the_denoiser_of_its_modes_alone():
    found = teacher("grid25", classes=5, pretrain_steps=0)
    cond, _ = found.encode([2] * 200)
    x = found.denoiser(80.0 * torch.randn(200, 2), torch.ones(200), cond)
    assert x[:, 0].abs().max() <= 1e-6 + found.denoiser.std                    # the middle row of the lattice


def test_no_class_is_the_whole_mixture():
    conditional, plain = teacher(classes=5, pretrain_steps=0), teacher(pretrain_steps=0)
    x_t, t = torch.randn(20, 2), torch.rand(20)
    null = conditional.encode([None] * 20)[0]
    assert torch.allclose(conditional.denoiser(x_t, t, null), plain.denoiser(x_t, t, {}), atol=1e-6)


def test_guidance_pushes_away_from_the_other_classes():
    found = teacher("pair", std=0.5, classes=2, pretrain_steps=0)
    cond, null = found.encode([0] * 4)
    x_t, t = torch.zeros(4, 2), torch.full((4,), 0.6)
    plain, strong = (guided(found.denoiser, s, cond, null)(x_t, t)[0, 0].item() for s in (1.0, 3.0))
    assert 0 < plain < strong


@pytest.mark.parametrize("schedule", ["edm", "ddpm", "flow"])
def test_fitting_brings_the_network_near_the_exact_denoiser(schedule):
    def error(steps):
        found = teacher("pair", std=0.1, schedule=schedule, pretrain_steps=steps)
        x, _ = mixture("pair", 0.1).draw(500, torch.Generator().manual_seed(1))
        t = torch.linspace(0.05, 1, 500)
        alpha, sigma = scales(found.schedule, t, x)
        x_t = (alpha * x + sigma * torch.randn(500, 2, generator=torch.Generator().manual_seed(2))).float()
        return (found.network(x_t, t, {}) - found.denoiser(x_t, t, {})).square().mean().item()

    assert error(200) < 0.3 * error(0)


def test_the_network_is_a_function_of_the_seed():
    def weights(seed):
        return torch.cat([p.flatten() for p in teacher(width=16, pretrain_steps=3, seed=seed).network.parameters()])

    assert torch.equal(weights(4), weights(4)) and not torch.equal(weights(4), weights(5))


def test_a_skeleton_is_the_same_teacher_without_the_fitting():
    found = teacher("ring8", std=0.1, schedule="flow", classes=4, width=16, pretrain_steps=2)
    again = teacher(skeleton=found.details)
    again.network.load_state_dict(found.network.state_dict())
    x_t, t, cond = torch.randn(4, 2), torch.rand(4), found.encode([0, 1, 2, None])[0]
    assert torch.equal(again.network(x_t, t, cond), found.network(x_t, t, cond))
    assert torch.equal(again.denoiser(x_t, t, cond), found.denoiser(x_t, t, cond))


def test_draws_are_addressed_by_position():
    data, again = Draws("grid25", classes=5), Draws("grid25", classes=5)
    assert all(torch.equal(data[i].x, again[i].x) and data[i].condition == again[i].condition for i in (7, 0, 19_999))
    assert all((data[i].x[0] - (data[i].condition - 2) / 2).abs() < 0.3 for i in range(50))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layout": "grid26"}, "did you mean 'grid25'"),
        ({"std": 0.0}, "std must be above 0"),
        ({"classes": 4}, "divide the 25 modes"),
    ],
)
def test_bad_options_are_the_users_error(options, message):
    with pytest.raises(UserError, match=message):
        teacher(**options)


def test_labels_outside_the_classes_are_the_users_error():
    with pytest.raises(UserError, match="classes 0 to 4"):
        teacher(classes=5, pretrain_steps=0).encode([5])
    with pytest.raises(UserError, match="no classes"):
        teacher(pretrain_steps=0).encode([0])


def test_points_survive_their_picture():
    x, _ = mixture().draw(500, torch.Generator().manual_seed(0))
    images = to_uint8(x, pixels(mixture()))
    assert images.shape == (500, 3, 32, 32) and images.dtype == torch.uint8
    assert (to_points(images, pixels(mixture())) - x).abs().max() <= 0.02 < 0.2        # a mode's radius


def test_pictures_have_x_to_the_right_and_y_upwards():
    row, column = divmod(to_uint8(torch.tensor([[0.9, 0.9]]), pixels(mixture()))[0, 0].argmax().item(), 32)
    assert row < 8 and column > 24


def test_exact_samples_cover_every_mode_evenly():
    x, _ = mixture().draw(5000, torch.Generator().manual_seed(0))
    found = mode_counts(x, mixture())
    assert found.covered == 25 and found.quality > 0.998 and found.kl < 0.01


def test_a_mode_is_covered_from_a_fifth_of_its_share_on():
    means = mixture("pair").means
    for few, covered in ((100, 2), (99, 1)):                                   # of 1,000 samples, 500 per mode expected
        x = means.repeat_interleave(torch.tensor([1000 - few, few]), 0)
        assert mode_counts(x, mixture("pair")).covered == covered


def test_lost_and_infinite_samples_cover_nothing():
    x = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [50.0, 50.0]])
    found = mode_counts(x, mixture())
    assert found.covered == 0 and found.quality == 0


def test_collapse_on_one_mode_has_the_entropy_of_the_mixture_as_kl():
    assert math.isclose(mode_counts(torch.zeros(100, 2), mixture()).kl, math.log(25), rel_tol=1e-5)


def test_sliced_distance_of_a_shift_is_its_length_over_root_two():
    x = torch.randn(1000, 2)
    assert sliced_wasserstein(x, x) == 0
    assert math.isclose(sliced_wasserstein(x, x + torch.tensor([3.0, 4.0])), 5 / math.sqrt(2), rel_tol=1e-4)


def test_the_metric_reads_modes_from_pictures():
    metric = Modes()
    metric.update(to_uint8(mixture().means[:7].repeat(20, 1), pixels(mixture())), [None] * 140)
    assert metric.compute()["value"] == 7 and metric.real(5000, seed=0)["value"] == 25


def test_the_metric_refuses_pictures_of_another_size():
    with pytest.raises(UserError, match="32 x 32"):
        Modes().update(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [None] * 2)
