"""Update over weights, from the moments of AdamW, against what an update measurably did."""

import pytest
import torch
from torch import nn

from dmd2cli.engine.ratios import update_ratio


def trained(steps, lr=0.01, betas=(0.9, 0.999), eps=1e-8, decay=0.01, dtype=torch.float64, **kind):
    """(weights before the last update, weights after it, moments, options)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 1)).to(dtype)
    optimiser = torch.optim.AdamW(net.parameters(), lr, betas, eps, decay, **kind)
    for _ in range(steps):
        before = [p.detach().clone() for p in net.parameters()]
        optimiser.zero_grad()
        net(torch.randn(8, 6, dtype=dtype)).square().mean().backward()
        optimiser.step()
    after = list(net.parameters())
    return before, after, [optimiser.state[p] for p in after], (lr, betas, eps, decay)


def measured(before, after):
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(after, before, strict=True)])
    return (moved.norm() / torch.cat([a.detach().flatten() for a in after]).norm()).item()


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    "changes", [{}, {"decay": 0.0}, {"decay": 5.0, "lr": 0.1}, {"betas": (0.0, 0.99)}, {"eps": 0.1}]
)
def test_it_is_what_the_last_update_did_to_the_weights(steps, changes):
    before, after, moments, options = trained(steps, **changes)
    assert update_ratio(after, moments, *options).item() == pytest.approx(measured(before, after), rel=1e-4)


@pytest.mark.parametrize("kind", [{"fused": True}, {"foreach": True}])
def test_the_kernels_of_the_optimiser_make_no_difference(kind):
    before, after, moments, options = trained(5, dtype=torch.float32, **kind)
    assert update_ratio(after, moments, *options).item() == pytest.approx(measured(before, after), rel=1e-4)


def test_weights_that_were_never_updated_count_as_weights_alone():
    before, after, moments, options = trained(3)
    still = torch.full((4,), 2.0).double()
    none = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(still), "exp_avg_sq": torch.zeros_like(still)}
    found = update_ratio([*after, still], [*moments, none], *options)
    assert found.item() == pytest.approx(measured([*before, still], [*after, still]), rel=1e-4)


def test_the_sums_of_the_ranks_are_put_together():
    before, after, moments, options = trained(3)
    kept = []
    update_ratio(after[2:], moments[2:], *options, total=lambda squares: kept.append(squares.clone()) or squares)
    found = update_ratio(after[:2], moments[:2], *options, total=lambda squares: squares + kept[0])
    assert found.item() == pytest.approx(measured(before, after), rel=1e-4)


def test_neither_weights_nor_moments_are_changed():
    _, after, moments, options = trained(3)
    held = [p.detach().clone() for p in after], [{k: v.clone() for k, v in m.items()} for m in moments]
    found = update_ratio(after, moments, *options)
    assert not found.requires_grad and found.dtype == torch.float32 and found.shape == ()
    assert all(torch.equal(p, old) for p, old in zip(after, held[0], strict=True))
    assert all(torch.equal(m[k], old[k]) for m, old in zip(moments, held[1], strict=True) for k in m)
