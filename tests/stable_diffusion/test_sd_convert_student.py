"""Published students on disk, and checkpoints of the official code, become student artefacts by `dmd2 convert`."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import huggingface_hub
import published_students as made
import pytest
import torch
from dmd2_plugins.stable_diffusion.convert_student import Student
from safetensors.torch import save_file

from dmd2cli.adapters import merged
from dmd2cli.cli import app
from dmd2cli.student import load_student

PROMPTS = ["a llama", "cat"]
OUT = "student.safetensors"


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """A fresh working folder, an empty hub cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def convert(*args):
    """`dmd2 convert ARGS -o student.safetensors`: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["dmd2", "convert", *map(str, args), "-o", OUT])
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


def refusal(*args):
    code, out, err = convert(*args)
    assert code == 2 and out == "" and err.count("\n") == 1, (code, out, err)
    return err.strip()


def weights(student):
    return student.source.network.backbone.unet.state_dict()


@pytest.mark.parametrize("prefix", ["", "feedforward_model.", "_fsdp_wrapped_module.",
                                    "module.feedforward_model._fsdp_wrapped_module.unet."])  # fmt: skip
def test_a_checkpoint_of_the_official_code_becomes_a_student_whatever_stands_before_its_names(model, prefix):
    held = made.unet_of(model("sdxl"))
    torch.save({f"{prefix}{name}": value for name, value in held.items()}, "pytorch_model.bin")
    code, out, err = convert("pytorch_model.bin", f"model={model('sdxl')}", "timesteps=[999, 749, 499, 249]")
    assert code == 0 and "a DMD2 student of sdxl, called at 999, 749, 499, 249" in out and "0 unused" in out, err
    student = load_student(OUT)
    assert all(weights(student)[name].equal(value.float()) for name, value in held.items())
    assert student.times == (1.0, 0.75, 0.5, 0.25) and student(prompts=PROMPTS).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("file, times", [(made.FOUR, (1.0, 0.75, 0.5, 0.25)), (made.ONE, (0.4,))])
def test_a_published_file_says_its_timesteps_by_its_name(model, file, times):
    torch.save(made.unet_of(model("sdxl")), file)
    assert convert(file, f"model={model('sdxl')}")[0] == 0
    held = load_student(OUT).contract
    assert tuple(held["sampler"]["times"]) == times and held["guidance"] == 8.0
    source = held["trained"]["converted"]
    assert source["file"] == file and "CC BY-NC 4.0" in source["licence"] and len(source["sha256"]) == 64


def test_a_student_of_stable_diffusion_15_is_called_once_at_999(model):
    save_file(made.unet_of(model("sd15")), "generator.safetensors")
    assert convert("generator.safetensors", f"model={model('sd15')}")[0] == 0
    held = load_student(OUT).contract
    assert held["sampler"]["timesteps"] == [999] and held["guidance"] == 1.75 and held["teacher"]["use"] == "sd15"
    assert convert("generator.safetensors", f"model={model('sd15')}", "guidance=3")[0] == 0
    assert load_student(OUT).contract["guidance"] == 3.0


def test_without_its_name_a_file_of_sdxl_must_be_told_when_it_is_called(model):
    torch.save(made.unet_of(model("sdxl")), "pytorch_model.bin")
    said = refusal("pytorch_model.bin", f"model={model('sdxl')}")
    assert "add timesteps=[999,749,499,249] or timesteps=[399]" in said


def test_a_lora_stays_one_on_its_base(model):
    save_file(made.lora_of(model("sdxl"), rank=2, alpha=1.0) | {"lora_te1_a.alpha": torch.ones(())}, made.LORA)
    code, out, err = convert(made.LORA, f"model={model('sdxl')}")
    assert code == 0 and "LoRA" in out and "unused: lora_te1_a.alpha (of a text encoder)" in out, err
    student = load_student(OUT)
    assert (student.contract["lora"]["rank"], student.contract["lora"]["alpha"]) == (2, 1.0)
    assert student(prompts=PROMPTS).shape == (2, 3, 16, 16)


def test_a_lora_of_some_layers_and_several_alphas_adds_what_its_file_says(model):
    held = made.lora_of(model("sdxl"), targets=("to_q", "conv1"))
    some = next(name for name in held if name.endswith("to_q.alpha"))
    held[some] = torch.tensor(2.0).half()
    save_file(held, made.LORA)
    assert convert(made.LORA, f"model={model('sdxl')}")[0] == 0
    student = load_student(OUT)
    after, before = merged(student.source.network).state_dict(), student.teacher().network.state_dict()
    flat = {name.removeprefix("backbone.unet.").replace(".", "_"): name for name in before}
    for name in (some, next(name for name in held if name.endswith("conv1.alpha"))):
        key = name.removesuffix(".alpha")
        up, down = (held[f"{key}.lora_{side}.weight"].float() for side in ("up", "down"))
        weight = flat[f"{key.removeprefix('lora_unet_')}_weight"]
        wanted = before[weight] + float(held[name]) / 4 * (up.flatten(1) @ down.flatten(1)).view_as(before[weight])
        torch.testing.assert_close(after[weight], wanted, rtol=1e-4, atol=1e-5)


def test_a_generator_with_a_lora_in_it_gives_the_lora(model):
    held, lora = made.unet_of(model("sdxl"), size=0.0), made.lora_of(model("sdxl"))
    flat = {name.removesuffix(".weight").replace(".", "_"): name.removesuffix(".weight") for name in held}
    found = dict(held)
    for key in (name.removesuffix(".alpha") for name in lora if name.endswith(".alpha")):
        path = flat[key.removeprefix("lora_unet_")]
        found[f"{path}.base_layer.weight"] = found.pop(f"{path}.weight")
        found[f"{path}.lora_A.default.weight"] = lora[f"{key}.lora_down.weight"]
        found[f"{path}.lora_B.default.weight"] = lora[f"{key}.lora_up.weight"]
    torch.save({f"feedforward_model.{name}": value for name, value in found.items()}, "pytorch_model.bin")
    args = (f"model={model('sdxl')}", "timesteps=[999,749,499,249]")
    code, out, err = convert("pytorch_model.bin", *args)
    assert code == 0 and "conv_in.weight (of the base)" in out, err
    theirs = load_student(OUT)
    save_file(lora, made.LORA)
    assert convert(made.LORA, *args)[0] == 0
    ours = load_student(OUT)
    assert theirs.contract["lora"] == ours.contract["lora"] and ours.contract["lora"]["alpha"] == 8.0
    assert theirs(prompts=PROMPTS).equal(ours(prompts=PROMPTS))


@pytest.mark.parametrize("option, told", [
    ("timesteps=[249, 999]", "timesteps: must fall strictly"), ("timesteps=[1000]", "lie in 0 to 999"),
    ("timesteps=4", "timesteps: must be a list"), ("times=[1.0]", "times: unknown key; did you mean 'timesteps'?"),
    ("model=nowhere/at/all", "nowhere/at/all: no such file or folder"),
    ("family=sd3", "family: must be 'sd15' or 'sdxl'"),
])  # fmt: skip
def test_a_bad_option_is_one_line(model, option, told):
    torch.save(made.unet_of(model("sdxl")), made.FOUR)
    options = [option] if option.startswith("model") else [f"model={model('sdxl')}", option]
    assert told in refusal(made.FOUR, *options)


def test_a_file_of_another_base_is_refused(model):
    torch.save(made.unet_of(model("sdxl")), made.FOUR)
    assert "lacks down_blocks" in (said := refusal(made.FOUR)) and "stable-diffusion-xl-base-1.0" in said
    torch.save(made.unet_of(model("sd15")), "sd15.bin")
    assert "lacks down_blocks" in refusal("sd15.bin")
    save_file(made.lora_of(model("sd15")), made.LORA)
    assert "does not fit" in refusal(made.LORA, f"model={model('sdxl')}")


def test_the_file_beside_it_is_refused_by_name(model):
    tensors = made.unet_of(model("sd15"))
    held = {f"{owner}.{name}": value for name, value in tensors.items() for owner in ("real_unet", "fake_unet")}
    torch.save(held, "pytorch_model_1.bin")
    assert "convert pytorch_model.bin of the same folder" in refusal("pytorch_model_1.bin")


def test_our_own_students_and_other_files_are_not_taken_for_one(model):
    torch.save(made.unet_of(model("sd15")), "a.bin")
    assert convert("a.bin", f"model={model('sd15')}")[0] == 0
    assert not Student().recognises(Path(OUT))
    for name, content in (("a.json", json.dumps({}).encode()), ("b.safetensors", b"\x10\0\0\0\0\0\0\0garbage")):
        with open(name, "wb") as file:
            file.write(content)
        assert "not a checkpoint that is known here" in refusal(name)
