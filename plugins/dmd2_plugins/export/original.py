"""The names that Stable Diffusion's own code gives to weights, in one file: what community checkpoints use.

Only names differ, but for three things: attention of the VAE is a 1 x 1 convolution there, the second text encoder of
SDXL has one matrix for queries, keys and values, and its projection is transposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

UNET, VAE = "model.diffusion_model.", "first_stage_model."
WORDS = "cond_stage_model.transformer."
"""The text encoder of Stable Diffusion 1; SDXL has two embedders instead."""
FIRST, SECOND = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

Rules = tuple[tuple[str, str], ...]

TOP: Rules = (
    ("conv_in.", "input_blocks.0.0."),
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
    ("mid_block.resnets.0.", "middle_block.0."),
    ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.1.", "middle_block.2."),
)
RESNET: Rules = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
CODER: Rules = (
    ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
    ("mid_block.attentions.0.to_q.", "mid.attn_1.q."),
    ("mid_block.attentions.0.to_k.", "mid.attn_1.k."),
    ("mid_block.attentions.0.to_v.", "mid.attn_1.v."),
    ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("conv_norm_out.", "norm_out."),
)
LAYER: Rules = (
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("self_attn.out_proj.", "attn.out_proj."),
)
ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def checkpoint(pipe: Any) -> dict[str, Tensor]:
    """All weights of a pipeline."""
    found = unet(pipe.unet.state_dict(), pipe.unet.config) | vae(pipe.vae.state_dict(), pipe.vae.config)
    if getattr(pipe, "text_encoder_2", None) is None:
        return found | clip(pipe.text_encoder.state_dict(), WORDS)
    return found | clip(pipe.text_encoder.state_dict(), FIRST) | open_clip(pipe.text_encoder_2.state_dict())


def unet(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of a UNet2DConditionModel."""
    return {UNET + unet_name(name, config): value for name, value in tensors.items()}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """down_blocks.0.resnets.1.conv1.weight -> input_blocks.2.0.in_layers.2.weight, and so on."""
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.", name):
        side, block, kind, place = found[1], int(found[2]), found[3], int(found[4])
        new, rest = place_of(side, block, kind, place, config), name[found.end() :]
        return f"{new}.{renamed(rest, RESNET) if kind == 'resnets' else rest.replace('conv.', END[kind], 1)}"
    new = renamed(name, TOP)
    for middle in ("middle_block.0.", "middle_block.2."):
        if new.startswith(middle):
            return middle + renamed(new.removeprefix(middle), RESNET)
    return new


END = {"attentions": "conv.", "downsamplers": "", "upsamplers": "conv."}
"""What the layer in a sampler is called after its place."""


def place_of(side: str, block: int, kind: str, place: int, config: Mapping[str, Any]) -> str:
    """The numbered place of a part: all parts of one depth share the first number, in the order that they run in."""
    layers: int = config["layers_per_block"]
    if side == "down":
        number = 1 + block * (layers + 1) + (layers if kind == "downsamplers" else place)
        return f"input_blocks.{number}.{ {'resnets': '0', 'attentions': '1', 'downsamplers': '0.op'}[kind] }"
    number = block * (layers + 1) + (layers if kind == "upsamplers" else place)
    behind = 2 if "CrossAttn" in config["up_block_types"][block] else 1
    return f"output_blocks.{number}.{ {'resnets': 0, 'attentions': 1, 'upsamplers': behind}[kind] }"


def vae(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of an AutoencoderKL."""
    last = len(config["block_out_channels"]) - 1
    named = {VAE + vae_name(name, last): value for name, value in tensors.items()}
    return {k: v[:, :, None, None] if ".attn_1." in k and v.ndim == 2 else v for k, v in named.items()}


def vae_name(name: str, last: int) -> str:
    """encoder.down_blocks.0.resnets.1.conv1.weight -> encoder.down.0.block.1.conv1.weight, and so on."""
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return name
    rest = re.sub(r"^down_blocks\.(\d+)\.", r"down.\1.", rest)
    rest = re.sub(r"^up_blocks\.(\d+)\.", lambda found: f"up.{last - int(found[1])}.", rest)
    rest = rest.replace("downsamplers.0.conv.", "downsample.conv.").replace("upsamplers.0.conv.", "upsample.conv.")
    rest = renamed(rest, CODER) if rest.startswith(("mid_block.", "conv_norm_out.")) else rest
    return f"{side}.{rest.replace('.resnets.', '.block.').replace('.conv_shortcut.', '.nin_shortcut.')}"


def clip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Of a CLIPTextModel: newer transformers leave out what the file has in front of each name."""
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()}


def open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a CLIPTextModelWithProjection, as the second text encoder of SDXL: OpenCLIP's layout."""
    given = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    found = {SECOND + "text_projection": given.pop("text_projection.weight").T}
    for name in [name for name in given if ".self_attn.q_proj." in name]:
        parts = [given.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        layer, kind = layer_of(name), name.rpartition(".")[2]
        found[f"{SECOND}{layer[0]}attn.in_proj_{kind}"] = torch.cat(parts)
    for name, value in given.items():
        layer = layer_of(name)
        found[SECOND + (layer[0] + renamed(layer[1], LAYER) if layer[0] else ENDS[name])] = value
    return found


def layer_of(name: str) -> tuple[str, str]:
    """encoder.layers.3.mlp.fc1.weight -> (transformer.resblocks.3., mlp.fc1.weight); ("", name) outside of layers."""
    found = re.match(r"encoder\.layers\.(\d+)\.", name)
    return (f"transformer.resblocks.{found[1]}.", name[found.end() :]) if found else ("", name)


def renamed(name: str, rules: Rules) -> str:
    """The name with its beginning changed by the first rule that has it."""
    for old, new in rules:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
