"""FID on COCO and patch FID: what is done to images first, on both sides; counts; names; references."""

import json

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as T
from dmd2_plugins.metrics.fd import PROTOCOLS, fd, fid, patch_fid
from dmd2_plugins.metrics.tiny import Tiny
from pictured import pictures, save
from PIL import Image

from dmd2cli import registry
from dmd2cli.errors import UserError
from dmd2cli.frechet import distance
from dmd2cli.pictures import open_pictures
from dmd2cli.testing import check_metric
from dmd2cli.views import patch, square, stretched

SIZES = [(64, 48), (40, 57), (31, 31), (45, 30), (60, 41)]


class Clean(Tiny):
    """tiny in the place of the network of clean-fid."""

    name = "inception-clean"


def mixed(folder, sizes=SIZES, seed=0):
    """Images of several (width, height), in a folder."""
    folder.mkdir()
    for i, (width, height) in enumerate(sizes):
        side = max(width, height)
        image = pictures(1, seed + i, side=side)[0, :, :height, :width]
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(folder / f"{i:03}.png")
    return folder


def cropped(image, side):
    """By torchvision, which the release crops with: the square of the shorter side, then Pillow's Lanczos."""
    picture = T.center_crop(image, min(image.size)).resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def images_of(folder):
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize("size", [(64, 48), (57, 40), (40, 57), (31, 31), (43, 30), (30, 45)])
def test_views_are_torchvisions_crops_and_pillows_filter(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    batch = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    assert square(24)(batch)[1].equal(cropped(image, 24))
    native = torch.from_numpy(np.array(T.center_crop(image, [27, 27]))).permute(2, 0, 1)
    assert patch(27)(batch)[1].equal(native) and not patch(27).leaves(batch)
    assert patch(64)(batch).equal(batch) and patch(64).leaves(batch)
    whole = torch.from_numpy(np.array(image.resize((20, 20), Image.Resampling.LANCZOS))).permute(2, 0, 1)
    assert stretched(20)(batch)[0].equal(whole)


@pytest.mark.parametrize(("protocol", "side"), [("coco-256", 256), ("coco-512", 512)])
def test_both_sides_are_cropped_and_resized_before_the_network_sees_them(protocol, side, tmp_path):
    real, x = mixed(tmp_path / "real"), pictures(12, seed=9, side=40)
    metric = fid(str(real), protocol, extractor="tiny", allow_small=True)
    metric.update(x[:5], ["a"] * 5)
    metric.update(x[5:], ["a"] * 7)
    fakes = torch.stack([cropped(Image.fromarray(image.permute(1, 2, 0).numpy()), side) for image in x])
    reals = torch.stack([cropped(image, side) for image in images_of(real)])
    expected = distance(Tiny()(fakes).vectors, Tiny()(reals).vectors)
    assert metric.compute()["value"] == pytest.approx(expected, rel=1e-5)
    assert metric.name == f"fd/{protocol}/tiny"
    assert f"Lanczos to {side} x {side}" in metric.protocol["before"]
    assert metric.protocol["measured_at"] == {f"{side} x {side}": 12}
    drawn = torch.randint(5, (7,), generator=bootstrap(3)).tolist()
    floor = distance(Tiny()(reals[drawn]).vectors, Tiny()(reals).vectors)
    assert metric.real(7, 3)["value"] == pytest.approx(floor, rel=1e-4, abs=1e-9)


def bootstrap(seed):
    from dmd2cli.core.random import Rng

    return Rng(seed, 0).generator("bootstrap", torch.device("cpu"))


def test_only_in_inceptions_space_it_is_a_fid(tmp_path):
    real = str(mixed(tmp_path / "real"))
    with registry.override("extractors", "inception-clean", Clean):
        assert [fid(real, name).name for name in ("coco-256", "coco-512")] == ["fid/coco-256", "fid/coco-512"]
        assert patch_fid(real).name == "patch-fid/299"
    assert patch_fid(real, "tiny").name == "patch-fd/299/tiny"
    assert fid(real, "coco-256", "tiny").name == "fd/coco-256/tiny"
    assert fid(str(save(pictures(3), tmp_path / "same")), "edm", "tiny").name == "fd/tiny"


def test_other_counts_than_the_protocols_are_refused_or_said(tmp_path):
    assert [(PROTOCOLS[p].samples, PROTOCOLS[p].reference) for p in ("coco-256", "coco-512")] == [
        (30_000, 40_504), (10_000, 10_000)
    ]  # fmt: skip
    real = str(mixed(tmp_path / "real"))
    with pytest.raises(UserError) as caught:
        fid(real, "coco-256", "tiny").check(5000)
    said = "fd/coco-256/tiny: 5,000 samples, not 30,000 and 5 reference images, not 40,504; --allow-small"
    assert str(caught.value).startswith(said)
    metric = fid(real, "coco-512", "tiny", allow_small=True)
    metric.check(4)
    metric.update(pictures(4, side=20), ["a"] * 4)
    assert metric.protocol["departs"] == ["4 samples, not 10,000", "5 reference images, not 10,000"]
    metric = fd("tiny", str(save(pictures(3), tmp_path / "same")), allow_small=True)
    metric.update(pictures(3), [None] * 3)
    assert "departs" not in metric.protocol and "before" not in metric.protocol


def test_statistics_belong_to_what_was_done_to_the_images(tmp_path):
    real = str(mixed(tmp_path / "real"))
    kept = fid(real, "coco-256", "tiny", allow_small=True)
    value = kept.reference.statistics()
    again = fid(kept.protocol["reference"]["statistics"], "coco-256", "tiny", allow_small=True)
    assert np.array_equal(again.reference.statistics().mu, value.mu)
    for make in (
        lambda path: fid(path, "coco-512", "tiny", allow_small=True), lambda path: fd("tiny", path, allow_small=True)
    ):  # fmt: skip
        with pytest.raises(UserError, match="of images prepared as square-256-1, not as"):
            make(kept.protocol["reference"]["statistics"])
    other = fid(real, "coco-512", "tiny", allow_small=True)
    assert other.protocol["reference"]["statistics"] != kept.protocol["reference"]["statistics"]
    assert not np.array_equal(other.reference.statistics().mu, value.mu)
    plain = fd("tiny", str(save(pictures(4), tmp_path / "plain")), allow_small=True)
    plain.reference.statistics()
    with pytest.raises(UserError, match="of images prepared as they are, not as square-256-1"):
        fid(plain.protocol["reference"]["statistics"], "coco-256", "tiny", allow_small=True)


# -- patches ---------------------------------------------------------------------------------------------------

LARGE = [(320, 300), (299, 299), (301, 420)]


def test_a_patch_is_the_middle_at_native_size_of_samples_and_reals(tmp_path):
    real, x = mixed(tmp_path / "real", LARGE), pictures(4, seed=9, side=310)
    metric = patch_fid(str(real), "tiny", allow_small=True)
    metric.update(x, ["a"] * 4)
    fakes = T.center_crop(x, [299, 299])
    reals = torch.stack([T.pil_to_tensor(T.center_crop(image, [299, 299])) for image in images_of(real)])
    expected = distance(Tiny()(fakes).vectors, Tiny()(reals).vectors)
    assert metric.compute()["value"] == pytest.approx(expected, rel=1e-5)
    assert metric.protocol["measured_at"] == {"299 x 299": 4}


def test_smaller_images_are_taken_whole_and_it_is_said(tmp_path, capsys):
    real, x = mixed(tmp_path / "real", [*LARGE, (400, 100), (20, 20)]), pictures(6, seed=9, side=30)
    metric = patch_fid(str(real), "tiny", allow_small=True)
    metric.update(x[:3], ["a"] * 3)
    metric.update(x[3:], ["a"] * 3)
    said = "note: patch-fd/299/tiny: samples of 30 x 30 have no patch of 299; taken whole\n"
    assert capsys.readouterr().err == said and metric.protocol["measured_at"] == {"30 x 30": 6}
    reals = [T.pil_to_tensor(T.center_crop(i, [299, 299]) if min(i.size) >= 299 else i) for i in images_of(real)]
    vectors = torch.cat([Tiny()(image[None]).vectors for image in reals])
    assert metric.compute()["value"] == pytest.approx(distance(Tiny()(x).vectors, vectors), rel=1e-5)


def test_patches_keep_the_protocol_of_metrics(tmp_path):
    real = str(mixed(tmp_path / "real", LARGE))
    check_metric(lambda: patch_fid(real, "tiny", allow_small=True), pictures(6, side=300), ["a"] * 6)


# -- images of several sizes -----------------------------------------------------------------------------------


def test_images_of_several_sizes_come_in_their_order_where_that_is_allowed(tmp_path):
    folder = mixed(tmp_path / "real", [(8, 8), (8, 8), (9, 8), (8, 8)])
    batches = list(open_pictures(folder, mixed=True).draw([0, 1, 2, 3, 3]))
    assert [tuple(b.shape) for b in batches] == [(2, 3, 8, 8), (1, 3, 8, 9), (2, 3, 8, 8)]
    with pytest.raises(UserError, match="is 9 x 8, and 000.png is 8 x 8"):
        list(open_pictures(folder).draw(range(4)))


def test_large_images_come_in_batches_that_fit(tmp_path, monkeypatch):
    folder = save(pictures(7), tmp_path / "f")
    monkeypatch.setattr("dmd2cli.pictures.BYTES", 3 * 8 * 8 * 3 + 5)
    assert [len(b) for b in open_pictures(folder).draw(range(7))] == [3, 3, 1]


def test_captions_are_those_of_metadata_or_what_dmd2_sample_wrote(tmp_path):
    from dmd2cli.images import save_singles

    notes = [json.dumps({"made": {}, "condition": text}) for text in ("a cat", "a dog")]
    save_singles(pictures(2), tmp_path / "drawn", (), notes)
    assert open_pictures(tmp_path / "drawn", captions=True).conditions(5) == ["a cat", "a dog"]
    assert open_pictures(tmp_path / "drawn").conditions(2) == [None, None]
    rows = [json.dumps({"file_name": f"{i:06}.png", "text": f"row {i}"}) for i in range(2)]
    (tmp_path / "drawn/metadata.jsonl").write_text("\n".join(rows))
    assert open_pictures(tmp_path / "drawn", captions=True).conditions(2) == ["row 0", "row 1"]
    save_singles(pictures(2), tmp_path / "labels", (), [json.dumps({"made": {}, "condition": 3})] * 2)
    with pytest.raises(UserError, match="000000.png: has no caption"):
        open_pictures(tmp_path / "labels", captions=True).conditions(2)
    save_singles(pictures(2), tmp_path / "plain")
    with pytest.raises(UserError, match="no captions: neither metadata.jsonl"):
        open_pictures(tmp_path / "plain", captions=True)
