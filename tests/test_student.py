"""The student artefact: what it records, how it is found, how it draws, and what is said when it cannot be loaded."""

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import dmd2cli
from dmd2cli import registry, student
from dmd2cli.core.noise import Discrete, Karras
from dmd2cli.engine.distill import job
from dmd2cli.errors import UserError
from dmd2cli.recipe import load
from dmd2cli.student import load_student, native, newest, save_student
from dmd2cli.weights import read_metadata

DIGITS = ("digits", "student.times=[1.0, 0.4]", "losses.distribution_matching.guidance=1.5")
TOY = """\
teacher: {use: gmm, layout: pair, width: 16, pretrain_steps: 20}
student: {lr: 1.0e-3}
critic: {lr: 1.0e-3}
losses: {distribution_matching: {}, denoising: {}}
sampler: {use: ddim, steps: 3}
run: {steps: 1, batch: 4}
"""


def published(folder, *recipe):
    """The untrained student of a recipe, in a run folder."""
    job(load(recipe[0], recipe[1:]), torch.device("cpu")).publish(folder, 0)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return published(tmp_path_factory.mktemp("student") / "run", *DIGITS)


@pytest.fixture(scope="module")
def drawn(run):
    return load_student(run)


def refusal(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- drawing ---------------------------------------------------------------------------------------------------


def test_the_package_gives_load_student_and_nothing_it_does_not_have(run):
    assert dmd2cli.load_student(run)(labels=[3], seed=1).shape == (1, 3, 8, 8)
    with pytest.raises(AttributeError, match="no attribute 'lode_student'"):
        dmd2cli.lode_student


def test_images_are_uint8_and_a_function_of_seed_number_and_label(drawn):
    images = drawn(labels=[3, 1, 4], seed=1)
    assert images.shape == (3, 3, 8, 8) and images.dtype == torch.uint8
    assert drawn(labels=[3, 1, 4, 1, 5], seed=1)[:3].equal(images)
    assert not drawn(labels=[3, 1, 4], seed=2).equal(images) and not drawn(labels=[3, 1, 5], seed=1).equal(images)


def test_labels_are_repeated_in_turn_up_to_n(drawn):
    assert drawn(labels=[7, 2], n=5).equal(drawn(labels=[7, 2, 7, 2, 7]))
    assert drawn(labels=[7, 2], n=1).equal(drawn(labels=[7]))


def test_without_labels_all_classes_come_in_turn(drawn):
    assert len(drawn()) == 1
    assert drawn(n=12).equal(drawn(labels=[*range(10), 0, 1]))


def test_a_label_or_prompt_that_the_teacher_does_not_know_is_refused(drawn):
    assert "label 10" in refusal(drawn, labels=[10])
    assert "a cat" in refusal(drawn, prompts=["a cat"])
    assert "exclude each other" in refusal(drawn, labels=[1], prompts=["a cat"])


def test_another_number_of_steps_spaces_the_clock_evenly_from_its_first_time(drawn):
    assert drawn.times == (1.0, 0.4)
    assert drawn.at_steps(4).times == (1.0, 0.75, 0.5, 0.25)
    late = replace(drawn, source=replace(drawn.source, sampler=student.FewStep((0.6,))))
    assert late.at_steps(3).times == pytest.approx((0.6, 0.4, 0.2))
    assert drawn.at_steps(4)(labels=[3]).shape == (1, 3, 8, 8)
    assert "at least 1" in refusal(drawn.at_steps, 0)


# -- the contract ----------------------------------------------------------------------------------------------


def test_the_weights_file_alone_is_a_student(run, drawn, tmp_path):
    alone = tmp_path / "renamed.safetensors"
    alone.write_bytes((run / "student" / "model.safetensors").read_bytes())
    assert load_student(alone)(labels=[3]).equal(drawn(labels=[3]))


def test_student_json_is_the_contract_inside_the_weights(run):
    path = run / "student" / "model.safetensors"
    assert json.loads(read_metadata(path)["dmd2_student"]) == json.loads(path.with_name("student.json").read_text())


def test_the_contract_has_all_that_inference_needs(drawn):
    held = drawn.contract
    assert held["format"] == 1 and held["teacher"]["use"] == "digits" and held["details"]["family"] == "digits"
    assert held["shape"] == [1, 8, 8] and held["conditions"] == list(range(10)) and held["schedule"] == "Karras"
    assert held["steps"] == 2 and held["sampler"]["use"] == "few_step" and held["sampler"]["times"] == [1.0, 0.4]
    assert held["guidance"] == 1.5 and held["trained"] == {"steps": 0, "generator_updates": 0, "weights": "ema"}
    assert held["metrics"] == [{"use": "fd-digits"}] and held["dmd2cli"] == dmd2cli.__version__


def test_times_are_also_given_as_timesteps_of_a_table_and_as_noise_levels():
    found = native(Discrete.scaled_linear(), [1.0, 0.75, 0.5, 0.25])
    assert found["timesteps"] == [999, 749, 499, 249]
    assert native(Karras(), [1.0, 0.0]) == {"sigma_over_alpha": [80.0, 0.002]}


def test_the_teacher_behind_a_student_is_that_of_its_recipe(drawn):
    behind = drawn.teacher()
    assert behind.sampler.nfe == load("digits").sampler.options["steps"] * 2 - 1
    assert behind.images([3], seed=0).shape == (1, 3, 8, 8)


def test_a_student_of_an_analytic_teacher_loads_without_fitting_it_again(tmp_path, monkeypatch):
    (tmp_path / "toy.yaml").write_text(TOY)
    folder = published(tmp_path / "run", tmp_path / "toy.yaml")
    expected = load_student(folder)(n=3)
    monkeypatch.setattr("dmd2_plugins.toy.gmm.denoising", lambda *_: 1 / 0)
    assert load_student(folder)(n=3).equal(expected)


# -- guidance --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranged") / "run"
    work = job(load("digits", ["student.guidance={min: 1, max: 5}", "run.batch=8", "ttur=1"]), torch.device("cpu"))
    work.step(0)
    work.step(1)
    work.publish(folder, 2)
    return load_student(folder)


def test_a_student_that_reads_the_scale_draws_at_any_scale_of_its_range(ranged):
    assert ranged.contract["guidance"] == {"min": 1.0, "max": 5.0, "default": 1.0}
    weak, strong = (ranged.at_guidance(s).source.latents([3], 0, [0]) for s in (1.0, 5.0))
    assert not weak.equal(strong) and weak.equal(ranged.source.latents([3], 0, [0]))
    assert ranged.at_guidance(4.0).source.sampler.nfe == 1
    assert ranged.at_guidance(4.0).teacher().guidance == 4.0


def test_a_scale_outside_of_the_range_names_the_range(ranged):
    for scale in (0.5, 5.1):
        assert "trained for scales from 1 to 5" in refusal(ranged.at_guidance, scale)


def test_a_student_of_one_scale_takes_that_one_or_none(drawn):
    assert drawn.at_guidance(1.0) is drawn and drawn.at_guidance(1.5) is drawn
    assert "has guidance 1.5 baked in" in refusal(drawn.at_guidance, 3.0)
    assert drawn.teacher().guidance == 1.5


def test_the_few_step_sampler_of_a_student_is_that_of_its_recipe(tmp_path):
    folder = published(tmp_path / "run", "digits", "student.times=[1.0, 0.5]", "student.sampler=ode")
    held = load_student(folder)
    assert held.contract["sampler"]["stochastic"] is False and held.source.sampler.stochastic is False
    assert held.at_steps(4).source.sampler.stochastic is False


# -- on disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["model.safetensors", "student.json"])
def test_a_student_that_cannot_be_written_leaves_the_one_before(run, drawn, tmp_path, monkeypatch, broken):
    save_student(tmp_path, drawn.source.network, drawn.contract)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    replace_file = os.replace

    def failing(source, target):
        if os.path.basename(target) == broken:
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError):
        save_student(tmp_path, drawn.source.network, drawn.contract)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_reference_is_a_run_a_student_folder_or_a_file(run, tmp_path):
    for ref in (run, run / "student", run / "student" / "model.safetensors", str(run)):
        assert load_student(ref).times == (1.0, 0.4)
    assert "no such run folder" in refusal(load_student, tmp_path / "nothing")
    assert "not a run folder or a student folder" in refusal(load_student, tmp_path)


