"""What is named when numbers go wrong: NaN in data, weights, networks, gradients and loss terms, and what is left."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from dmd2_plugins.digits.data import Digits
from dmd2_plugins.digits.teacher import teacher as digits
from safetensors.torch import load_file
from torch import nn

from dmd2cli import registry
from dmd2cli.data.base import Batch, item
from dmd2cli.engine.autopsy import autopsy
from dmd2cli.engine.distill import job
from dmd2cli.engine.watch import here
from dmd2cli.recipe import dump, load

CPU = torch.device("cpu")
SMALL = ("run.batch=8", "run.micro_batch=4", "run.steps=20", "run.threads=1", "ttur=2", "run.device=cpu")
APART = ("losses.joint_critic=null", "losses.denoising.weight=1.0", "losses.gan_critic.weight=1.0")
BAD = 4
"""The step that goes wrong, counted from 0; the generator moves at it."""


def made(*changes, steps=BAD):
    """A distillation of the digits up to the step that goes wrong."""
    work = job(load("digits", [*SMALL, *APART, *changes]), CPU)
    for step in range(steps):
        work.step(step)
    return work


@dataclass
class Poison:
    """Makes some rows of what a module puts out NaN: at its n-th pass of the step, or at all of them."""

    rows: tuple = (1,)
    nth: int | None = None
    passes: int = 0
    value: float = math.nan

    def __call__(self, module, args, output):
        self.passes += 1
        if here.step != BAD or self.nth not in (None, self.passes):
            return output
        output = output.clone()
        output[list(self.rows), 0] = self.value
        return output

    def begin(self):
        """Count the passes from here."""
        self.passes = -1


def hooks(networks):
    """How many hooks there are on modules and weights."""
    modules = [m for network in networks.values() for m in network.modules()]
    weights = [p for network in networks.values() for p in network.parameters()]
    return sum(len(m._forward_hooks) for m in modules) + sum(len(p._backward_hooks or ()) for p in weights)


def told(work, folder, step=BAD):
    """(sentence, what the JSON file says was first); all hooks are off again."""
    before = hooks(work.watched())
    sentence = autopsy(work, step, folder)
    assert hooks(work.watched()) == before and "\n" not in sentence
    found = json.loads((folder / f"diverged/step-{step + 1:08d}.json").read_text())["first"]
    if found is not None:
        assert found["where"] in sentence
    return sentence, found


# -- what is named ---------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt():
    """The digits with one item that is NaN: the one at row 6 of the step that goes wrong."""
    position = BAD * 8 + 6

    class Spoilt(Digits):
        def __getitem__(self, i):
            found = super().__getitem__(i)
            wrong = i == item(0, "real", position, len(self))
            return replace(found, x=torch.full_like(found.x, math.nan)) if wrong else found

    with registry.override("datasets", "digits", Spoilt):
        yield


def test_a_sample_of_the_data_is_named_with_its_row(spoilt, tmp_path):
    sentence, found = told(made(), tmp_path)
    assert sentence == (
        "step 5: the data batch-1.x was the first that is not finite (64 of 256 values NaN, row 6); "
        "see diverged/step-00000005.json"
    )
    assert found == {"kind": "data", "where": "batch-1.x", "nan": 64, "inf": 0, "of": 256, "rows": [6], "order": 0}


class Wrapped(nn.Module):
    """A denoiser around another."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.poison = inner, Poison(rows=(0, 2))

    def forward(self, x_t, t, cond):
        return self.poison(self, (), self.inner(x_t, t, cond))


def test_the_output_of_the_teacher_is_named_with_its_rows(tmp_path):
    def teacher():
        found = digits()
        return replace(found, denoiser=Wrapped(found.denoiser), network=found.denoiser)

    with registry.override("teachers", "digits", teacher):
        work = made("losses.distribution_matching.guidance=1.0")
    sentence, found = told(work, tmp_path)
    assert found["kind"] == "output" and found["where"] == "teacher" and found["rows"] == [0, 2]
    assert "the output of teacher was the first that is not finite (128 of 256 values NaN, rows 0, 2)" in sentence


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("network", "path"),
    [
        ("teacher", "backbone.down.1.conv2"),
        ("generator", "backbone.up.0.norm1"),
        ("critic.fake", "backbone.middle"),
        ("critic.head", "1"),
    ],
)
def test_the_innermost_module_is_named_behind_whatever_method_it_computes(network, path, value, tmp_path):
    work = made()
    work.watched()[network].get_submodule(path).register_forward_hook(Poison(rows=(1, 2), value=value))
    sentence, found = told(work, tmp_path)
    assert (found["kind"], found["where"], found["rows"]) == ("output", f"{network}.{path}", [1, 2])
    assert f"the output of {network}.{path} was" in sentence and ("NaN" in sentence) == math.isnan(value)


