"""A pipeline of diffusers as a subject of `sample` and `eval`."""

from __future__ import annotations

from dataclasses import replace

from dmd2cli.cli.drawing import TEACHER, Wishes
from dmd2cli.cli.subject import Subject
from dmd2cli.errors import UserError
from dmd2cli.pipelines.spec import Spec, pixels

ELSEWHERE = {**{key: flag for key, flag in TEACHER.items() if key != "tiny"}, "tiny_vae": "--tiny-vae",
             "sampler": "--sampler", "init_image": "--init-image", "strength": "--strength"}        # fmt: skip
"""Wishes that a pipeline is not drawn with, and their flags."""


def piped(path: str, wishes: Wishes, device: str, download: bool | None = None) -> Subject:
    """The pipeline of a folder or name of the hub, drawing as wished. Raises UserError for what it cannot be."""
    from dmd2cli.engine import runtime
    from dmd2cli.pipelines.loading import load

    if download:
        raise UserError("--download: is for published students; a pipeline is fetched with `hf download NAME`")
    source = load(asked(path, wishes), runtime.device(device))
    return Subject(path, source, network=source.identity(), kind="pipeline")


def asked(path: str, wishes: Wishes) -> Spec:
    """What is wished of it. Raises UserError for wishes that are of students and teachers."""
    for key, flag in ELSEWHERE.items():
        if key in wishes.given:
            instead = "; name a scheduler: --scheduler NAME" if key == "sampler" else "; leave it out"
            raise UserError(f"{flag}: is for students and teachers of ours{instead}")
    size = None if wishes.size is None else pixels(wishes.size)
    found = Spec(path, wishes.lora, wishes.lora_weight, wishes.scheduler, wishes.steps, wishes.guidance)
    return replace(found, negative=wishes.negative, size=size, dtype=wishes.dtype or "fp32")
