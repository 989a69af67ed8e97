"""Tiny students by name, each made once."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

pytest.importorskip("diffusers")

import tiny_pipelines as tiny
import tiny_students

MADE = {
    "sd15": lambda folder: tiny.sd15(folder),
    "sd15-v": lambda folder: tiny.sd15(folder, prediction="v_prediction", zero_snr=True),
    "sdxl": lambda folder: tiny.sdxl(folder),
    "sdxl-other": lambda folder: tiny.sdxl(folder, latents={"scaling_factor": 0.3, "shift_factor": 0.2}, pooled=32),
}


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Name -> folder of the pipeline."""
    return tiny.folders(MADE, tmp_path_factory)


@pytest.fixture
def distilled(model):
    """Name, options -> a student."""
    return lambda name, *args, **options: tiny_students.student(model(name), name[:4], *args, **options)
