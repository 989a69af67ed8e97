"""Images into files: the same ones however the work is split, stopped or packed."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dmd2cli.core.noise import RectifiedFlow
from dmd2cli.core.weighting import uniform
from dmd2cli.engine import generate as module
from dmd2cli.engine.generate import Order, Share, generate, share
from dmd2cli.errors import UserError
from dmd2cli.protocols import Teacher
from dmd2cli.samplers.few_step import FewStep
from dmd2cli.source import Source


class Mix(nn.Module):
    """x_hat from a matrix product over the whole sample, so that its bits may depend on the batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 48 * 48).reshape(48, 48))

    def forward(self, x_t, t, cond):
        return (x_t.flatten(1) @ self.weight).view_as(x_t) / 7 + cond["label"][:, :, None, None]


def encode(raw):
    label = torch.tensor([[0.0 if c is None else float(c)] for c in raw])
    return {"label": label}, {"label": torch.zeros_like(label)}


def decode(x):
    return (60 * x + 128).clamp(0, 255).to(torch.uint8)


def order(n=11, seed=3, batch=4, labels=(0, 1, 2), times=(1.0, 0.5), weight=None):
    net = Mix()
    if weight is not None:
        net.weight.data.fill_(weight)
    teacher = Teacher(net, RectifiedFlow(), (3, 4, 4), uniform, encode, decode, nn.Identity, conditions=labels)
    source = Source(teacher, net, FewStep(times))
    return Order(source, source.conditions(n), seed, batch)


def tree(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pixels(path):
    return np.asarray(Image.open(path))


ALONE = Share()


def test_a_folder_has_the_images_that_python_draws(tmp_path):
    asked = order()
    facts = generate(asked, tmp_path / "out", ALONE)
    assert facts.pop("seconds") >= 0
    assert facts == {"n": 11, "made": 11, "complete": True, "seed": 3, "nfe": 2, "out": str(tmp_path / "out")}
    assert sorted(tree(tmp_path / "out")) == [f"{i:06d}.png" for i in range(11)]
    drawn = torch.cat(list(asked.source.draw(asked.raw, 3, batch=4))).permute(0, 2, 3, 1).numpy()
    for i, image in enumerate(drawn):
        assert (pixels(tmp_path / "out" / f"{i:06d}.png") == image).all()


@pytest.mark.parametrize("world", [2, 3, 5])
def test_any_number_of_processes_writes_the_same_bytes(tmp_path, world):
    generate(order(), tmp_path / "one", ALONE)
    done = [generate(order(), tmp_path / "many", Share(rank, world)) for rank in reversed(range(world))]
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    assert sum(facts["made"] for facts in done) == 11 and [facts["complete"] for facts in done][-1]
    assert not done[0]["complete"]


def test_what_is_there_is_not_drawn_again(tmp_path, monkeypatch):
    out = tmp_path / "out"
    generate(order(), out, ALONE)
    whole = tree(out)
    for i in (1, 5, 6, 7):
        (out / f"{i:06d}.png").unlink()
    kept = (out / "000000.png").stat().st_mtime_ns
    drawn = []
    spy = Source.draw

    def draw(self, raw, seed, first=0, batch=250):
        drawn.append(range(first, first + len(raw)))
        return spy(self, raw, seed, first, batch)

    monkeypatch.setattr(Source, "draw", draw)
    assert generate(order(), out, ALONE)["made"] == 4
    assert drawn == [range(0, 4), range(4, 8)] and tree(out) == whole
    assert (out / "000000.png").stat().st_mtime_ns == kept
    assert generate(order(), out, ALONE)["made"] == 0 and len(drawn) == 2


def test_a_set_can_be_made_larger(tmp_path):
    generate(order(8), tmp_path / "out", ALONE)
    assert generate(order(11), tmp_path / "out", ALONE)["made"] == 3
    generate(order(11), tmp_path / "fresh", ALONE)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


OTHERS = {
    "seed = 3, now it is 4": {"seed": 4},
    "condition = 1, now it is 2": {"labels": (0, 2)},
    "sampler.times = [1.0, 0.5], now it is [1.0]": {"times": (1.0,)},
    "network = ": {"weight": 0.5},
}


@pytest.mark.parametrize("suffix", ["", ".zip", ".npz"])
@pytest.mark.parametrize("said", OTHERS)
def test_other_settings_are_refused(tmp_path, said, suffix):
    out = tmp_path / f"out{suffix}"
    generate(order(), out, ALONE)
    before = out.read_bytes() if suffix else tree(out)
    with pytest.raises(UserError) as refused:
        generate(order(**OTHERS[said]), out, ALONE)
    expected = "conditions = " if suffix and said.startswith("condition") else said
    assert f"made with {expected}" in str(refused.value) and "\n" not in str(refused.value)
    assert (out.read_bytes() if suffix else tree(out)) == before


def test_a_stranger_s_file_is_neither_taken_nor_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "out" / "000002.png")
    with pytest.raises(UserError, match="000002.png: was not made by dmd2 sample"):
        generate(order(), tmp_path / "out", ALONE)
    for name in ("a.zip", "a.npz"):
        with (tmp_path / name).open("wb") as file:
            np.savez(file, x=np.zeros(3))
        with pytest.raises(UserError, match="is there already, not made by dmd2 sample"):
            generate(order(), tmp_path / name, ALONE)


