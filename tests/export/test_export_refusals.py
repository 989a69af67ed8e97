"""What a format cannot hold is refused in one line, and nothing is left of the attempt."""

import pytest
from dmd2_plugins.export.drafts import whole
from test_student import DIGITS, published

from dmd2cli import registry
from dmd2cli.errors import UserError
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source
from dmd2cli.student import Student, load_student

FORMS = ("diffusers", "lora", "comfyui", "onnx")


def exporter(name):
    if name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    return pytest.importorskip(f"dmd2_plugins.export.{name}").export


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_student(published(tmp_path_factory.mktemp("refusals") / "run", *DIGITS))


@pytest.mark.parametrize("form", FORMS)
def test_a_student_of_another_family(digits, tmp_path, form):
    with pytest.raises(UserError) as caught:
        exporter(form)(digits, tmp_path / "out")
    takes = "takes students of Stable Diffusion 1, 2 and SDXL, and this is one of"
    assert str(caught.value) == f"{form}: {takes} digits; choose safetensors"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_a_student_without_a_contract(tmp_path, form):
    teacher = registry.load("teachers", "gmm")(layout="pair", width=16, pretrain_steps=0)
    toy = Student(Source(teacher, teacher.network, FewStep((1.0,))), {})
    with pytest.raises(UserError, match=f"{form}: takes students of .* another family; choose safetensors"):
        exporter(form)(toy, tmp_path / "out")


@pytest.mark.parametrize("form", ["diffusers", "lora", "comfyui"])
def test_a_disk_that_is_full_leaves_nothing(distilled, tmp_path, monkeypatch, form):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(UserError, match="out: cannot be written .No space left on device.; choose another place"):
        exporter(form)(distilled("sd15", (1.0,), 2), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_an_earlier_attempt_left_is_cleared(tmp_path):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "half").write_text("")
    with whole(tmp_path / "out") as draft:
        (draft / "all").write_text("")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "all"]


def test_an_interrupted_export_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "deep" / "out") as draft:
        (draft / "half").write_text("")
        raise KeyboardInterrupt
    assert not list((tmp_path / "deep").iterdir())
