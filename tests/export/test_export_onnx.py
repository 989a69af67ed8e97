"""The UNet as ONNX: onnxruntime's predictions are the student's, for any batch."""

import json

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnxruntime
import tiny_pipelines as tiny
import tiny_students
import torch
from dmd2_plugins.export import network
from dmd2_plugins.export.onnx import export, session
from tiny_students import FOUR

from dmd2cli.errors import UserError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(student, folder, what the exporter said) of a smaller SDXL."""
    folder = tmp_path_factory.mktemp("onnx")
    model = tiny.sdxl(folder / "model", sub={"layers_per_block": 1})
    student = tiny_students.student(str(model), "sdxl", FOUR, rank=2)
    return student, folder / "out", export(student, folder / "out")


def test_onnxruntime_predicts_what_the_student_does_for_any_batch(exported):
    student, folder, said = exported
    assert said["inputs"] == ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"]
    held = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    shapes = {one.name: one.shape for one in held.get_inputs()}
    assert shapes["sample"] == ["batch", 4, 8, 8] and shapes["text_embeds"] == ["batch", 24]
    backbone = student.source.network.use().backbone
    for n in (1, 3, 65):
        given = network.inputs(student, ["a cat", "red", "three", "two", "one"] * 13, seed=2)
        given = {name: value[:n] for name, value in given.items()}
        (found,) = held.run(["out_sample"], {name: value.numpy() for name, value in given.items()})
        sample, timestep, text, pooled, ids = given.values()
        with torch.no_grad():
            state = backbone.encode(sample, timestep.float(), {"text": text, "pooled": pooled, "time_ids": ids})
            torch.testing.assert_close(torch.from_numpy(found), backbone.decode(state), rtol=1e-4, atol=1e-5)


def test_the_student_s_sampler_draws_its_images_with_it(exported):
    student, folder, said = exported
    assert said["max_pixel_difference"] <= 1
    images = network.through(student, session(folder / "model.onnx")).images(["a cat"], 5)
    assert (images.int() - student(prompts=["a cat"], seed=5).int()).abs().max() <= 1


def test_the_folder_says_how_it_is_run_and_nothing_else_is_left(exported):
    _, folder, _ = exported
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "model.onnx.data", "README.md", "dmd2.json"}
    card = (folder / "README.md").read_text()
    assert "# timestep: int64, batch\n" in card and "timesteps 999, 749, 499, 249" in card
    written = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"]).get_modelmeta()
    held = json.loads(written.custom_metadata_map["dmd2"])
    assert held["sampler"]["times"] == list(FOUR) and not list(folder.parent.glob(".*"))


def test_a_folder_that_is_there_is_left_alone(exported):
    student, folder, _ = exported
    with pytest.raises(UserError, match="is there already"):
        export(student, folder)