@pytest.mark.parametrize("step", [BAD, BAD + 1])
def test_rows_are_positions_in_the_global_batch(step, tmp_path, monkeypatch):
    monkeypatch.setattr("test_autopsy.BAD", step)            # at the second of these steps the generator only draws
    work, poison = made(steps=step), Poison(rows=(3,), nth=1)
    work.watched()["generator"].backbone.output.register_forward_hook(poison)
    poison.begin()
    found = told(work, tmp_path, step)[1]
    assert (found["where"], found["rows"]) == ("generator.backbone.output", [7])


def test_a_weight_is_named(tmp_path):
    work = made()
    with torch.no_grad():
        work.distillation.nets.fake.backbone.middle.conv1.weight[0, 0, 0, 0] = -math.inf
    sentence, found = told(work, tmp_path)
    assert (found["kind"], found["where"]) == ("weight", "critic.fake.backbone.middle.conv1.weight")
    assert (found["nan"], found["inf"]) == (0, 1) and "values infinite); see" in sentence


@pytest.mark.parametrize(
    ("network", "path"), [("generator", "backbone.input.weight"), ("critic.fake", "backbone.output.bias")]
)
def test_the_gradient_of_a_weight_is_named(network, path, tmp_path):
    work = made()
    p = work.watched()[network].get_parameter(path)
    p.register_hook(lambda grad: grad * math.nan if here.step == BAD else grad)
    sentence, found = told(work, tmp_path)
    assert (found["kind"], found["where"], found["rows"]) == ("weight gradient", f"{network}.{path}", [])
    assert f"the gradient of the weight {network}.{path} was" in sentence


def test_a_gradient_is_named_where_it_comes_back_into_a_network(tmp_path):
    work = made()

    def spoil(module, args, output):
        if output.requires_grad:
            output.register_hook(lambda grad: grad.index_fill(0, torch.tensor([2]), math.inf))

    work.watched()["generator"].backbone.up[1].conv1.register_forward_hook(spoil)
    sentence, found = told(work, tmp_path)
    assert (found["kind"], found["where"]) == ("output gradient", "generator.backbone.up.1.conv1")
    assert found["rows"] == [2] and "the gradient at the output of generator.backbone.up.1.conv1 was" in sentence


@dataclass(frozen=True)
class Infinite:
    """A loss term that is infinite at the step that goes wrong. times: so is its gradient."""

    inner: object
    times: bool

    @property
    def player(self):
        return self.inner.player

    def __call__(self, s, nets, rng):
        loss = self.inner(s, nets, rng)
        if here.step != BAD:
            return loss
        return loss * math.inf if self.times else loss + math.inf


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("name", ["distribution_matching", "gan_generator", "denoising", "gan_critic"])
def test_a_loss_term_is_named_before_its_gradients(name, times, tmp_path):
    work = made()
    d = work.distillation
    weight, loss = d.terms[name]
    d.terms = {**d.terms, name: (weight, Infinite(loss, times))}
    sentence, found = told(work, tmp_path)
    assert (found["kind"], found["where"]) == ("term", f"{loss.player}/{name}")
    assert f"step 5: the loss term {loss.player}/{name} was the first that is not finite (infinite); see" in sentence


def test_a_step_that_is_finite_this_time_is_said_to_be_so(tmp_path):
    sentence, found = told(made(), tmp_path)
    assert found is None
    assert sentence == (
        "step 5: not reproduced: trained again, all of its numbers are finite; "
        "see diverged/step-00000005.json"
    )


@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_of_the_base_is_named_by_the_network_whose_adapter_was_active(shared, tmp_path):
    lora = "{rank: 2, targets: [conv1]}"
    work = made(f"student.lora={lora}", f"critic.lora={lora}", f"shared_base={str(shared).lower()}")
    base = work.watched()["generator"].adapters.base
    base.backbone.middle.norm2.register_forward_hook(Poison())
    assert told(work, tmp_path)[1]["where"] == "generator.backbone.middle.norm2"
    if shared:                                               # the same layer, next in the teacher's own pass
        again, poison = made(f"student.lora={lora}", f"critic.lora={lora}", "shared_base=true"), Poison(nth=1)
        again.watched()["generator"].adapters.base.backbone.middle.norm2.register_forward_hook(poison)
        poison.begin()
        assert told(again, tmp_path)[1]["where"] == "teacher.backbone.middle.norm2"


