"""torch-export of students that read text: the UNet alone, for batches of 1 to 63."""

import json

import pytest
import tiny_pipelines as tiny
import tiny_students
import torch
from dmd2_plugins.export import network, torch_network
from dmd2_plugins.export.torch_export import export
from safetensors.torch import load_file
from tiny_students import FOUR

from dmd2cli.errors import UserError

CASES = {
    "sd15": ("sd15", FOUR, {}),
    "sdxl-lora": ("sdxl", (1.0, 0.5), {"rank": 4}),
    "sd15-reads-scale": ("sd15", (1.0,), {"reads_scale": True}),
}
SD15 = ["sample", "timestep", "encoder_hidden_states"]
INPUTS = {"sd15": SD15, "sdxl-lora": [*SD15, "text_embeds", "time_ids"], "sd15-reads-scale": [*SD15, "guidance"]}


@pytest.fixture(scope="module")
def graph(model, tmp_path_factory):
    """Case -> (student, path, what the exporter said), each exported once."""
    made = {}

    def build(case):
        if case not in made:
            name, times, options = CASES[case]
            student = tiny_students.student(model(name), name[:4], times, **options)
            path = tmp_path_factory.mktemp("graph") / f"{case}.pt2"
            before = student(prompts=["a cat"])
            made[case] = student, path, export(student, path)
            assert student(prompts=["a cat"]).equal(before)
        return made[case]

    return build


def called(student, given):
    """What the student's own UNet predicts."""
    ours = {theirs: name for name, theirs in network.NAMES.items()}
    unet = student.source.network
    backbone = (unet.use() if hasattr(unet, "use") else unet).backbone
    sample, timestep, *_ = given.values()
    cond = {ours.get(name, name): value for name, value in list(given.items())[2:]}
    with torch.no_grad():
        return backbone.decode(backbone.encode(sample, timestep.float(), cond))


@pytest.mark.parametrize("case", CASES)
def test_the_graph_is_the_unet_for_1_to_63(graph, case):
    student, path, said = graph(case)
    assert said["inputs"] == INPUTS[case] and said["largest_batch"] == 63 and said["max_pixel_difference"] <= 1
    program = torch.export.load(path).module()
    for n in (1, 2, 63):
        given = network.inputs(student, ["a cat", "red", "three"] * 21, seed=4)
        given = {name: value[:n] for name, value in given.items()}
        torch.testing.assert_close(program(*given.values()), called(student, given), rtol=1e-5, atol=1e-5)


def test_a_larger_batch_is_refused_by_the_graph_and_the_contract_says_so(graph):
    student, path, _ = graph("sd15")
    given = network.inputs(student, ["a"] * 64)
    with pytest.raises(AssertionError, match="63"):
        torch.export.load(path).module()(*given.values())
    extra = {"dmd2.json": ""}
    torch.export.load(path, extra_files=extra)
    held = json.loads(extra["dmd2.json"])
    assert held["batch"] == [1, 63] and held["output"] == "out_sample" and held["sampler"]["timesteps"][0] == 999
    assert held["inputs"]["encoder_hidden_states"] == ["batch", 77, 32]


def test_the_example_gives_its_output(graph):
    _, path, said = graph("sdxl-lora")
    example = load_file(said["example"])
    found = torch.export.load(path).module()(*(example[name] for name in INPUTS["sdxl-lora"]))
    torch.testing.assert_close(found, example["out_sample"])
    assert example["timestep"].tolist() == [999, 499, 999]


def test_every_input_counts(graph):
    student, path, _ = graph("sdxl-lora")
    program, given = torch.export.load(path).module(), network.inputs(student, ["a cat", "red"])
    images = program(*given.values())
    for name, value in given.items():
        other = value - 100 if name == "timestep" else value + 1
        assert not program(*(given | {name: other}).values()).allclose(images, rtol=0, atol=1e-5), name


def test_other_images_are_refused_and_nothing_is_left(graph, tmp_path, monkeypatch):
    student, path, _ = graph("sd15")
    monkeypatch.setattr(torch_network, "program", lambda *args: torch.export.load(path))
    monkeypatch.setattr(torch_network, "drawn", lambda source: 255 * torch.randint(2, (2, 3, 4, 4), dtype=torch.uint8))
    with pytest.raises(UserError, match="draws other images"):
        export(student, tmp_path / "s.pt2")
    assert not list(tmp_path.iterdir())


def test_transformers_are_refused_in_one_line(tmp_path):
    student = tiny_students.student(str(tiny.pixart(tmp_path / "m")), "diffusers", (1.0,), text_tokens=9)
    with pytest.raises(UserError, match=r"torch-export: .* alone can be exported so far, not PixArtAlphaPipeline"):
        export(student, tmp_path / "s.pt2")
