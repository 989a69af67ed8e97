"""LPIPS: what it computes, what it is filled from, and what a person is told when that is not there."""

import pickle
import warnings

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dmd2cli.errors import UserError
from dmd2cli.losses.perceptual import enlarge, lpips_vgg

CPU = torch.device("cpu")
LINEAR = f"{lpips.__path__[0]}/weights/v0.1/vgg.pth"


def images(n=2, size=(32, 32), seed=0):
    return torch.rand(2, n, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def reference(vgg):
    """The package as its authors build it, with our backbone put in."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for i in range(1, 6):
        part = getattr(net.net, f"slice{i}")
        part.load_state_dict({k: vgg[f"features.{k}"] for k in part.state_dict()})
    return net


def literal(vgg, x, y):
    """Zhang et al. Eq. 1 in float64: sum over layers of mean over pixels of w * (f(x)/|f(x)| - f(y)/|f(y)|)^2."""
    shift, scale = (torch.tensor(v).double().view(3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    linear = torch.load(LINEAR, "cpu", weights_only=True)
    h, total = (torch.cat([x, y]).double() - shift) / scale, 0.0
    for i, convolutions in enumerate([(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)]):
        h = F.max_pool2d(h, 2) if i else h
        for n in convolutions:
            h = F.conv2d(h, vgg[f"features.{n}.weight"].double(), vgg[f"features.{n}.bias"].double(), padding=1).relu()
        one, two = (h / h.norm(dim=1, keepdim=True)).chunk(2)
        weight = linear[f"lin{i}.model.1.weight"].double()
        total = total + (weight * (one - two) ** 2).sum(1).mean((1, 2))
    return total


def test_it_is_the_equation_of_the_paper_on_vgg_features(vgg, vgg_file):
    x, y = images()
    found = lpips_vgg(vgg_file, CPU)(x, y)
    assert found.shape == (2, 1, 1, 1) and found.dtype == torch.float32
    np.testing.assert_allclose(found.flatten(), literal(vgg, x, y), rtol=1e-4)


def test_it_is_the_package_bit_for_bit(vgg, vgg_file):
    x, y = images(size=(24, 40))
    assert lpips_vgg(vgg_file, CPU)(x, y).equal(reference(vgg)(x, y))


def test_an_image_is_at_no_distance_from_itself(vgg_file):
    x, y = images()
    net = lpips_vgg(vgg_file, CPU)
    assert not net(x, x).any() and (net(x, y) > 0.01).all()


def test_gradients_flow_to_the_images_alone(vgg_file):
    x, y = images()
    net = lpips_vgg(vgg_file, CPU)
    net(x.requires_grad_(), y).mean().backward()
    assert x.grad.abs().flatten(1).sum(1).gt(0).all()
    assert not net.training and not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_one_network_per_file_and_device(vgg_file):
    assert lpips_vgg(vgg_file, CPU) is lpips_vgg(vgg_file, CPU)


def test_building_it_neither_prints_nor_warns_nor_draws(vgg, tmp_path, capsys):
    torch.save(vgg, tmp_path / "own.pth")
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lpips_vgg(str(tmp_path / "own.pth"), CPU)
    assert torch.random.get_rng_state().equal(state)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_both_kinds_of_file_load_the_same_in_float32(vgg, tmp_path, dtype):
    stored = {k: v.to(dtype) for k, v in vgg.items()} | {"classifier.0.bias": torch.zeros(3)}
    torch.save(stored, tmp_path / "vgg.pth")
    save_file(stored, tmp_path / "vgg.safetensors")
    one, two = (lpips_vgg(str(tmp_path / name), CPU).state_dict() for name in ("vgg.pth", "vgg.safetensors"))
    assert all(one[k].equal(two[k]) and one[k].dtype == torch.float32 for k in one)


def test_by_default_it_is_what_torchvision_left_in_torch_hubs_cache(vgg_file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/vgg16-397923af.pth").symlink_to(vgg_file)
    x, y = images()
    assert lpips_vgg(None, CPU)(x, y).equal(lpips_vgg(vgg_file, CPU)(x, y))


def complaint(weights):
    with pytest.raises(UserError) as caught:
        lpips_vgg(weights, CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_weights_a_person_learns_the_three_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = complaint(None)
    for words in ("vgg16-397923af.pth: no such file", "nothing is downloaded", "python -c", "weights", "distance: l2"):
        assert words in found
    assert "elsewhere.pth: no such file" in complaint(str(tmp_path / "elsewhere.pth"))


class Malice:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return (open, ("ran.txt", "w"))


BROKEN = {
    "empty.pth": (lambda path: path.touch(), "cut short"),
    "text.pth": (lambda path: path.write_text("<html>404</html>"), "cut short"),
    "code.pth": (lambda path: path.write_bytes(pickle.dumps(Malice(), protocol=2)), "more than tensors"),
    "zip.pth": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "cut short"),
    "module.pth": (lambda path: torch.save(torch.nn.Linear(1, 1), path), "more than tensors"),
    "list.pth": (lambda path: torch.save([torch.zeros(1)], path), "not the weights of torchvision's VGG-16"),
    "text.safetensors": (lambda path: path.write_text("no"), "not a whole safetensors file"),
    "other.pth": (lambda path: torch.save({"lin0.model.1.weight": torch.zeros(1)}, path), "features.0.weight"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_something_else_is_one_line_and_runs_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, words = BROKEN[name]
    write(tmp_path / name)
    found = complaint(name)
    assert found.startswith(f"{name}: ") and words in found
    assert not (tmp_path / "ran.txt").exists()


def test_a_network_of_other_shapes_is_named_by_its_weights(vgg, tmp_path):
    save_file(vgg | {"features.5.weight": torch.zeros(128, 64, 1, 1)}, tmp_path / "vgg.safetensors")
    assert "features.5.weight (1 in all) missing or of another shape" in complaint(str(tmp_path / "vgg.safetensors"))


def test_images_that_are_too_small_are_enlarged_by_bilinear_interpolation():
    x, _ = images(size=(8, 8))
    by_hand = F.interpolate(x, (224, 224), mode="bilinear", align_corners=False)
    assert enlarge(x, 224).equal(by_hand)
    assert enlarge(images(size=(16, 24))[0], 32).shape == (2, 3, 32, 48)


@pytest.mark.parametrize(("size", "resize"), [((16, 24), 16), ((40, 32), 16), ((8, 8), None)])
def test_images_that_are_large_enough_are_left_as_they_are(size, resize):
    x, _ = images(size=size)
    assert enlarge(x, resize) is x