def test_activation_checkpointing_leaves_no_trace_in_the_name(tmp_path):
    work = made("run.checkpointing=true")
    layer = dict(work.watched()["generator"].named_modules())
    path = next(name for name in layer if name.endswith("middle._checkpoint_wrapped_module.conv2"))
    layer[path].register_forward_hook(Poison())
    assert told(work, tmp_path)[1]["where"] == "generator.backbone.middle.conv2"


# -- a small job -----------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Takes keywords, gives containers, and divides by zero between its layers if asked."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 1)
        self.zero = False

    def forward(self, x, *, scale=1.0):
        h = self.first(x) * scale
        return {"out": (self.second(h / 0 if self.zero else h), torch.arange(3))}


class Small:
    """A job of one network and one micro-batch."""

    def __init__(self, fails=False):
        torch.manual_seed(0)
        self.net, self.fails, self.recipe = Odd(), fails, load("digits", ["run.seed=7"])
        self.x = torch.randn(4, 3)

    def seek(self, step):
        pass

    def watched(self):
        return {"net": self.net}

    def batches(self, step):
        return [Batch(slice(8, 12), 16, {"text": self.x}, {"text": self.x}, x=self.x, raw=["a", "b", "c", "d"])]

    def step(self, step):
        (found, _) = self.net(self.x, scale=torch.ones(4, 1))["out"]
        if self.fails:
            raise ZeroDivisionError
        found.mean().backward()
        return {"loss": found.mean().detach(), "gradient_norm": torch.tensor(math.inf if step == 9 else 1.0)}


def test_what_is_wrong_before_a_module_computes_is_called_its_input(tmp_path):
    work = Small()
    work.net.zero = True
    sentence, found = told(work, tmp_path)
    assert (found["kind"], found["where"], found["of"], found["rows"]) == ("input", "net.second", 12, [8, 9, 10, 11])
    assert "the input of net.second was the first that is not finite (12 of 12 values infinite, rows 8-11)" in sentence


def test_a_logged_value_is_named_where_every_tensor_was_finite(tmp_path):
    assert told(Small(), tmp_path, step=9)[1]["where"] == "gradient_norm"


@pytest.mark.slow
def test_modules_inside_a_compiled_block_are_named(tmp_path):
    work = Small()
    work.recipe = load("digits", ["run.compile=true"])
    work.net.compile(dynamic=False)
    work.step(0)
    work.net.second.register_forward_pre_hook(lambda module, args: (args[0] * math.nan,))
    assert told(work, tmp_path, step=1)[1]["where"] == "net.second"


def test_hooks_come_off_when_the_step_fails(tmp_path):
    work = Small(fails=True)
    with pytest.raises(ZeroDivisionError):
        autopsy(work, 0, tmp_path)
    assert hooks(work.watched()) == 0


def test_the_hooks_change_no_number(tmp_path):
    watched, plain = made(), made()
    autopsy(watched, BAD, tmp_path)
    plain.step(BAD)
    pairs = (work.distillation.generator.parameters for work in (watched, plain))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*pairs, strict=True))


# -- the files -------------------------------------------------------------------------------------------------


def test_the_batch_is_written_with_all_of_its_tensors(tmp_path):
    work = Small()
    told(work, tmp_path, step=3)
    held = load_file(tmp_path / "diverged/step-00000004.safetensors")
    assert held.keys() == {"batch-0.x", "batch-0.cond.text", "batch-0.null.text"}
    assert torch.equal(held["batch-0.x"], work.x)
    found = json.loads((tmp_path / "diverged/step-00000004.json").read_text())
    assert (found["step"], found["seed"], found["tensors"]) == (4, 7, "step-00000004.safetensors")
    assert found["recipe"] == str(tmp_path / "recipe.yaml") and found["versions"]["torch"] == torch.__version__
    assert found["batches"] == [{"rows": [8, 12], "conditions": ["a", "b", "c", "d"]}]


def test_the_python_code_in_the_file_comes_to_the_same_sentence(spoilt, tmp_path, capsys):
    work = made()
    (tmp_path / "recipe.yaml").write_text(dump(work.recipe))
    sentence, _ = told(work, tmp_path)
    code = json.loads((tmp_path / "diverged/step-00000005.json").read_text())["reproduce"]["python"]
    exec(compile(code, "reproduce", "exec", dont_inherit=True), {})
    assert capsys.readouterr().out.splitlines()[-1] == sentence


