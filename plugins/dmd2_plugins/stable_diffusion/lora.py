"""LoRAs fused into a base: read in any layout that diffusers knows, checked against the network, then gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from dmd2_plugins.stable_diffusion.folder import readable
from dmd2cli.cache import sha256
from dmd2cli.errors import UserError
from dmd2cli.weights import read_metadata

FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a folder."""
WRONG = "was it trained on another base model?"


class Lora(TypedDict):
    """One of teacher.lora."""

    path: str
    scale: NotRequired[float]


@dataclass(frozen=True)
class Adapter:
    """A LoRA as diffusers reads it: tensors by part and module, and how strong each is meant to be."""

    path: Path
    scale: float
    tensors: Mapping[str, Tensor]
    alphas: Any
    metadata: Any
    pipeline: Any
    """The class that knows how."""

    @property
    def json(self) -> dict[str, Any]:
        """What a student artefact records: which file, how strong, and whether it changes the text encoders."""
        text = any(part.startswith("text_encoder") for part in self.parts())
        return {"path": str(self.path), "scale": self.scale, "sha256": sha256(self.path), "text": text}

    def parts(self) -> set[str]:
        """unet or transformer, text_encoder, ..."""
        return {name.partition(".")[0] for name in self.tensors}

    def fuse(self, module: nn.Module, part: str) -> None:
        """Add it to a part's weights, in place. Raises UserError, naming a key, where it does not fit."""
        if part not in self.parts():
            return
        with readable(self.path, WRONG):
            if part.startswith("text_encoder"):
                self.fuse_text(module, part)
            else:
                self.check(module, part)
                self.fuse_network(module, part)

    def check(self, module: nn.Module, part: str) -> None:
        """Raise UserError for the first key that the network has no place for."""
        from diffusers.utils import state_dict_utils

        convert: Any = state_dict_utils.convert_unet_state_dict_to_peft
        mine = {k.removeprefix(f"{part}."): v for k, v in self.tensors.items() if k.startswith(f"{part}.")}
        named = mine if any("lora_A" in k for k in mine) else convert(mine)
        modules = dict(module.named_modules())
        for key, value in named.items():
            name, _, side = key.partition(".lora_")
            weight = getattr(modules.get(name), "weight", None)
            if side[:1] in ("A", "B") and value.ndim > 1 and not fits(value, weight, side[0]):
                have = f"has {tuple(weight.shape)} there" if weight is not None else "has no such layer"
                shape = tuple(value.shape)
                raise UserError(f"{self.path}: {part}.{key} {shape} does not fit: the {part} {have}; {WRONG}")

    def fuse_network(self, module: Any, part: str) -> None:
        """Into a network of diffusers."""
        given = {"network_alphas": self.alphas} if self.alphas is not None else {"metadata": self.metadata}
        module.load_lora_adapter(dict(self.tensors), prefix=part, adapter_name="fused", **given)
        module.fuse_lora(self.scale)
        module.unload_lora()

    def fuse_text(self, module: Any, part: str) -> None:
        """Into a text encoder of transformers."""
        from diffusers.utils import peft_utils
        from peft.tuners.tuners_utils import BaseTunerLayer

        given = {"prefix": part, "lora_scale": self.scale, "adapter_name": "fused", "metadata": self.metadata}
        self.pipeline.load_lora_into_text_encoder(dict(self.tensors), self.alphas, module, **given)
        for layer in module.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
        remove: Any = peft_utils.recurse_remove_peft_layers
        remove(module)


def fits(value: Tensor, weight: Tensor | None, side: str) -> bool:
    """Whether a factor has the width of a layer: A its inputs, B its outputs."""
    return weight is not None and value.shape[1 if side == "A" else 0] == weight.shape[1 if side == "A" else 0]


def adapter(asked: Lora, pipeline: str, config: Mapping[str, Any]) -> Adapter:
    """Read a LoRA for a pipeline, by its class's name, whose network has a configuration.

    Raises UserError for a file that is missing or no LoRA, and for pipelines that take none.
    """
    import diffusers

    kind: Any = getattr(diffusers, pipeline)
    path = Path(asked["path"]).expanduser()
    path = path / FILE if path.is_dir() else path
    if not hasattr(kind, "lora_state_dict"):
        raise UserError(f"lora: {path}: diffusers has no LoRAs for {pipeline}; fuse it yourself, or leave it out")
    read_metadata(path)                                                # whether it is a whole safetensors file
    frozen: Any = diffusers.configuration_utils.FrozenDict
    more = {"unet_config": frozen(config)} if config["_class_name"].startswith("UNet") else {}
    where: Any = {"weight_name": path.name, "local_files_only": True, "use_safetensors": True}
    with readable(path, WRONG):
        tensors, *rest = kind.lora_state_dict(str(path.parent), **where, **more, return_lora_metadata=True)
    if not tensors or not all("lora" in name or "lokr" in name for name in tensors):
        other = next((name for name in tensors if "lora" not in name), "nothing")
        raise UserError(f"{path}: is no LoRA ({other} in it); name a safetensors file of one")
    alphas, metadata = rest if len(rest) == 2 else (None, rest[0])
    return Adapter(path, float(asked.get("scale", 1.0)), tensors, alphas, metadata, kind)
