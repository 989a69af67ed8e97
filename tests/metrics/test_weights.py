"""Published weights: what is said where they are missing, and that nothing in a wrong file runs."""

import hashlib
import os
import pickle
from dataclasses import replace

import pytest
import torch
from dmd2_plugins.metrics import inception_clean, inception_edm
from dmd2_plugins.metrics.inception_clean import InceptionClean
from dmd2_plugins.metrics.inception_edm import InceptionEdm
from torch import nn

from dmd2cli.errors import UserError

BOTH = {InceptionEdm: inception_edm.PUBLISHED, InceptionClean: inception_clean.PUBLISHED}


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh working folder, in which nothing may explode."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "exploded").exists()


def refused(make, weights=None):
    with pytest.raises(UserError) as err:
        make(weights)
    said = str(err.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("named", [None, "mine.pth"])
def test_a_missing_file_is_named_with_its_source_its_hash_and_its_place(make, named, cache):
    published, said = BOTH[make], refused(make, named)
    assert said.startswith(f"{make.__name__.replace('I', 'i').replace('E', '-e').replace('C', '-c')}: ")
    place = cache / "weights" / published.file
    for fact in (str(named or place), published.file, published.publisher, published.url, published.sha256, str(place)):
        assert fact in said


@pytest.mark.parametrize("make", BOTH)
def test_nvidias_pickle_is_refused_by_name_though_it_is_there(make):
    with open("inception-2015-12-05.pkl", "wb") as file:
        pickle.dump(Bomb(), file)
    said = refused(make, "inception-2015-12-05.pkl")
    assert said.startswith("inception-2015-12-05.pkl: a pickle, as NVIDIA's inception-2015-12-05.pkl, can run code")
    assert BOTH[make].url in said


def test_a_pickle_under_another_name_does_not_run():
    torch.save({"fc.weight": Bomb()}, "weights.pth")
    with open("plain.pth", "wb") as file:
        pickle.dump(Bomb(), file)
    for name in ("weights.pth", "plain.pth"):
        assert refused(InceptionEdm, name).startswith(f"{name}: not readable as weights (UnpicklingError")


def test_files_without_the_weights_are_refused():
    torch.save([torch.ones(1)], "list.pth")
    torch.save({"fc.weight": torch.ones(1)}, "few.pth")
    open("empty.pth", "wb").close()
    assert "holds no weights by name" in refused(InceptionEdm, "list.pth")
    assert "empty.pth: not readable as weights" in refused(InceptionEdm, "empty.pth")
    pytest.importorskip("torch_fidelity")
    assert "few.pth: not the weights of the FID Inception (Missing key(s)" in refused(InceptionEdm, "few.pth")


# -- TorchScript -----------------------------------------------------------------------------------------------


class Layers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean([2, 3]).repeat(1, 683)[:, :2048]


class Network(nn.Module):
    """In the place of clean-fid's network: its `layers` take normalised images of 299 x 299."""

    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture
def script():
    """A TorchScript file; returns its SHA-256."""
    with pytest.warns(FutureWarning):                                      # PyTorch deprecates the making of such files
        torch.jit.script(Network()).save("script.pt")
    with open("script.pt", "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_of_another_hash_is_not_interpreted(script, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: os.mkdir("exploded"))
    assert refused(InceptionClean, "script.pt").startswith(f"script.pt: has SHA-256 {script}, so it is another program")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_images_are_resized_as_clean_fid_does_and_normalised(script, monkeypatch):
    from cleanfid.resize import build_resizer

    monkeypatch.setattr(inception_clean, "PUBLISHED", replace(inception_clean.PUBLISHED, sha256=script))
    images = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = InceptionClean("script.pt")(images)
    resize = build_resizer("clean")
    resized = torch.stack([torch.from_numpy(resize(image.permute(1, 2, 0).numpy())) for image in images])
    assert found.vectors.shape == (3, 2048) and found.logits is None
    assert found.vectors[:, :3].allclose((resized.mean((1, 2)) - 128) / 128, atol=1e-5)


# -- the FID Inception -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A file of the FID Inception's weights, all random: the state dict of torch-fidelity's own module."""
    import io

    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Untrained(extractor.FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **kwargs):
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Untrained("untrained", ["2048", "logits_unbiased"], nothing)
    for part in network.modules():                 # as large as after training: each layer keeps what goes through it
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    path = tmp_path_factory.mktemp("inception") / "untrained.pth"
    torch.save(network.state_dict(), path)
    return path, network


@pytest.mark.slow
def test_inception_has_the_published_weights_layout_and_gives_what_torch_fidelitys_module_gives(untrained):
    path, network = untrained
    extractor = InceptionEdm(str(path))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = extractor(images), network(images)
    assert found.vectors.shape == (2, 2048) and found.vectors.dtype == torch.float32 and found.vectors.std() > 0
    assert found.vectors.equal(expected[0]) and found.logits.equal(expected[1])
    assert not any(p.requires_grad for p in extractor.parameters())


def test_other_weights_than_the_published_ones_have_another_name_and_are_no_fid(untrained, tmp_path):
    from dmd2_plugins.metrics.fd import fid
    from safetensors.torch import save_file

    _, network = untrained
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    extractor = InceptionEdm(str(tmp_path / "w.safetensors"))
    assert extractor.name == f"inception-edm:{digest[:8]}" and extractor.fingerprint.endswith(digest)
    with pytest.raises(UserError, match="so the distance is no FID; .*dmd2 eval fd --extractor inception-edm"):
        fid("ref.npz", weights=str(tmp_path / "w.safetensors"))


def test_convolutions_are_in_full_float32_and_the_switch_goes_back():
    from dmd2_plugins.metrics.precision import full_float32

    before = torch.backends.cudnn.allow_tf32
    with full_float32():
        assert getattr(torch.backends.cudnn, "conv", None) is None or torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.allow_tf32 == before
