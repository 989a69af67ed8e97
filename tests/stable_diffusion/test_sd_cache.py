"""Caches of tiny pipelines: what is stored is what VAE and text encoders give, and training asks neither."""

import encoders
import pytest
import torch

from dmd2cli import registry
from dmd2cli.data.images import Images
from dmd2cli.data.latents import Latents
from dmd2cli.data.prompts import Prompts
from dmd2cli.engine.cache import Options, encoder, images, make
from dmd2cli.engine.distill import job
from dmd2cli.recipe import Recipe

CPU = torch.device("cpu")
LORA = {"rank": 2, "alpha": 2, "targets": ("to_q", "conv1")}


def recipe(lora=None, **data):
    losses = {"distribution_matching": {}, "denoising": {}}
    losses |= {"gan_generator": {}, "gan_critic": {}} if "real" in data else {}
    player = {"lr": 1e-3, **({"lora": lora} if lora else {})}
    parts = {"student": player, "critic": player, "losses": losses, "sampler": "ddim", "shared_base": bool(lora)}
    return Recipe.model_validate({"teacher": "tiny", **parts, "data": data, "run": {"steps": 9, "batch": 2}})


@pytest.fixture
def kept(tmp_path, teacher):
    """Name, options -> (pictures, folder of their cache, the teacher that made it)."""
    pictures = encoders.images(tmp_path / "pictures", side=16)

    def build(name, **options):
        found = teacher(name)
        with registry.override("teachers", "tiny", lambda: found):
            by = encoder(recipe(), CPU, lambda of: images(str(pictures), "train", True, of), Options(**options))
            make(by, tmp_path / "cache", range(4), 4)
        return pictures, str(tmp_path / "cache"), found

    return build


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "pixart", "flux"])
def test_stored_latents_and_text_are_those_of_the_encoders(kept, pipe, name):
    pictures, cache, found = kept(name, latents="mean")
    data, real = Latents(cache), Images(path=str(pictures))
    vae = pipe(name).vae
    with torch.no_grad():
        z = vae.encode(torch.stack([real[i].x for i in range(4)])).latent_dist.mean
    x = (z - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    torch.testing.assert_close(torch.stack([data[i].x for i in range(4)]), x, atol=2e-3, rtol=2e-3)
    cond, null = found.encode([data[i].condition for i in range(4)])
    assert data.null.keys() == cond.keys() == null.keys()
    for key in cond:
        stored = torch.stack([data[i].encoded[key] for i in range(4)])
        torch.testing.assert_close(stored.float(), cond[key].float(), atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(data.null[key].float(), null[key][0].float(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("lora", [None, LORA], ids=["copies", "shared"])
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_training_on_a_cache_loads_neither_vae_nor_text_encoders(kept, teacher, name, lora):
    _, cache, _ = kept(name)
    of, both = teacher(name), {"use": "latents", "path": cache}
    with registry.override("teachers", "tiny", lambda: of), registry.override("datasets", "latents", Latents):
        ready = job(recipe(lora, real=both, prompts=both), CPU)
        found = ready.step(0)
        ready.close()
    assert all(value.isfinite() for value in found.values())
    assert not any(helper.loaded for helper in of.helpers)


def test_prompts_alone_train_without_text_encoders(tmp_path, teacher):
    with registry.override("teachers", "tiny", lambda: teacher("sdxl")):
        by = encoder(recipe(), CPU, lambda of: Prompts(texts=["a llama", "a red cat"]), Options())
        make(by, tmp_path / "cache", range(2), 4)
    of, prompts = teacher("sdxl"), {"use": "latents", "path": str(tmp_path / "cache")}
    with registry.override("teachers", "tiny", lambda: of), registry.override("datasets", "latents", Latents):
        ready = job(recipe(prompts=prompts), CPU)
        ready.step(0)
        ready.close()
    assert not any(helper.loaded for helper in of.helpers)
