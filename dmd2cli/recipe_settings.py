"""Published settings of distillations by kind of model: what `dmd2 recipes new` starts from, and why.

"release" is the authors' code of DMD2 (2405.14867). What nobody has published is marked as chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SMALL = 20e6
"""Parameters below which a network without prompts gets the rates of the packaged toy recipes."""


@dataclass(frozen=True)
class Setting:
    """A value and its reason."""

    value: Any
    why: str


@dataclass(frozen=True)
class Settings:
    """Of one kind of model. lr: all weights learn; lora_lr: adapters learn."""

    lr: Setting
    ttur: Setting
    guidance: Setting
    gan: Setting
    batch: Setting
    steps: Setting
    lora_lr: Setting = Setting(5.0e-5, "release, SDXL's LoRA; ten to a hundred times the rate of whole networks")
    one_step: Setting | None = None
    """Time of a single call, where it is not the last one."""


TEXT_BATCH = "as SDXL in the release; fewer samples are cheaper and noisier"
SETTINGS = {
    "sd15": Settings(
        lr=Setting(1.0e-5, "release, Stable Diffusion 1.5 without a GAN; it went on at 5.0e-7 with one"),
        ttur=Setting(10, "critic updates per student update; release, Stable Diffusion 1.5"),
        guidance=Setting(1.75, "release: the best FID. 3 to 8 looks better: DMD has 3 and 8"),
        gan=Setting(1.0e-3, "release, Stable Diffusion 1.5; weight: auto measures one"),
        batch=Setting(128, "release: 2048 over 64 GPUs; fewer samples are cheaper and noisier"),
        steps=Setting(41000, "critic updates; release: 39000, and 2000 with the GAN"),
    ),
    "sdxl": Settings(
        lr=Setting(5.0e-7, "release, SDXL"),
        ttur=Setting(5, "critic updates per student update; release, SDXL"),
        guidance=Setting(8.0, "release, SDXL"),
        gan=Setting(5.0e-3, "release, SDXL; weight: auto measures one"),
        batch=Setting(128, "release, SDXL: 2 on each of 64 GPUs"),
        steps=Setting(19000, "critic updates; release, SDXL in 4 steps"),
        one_step=Setting(0.4, "timestep 399: release, SDXL in one step, after regression on pairs"),
    ),
    "text": Settings(
        lr=Setting(1.0e-6, "chosen here, between the release's for SDXL and for Stable Diffusion 1.5"),
        ttur=Setting(5, "critic updates per student update; release, SDXL"),
        guidance=Setting(4.5, "chosen here: what such models are drawn with, 3 to 8"),
        gan=Setting(5.0e-3, "release, SDXL; weight: auto measures one"),
        batch=Setting(128, TEXT_BATCH),
        steps=Setting(20000, "critic updates; about what SDXL took in the release"),
    ),
    "classes": Settings(
        lr=Setting(2.0e-6, "release, ImageNet-64"),
        ttur=Setting(5, "critic updates per student update; release, ImageNet-64"),
        guidance=Setting(1.0, "none; release, ImageNet-64"),
        gan=Setting(3.0e-3, "release, ImageNet-64; weight: auto measures one"),
        batch=Setting(280, "release, ImageNet-64: 40 on each of 7 GPUs"),
        steps=Setting(200000, "critic updates; release, ImageNet-64 with the GAN (FID 1.51)"),
    ),
    "small": Settings(
        lr=Setting(1.0e-3, "chosen here, as in the packaged recipe of the digits: a small network"),
        ttur=Setting(5, "critic updates per student update; release, ImageNet-64"),
        guidance=Setting(1.0, "none; release, ImageNet-64"),
        gan=Setting(3.0e-2, "chosen here, as in the packaged recipe of the digits"),
        batch=Setting(128, "chosen here, as in the packaged recipe of the digits"),
        steps=Setting(3600, "critic updates; chosen here: minutes on a CPU"),
        lora_lr=Setting(1.0e-3, "chosen here: a small network"),
    ),
}
"""By family where a teacher's name is one of these, else by what the teacher reads."""


def settings(family: str, prompts: bool, parameters: int) -> Settings:
    """Of a teacher by its name, by whether it reads prompts, and by its size."""
    kind = "text" if prompts else "small" if parameters < SMALL else "classes"
    return SETTINGS.get(family, SETTINGS[kind])
