"""Tiny pipelines of other kinds than tiny_pipelines has: LCM, DiT by classes, DDPM without conditions, a LoRA."""

import json
from pathlib import Path

import tiny_pipelines as tiny
import torch
from safetensors.torch import save_file

LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000}


def lcm(folder, seed=0):
    """A latent consistency model: its UNet reads the guidance scale."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    torch.manual_seed(seed)
    tokenizer = tiny.clip_tokenizer()
    net = tiny.unet(time_cond_proj_dim=8)
    parts = (tiny.vae(), tiny.clip_text(tokenizer), tokenizer, net, LCMScheduler(**tiny.TABLE), None, None)
    return tiny.saved(LatentConsistencyModelPipeline(*parts, requires_safety_checker=False), folder)


def dit(folder, seed=0, classes=1000):
    """A DiT of a thousand classes, with the null class behind them."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(seed)
    sizes = {"sample_size": tiny.SIZE, "patch_size": 2, "in_channels": 4, "out_channels": 8}
    net = DiTTransformer2DModel(
        **sizes, num_layers=1, attention_head_dim=8, num_attention_heads=2, num_embeds_ada_norm=classes
    )
    return tiny.saved(DiTPipeline(net, tiny.vae(), DDIMScheduler(**LINEAR)), folder)


def ddpm(folder, seed=0):
    """Pixels without conditions."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    net = UNet2DModel(8, 3, 3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    return tiny.saved(DDPMPipeline(net, DDPMScheduler(**LINEAR)), folder)


def lora(folder, pipeline, rank=2, seed=5):
    """A LoRA of the attention of a pipeline's UNet, as diffusers writes one."""
    from safetensors.torch import load_file

    source, found = torch.Generator().manual_seed(seed), {}
    for name, weight in load_file(Path(pipeline) / "unet" / "diffusion_pytorch_model.safetensors").items():
        if name.endswith(("to_q.weight", "to_v.weight")):
            key = f"unet.{name.removesuffix('.weight')}"
            found[f"{key}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=source)
            found[f"{key}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=source)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(found, Path(folder) / "pytorch_lora_weights.safetensors")
    return Path(folder)


def prompts(path, n=4):
    """A list of prompts."""
    path.write_text("".join(f"a photo of {word}\n" for word in ("llama", "cat", "red", "nine")[:n]))
    return path


def changed(folder, **entries):
    """A pipeline's folder with other entries in its index."""
    path = Path(folder) / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder
