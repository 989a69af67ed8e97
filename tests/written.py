"""Recipes written by tests, and what is said of bad ones."""

import pytest

from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe, load

GOOD = """\
# A recipe for tests.
teacher: {use: gmm, modes: 8}
student: {lr: 1.0e-4, times: [1.0, 0.5]}
critic:
  lr: 2
ttur: 5
losses:
  distribution_matching: {weight: 1.0, guidance: 2.0}
  denoising: {}
data: {real: {use: gmm}}
sampler: heun
metrics: [modes, {use: modes, n: 7}]
run: {steps: 100, batch: 64}
tiers:
  tiny:
    run: {steps: 2}
    teacher: {use: digits}
"""
PRETRAIN = "task: digits-teacher\noptimiser: {lr: 1.0e-3}\nrun: {steps: 1, batch: 1}\n"


def refusal(path, *overrides, model=Recipe):
    with pytest.raises(UserError) as caught:
        load(path, overrides, model=model)
    assert "\n" not in str(caught.value)
    return str(caught.value)
