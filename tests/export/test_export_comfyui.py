"""The ComfyUI folder: a checkpoint in the original layout, and a workflow that gives the student's images."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from dmd2_plugins.export import comfyui as exporter
from dmd2_plugins.export import original
from dmd2_plugins.export.comfyui import SCALES, export
from dmd2_plugins.export.vae_scale import rescaled
from dmd2_plugins.export.workflow import listed
from dmd2_plugins.stable_diffusion.folder import SHIPPED, Folder
from dmd2_plugins.stable_diffusion.single_file import SingleFile
from safetensors.torch import load_file
from tiny_students import FOUR, ONE

from dmd2cli import registry
from dmd2cli.core.noise import Discrete
from dmd2cli.core.random import Numbered
from dmd2cli.errors import UserError
from dmd2cli.testing import check_exporter
from dmd2cli.weights import read_metadata

PROMPT = "a llama wearing sunglasses"


class Comfy:
    """What ComfyUI's nodes compute, in so far as a workflow of ours has them: sigma = sigma / alpha, VE inputs."""

    def __init__(self, graph, load, streams, shape, scale, zero=False):
        """load: file name -> pipeline. streams: in the place of ComfyUI's own noise. shape: of the noise."""
        self.graph, self.load, self.streams, self.shape, self.scale = graph, load, streams, shape, scale
        table = Discrete.scaled_linear().alphas_cumprod
        self.table = ((1 - table) / table).sqrt().float()
        self.prediction, self.memory, self.calls = "eps", {}, []

    def run(self):
        (end,) = (name for name, one in self.graph.items() if one["class_type"] == "SaveImage")
        return self.value([end, 0])

    def value(self, link):
        name, output = link
        if name not in self.memory:
            one = self.graph[name]
            inputs = {k: self.value(v) if isinstance(v, list) else v for k, v in one["inputs"].items()}
            self.memory[name] = getattr(self, one["class_type"])(**inputs)
        return self.memory[name][output]

    def CheckpointLoaderSimple(self, ckpt_name):
        pipe = self.load(ckpt_name)
        return pipe.unet, pipe, pipe.vae

    def LoraLoaderModelOnly(self, model, lora_name, strength_model):
        assert strength_model == 1.0
        return (self.load(lora_name).unet,)

    def ModelSamplingDiscrete(self, model, sampling, zsnr):
        self.prediction = {"v_prediction": "v"}[sampling]
        if zsnr:
            abar = 1 / (1 + self.table.double() ** 2)
            root = abar.sqrt()
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
            root[-1] = 4.8973451890853435e-08**0.5
            self.table = ((1 - root**2) / root**2).sqrt().float()
        return (model,)

    def CLIPTextEncode(self, clip, text):
        size = {"do_classifier_free_guidance": False, "device": "cpu", "num_images_per_prompt": 1}
        return (clip.encode_prompt(text, **size),)

    def EmptyLatentImage(self, width, height, batch_size):
        return (torch.zeros(batch_size, *self.shape),)

    def RandomNoise(self, noise_seed):
        return (self.streams.normal("noise", torch.empty(1, *self.shape)),)

    def ManualSigmas(self, sigmas):
        return (torch.tensor([float(x) for x in sigmas.split(",")]),)

    def KSamplerSelect(self, sampler_name):
        return (sampler_name,)

    def CFGGuider(self, model, positive, negative, cfg):
        assert cfg == 1.0
        return ((model, positive),)

    def AddNoise(self, model, noise, sigmas, latent_image):
        return (((sigmas[0] - sigmas[-1]).abs() * noise + latent_image) / self.scale,)

    def LatentMultiply(self, samples, multiplier):
        assert -10 <= multiplier <= 10
        return (samples * multiplier,)

    def SamplerCustomAdvanced(self, noise, guider, sampler, sigmas, latent_image):
        largest = float(self.table[-1])
        full = math.isclose(largest, float(sigmas[0]), rel_tol=1e-5) or sigmas[0] > largest
        x = noise * (torch.sqrt(1 + sigmas[0] ** 2) if full else sigmas[0]) + latent_image * self.scale
        for k, (sigma, after) in enumerate(pairwise(sigmas), 1):
            clean = self.denoised(guider, x, sigma)
            if sampler == "euler":
                x = x + (x - clean) / sigma * (after - sigma)
            else:
                assert sampler == "lcm"
                x = clean + after * self.streams.normal(f"renoise/{k}", clean) if after > 0 else clean
        return (x / self.scale,)

    def denoised(self, guider, x, sigma):
        unet, (text, *rest) = guider
        t = (self.table.log() - sigma.log()).abs().argmin()
        self.calls.append(int(t))
        side = 2 * self.shape[-1]
        ids = torch.tensor([[side, side, 0, 0, side, side]]).float()
        added = {"text_embeds": rest[1], "time_ids": ids} if len(rest) == 3 else None
        with torch.no_grad():
            found = unet(x / (sigma**2 + 1).sqrt(), t, text, added_cond_kwargs=added).sample
        if self.prediction == "eps":
            return x - found * sigma
        return x / (sigma**2 + 1) - found * sigma / (sigma**2 + 1).sqrt()

    def VAEDecode(self, samples, vae):
        with torch.no_grad():
            return (vae.decode(samples).sample,)

    def SaveImage(self, images, filename_prefix):
        return (((images + 1) * 127.5).clamp(0, 255).to(torch.uint8),)


