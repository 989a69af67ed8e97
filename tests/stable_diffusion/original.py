"""Weights of diffusers' parts in the original layout of single files: what checkpoints of the community hold."""

import torch

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
FIXED = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_in": "input_blocks.0.0", "mid_block.attentions.0": "middle_block.1",
}  # fmt: skip
CLIP = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
CLIP |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def unet(state, config):
    """Keys under model.diffusion_model."""
    per, found = config["layers_per_block"], {}
    for key, value in state.items():
        words = key.split(".")
        start = next((name for name in FIXED if key.startswith(name + ".")), None)
        if start:
            new = key.replace(start, FIXED[start], 1)
        elif words[0] == "mid_block":
            new = f"middle_block.{2 * int(words[2])}.{RESNET[words[3]]}.{words[4]}"
        else:
            i, part, j = int(words[1]), words[2], int(words[3])
            attention = config[f"{words[0].removesuffix('_blocks')}_block_types"][i].startswith("CrossAttn")
            if part == "downsamplers":
                new = f"input_blocks.{(per + 1) * (i + 1)}.0.op.{words[5]}"
            elif part == "upsamplers":
                new = f"output_blocks.{(per + 1) * i + per}.{1 + attention}.conv.{words[5]}"
            else:
                down = words[0] == "down_blocks"
                at = f"{'input' if down else 'output'}_blocks.{(per + 1) * i + j + down}"
                rest = f"0.{RESNET[words[4]]}.{words[5]}" if part == "resnets" else f"1.{'.'.join(words[4:])}"
                new = f"{at}.{rest}"
        found[f"model.diffusion_model.{new}"] = value
    return found


def vae(state, config):
    """Keys under first_stage_model."""
    found, last = {}, len(config["block_out_channels"]) - 1
    for key, value in state.items():
        new = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = new.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
        words = new.split(".")
        if words[1] in ("down_blocks", "up_blocks"):
            i = int(words[2]) if words[1] == "down_blocks" else last - int(words[2])
            part = {"resnets": f"block.{words[4]}", "downsamplers": "downsample", "upsamplers": "upsample"}[words[3]]
            new = ".".join([words[0], words[1].removesuffix("_blocks"), str(i), part, *words[5:]])
        if "mid_block.attentions.0." in new:
            names = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
            name = next(name for name in names if f".{name}." in new)
            new = f"{words[0]}.mid.attn_1.{names[name]}.{words[-1]}"
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[f"first_stage_model.{new}"] = value
    return found


def clip(state, prefix):
    """A CLIP of transformers as it is stored in single files."""
    return {f"{prefix}text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}


def open_clip(state, prefix):
    """The second encoder of SDXL in the layout of open_clip."""
    state, found = {key.removeprefix("text_model."): value for key, value in state.items()}, {}
    for key, value in state.items():
        if key.startswith("encoder.layers.") and ".q_proj." in key:
            parts = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            name, _, rest = key.replace("encoder.layers", "transformer.resblocks").partition(".self_attn.")
            kind = rest.split(".")[-1]
            found[f"{prefix}{name}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif key.startswith("encoder.layers.") and "_proj." not in key.replace("out_proj", ""):
            for ours, theirs in CLIP.items():
                key = key.replace(ours, theirs)
            found[prefix + key.replace("encoder.layers", "transformer.resblocks")] = value
    found[f"{prefix}token_embedding.weight"] = state["embeddings.token_embedding.weight"]
    found[f"{prefix}positional_embedding"] = state["embeddings.position_embedding.weight"]
    found[f"{prefix}text_projection"] = state["text_projection.weight"].T.contiguous()
    for kind in ("weight", "bias"):
        found[f"{prefix}ln_final.{kind}"] = state[f"final_layer_norm.{kind}"]
    return found


def checkpoint(pipe):
    """All weights of a pipeline of Stable Diffusion 1.5 or SDXL, cloned."""
    found = unet(pipe.unet.state_dict(), pipe.unet.config) | vae(pipe.vae.state_dict(), pipe.vae.config)
    if hasattr(pipe, "text_encoder_2"):
        found |= clip(pipe.text_encoder.state_dict(), "conditioner.embedders.0.transformer.")
        found |= open_clip(pipe.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    else:
        found |= clip(pipe.text_encoder.state_dict(), "cond_stage_model.transformer.")
    return {key: value.clone().contiguous() for key, value in found.items()}
