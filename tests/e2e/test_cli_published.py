"""`dmd2 sample` and `export` with the published students, from a hub cache with small stand-ins or from none."""

import json

import huggingface_hub
import published_students as made
import pytest
from PIL import Image

from dmd2cli import published

pytest.importorskip("diffusers")


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """A fresh working folder, no connection, an empty hub cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    published.tell.cache_clear()
    return tmp_path


@pytest.fixture
def cached(monkeypatch, filled):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(filled))


def test_a_llama_without_a_run_is_drawn_by_the_published_student(dmd2, cached, here):
    done = dmd2("sample", "--steps", 4, "a llama", "-o", "llama.png", "--json")
    assert done.code == 0, done.err
    assert "so it is the published sdxl-4step" in done.err and "CC BY-NC 4.0" in done.err
    facts = json.loads(done.out)
    assert (facts["subject"], facts["nfe"], facts["n"]) == ("sdxl-4step", 4, 1)
    assert Image.open(here / "llama.png").size == (16, 16)
    done = dmd2("sample", "--steps", 1, "a llama", "-o", "one.png", "--json")
    assert json.loads(done.out)["subject"] == "sdxl-1step" and "warning" not in done.err


def test_without_a_cache_it_is_one_line_with_repository_file_and_size(refused, here):
    line = refused("sample", "--steps", 4, "a llama", "-o", "llama.png")
    assert f"{made.FOUR} of tianweiy/DMD2 (about 5.1 GB" in line and "HF_HUB_OFFLINE is set" in line
    assert not (here / "llama.png").exists()


@pytest.mark.parametrize("args", [["sample", "--student", "sdxl-4step", "a llama"],
                                  ["export", "sdxl-4step", "--format", "safetensors"]])  # fmt: skip
def test_with_a_connection_it_names_the_option_that_allows_it(refused, monkeypatch, args):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert refused(*args, "-o", "out").endswith("allow that with --download")


def test_download_fetches(dmd2, monkeypatch, filled, here):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def fetch(repository, allow_patterns):
        kept = filled / f"models--{repository.replace('/', '--')}" / "snapshots" / "0123abcd"
        made.put(here / "hub", repository, kept)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    done = dmd2("sample", "--student", "sdxl-4step-lora", "a llama", "--download", "-o", "llama.png")
    assert done.code == 0 and f"to download: {made.LORA} of tianweiy/DMD2 (about 0.4 GB" in done.err, done.err


def test_an_export_carries_the_licence(dmd2, cached, here):
    done = dmd2("export", "sdxl-1step", "--format", "diffusers", "-o", "pipe")
    assert done.code == 0 and json.loads(done.out)["max_pixel_difference"] == 0, done.err
    assert "- these weights: CC BY-NC 4.0, not for commercial use" in (here / "pipe" / "README.md").read_text()


def test_a_file_of_that_name_comes_first(cached, here, refused):
    (here / "sdxl-4step").write_text("mine")
    assert refused("sample", "--student", "sdxl-4step", "a llama").startswith("sdxl-4step: not a whole safetensors")
