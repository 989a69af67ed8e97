"""A hub cache with small stand-ins of the published students and their base, under the published names."""

import shutil
import sys
from pathlib import Path

import tiny_pipelines as tiny
import torch
from dmd2_plugins.stable_diffusion.folder import SDXL
from dmd2_plugins.stable_diffusion.unet import TARGETS
from safetensors.torch import load_file, save_file

FOUR, ONE = "dmd2_sdxl_4step_unet_fp16.bin", "dmd2_sdxl_1step_unet_fp16.bin"
LORA = "dmd2_sdxl_4step_lora_fp16.safetensors"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def put(cache, repository, folder, commit="0123abcd"):
    """A folder as a snapshot of a repository in a hub cache."""
    home = Path(cache) / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / commit, dirs_exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    return home / "snapshots" / commit


def unet_of(folder, seed=7, size=0.05):
    """Somewhat other weights than those of the base, by the names of diffusers, in half precision."""
    source = torch.Generator().manual_seed(seed)
    held = load_file(Path(folder) / "unet" / WEIGHTS)
    return {k: (v + size * torch.randn(v.shape, generator=source)).half() for k, v in held.items()}


def lora_of(folder, rank=4, alpha=8.0, targets=TARGETS, seed=3):
    """A LoRA of the base's UNet in kohya's names, in half precision."""
    source, found = torch.Generator().manual_seed(seed), {}
    for name, weight in load_file(Path(folder) / "unet" / WEIGHTS).items():
        path = name.removesuffix(".weight")
        if not name.endswith(".weight") or not any(path.endswith(f".{target}") for target in targets):
            continue
        key, (out, *inner) = f"lora_unet_{path.replace('.', '_')}", weight.shape
        found[f"{key}.lora_down.weight"] = (0.2 * torch.randn(rank, *inner, generator=source)).half()
        up = 0.2 * torch.randn(out, rank, *[1] * (weight.ndim - 2), generator=source)
        found[f"{key}.lora_up.weight"] = up.half()
        found[f"{key}.alpha"] = torch.tensor(alpha).half()
    return found


def release(folder, base):
    """The three files of tianweiy/DMD2 for a small base."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(unet_of(base, 7), folder / FOUR)
    torch.save(unet_of(base, 8), folder / ONE)
    save_file(lora_of(base), folder / LORA)
    return folder


def stand_ins(cache, scratch, half=False, unet=True):
    """Fill a hub cache. half: the base's files are those of variant fp16. unet: whether its UNet is there at all."""
    base = tiny.sdxl(Path(scratch) / "base")
    put(cache, "tianweiy/DMD2", release(Path(scratch) / "release", base))
    home = put(cache, SDXL, base)
    for path in home.rglob("*.safetensors"):
        if path.parent.name == "unet" and not unet:
            path.unlink()
        elif half:
            save_file({k: v.half() for k, v in load_file(path).items()}, path.with_suffix(".fp16.safetensors"))
            path.unlink()
    return home


if __name__ == "__main__":                                 # python tests/published_students.py CACHE SCRATCH
    stand_ins(*sys.argv[1:3])
