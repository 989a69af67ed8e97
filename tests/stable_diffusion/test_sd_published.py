"""The published students, by name, on small stand-ins in a hub cache; what is missing is named and never fetched."""

import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import huggingface_hub
import published_students as made
import pytest
import tiny_pipelines as tiny
import tiny_students
import torch
from diffusers import LCMScheduler
from dmd2_plugins.digits.teacher import teacher as digits
from dmd2_plugins.stable_diffusion import teacher as family
from dmd2_plugins.stable_diffusion.folder import SDXL
from safetensors.torch import load_file, save_file

from dmd2cli import hub, published
from dmd2cli.adapters import merged
from dmd2cli.cli.default_subject import default
from dmd2cli.errors import UserError
from dmd2cli.student import WEIGHTS, load_student
from dmd2cli.weights import save_weights

PROMPTS = ["a llama wearing sunglasses", "cat"]


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """A fresh working folder, an empty hub cache, a connection that may not be used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", forbidden)
    published.tell.cache_clear()


@pytest.fixture
def cached(monkeypatch, filled):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(filled))
    return filled


def forbidden(*args, **options):
    raise AssertionError("nobody allowed a download")


def said(name, download=False):
    with pytest.raises(UserError) as err:
        load_student(name, download=download)
    assert "\n" not in str(err.value)
    return str(err.value)


def release(cache, file):
    return cache / "models--tianweiy--DMD2" / "snapshots" / "0123abcd" / file


# -- what is drawn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, file, steps", [("sdxl-4step", made.FOUR, [999, 749, 499, 249]),
                                               ("sdxl-1step", made.ONE, [399])])  # fmt: skip
def test_a_published_unet_is_called_at_its_timesteps_with_its_weights(cached, name, file, steps):
    student = load_student(name)
    held = torch.load(release(cached, file), weights_only=True)
    network = student.source.network.backbone.unet
    assert all(network.state_dict()[key].equal(value.float()) for key, value in held.items())
    assert student.contract["sampler"]["timesteps"] == steps and student.contract["guidance"] == 8.0
    scheduler = LCMScheduler.from_config(student.contract["details"]["scheduler"])
    noise = student.source.noise(0, range(2))
    cond, _ = student.source.teacher.encode(PROMPTS)
    added = {"text_embeds": cond["pooled"], "time_ids": cond["time_ids"]}
    with torch.no_grad():
        eps = network(noise, steps[0], cond["text"], added_cond_kwargs=added).sample.double()
    bar = scheduler.alphas_cumprod.double()[steps[0]]
    x = (noise - (1 - bar).sqrt() * eps) / bar.sqrt()
    if len(steps) == 1:
        torch.testing.assert_close(student.source.latents(PROMPTS, 0, range(2)), x.float(), rtol=1e-4, atol=1e-4)
    assert student(prompts=PROMPTS).shape == (2, 3, 16, 16)


def test_the_published_lora_is_that_of_diffusers_fused_at_scale_1(cached):
    student = load_student("sdxl-4step-lora")
    teacher = family.sdxl(lora=[{"path": str(release(cached, made.LORA)), "scale": 1.0}])
    ours, theirs = merged(student.source.network).state_dict(), teacher.denoiser.state_dict()
    assert ours.keys() == theirs.keys()
    worst = max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
    moved = max(float((family.sdxl().denoiser.state_dict()[key] - theirs[key]).abs().max()) for key in ours)
    assert worst < 2e-4 < 0.1 < moved                      # diffusers adds a half-precision file in half precision
    assert (student.contract["lora"]["rank"], student.contract["lora"]["alpha"]) == (4, 8.0)
    assert student.times == (1.0, 0.75, 0.5, 0.25)


def test_files_in_half_precision_and_a_base_without_its_unet_are_enough(tmp_path):
    made.stand_ins(tmp_path / "hub", tmp_path / "scratch", half=True, unet=False)
    assert load_student("sdxl-4step")(prompts=PROMPTS).shape == (2, 3, 16, 16)
    assert "the whole pipeline of stabilityai/stable-diffusion-xl-base-1.0 (about 6.9 GB" in said("sdxl-4step-lora")


def test_a_published_student_knows_its_teacher(cached):
    source = load_student("sdxl-4step").teacher()
    assert source.guidance == 8.0 and source.sampler.nfe == 50
    held = load_file(next(cached.rglob("unet/*.safetensors")))
    assert source.network.backbone.unet.state_dict()["conv_in.weight"].equal(held["conv_in.weight"])


def test_the_licences_are_said_once(cached, capsys):
    load_student("sdxl-4step")
    load_student("sdxl-4step")
    lines = [line for line in capsys.readouterr().err.splitlines() if "licence" in line]
    assert len(lines) == 1 and "CC BY-NC 4.0" in lines[0] and "Open RAIL++-M" in lines[0]


def test_a_path_of_that_name_comes_first(cached):
    Path("sdxl-4step").mkdir()
    assert "not a run folder or a student folder" in said("sdxl-4step")


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one():
    assert said("sdxl-4-step").endswith("; is it the published student sdxl-4step?")
    assert "published" not in said("runs/nowhere")


# -- what is missing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, file, size", [("sdxl-4step", made.FOUR, "5.1"), ("sdxl-1step", made.ONE, "5.1"),
                                              ("sdxl-4step-lora", made.LORA, "0.4")])  # fmt: skip
def test_without_the_files_repository_file_size_licence_and_place_are_named(name, file, size, tmp_path):
    line = said(name, None)
    assert f"{file} of tianweiy/DMD2 (about {size} GB, CC BY-NC 4.0" in line and str(tmp_path / "hub") in line
    assert f"of {SDXL} (about" in line and line.endswith("allow that with --download")
    assert said(name).endswith(f"get it by dmd2 sample --student {name} --download PROMPT")       # where nobody asks


@pytest.mark.parametrize("download", [False, None, True])
def test_offline_it_says_so(monkeypatch, download):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    line = said("sdxl-4step", download)
    assert f"{made.FOUR} of tianweiy/DMD2 (about 5.1 GB" in line and "HF_HUB_OFFLINE is set" in line


def test_only_what_is_missing_is_named(filled, tmp_path):
    shutil.copytree(filled, tmp_path / "hub")
    release(tmp_path / "hub", made.FOUR).unlink()
    assert SDXL not in said("sdxl-4step")
    load_student("sdxl-1step")
    base = tmp_path / "hub" / "models--stabilityai--stable-diffusion-xl-base-1.0" / "snapshots" / "0123abcd"
    (base / "text_encoder_2" / "model.safetensors").unlink()
    line = said("sdxl-1step")
    assert "tianweiy" not in line and f"text encoders and VAE of {SDXL} (about 1.8 GB" in line


def downloads(monkeypatch, filled):
    """A connection: what is asked for is copied from the filled cache. Gives the list of what was asked."""
    asked = []

    def fetch(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        kept = filled / f"models--{repository.replace('/', '--')}" / "snapshots" / "0123abcd"
        made.put(huggingface_hub.constants.HF_HUB_CACHE, repository, kept)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return asked


def test_with_leave_it_is_fetched_and_the_file_is_told_before(monkeypatch, filled, capsys):
    asked = downloads(monkeypatch, filled)
    load_student("sdxl-4step", download=True)
    assert [repository for repository, _ in asked] == ["tianweiy/DMD2", SDXL] and asked[0][1] == [made.FOUR]
    assert "text_encoder/model.fp16.safetensors" in asked[1][1] and not any("unet/" in each for each in asked[1][1])
    told = capsys.readouterr().err
    assert f"to download: {made.FOUR} of tianweiy/DMD2 (about 5.1 GB" in told
    load_student("sdxl-4step", download=True)
    assert len(asked) == 2


@pytest.mark.parametrize("answer, fetched", [("y\n", True), ("yes\n", True), ("n\n", False), ("", False)])
def test_on_a_terminal_it_asks(monkeypatch, filled, answer, fetched):
    asked = downloads(monkeypatch, filled)
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    if fetched:
        assert load_student("sdxl-1step", download=None).times == (0.4,)
    else:
        assert said("sdxl-1step", None).endswith("nothing was downloaded")
    assert bool(asked) == fetched


def test_a_failing_download_is_one_line(monkeypatch):
    def fails(*args, **options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    line = said("sdxl-4step", True)
    assert line.startswith(f"{made.FOUR} of tianweiy/DMD2: cannot be downloaded (ConnectionError: no route to host)")


def test_a_download_without_the_file_is_one_line(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: None)
    assert said("sdxl-4step", True).startswith(f"tianweiy/DMD2: no longer holds {made.FOUR}")


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_published_file_is_executed(filled, tmp_path, capsys):
    shutil.copytree(filled, tmp_path / "hub")
    torch.save({"conv_in.weight": Evil()}, release(tmp_path / "hub", made.FOUR))
    assert "nothing was executed" in said("sdxl-4step")
    release(tmp_path / "hub", made.ONE).write_bytes(pickle.dumps(Evil()))
    assert said("sdxl-1step")
    release(tmp_path / "hub", made.ONE).write_bytes(release(tmp_path / "hub", made.FOUR).read_bytes()[:-400])
    assert said("sdxl-1step")
    assert "executed" not in capsys.readouterr().out


def test_a_file_of_another_network_is_refused_with_its_first_tensor(filled, tmp_path):
    shutil.copytree(filled, tmp_path / "hub")
    other = tiny.sd15(tmp_path / "sd15")
    torch.save(made.unet_of(other), release(tmp_path / "hub", made.FOUR))
    line = said("sdxl-4step")
    assert made.FOUR in line and "lacks add_embedding" in line and SDXL in line
    save_file(made.lora_of(other), release(tmp_path / "hub", made.LORA))
    assert made.LORA in (line := said("sdxl-4step-lora")) and "does not fit" in line and SDXL in line


# -- the default subject ---------------------------------------------------------------------------------------


def test_without_a_run_prompts_are_drawn_by_a_published_student(cached, capsys):
    assert default(PROMPTS, 4) == "sdxl-4step" and default(PROMPTS, None) == "sdxl-4step"
    assert default(PROMPTS, 1) == "sdxl-1step"
    assert capsys.readouterr().err.splitlines()[-1] == (
        "no subject given: there is no run under ./runs, so it is the published sdxl-1step"
    )


def test_without_a_run_and_without_files_there_is_one_line_only(capsys):
    with pytest.raises(UserError, match=f"{made.FOUR} of tianweiy/DMD2 \\(about 5.1 GB"):
        default(PROMPTS, 4)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="no run with a student under ./runs"):
        default([], 4)


@pytest.mark.parametrize("text", [True, False])
def test_a_newest_run_that_reads_prompts_comes_first(cached, capsys, text):
    if text:
        found = tiny_students.student(str(tiny.sd15(Path("sd15"))), "sd15").contract
    else:
        found = {"format": 1, "teacher": {"use": "digits"}, "details": dict(digits().details)}
    save_weights({"a": torch.zeros(1)}, Path("runs/mine/student") / WEIGHTS, {"dmd2_student": json.dumps(found)})
    assert default(PROMPTS, 4) == ("runs/mine" if text else "sdxl-4step")
    told = capsys.readouterr().err.strip().splitlines()[-1]
    why = "runs/mine, the newest run, reads no prompts, so it is the published sdxl-4step"
    assert told == f"no subject given: {'the newest run is runs/mine' if text else why}"
    assert default([], 4) == "runs/mine"


def test_a_snapshot_that_is_known_to_be_incomplete_is_still_found(tmp_path):
    """What was fetched by patterns is such a one, and newer hub libraries say that it is not there at all."""
    home = made.put(tmp_path / "hub", "someone/some", tiny.sd15(tmp_path / "sd15")).parent.parent
    (home / "trees").mkdir()
    (home / "trees" / "0123abcd.json").write_text('{"more.bin": {"size": 1, "blob_id": "a"}}')
    assert hub.snapshot("someone/some") == home / "snapshots" / "0123abcd"
    assert family.sd15(model="someone/some").shape == (4, 8, 8)
    assert hub.snapshot("someone/other") is None and hub.snapshot("someone/some", "v2") is None
