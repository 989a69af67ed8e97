"""float16: the loss scale, and the networks that it is refused for."""

import math

import pytest
import torch
from dmd2_plugins.edm.teacher import teacher as edm

from dmd2cli.engine.loss_scale import GROWS_AFTER, LARGEST, START, LossScale, check_fp16
from dmd2cli.errors import UserError
from dmd2cli.recipe import Run

CPU = torch.device("cpu")
GOOD, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)


def scale(updates=()):
    found = LossScale(CPU)
    for skipped in updates:
        found.update(skipped)
    return found


def test_it_starts_high_and_a_skip_halves_it():
    assert scale().scale.item() == START == 65536
    assert scale([SKIPPED]).scale.item() == START / 2
    assert scale([SKIPPED, GOOD, SKIPPED]).scale.item() == START / 4


def test_it_doubles_after_two_thousand_good_updates_in_a_row():
    assert GROWS_AFTER == 2000
    assert scale([GOOD] * 1999).scale.item() == START
    assert scale([GOOD] * 2000).scale.item() == 2 * START
    assert scale([GOOD] * 3999).scale.item() == 2 * START and scale([GOOD] * 4000).scale.item() == 4 * START


def test_a_skip_begins_the_count_anew():
    assert scale([GOOD] * 1999 + [SKIPPED] + [GOOD] * 1999).scale.item() == START / 2
    assert scale([GOOD] * 1999 + [SKIPPED] + [GOOD] * 2000).scale.item() == START


def test_it_stays_between_one_and_its_largest_and_falls_only_above_one():
    down = scale([SKIPPED] * 15)
    assert down.scale.item() == 2 and down.falling.item() == 1
    down.update(SKIPPED)
    assert down.scale.item() == 1 and down.falling.item() == 0
    down.update(SKIPPED)
    assert down.scale.item() == 1
    up = scale()
    up.scale = torch.tensor(LARGEST)
    for _ in range(GROWS_AFTER):
        up.update(GOOD)
    assert up.scale.item() == LARGEST == 2**24


def test_a_scaled_and_unscaled_gradient_is_the_gradient_bit_for_bit():
    w = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found, loss = scale(), (w.sin() ** 2).sum()
    (plain,) = torch.autograd.grad(loss, w, retain_graph=True)
    (grad,) = torch.autograd.grad(found.scale * loss, w)
    held = grad
    found.unscale_([grad, torch.ones(2)])
    assert held is grad and torch.equal(grad, plain)
    found.unscale_([])


def test_it_keeps_gradients_that_float16_would_lose():
    w = torch.tensor([1.0], requires_grad=True)

    def gradient(factor):
        half = w.half()                                                 # its gradient is a float16 number
        (factor * (half.float() * 2.0**-28).sum()).backward()
        grad, w.grad = w.grad, None
        return grad

    assert gradient(1.0) == 0
    found = scale()
    grad = gradient(found.scale)
    found.unscale_([grad])
    assert grad.item() == 2.0**-28


def test_an_infinite_gradient_stays_infinite():
    grad = torch.tensor([math.inf, 1.0, math.nan])
    scale().unscale_([grad])
    assert grad[0] == math.inf and grad[1] == 1 / START and grad[2].isnan()


def test_the_shards_of_sharded_gradients_are_divided_in_place(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        grad = DTensor.from_local(torch.ones(4), init_device_mesh("cpu", (1,)), [Shard(0)])
        scale().unscale_([grad, plain := torch.ones(2)])
        assert torch.equal(grad.to_local(), torch.full((4,), 1 / START)) and plain[0] == 1 / START
    finally:
        dist.destroy_process_group()


def test_a_scale_continued_from_its_state_moves_as_before():
    straight, first = scale([SKIPPED] + [GOOD] * 2300), scale([SKIPPED] + [GOOD] * 1300)
    again = scale()
    again.load_state(first.state())
    for _ in range(1000):
        again.update(GOOD)
    assert torch.equal(again.state(), straight.state()) and straight.state().tolist() == [START, 300]
    assert first.state().tolist() == [START / 2, 1300]


@pytest.mark.parametrize("preset", ["tiny-adm", "tiny-ddpmpp"])
def test_float16_is_refused_for_networks_that_are_known_to_diverge(preset):
    found = edm(preset)
    with pytest.raises(UserError) as caught:
        check_fp16(found, Run(steps=1, batch=1, precision="fp16"))
    told = str(caught.value)
    assert told.startswith("run.precision: fp16: ") and told.endswith("; use bf16") and "\n" not in told
    for precision in ("auto", "bf16", "fp32"):
        check_fp16(found, Run(steps=1, batch=1, precision=precision))


def test_float16_is_allowed_where_nothing_is_known():
    from dmd2_plugins.toy.gmm import teacher as gmm

    check_fp16(gmm(width=8, pretrain_steps=0), Run(steps=1, batch=1, precision="fp16"))