def test_it_starts_from_the_newest_checkpoint_before_the_step(tmp_path, capsys, monkeypatch):
    from dmd2cli.engine import checkpoint, distill
    from dmd2cli.recipe_run import Keep

    work = made(steps=2)
    (tmp_path / "recipe.yaml").write_text(dump(work.recipe))
    for step in (2, 3, 4, 5):                                # one later than the step is no help
        checkpoint.save(tmp_path / "checkpoints", step, work.state(), Keep(last=9), {})
        work.step(step)
    sentence, found = told(made(), tmp_path)
    assert found is None
    code, trained = json.loads((tmp_path / "diverged/step-00000005.json").read_text())["reproduce"]["python"], []
    step = distill.DistillJob.step
    monkeypatch.setattr(distill.DistillJob, "step", lambda self, i: trained.append(i) or step(self, i))
    exec(compile(code, "reproduce", "exec", dont_inherit=True), {})
    assert trained == [4] and capsys.readouterr().out.splitlines()[-1] == sentence
    assert '"step-00000004"' in code.replace("'", '"')


def test_the_python_code_knows_both_kinds_of_recipe(tmp_path, capsys):
    from dmd2cli.engine.pretrain import pretraining
    from dmd2cli.recipe import PretrainRecipe

    recipe = load("digits-classifier", ["run.batch=4", "run.threads=1", "run.device=cpu"], model=PretrainRecipe)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    sentence, found = told(pretraining(recipe, CPU), tmp_path, step=0)
    assert found is None
    code = json.loads((tmp_path / "diverged/step-00000001.json").read_text())["reproduce"]["python"]
    exec(compile(code, "reproduce", "exec", dont_inherit=True), {})
    assert capsys.readouterr().out.splitlines()[-1] == sentence


def test_a_folder_that_cannot_be_written_is_said_and_the_finding_too(tmp_path):
    (tmp_path / "diverged").touch()
    work = Small()
    work.net.zero = True
    sentence = autopsy(work, 0, tmp_path)
    assert sentence.startswith("step 1: the input of net.second was the first")
    assert "; the files that reproduce it could not be written: " in sentence and "\n" not in sentence


def test_without_its_json_file_the_other_is_not_left_either(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dmd2cli.engine.checkpoint.write_json", full)
    assert "could not be written: [Errno 28] No space left" in autopsy(Small(), 0, tmp_path)
    assert list((tmp_path / "diverged").iterdir()) == []


# -- several ranks ---------------------------------------------------------------------------------------------

RANKS = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from dmd2cli.data.base import Batch
from dmd2cli.engine.autopsy import autopsy
from dmd2cli.engine.parallel import World
from dmd2cli.recipe import load


class Rank:
    recipe = load("digits")

    def __init__(self, world, bad, rows):
        self.world, self.net = world, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        x = torch.ones(2, 2)
        if bad == "data" and world.rank == 1:
            x[1, 0] = torch.nan
        self.batch = Batch(rows, 4, {}, {}, x=x)
        late = self.net[0 if world.rank else 1]              # rank 1 goes wrong one layer before rank 0
        if bad == "output":
            late.register_forward_hook(lambda module, args, output: output * torch.nan)

    seek = lambda self, step: None
    watched = lambda self: {"net": self.net}
    batches = lambda self, step: [self.batch]

    def step(self, step):
        return {"loss": self.world.total(self.net(self.batch.x).sum())}


dist.init_process_group("gloo")
world = World(dist.get_rank(), 2)
for bad in ("data", "output", "none"):
    folder = Path(sys.argv[1]) / bad
    told = autopsy(Rank(world, bad, world.rows(4)), 0, folder, world)
    (Path(sys.argv[1]) / f"{bad}-{world.rank}").write_text(told)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_all_ranks_tell_of_the_first_tensor_on_any_of_them(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "ranks.py", "."]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    expected = {"data": "the data batch-0.x was", "output": "the output of net.0 was", "none": "not reproduced"}
    for bad, words in expected.items():
        first, second = ((tmp_path / f"{bad}-{rank}").read_text() for rank in (0, 1))
        assert first == second and words in first
        left = sorted(file.name for file in (tmp_path / bad / "diverged").iterdir())
        assert left == [f"step-00000001.{end}" for end in ("json", "rank-1.safetensors", "safetensors")]
    assert "row 3)" in (tmp_path / "data-0").read_text() and "rows 2-3)" in (tmp_path / "output-0").read_text()
