"""The students that the DMD2 authors have published, by name: SDXL in four steps, whole and as a LoRA, and in one."""

from __future__ import annotations

from dmd2_plugins.stable_diffusion import licences
from dmd2_plugins.stable_diffusion.convert_student import STEPS, Student
from dmd2_plugins.stable_diffusion.folder import SDXL
from dmd2cli.hub import Download
from dmd2cli.published import Published

REPOSITORY = "tianweiy/DMD2"
TEXT = ("text_encoder", "text_encoder_2")
MODEL = "diffusion_pytorch_model"
FILES = ("*.json", "*.txt", *(f"{part}/model.fp16.safetensors" for part in TEXT), f"vae/{MODEL}.fp16.safetensors")
CONFIGS = ("model_index.json", "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in ("unet", "vae")))
WORDS = tuple(f"{part}/{file}" for part in TEXT for file in ("config.json", "*model*"))
NEEDED = (*CONFIGS, *WORDS, "tokenizer/*", "tokenizer_2/*", f"vae/{MODEL}*")
"""The same in either precision."""

OTHERS = Download(SDXL, "text encoders and VAE", 1_810_000_000, licences.SDXL, FILES, NEEDED)
UNET = f"unet/{MODEL}.fp16.safetensors"
WHOLE = (*NEEDED, f"unet/{MODEL}*")
BASE = Download(SDXL, "the whole pipeline", 6_940_000_000, licences.SDXL, (*FILES, UNET), WHOLE)


def four_step() -> Published:
    """sdxl-4step: called at 999, 749, 499 and 249."""
    return unet("dmd2_sdxl_4step_unet_fp16.bin", "4step")


def one_step() -> Published:
    """sdxl-1step: called once, at 399, with pure noise."""
    return unet("dmd2_sdxl_1step_unet_fp16.bin", "1step")


def four_step_lora() -> Published:
    """sdxl-4step-lora: a LoRA of rank 64 and alpha 8 on the base."""
    file = "dmd2_sdxl_4step_lora_fp16.safetensors"
    weights = Download(REPOSITORY, file, 394_000_000, licences.DMD2, (file,))
    return Published("SDXL in four steps, a LoRA of rank 64", weights, [BASE], Student(family="sdxl").convert)


def unet(file: str, steps: str) -> Published:
    """A whole UNet, for which the base's is not needed."""
    weights = Download(REPOSITORY, file, 5_140_000_000, licences.DMD2, (file,))
    read = Student(family="sdxl", timesteps=STEPS[steps]).convert
    return Published(f"SDXL in {len(STEPS[steps])} step(s), a whole UNet", weights, [OTHERS], read)
