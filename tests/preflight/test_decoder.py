"""A decoder in every precision, and the scale of latents."""

from dataclasses import replace

import pytest
import torch
from oracles import oracle
from torch import nn

from dmd2cli.engine.preflight.decoder import precisions

LARGE = 1e5
"""Beyond float16, within bfloat16."""


class Codec:
    """To pixels and back through one number that a half-precision network overflows at."""

    def __init__(self, factor, scale=1.0, dtype=torch.float32):
        self.gain, self.scale = nn.Linear(1, 1).to(dtype), scale
        self.gain.weight.data.fill_(factor)

    def __call__(self, x):
        return ((self.pixels(x) + 1) * 127.5).clamp(0, 255).to(torch.uint8)

    def pixels(self, x):
        """(b, 2) -> (b, 3, 1, 2)"""
        large = x.to(self.gain.weight.dtype) * self.gain.weight[0]
        return (large / self.gain.weight[0]).float()[:, None, None].expand(-1, 3, -1, -1)

    def latents(self, images, noise=None):
        return (images[:, 0, 0].to(self.gain.weight.dtype) * self.gain.weight[0]).float()


def with_(codec, scale=1.0):
    found = oracle("edm", "edm")
    return replace(found, decode=codec, decoders={"full": codec.pixels})


def test_a_type_that_overflows_is_told_and_is_a_finding_where_it_is_the_configured_one(around):
    fine = around(with_(Codec(LARGE)))
    assert [(one.dtype, one.finite, one.configured) for one in fine.precisions] == [
        ("fp32", True, True), ("bf16", True, False), ("fp16", False, False),
    ]  # fmt: skip
    assert fine.verdict == "ready" and 0 < fine.precisions[1].difference < 3 and fine.precisions[2].encodes is False
    (one,) = around(with_(Codec(LARGE, dtype=torch.float16))).findings
    assert (one.rule, one.signal, one.change) == ("decoder", "decoder/fp16", ["teacher.vae_dtype=fp32"])


def test_the_decoder_itself_stays_in_its_type(around):
    codec = Codec(2.0, dtype=torch.bfloat16)
    around(with_(codec))
    assert codec.gain.weight.dtype == torch.bfloat16


def test_a_teacher_of_pixels_has_no_decoder_to_be_measured(around):
    assert around(oracle("edm", "edm")).precisions == []


@pytest.mark.parametrize(("factor", "signal"), [(0.18, "latents/std"), (8.0, "latents/std")])
def test_latents_that_are_not_scaled_to_unit_variance_are_named(around, factor, signal):
    from dmd2cli.engine.preflight import decoder

    class Of:
        teacher, std = with_(Codec(1.0)), factor
        x = factor * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))

    (one,) = decoder.findings(Of(), [])
    assert (one.rule, one.signal) == ("latents", signal)


@pytest.mark.slow
def test_the_vae_of_a_pipeline_is_measured_in_all_types(tmp_path):
    pytest.importorskip("diffusers")
    import tiny_pipelines
    from dmd2_plugins.stable_diffusion.teacher import sd15

    found = sd15(model=str(tiny_pipelines.sd15(tmp_path / "pipe")))

    class Of:
        teacher, x = found, torch.randn(2, *found.shape, generator=torch.Generator().manual_seed(0))

    measured = precisions(Of())
    assert [one.dtype for one in measured] == ["fp32", "bf16", "fp16"] and measured[0].configured
    assert all(one.finite is not False and one.encodes is not False for one in measured)
    assert measured[0].difference == 0.0 and measured[1].difference > 0