def test_the_newest_run_is_that_whose_student_is_newest(run, tmp_path):
    assert "no run with a student" in refusal(newest, tmp_path)
    for name, age in (("a", 5), ("b", 0), ("c", 9)):
        weights = tmp_path / name / "student" / "model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.touch()
        os.utime(weights, (1e9 - age, 1e9 - age))
    (tmp_path / "started").mkdir()
    assert newest(tmp_path) == tmp_path / "b"


def changed(run, tmp_path, tensors=lambda t: t, **contract):
    """The student with another contract or other tensors, as a file."""
    path = run / "student" / "model.safetensors"
    held = json.loads(read_metadata(path)["dmd2_student"]) | contract
    save_file(tensors(student.read_weights(path)), tmp_path / "x.safetensors", {"dmd2_student": json.dumps(held)})
    return tmp_path / "x.safetensors"


def test_a_student_of_a_later_format_asks_for_an_upgrade(run, tmp_path):
    assert "pip install -U dmd2cli" in refusal(load_student, changed(run, tmp_path, format=2))


def test_a_student_of_a_family_that_is_not_installed_names_it(run, tmp_path):
    said = refusal(load_student, changed(run, tmp_path, teacher={"use": "pixart"}))
    assert said.startswith("teacher 'pixart' is not installed")


def test_weights_of_another_network_are_refused_with_the_first_that_do_not_fit(run, tmp_path):
    def without(tensors):
        return dict(list(tensors.items())[1:])

    assert "lacks weights" in refusal(load_student, changed(run, tmp_path, without))
    wider = {"family": "digits", "channels": [8, 16, 32]}
    assert "has other shapes" in refusal(load_student, changed(run, tmp_path, details=wider))


def test_a_teacher_whose_weights_are_gone_is_named(run, tmp_path):
    lost = load_student(changed(run, tmp_path, teacher={"use": "digits", "weights": "gone.safetensors"}))
    assert lost(labels=[3]).shape == (1, 3, 8, 8)
    assert "gone.safetensors: no such file" in refusal(lost.teacher)


def test_a_loaded_student_is_frozen_and_in_evaluation_mode(drawn):
    network = drawn.source.network
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert drawn.to("cpu") is drawn and registry.load("teachers", "digits")
