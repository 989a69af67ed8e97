"""student.init: a generator starts from another student, whole or LoRA, and says from which."""

import json
from pathlib import Path

import pytest
import torch

from dmd2cli.adapters import View, merged
from dmd2cli.engine.distill import job
from dmd2cli.engine.initial import as_tensor, from_tensor
from dmd2cli.engine.plan.networks import players
from dmd2cli.engine.run import run
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.student import WEIGHTS, load_student, save_student

CPU = torch.device("cpu")
SMALL = ["run.steps=2", "run.batch=4", "run.threads=1", "run.save_every=1", "sampler.steps=4", "run.precision=fp32"]
LORA = "student.lora={rank: 2, alpha: 4.0}"
CRITIC = "critic.lora={rank: 2}"


def recipe(*changes):
    return load("digits", [*SMALL, *changes])


def begun(*changes):
    """The job of a recipe."""
    made = job(recipe(*changes), CPU)
    return made


def refusal(*changes):
    with pytest.raises(UserError) as err:
        begun(*changes)
    assert "\n" not in str(err.value)
    return str(err.value)


def stirred(module, seed=0):
    """Other weights."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=source))


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """Folders of a whole student of two calls, and of a LoRA, neither of which is its teacher any more."""
    folder = tmp_path_factory.mktemp("students")
    for name, changes in {"whole": ["student.times=[1.0, 0.5]"], "lora": [LORA]}.items():
        made = job(recipe(*changes), CPU)
        with made.distillation.generator.averaged() as network:
            stirred(network)
        made.publish(folder / name, 7)
    return folder


def weights(module):
    return module.weights() if isinstance(module, View) else module.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def test_a_one_step_student_starts_from_one_of_two_steps(students):
    made, held = begun(f"student.init={students}/whole"), load_student(students / "whole").source.network
    assert same(weights(made.distillation.generator.module), weights(held))
    assert made.distillation.inputs.times == (1.0,)
    fresh = job(recipe(), CPU).distillation
    for part in ("fake", "real"):
        assert same(weights(getattr(made.distillation.nets, part)), weights(getattr(fresh.nets, part)))
    assert not same(weights(fresh.generator.module), weights(held))


def test_its_moving_average_starts_there_too(students):
    made = begun(f"student.init={students}/whole/student", "student.ema_halflife_images=100")
    player = made.distillation.generator
    assert player.ema is not None and all(player.ema[name].equal(p) for name, p in player.named.items())


def test_a_lora_is_merged_into_a_whole_generator(students):
    made = begun(f"student.init={students}/lora/student/{WEIGHTS}")
    wanted = merged(load_student(students / "lora").source.network)
    assert same(weights(made.distillation.generator.module), weights(wanted))


@pytest.mark.parametrize("shared", [[], ["shared_base=true", CRITIC]], ids=["own base", "shared base"])
@pytest.mark.parametrize("alpha", [4.0, 1.0])
def test_a_lora_of_the_same_rank_is_taken_up_as_it_is_whatever_its_alpha(students, shared, alpha):
    asked = f"student.lora={{rank: 2, alpha: {alpha}}}"
    made = begun(f"student.init={students}/lora", asked, *shared)
    view, held = made.distillation.generator.module, load_student(students / "lora").source
    assert isinstance(view, View) and (alpha != 4.0 or same(weights(view), weights(held.network)))
    x, t, (cond, _) = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 0.4]), held.teacher.encode([3, 5])
    with torch.no_grad():
        torch.testing.assert_close(view.eval()(x, t, cond), held.network(x, t, cond), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes, told", [
    (["student.lora={rank: 3}"], ["a LoRA of rank 2, and student.lora.rank is 3", "set student.lora.rank=2"]),
    (["student.lora={rank: 3}", "shared_base=true", CRITIC], ["a LoRA of rank 2, and student.lora.rank is 3"]),
    (["student.lora={rank: 2, targets: [output]}"], ["its network is another one", "digits"]),
])  # fmt: skip
def test_a_lora_that_does_not_fit_is_one_line_that_names_both(students, changes, told):
    said = refusal(f"student.init={students}/lora", *changes)
    assert said.startswith("override ") and "student.init: " in said and all(part in said for part in told), said


def test_a_whole_student_is_no_adapter(students):
    said = refusal(f"student.init={students}/whole", LORA)
    assert "a whole network, which an adapter of the teacher cannot hold; leave student.lora out" in said


def test_a_lora_of_another_base_is_merged_or_refused(students, tmp_path):
    held = load_student(students / "lora")
    changed = {**held.contract, "details": {**held.contract["details"], "other": 1}}
    save_student(tmp_path / "other", held.source.network, changed)
    said = refusal(f"student.init={tmp_path / 'other'}", LORA)
    assert "with weights other than this recipe's teacher; leave student.lora out to merge it" in said


def test_a_student_of_another_family_is_one_line_that_names_both(students, tmp_path):
    held = load_student(students / "whole")
    save_student(tmp_path / "gmm", held.source.network, {**held.contract, "teacher": {"use": "gmm"}})
    said = refusal(f"student.init={tmp_path / 'gmm'}")
    assert f"{tmp_path / 'gmm'} is a student of gmm, and this recipe's teacher is digits" in said


def test_a_student_of_other_shapes_is_one_line_that_names_both(students, tmp_path):
    held = load_student(students / "whole")
    network = torch.nn.Linear(2, 2)
    save_student(tmp_path / "other", network, held.contract)
    said = refusal(f"student.init={tmp_path / 'other'}")
    assert f"{tmp_path / 'other'} is a student of digits" in said and "its network is another one (lacks " in said


@pytest.mark.parametrize("ref, told", [("nowhere", "nowhere: no such run folder"), (".", ".: not a run folder")])
def test_a_reference_that_is_no_student_is_one_line_with_its_place(ref, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(f"student.init={ref}").startswith(f"override 'student.init={ref}': student.init: {told}")
    with pytest.raises(UserError, match=told):
        run(recipe(f"student.init={ref}"), tmp_path / "run", job)
    assert not (tmp_path / "run").exists()


def test_a_run_records_what_it_started_from_and_does_not_read_it_again(students, tmp_path):
    kept = tmp_path / "kept"
    (students / "whole").rename(kept)
    ref = f"student.init={kept}"
    try:
        straight, parts = tmp_path / "straight", tmp_path / "parts"
        run(recipe(ref), straight, job)
        run(recipe(ref, "run.steps=1"), parts, job)
    finally:
        kept.rename(students / "whole")
    run(recipe(ref), parts, job)                           # what it started from is no longer there
    first, second = (load_student(folder) for folder in (straight, parts))
    assert same(weights(first.source.network), weights(second.source.network))
    for student in (first, second):
        found = student.contract["trained"]["init"]
        assert found["student"] == str(kept) and len(found["sha256"]) == 64
    assert json.loads((Path(parts) / "student" / "student.json").read_text())["trained"]["init"] == found
    with pytest.raises(UserError, match=r"this run was started with student\.init = "):
        run(recipe("run.steps=3"), parts, job)


def test_it_belongs_to_the_whole_run():
    with pytest.raises(UserError, match=r"stages\.0\.student\.init: belongs to the whole run; move it out of stages"):
        load("digits", [*SMALL, "stages=[{student: {init: a}}]"])


def test_a_plan_reads_no_student():
    assert players(recipe("student.init=nowhere"), "cpu").generator is not None


def test_a_record_goes_through_a_checkpoint():
    record = {"student": "läufe/eins", "sha256": "ab" * 32, "licence": "CC BY-NC 4.0, not for commercial use"}
    assert from_tensor(as_tensor(record)) == record
