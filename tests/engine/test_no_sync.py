"""Nothing in the steady state of a step waits for the device: no value of a tensor is asked for on the host.

On a CPU such questions cost nothing and are seen all the same, as operations. What cannot be seen there (copies from
pageable memory, waits inside libraries) is left to the test with CUDA's own alarm in tests/gpu.
"""

from __future__ import annotations

import traceback
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dmd2cli.core.noise import Discrete
from dmd2cli.engine.distill import job
from dmd2cli.losses import diversity
from dmd2cli.recipe import load

CPU = torch.device("cpu")
OURS = ("dmd2cli", "dmd2_plugins")
aten = torch.ops.aten
ASKS = {
    aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default, aten.nonzero.default,
    aten.masked_select.default, aten.equal.default, aten.unique_dim.default, aten._unique2.default,
    aten.repeat_interleave.Tensor, aten.bincount.default,
}  # fmt: skip
"""Operations whose result, or its size, the host has to know before it can go on."""

HOST = {
    ("data/base.py", "_order"),                             # the order of the data, which is drawn and kept on the host
    ("core/random.py", "index"),                            # which call is trained: drawn on the host for all ranks
    ("engine/player.py", "_optimise"),                      # clips where the norm is large; on a GPU without asking
    ("data/shapes.py", "_drawn"),                      # a data set draws on the host
}
"""(file, function) that ask tensors which are on the host wherever the networks are."""


class Questions(TorchDispatchMode):
    """Collects the places of ours that ask for values, as (file, function, operation)."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.found, self.inside = Counter(), False
        for name in ("tolist", "numpy", "cpu"):             # these read memory, on a CPU without an operation
            real = getattr(torch.Tensor, name)
            monkeypatch.setattr(torch.Tensor, name, self.noted(name, real))

    def noted(self, name, real):
        def called(x, *args, **kwargs):
            if self.inside:
                self.note(name)
            return real(x, *args, **kwargs)

        return called

    def __enter__(self):
        self.inside = True
        return super().__enter__()

    def __exit__(self, *error):
        self.inside = False
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default) and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if func in ASKS or masks:
            self.note(str(func))
        return func(*args, **(kwargs or {}))

    def note(self, what):
        for frame in reversed(traceback.extract_stack()):
            where = next((f"{name}/" for name in OURS if f"/{name}/" in frame.filename), None)
            if where is not None:
                place = frame.filename.rpartition(f"/{where}")[2]
                if (place, frame.name) not in HOST:
                    self.found[place, frame.name, what] += 1
                return
        self.found["elsewhere", traceback.extract_stack()[-6].name, what] += 1


def questions(monkeypatch, work, cycles=2):
    """What is asked in two cycles of a stage, after as many steps that are not counted."""
    work.seek(first := work.phases[-1].stage.first)
    period = cycles * work.recipe.ttur
    for step in range(first, first + period):
        work.step(step)
    with Questions(monkeypatch) as asked:
        for step in range(first + period, first + 2 * period):
            work.step(step)
    return dict(asked.found)


def made(name, *overrides):
    small = ("run.device=cpu", "run.threads=1", "run.batch=8", "run.preview_every=null")
    return job(load(name, [*small, *overrides]), CPU)


RECIPES = {
    "digits": ("digits", ()),
    "toy": ("toy-grid25", ("teacher.pretrain_steps=1",)),
    "four calls": ("digits", ("student.times=[1.0, 0.75, 0.5, 0.25]", "critic.per_call=true", "run.micro_batch=4")),
    "guidance and penalty": (
        "digits",
        ("losses.distribution_matching.guidance=2.0", "losses.joint_critic=null", "losses.denoising.weight=1.0",
         "losses.gan_critic={weight: 0.1, r1: 0.1}", "losses.distribution_matching.divergence=forward_kl"),
    ),
    "reads the scale": ("digits", ("student.guidance={min: 1.0, max: 5.0}",)),
    "diversity and a reward": (
        "digits", ("losses.diversity.weight=0.3", "losses.reward={model: digits-confidence, weight: 0.01}"),
    ),
    "noised data": ("digits", ("student.input=real", "student.times=[1.0, 0.5]", "data.prompts_of_real=true")),
    "edm": ("imagenet64", ("tier=cpu-smoke", "run.micro_batch=4", "run.steps=100", "stages.1.until=100")),
    "foreach": ("digits", ("run.optimiser=foreach",)),
    "8bit": ("digits", ("run.optimiser=8bit",)),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_asks_for_no_value(monkeypatch, name):
    recipe, overrides = RECIPES[name]
    assert questions(monkeypatch, made(recipe, *overrides)) == {}


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_a_step_of_stable_diffusion_asks_for_no_value(monkeypatch, tmp_path, family):
    tiny = pytest.importorskip("tiny_pipelines")
    folder = getattr(tiny, family)(tmp_path / family)
    name = {"sdxl": "sdxl-4step", "sd15": "sd15-dmd2"}[family]
    work = made(name, "tier=cpu-smoke", f"teacher.model={folder}", "run.micro_batch=2", "ttur=2")
    assert questions(monkeypatch, work, 1) == {}


@pytest.mark.parametrize("compared", [1, 2**24])
def test_equal_rows_have_the_number_of_the_first(monkeypatch, compared):
    monkeypatch.setattr(diversity, "COMPARED", compared)
    rows = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, 3.0], [3.0, 1.0, 2.0]])
    assert diversity.first_equal(rows).tolist() == [0, 1, 0, 3, 1]


def test_a_table_is_copied_to_a_device_once():
    schedule, t = Discrete.linear(), torch.tensor([0.5, 1.0])
    tables = [schedule._table(t.to("meta").double()) for _ in range(2)]
    assert tables[0] is tables[1] and tables[0].device.type == "meta" and tables[0].dtype == torch.float64
    assert schedule._table(t.double()) is schedule.alphas_cumprod


def test_the_watch_sees_questions(monkeypatch):
    x = torch.randn(4)
    with Questions(monkeypatch) as asked:
        float(x[0]), bool(x[0] > 0), x[x > 0], x.tolist(), x.cpu(), x.nonzero()
    assert sum(asked.found.values()) == 6
