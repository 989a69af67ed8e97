"""GAN options: what the head reads, whose noise it sees, and the penalty on real samples."""

import pytest
import torch

from dmd2cli.core.noise import Karras, diffuse
from dmd2cli.core.random import Rng
from dmd2cli.core.weighting import snr
from dmd2cli.errors import UserError
from dmd2cli.losses.distribution_matching import DistributionMatching
from dmd2cli.losses.gan import GanCritic, GanGenerator
from dmd2cli.losses.joint_critic import JointCritic
from dmd2cli.protocols import Nets, Sample

B = 6


class Spy:
    """A denoiser that halves its input and keeps what it was asked; features are the input itself."""

    def __init__(self):
        self.seen = []

    def __call__(self, x_t, t, cond):
        self.seen.append((x_t, t, cond))
        return x_t / 2

    def features(self, x_t, t, cond):
        self.seen.append((x_t, t, cond))
        return x_t.flatten(1)

    def taps(self, x_t, t, cond, depths):
        self.seen.append((x_t, t, cond))
        return [x_t.flatten(1) * (depth + 1) for depth in depths]

    def joint(self, x_t, t, cond, n):
        return x_t[:n] / 2, self.features(x_t, t, cond)


class Column(torch.nn.Module):
    """A head whose logit is the sum of the features; of several depths, one column each."""

    def forward(self, features):
        if isinstance(features, torch.Tensor):
            return features.sum(1, keepdim=True)
        return torch.stack([h.sum(1) for h in features], dim=1)


def nets(**options):
    return Nets(Spy(), Spy(), Column(), Spy(), Karras(), snr, **options)


def sample():
    g = torch.Generator().manual_seed(0)
    x, real = torch.randn(2, B, 1, 2, 2, generator=g)
    return Sample(x.requires_grad_(), slice(0, B), B, {}, {}, real, {})


def seen_by(term, found, s=None):
    term(s or sample(), found, Rng(0, 0).at(slice(0, B), B).stream(type(term).__name__))
    return found


def test_the_head_reads_the_critic_or_the_teacher():
    for reads, spy, other in (("critic", "fake", "real"), ("teacher", "real", "fake")):
        found = seen_by(GanGenerator(), nets(reads=reads))
        assert len(getattr(found, spy).seen) == 1 and not getattr(found, other).seen


def test_a_teacher_that_is_read_is_not_told_the_guidance_scale():
    found = nets(reads="teacher")
    found.realism(torch.zeros(2, 3), torch.ones(2), {"label": torch.zeros(2), "guidance": torch.ones(2)})
    assert set(found.real.seen[0][2]) == {"label"}


def test_several_depths_give_a_logit_each():
    x_t = torch.randn(3, 4)
    found = nets(depths=(0, 2)).realism(x_t, torch.ones(3), {})
    assert torch.allclose(found, torch.stack([x_t.sum(1), 3 * x_t.sum(1)], dim=1))


def test_shared_noise_gives_the_generator_the_draw_of_distribution_matching():
    s, rng, found = sample(), Rng(0, 0).at(slice(0, B), B), nets()
    DistributionMatching()(s, found, rng.stream("distribution_matching"))
    GanGenerator(True, 0.02, 0.98)(s, found, rng.stream("gan_generator"))
    (x_dm, t_dm, _), (x_gan, t_gan, _) = found.fake.seen
    assert x_dm.equal(x_gan) and t_dm.equal(t_gan)


def test_noise_of_its_own_is_the_default():
    s, rng, found = sample(), Rng(0, 0).at(slice(0, B), B), nets()
    DistributionMatching()(s, found, rng.stream("distribution_matching"))
    GanGenerator()(s, found, rng.stream("gan_generator"))
    assert not found.fake.seen[0][1].equal(found.fake.seen[1][1])


@pytest.mark.parametrize("term", [GanCritic, JointCritic])
@pytest.mark.parametrize("shared", [False, True])
def test_fake_and_real_see_one_draw_or_two(term, shared):
    s = sample()
    (x_t, t, _), = seen_by(term(shared_noise=shared), nets(), s).fake.seen
    (x_fake, x_real), (t_fake, t_real) = x_t.chunk(2), t.chunk(2)
    assert t_fake.equal(t_real) == shared
    eps_fake = (x_fake - s.x) / Karras()(t_fake)[1].view(-1, 1, 1, 1)
    eps_real = (x_real - s.real) / Karras()(t_real)[1].view(-1, 1, 1, 1)
    assert torch.allclose(eps_fake.float(), eps_real.float(), atol=1e-2) == shared


@pytest.mark.parametrize("term", [GanGenerator, GanCritic])
def test_the_highest_time_bounds_the_noise_and_zero_adds_none(term):
    found = seen_by(term(diffusion_max_time=0.3), nets())
    assert 0 < found.fake.seen[0][1].max() <= 0.3
    s = sample()
    x_t, t, _ = seen_by(term(diffusion_max_time=0.0), nets(), s).fake.seen[0]
    assert x_t[:B].equal(s.x) and not t.any()                      # index 0 of the Karras grid is t = 0


def test_exact_r1_of_a_linear_head_is_known():
    plain, with_r1 = GanCritic(), GanCritic(r1=3.0)
    rng, found = Rng(0, 0).at(slice(0, B), B), nets()
    difference = with_r1(sample(), found, rng) - plain(sample(), found, rng)
    assert torch.allclose(difference, torch.tensor(3.0 / 2 * 4))   # |dD/dx|^2 = 4 pixels of slope alpha = 1


def test_both_sides_of_the_approximate_r1_have_one_noise_level():
    s, found = sample(), nets()
    term, rng = GanCritic(r1=1.0, r1_std=0.1), Rng(0, 0).at(slice(0, B), B)
    term(s, found, rng)
    (x_t, t, _), (near, t_near, _) = found.fake.seen
    assert t[B:].equal(t_near)
    added = near - x_t[B:]
    assert torch.allclose(added, 0.1 * rng.normal("r1", s.real), atol=1e-4)       # the same eps on both sides
    assert not torch.allclose(x_t[B:], diffuse(s.real, 0 * t_near, Karras(), torch.zeros_like(s.real)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GanCritic(r1=-1.0), "r1 must not be negative"),
        (lambda: GanCritic(r1=1.0, r1_std=0.0), "r1_std above 0"),
        (lambda: GanGenerator(diffusion_max_time=1.5), "diffusion_max_time <= 1"),
        (lambda: GanGenerator(diffusion_min_time=0.5, diffusion_max_time=0.4), "got 0.5, 0.4"),
    ],
)
def test_impossible_options_are_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_the_joint_critic_refuses_a_head_that_reads_something_else():
    for options in ({"reads": "teacher"}, {"depths": (0,)}):
        with pytest.raises(UserError, match="bottleneck only"):
            JointCritic().check(None, nets(**options))