def largest(a, b):
    return int((a.int() - b.int()).abs().max())


def read(folder, student, model):
    """File name -> a pipeline that diffusers reads of it, offline."""
    import diffusers

    kind = getattr(diffusers, student.contract["details"]["pipeline"])

    def load(name):
        if not (folder / name).exists():                                  # the base of a LoRA
            return kind.from_pretrained(model, local_files_only=True)
        if "lora_unet" in next(iter(load_file(folder / name))):
            pipe = kind.from_pretrained(model, local_files_only=True)
            pipe.load_lora_weights(folder, weight_name=name, local_files_only=True)
            return pipe
        single = SingleFile(folder / name, Folder(Path(model)))
        parts = {part: single.load(part) for part in ("text_encoder", "text_encoder_2") if single.has(part)}
        return kind.from_single_file(folder / name, config=model, local_files_only=True, **parts)

    return load


CASES = {
    "sd15-four": ("sd15", FOUR, {}, {}),
    "sd15-one": ("sd15", ONE, {}, {}),
    "sd15-ode": ("sd15", (1.0, 0.5), {"stochastic": False}, {}),
    "sd15-late-two": ("sd15", (0.8, 0.3), {}, {}),
    "sdxl-lora-four": ("sdxl", FOUR, {"rank": 4}, {}),
    "sdxl-as-lora": ("sdxl", ONE, {"rank": 4}, {"weights": "lora"}),
    "sd15-v-four": ("sd15-v", FOUR, {}, {}),
    "another-vae-and-text-encoders-as-wide-as-each-other": ("sdxl-other", FOUR, {}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_workflow_draws_what_dmd2_sample_draws(distilled, model, tmp_path, case):
    name, times, options, more = CASES[case]
    student = distilled(name, times, **options)
    said = export(student, tmp_path / "out", **more)
    graph = json.loads((tmp_path / "out" / "workflow.json").read_text())
    latents = SCALES[student.contract["details"]["pipeline"]]
    load = read(tmp_path / "out", student, model(name))
    comfy = Comfy(graph, load, Numbered(3, [0]), student.source.teacher.shape, latents)
    images = comfy.run()
    assert comfy.calls == [round(1000 * t) - 1 for t in times] and said["max_pixel_difference"] <= 1
    assert largest(images, student(prompts=[PROMPT], seed=3)) <= 1
    assert largest(images, student(prompts=[PROMPT], seed=4)) > 20
    kinds = [one["class_type"] for one in graph.values()]
    assert ("AddNoise" in kinds) == (times[0] < 1) and ("ModelSamplingDiscrete" in kinds) == name.endswith("-v")


@torch.no_grad()
def test_a_vae_in_other_units_encodes_and_decodes_the_same():
    torch.manual_seed(0)
    vae, other = (tiny_pipelines.vae(scaling_factor=0.3, shift_factor=0.2).eval() for _ in range(2))
    other.load_state_dict(vae.state_dict())
    rescaled(other, 0.3, 0.2, 0.13025)
    assert (other.config.scaling_factor, other.config.shift_factor) == (0.13025, None)
    x, images = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(other.decode(x / 0.13025).sample, vae.decode(x / 0.3 + 0.2).sample, atol=1e-5, rtol=1e-5)
    mine, theirs = (net.encode(images).latent_dist for net in (other, vae))
    torch.testing.assert_close(0.13025 * mine.mean, 0.3 * (theirs.mean - 0.2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(0.13025 * mine.std, 0.3 * theirs.std, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="the VAE's scale is 1.5 and this layout means 0.13025; it has no layer"):
        rescaled(tiny_pipelines.vae(use_quant_conv=False, use_post_quant_conv=False), 1.5, 0.0, 0.13025)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd15-v"])
def test_the_checkpoint_is_a_teacher_again(distilled, model, tmp_path, name):
    student = distilled(name, (1.0,))
    export(student, tmp_path / "out")
    options = {"model": str(tmp_path / "out" / "out.safetensors"), "config": model(name), "text": model(name)}
    teacher = registry.load("teachers", name[:4])(**options)
    assert teacher.details["prediction"] == ("v" if name.endswith("-v") else "eps")
    for key, value in student.source.network.state_dict().items():
        assert teacher.denoiser.state_dict()[key].equal(value), key


@pytest.mark.parametrize(("name", "count"), [("sd15", 686), ("sdxl", 1680)])
def test_the_names_of_the_published_unets(name, count):
    """Known names of the published files, and diffusers' own conversion back, on tensors without memory."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        unet = Folder(SHIPPED / name).skeleton("unet")
    named = original.unet(unet.state_dict(), unet.config)
    assert len(named) == count and all(key.startswith("model.diffusion_model.") for key in named)
    known = {
        "sd15": ["output_blocks.2.1.conv.weight", "output_blocks.8.2.conv.bias", "input_blocks.3.0.op.weight",
                 "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight", "input_blocks.11.0.in_layers.0.weight"],
        "sdxl": ["output_blocks.2.2.conv.weight", "output_blocks.5.2.conv.weight", "input_blocks.6.0.op.bias",
                 "middle_block.1.transformer_blocks.9.ff.net.2.weight", "label_emb.0.2.weight"],
    }[name]  # fmt: skip
    assert all(f"model.diffusion_model.{key}" in named for key in [*known, "middle_block.2.out_layers.3.weight"])
    back = convert_ldm_unet_checkpoint(dict(named), unet.config)
    assert back.keys() == unet.state_dict().keys()
    assert all(back[key] is named_value for key, named_value in zip(unet.state_dict(), named.values(), strict=True))


def test_the_names_of_the_published_vae_and_text_encoders():
    with torch.device("meta"):
        folder = Folder(SHIPPED / "sdxl")
        vae, one, two = (folder.skeleton(part) for part in ("vae", "text_encoder", "text_encoder_2"))
    named = original.vae(vae.state_dict(), vae.config)
    assert len(named) == 248 and named["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    names = ("encoder.down.2.downsample.conv.weight", "decoder.up.3.upsample.conv.bias", "decoder.norm_out.weight",
             "decoder.up.0.block.0.nin_shortcut.weight", "post_quant_conv.bias", "encoder.conv_in.weight")  # fmt: skip
    assert all(f"first_stage_model.{name}" in named for name in names)
    first = "conditioner.embedders.0.transformer.text_model."
    assert f"{first}encoder.layers.11.self_attn.q_proj.weight" in original.clip(one.state_dict(), original.FIRST)
    found = original.open_clip(two.state_dict())
    second = "conditioner.embedders.1.model."
    assert found[f"{second}transformer.resblocks.31.attn.in_proj_weight"].shape == (3840, 1280)
    assert found[f"{second}text_projection"].shape == (1280, 1280) and len(found) == 2 + 1 + 2 + 32 * 12


def test_half_precision_and_what_the_file_says_of_itself(distilled, tmp_path):
    said = export(distilled("sdxl"), tmp_path / "out", dtype="fp16")
    file = tmp_path / "out" / "out.safetensors"
    assert {x.dtype for x in load_file(file).values()} == {torch.float16} and said["max_pixel_difference"] <= 3
    assert read_metadata(file)["usage"].startswith("LCM sampler, CFG 1, 4 step(s) at exactly the timesteps 999, 749")
    assert said["sigmas"] == "14.614641, 4.081729, 1.612886, 0.693205, 0.000000"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Put out.safetensors into ComfyUI/models/checkpoints, open workflow.json in ComfyUI and run it." in card


def test_a_full_student_as_lora_says_its_error_and_asks_for_the_base(distilled, tmp_path):
    said = export(distilled("sd15", (1.0,)), tmp_path / "out", weights="lora", rank=8)
    assert said["rank"] == 8 and 0 < said["by_rank"][8] < 1 and said["files"] == ["out.safetensors"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "ComfyUI/models/loras" in card and "choose your file of the base model" in card


def test_sigmas_are_written_without_exponents_and_never_infinite():
    assert listed([math.inf, 1e-5]) == "5000.000000, 0.000010, 0.000000"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reads_scale": True}, "this student reads the guidance scale"),
        ({"betas": [0.001] * 1000}, "table of noise levels is not Stable Diffusion's"),
        ({"scale": 0.5, "weights": "lora"}, "the base's VAE has the scale 0.5, and this layout means 0.18215"),
        ({"weights": "full"}, "full: choose from checkpoint, lora"),
        ({"act": "gelu"}, "OpenCLIP's, as in Stable Diffusion 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_comfyui_would_take_for_something_else_is_refused(distilled, tmp_path, monkeypatch, options, words):
    student, more = distilled("sd15", reads_scale="reads_scale" in options), {}
    if "betas" in options:
        student.source.teacher.schedule.alphas_cumprod = torch.cumprod(1 - torch.tensor(options["betas"]).double(), 0)
    if "scale" in options:
        student.contract["details"]["latents"]["scale"] = options["scale"]
    if "act" in options:
        words_of = student.source.teacher.encode.text.load

        def openclip():
            found = words_of()
            found.encoders[0].config.hidden_act = "gelu"
            return found

        monkeypatch.setattr(student.source.teacher.encode.text, "load", openclip)
    if "weights" in options:
        more = {"weights": options["weights"]}
    with pytest.raises(UserError, match=words):
        export(student, tmp_path / "out", **more)
    assert not list(tmp_path.iterdir())


def test_a_file_that_draws_something_else_is_refused(distilled, tmp_path, monkeypatch):
    def checkpoint(pipe):
        found = real(pipe)
        key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
        other = key.replace("to_q", "to_k")
        return found | {key: found[other].clone(), other: found[key].clone(), "first_stage_model.decoder.conv_out.bias":
                        found["first_stage_model.decoder.conv_out.bias"] + 0.1}  # fmt: skip

    real = original.checkpoint
    monkeypatch.setattr(exporter.original, "checkpoint", checkpoint)
    with pytest.raises(UserError, match="draws other images"):
        export(distilled("sd15"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_exporter_leaves_the_student_as_it_was(distilled, tmp_path):
    check_exporter(export, distilled("sdxl", (1.0,), 4), tmp_path / "out")
