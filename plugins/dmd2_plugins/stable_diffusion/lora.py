"""LoRAs of a teacher's options: files that are fused into its network and its text encoders, then gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import NotRequired, TypedDict

from dmd2cli.cache import sha256
from dmd2cli.fuse_lora import LoraFile
from dmd2cli.lora_file import DIFFUSERS_NAME, PEFT_NAME, read_lora


class Lora(TypedDict):
    """One entry of teacher.lora."""

    path: str
    scale: NotRequired[float]


@dataclass(frozen=True)
class TeacherLora:
    """A LoRA and the strength with which a recipe wants it."""

    file: LoraFile
    scale: float

    @property
    def json(self) -> dict[str, Any]:
        """Describe it for a student's artifact: which file, how strong, and whether it changes the text encoders."""
        path, text = self.file.path, any(part.startswith("text_encoder") for part in self.file.parts)
        return {"path": str(path), "scale": self.scale, "sha256": sha256(path), "text": text}

    def fuse(self, module: nn.Module, part: str) -> None:
        """Add it to a part's weights, in place. Raises UserError, naming a layer, where it does not fit."""
        self.file.fuse(module, part, self.scale)


def open_lora(entry: Lora, pipeline: str, config: Mapping[str, Any]) -> TeacherLora:
    """Read an entry of teacher.lora for a pipeline, by its class's name, whose network has a configuration.

    Raises UserError for a file that is missing or no LoRA, and for pipelines that take none.
    """
    import diffusers

    path = Path(entry["path"]).expanduser()
    if path.is_dir():
        path /= next((name for name in (DIFFUSERS_NAME, PEFT_NAME) if (path / name).is_file()), DIFFUSERS_NAME)
    return TeacherLora(read_lora(path, getattr(diffusers, pipeline), config), float(entry.get("scale", 1.0)))