def test_a_zip_is_a_data_set_of_edm_with_labels(tmp_path):
    generate(order(), tmp_path / "out", ALONE)
    generate(order(), tmp_path / "out.zip", ALONE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.zip"]
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        names = [f"00000/img{i:08d}.png" for i in range(11)]
        assert sorted(file.namelist()) == [*names, "dataset.json"]
        assert json.loads(file.read("dataset.json"))["labels"] == [[name, i % 3] for i, name in enumerate(names)]
        assert file.read(names[7]) == (tmp_path / "out" / "000007.png").read_bytes()


def test_an_npz_has_the_arrays_of_adm(tmp_path):
    generate(order(), tmp_path / "out", ALONE)
    generate(order(), tmp_path / "out.npz", ALONE)
    found = np.load(tmp_path / "out.npz")
    assert found["arr_0"].shape == (11, 4, 4, 3) and found["arr_0"].dtype == np.uint8
    assert (found["arr_0"] == np.stack([pixels(tmp_path / "out" / f"{i:06d}.png") for i in range(11)])).all()
    assert found["arr_1"].tolist() == [i % 3 for i in range(11)]


def test_an_unconditional_npz_has_no_labels(tmp_path):
    asked = order(labels=())
    generate(replace(asked, raw=[None] * 3), tmp_path / "out.npz", ALONE)
    assert list(np.load(tmp_path / "out.npz")) == ["arr_0"]


@pytest.mark.parametrize("name", ["out.zip", "out.npz"])
def test_a_packed_file_is_the_same_from_one_run_from_two_and_from_two_processes(tmp_path, name, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    generate(order(), tmp_path / "one" / name, ALONE)
    first = generate(order(), tmp_path / "two" / name, Share(1, 2))
    assert not first["complete"] and not (tmp_path / "two" / name).exists()
    assert generate(order(), tmp_path / "two" / name, Share(0, 2))["complete"]
    assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    monkeypatch.setattr(module, "draw", None)                                  # nothing is drawn for what is there
    assert generate(order(), tmp_path / "two" / name, Share(1, 2))["made"] == 0
    assert [p.name for p in (tmp_path / "two").iterdir()] == [name]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr(module, "save_singles", lambda images, *rest: held.append(len(images)))
    generate(order(n=40), tmp_path / "out", ALONE)
    assert held == [4] * 10


def test_ranks_come_from_the_environment():
    assert share({}) == Share(0, 1) and share({"RANK": "1", "WORLD_SIZE": "4"}) == Share(1, 4)
    for rank, world in (("4", "4"), ("x", "4"), ("-1", "2")):
        with pytest.raises(UserError, match="a rank is a whole number below the world size"):
            share({"RANK": rank, "WORLD_SIZE": world})


def test_no_images_at_once_are_refused():
    with pytest.raises(UserError, match="--batch 0"):
        order(batch=0)
