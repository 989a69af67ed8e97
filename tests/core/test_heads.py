"""GAN heads give one logit per sample, whatever the size of the bottleneck."""

import pytest
import torch

from dmd2cli.core.heads import Heads, conv_head, linear_head, logits


@pytest.mark.parametrize("side", [2, 4, 8, 32])
def test_conv_head_gives_one_logit_per_sample(side):
    assert logits(conv_head(16, side), torch.randn(3, 16, side, side)).shape == (3, 1)


@pytest.mark.parametrize("side, convolutions", [(2, 2), (4, 2), (8, 3), (32, 5)])
def test_conv_head_halves_down_to_four(side, convolutions):
    kernels = [m.kernel_size[0] for m in conv_head(16, side) if isinstance(m, torch.nn.Conv2d)]
    assert len(kernels) == convolutions and kernels[-1] == 1 and set(kernels[:-1]) <= {2, 4}


def test_linear_head_gives_one_logit_per_sample():
    assert logits(linear_head(6, 12), torch.randn(3, 6)).shape == (3, 1)


def test_heads_compute_in_float32():
    assert logits(linear_head(6, 12), torch.randn(3, 6, dtype=torch.bfloat16)).dtype == torch.float32


def test_logits_do_not_mix_samples():
    head, features = conv_head(16, 8), torch.randn(4, 16, 8, 8)
    assert torch.allclose(logits(head, features)[1:2], logits(head, features[1:2]), atol=1e-6)


def test_heads_at_several_depths_give_a_column_each_and_share_nothing():
    heads, features = Heads([(1, 8, 4, 4), (1, 6)]), [torch.randn(3, 8, 4, 4), torch.randn(3, 6)]
    found = heads(features)
    assert found.shape == (3, 2) and found.dtype == torch.float32
    assert found[:, 1:].equal(logits(heads.heads[1], features[1]))
