"""Tiny pipelines on disk, one of each for the whole session."""

import pytest

pytest.importorskip("diffusers")

import tiny_pipelines as tiny

MADE = {
    "sd15": lambda folder: tiny.sd15(folder),
    "sd15-v": lambda folder: tiny.sd15(folder, prediction="v_prediction", zero_snr=True),
    "sdxl": lambda folder: tiny.sdxl(folder),
    "sdxl-v": lambda folder: tiny.sdxl(folder, prediction="v_prediction", zero_snr=True),
    "sd3": lambda folder: tiny.sd3(folder),
    "sd3-without-t5": lambda folder: tiny.sd3(folder, t5=False),
    "pixart": lambda folder: tiny.pixart(folder),
    "pixart-sigma": lambda folder: tiny.pixart(folder, sigma=True, sized=True),
    "flux": lambda folder: tiny.flux(folder, guided=True),
}


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Name -> folder."""
    return tiny.folders(MADE, tmp_path_factory)


@pytest.fixture(scope="session")
def teacher(model):
    """Name, options -> the teacher of a tiny pipeline, built anew."""
    from dmd2_plugins.stable_diffusion import teacher as family

    def build(name, **options):
        use = name.partition("-")[0] if name.startswith(("sd15", "sdxl")) else "diffusers"
        small = {"resolution": 16} if name == "flux" else {}
        short = {"text_tokens": 9} if use == "diffusers" else {}
        return getattr(family, use)(model=model(name), **{**small, **short, **options})

    return build


@pytest.fixture(scope="session")
def pipe(model):
    """Name -> the pipeline as diffusers loads it."""
    from diffusers import DiffusionPipeline

    def load(name):
        tiny.quiet()
        absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3-without-t5" else {}
        return DiffusionPipeline.from_pretrained(model(name), local_files_only=True, **absent)

    return load
