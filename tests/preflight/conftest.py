"""A recipe around any teacher."""

import pytest
import torch

from dmd2cli import registry
from dmd2cli.engine.preflight.preflight import preflight
from dmd2cli.recipe import load

CPU = torch.device("cpu")
REAL = "data.real={use: gmm, layout: ring8, std: 0.2, classes: 8}"
LABELS = "data.prompts={use: class-labels, classes: 8}"


@pytest.fixture
def around():
    """Teacher, overrides -> the pre-flight of the toy recipe with that teacher in it."""

    def measured(teacher, *overrides, samples=256, data=(REAL, LABELS)):
        with registry.override("teachers", "mine", lambda prediction="eps": teacher):
            recipe = load("toy-grid25", ["teacher=mine", *data, *overrides])
            return preflight(recipe, CPU, samples, 0)

    return measured


@pytest.fixture
def wrong(around):
    """The same -> (rule, change) of the only finding."""

    def only(teacher, *overrides, **options):
        found = around(teacher, *overrides, **options)
        assert found.verdict == "not ready" and found.proposals == []
        (one,) = found.findings
        return one.rule, *one.change

    return only
