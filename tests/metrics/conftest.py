"""A cache of their own, the metrics under their names, and folders of small images."""

import contextlib

import pytest
from dmd2_plugins.digits.extractor import DigitFeatures
from dmd2_plugins.metrics.clip_score import ClipScore
from dmd2_plugins.metrics.diversity import ByPrompt
from dmd2_plugins.metrics.fd import fd, fid, patch_fid
from dmd2_plugins.metrics.inception_clean import InceptionClean
from dmd2_plugins.metrics.inception_edm import InceptionEdm
from dmd2_plugins.metrics.inception_score import InceptionScore
from dmd2_plugins.metrics.kid import Kid
from dmd2_plugins.metrics.precision_recall import PrecisionRecall
from dmd2_plugins.metrics.tiny import Tiny
from pictured import pictures, save

from dmd2cli import registry

NAMES = {
    "metrics": {
        "fd": fd, "fid": fid, "kid": Kid, "precision-recall": PrecisionRecall, "inception-score": InceptionScore,
        "patch-fid": patch_fid, "clip-score": ClipScore, "diversity": ByPrompt,
    },
    "extractors": {
        "tiny": Tiny, "digits": DigitFeatures, "inception-edm": InceptionEdm, "inception-clean": InceptionClean
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty cache; returns its folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DMD2_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The registered objects, also where the package is installed without them."""
    with contextlib.ExitStack() as stack:
        for kind, named in NAMES.items():
            for name, thing in named.items():
                stack.enter_context(registry.override(kind, name, thing))
        yield


@pytest.fixture
def folder(tmp_path):
    """60 images of 8 x 8 in a folder."""
    return save(pictures(60), tmp_path / "real")
