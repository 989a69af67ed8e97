"""Exported students: any batch, the contract inside, and nothing left of an export that draws other images."""

import json

import pytest
import torch
from dmd2_plugins.export import torch_export
from dmd2_plugins.export.compare import largest_difference
from dmd2_plugins.export.safetensors import export as to_safetensors
from dmd2_plugins.export.torch_export import export as to_graph
from dmd2_plugins.export.torch_export import inputs
from safetensors.torch import load_file
from test_student import DIGITS, published

from dmd2cli import registry
from dmd2cli.errors import UserError
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source
from dmd2cli.student import Student, load_student


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return load_student(published(tmp_path_factory.mktemp("export") / "run", *DIGITS))


@pytest.fixture(scope="module")
def graph(student, tmp_path_factory):
    """(path of a two-step student's archive, what the exporter said)."""
    path = tmp_path_factory.mktemp("export") / "s.pt2"
    return path, to_graph(student, path)


def test_a_graph_takes_noise_labels_and_every_renoise_tensor(graph, student):
    found = graph[1]
    assert found["inputs"] == ["noise", "labels", "renoise_1"] and found["max_pixel_difference"] <= 1
    assert {name: tuple(x.shape) for name, x in inputs(student, 3).items()} == {
        "noise": (3, 1, 8, 8), "labels": (3,), "renoise_1": (3, 1, 8, 8),
    }  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 33])
def test_a_graph_draws_the_student_s_pixels_for_any_batch(graph, student, n):
    program = torch.export.load(graph[0]).module()
    difference = program(*inputs(student, n, seed=4).values()).int() - student(n=n, seed=4).int()
    assert difference.abs().max() <= 1


def test_a_graph_reads_every_one_of_its_inputs(graph, student):
    program, given = torch.export.load(graph[0]).module(), inputs(student, 4)
    images = program(*given.values())
    for name, x in given.items():
        other = (x + 1) % 10 if name == "labels" else -x
        assert not program(*(given | {name: other}).values()).equal(images), name


def test_an_archive_carries_the_contract_and_an_example(graph, student):
    path, found = graph
    extra = {"dmd2.json": ""}
    torch.export.load(path, extra_files=extra)
    held = json.loads(extra["dmd2.json"])
    assert held["inputs"]["noise"] == ["batch", 1, 8, 8] and held["sampler"] == student.contract["sampler"]
    example = load_file(found["example"])
    assert example["images"].equal(student(n=5, seed=1))


@pytest.mark.parametrize(("times", "arguments"), [((1.0,), ["noise"]), ((1.0, 0.5), ["noise", "renoise_1"])])
def test_a_student_without_classes_has_no_labels(tmp_path, times, arguments):
    teacher = registry.load("teachers", "gmm")(layout="pair", width=16, pretrain_steps=0)
    toy = Student(Source(teacher, teacher.network.eval(), FewStep(times)), {})
    assert to_graph(toy, tmp_path / "toy.pt2")["inputs"] == arguments
    drawn = torch.export.load(tmp_path / "toy.pt2").module()(*inputs(toy, 3, seed=2).values())
    assert (drawn.int() - toy(n=3, seed=2).int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("export", "name"), [(to_safetensors, "s.safetensors"), (to_graph, "s.pt2")], ids=["safetensors", "torch-export"]
)
def test_an_export_that_draws_other_images_is_refused_and_not_left_behind(student, tmp_path, monkeypatch, export, name):
    module = export.__module__

    def other(a, b, out, allowed=0):
        return largest_difference(a, 255 - b, out, allowed)

    monkeypatch.setattr(f"{module}.largest_difference", other)
    with pytest.raises(UserError, match="loaded back it draws other images"):
        export(student, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_only_as_different_as_is_allowed(tmp_path):
    black, grey = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.full((2, 3, 4, 4), 3, dtype=torch.uint8)
    assert largest_difference(black, grey, tmp_path, allowed=3) == 3
    with pytest.raises(UserError, match="difference 3 of 255, 2 allowed"):
        largest_difference(grey, black, tmp_path, allowed=2)


def test_given_streams_come_in_the_order_of_the_sampler_s_calls():
    streams = torch_export.Given((torch.zeros(1), torch.ones(1)))
    assert [streams.normal("a", torch.empty(1)).item(), streams.normal("b", torch.empty(1)).item()] == [0, 1]
