"""Pictures: every pixel where it belongs, captions where they are asked for, files whole or not at all."""

import numpy as np
import pytest
import torch
from PIL import Image

from dmd2cli import images


def stack(n, height=8, width=8):
    """n plain images, image i of the colour (20 i, 255 - 20 i, 100)."""
    colours = torch.tensor([[20 * i, 255 - 20 * i, 100] for i in range(n)], dtype=torch.uint8)
    return colours[:, :, None, None].expand(n, 3, height, width)


def colour(sheet, x, y):
    return sheet.getpixel((x, y))


def test_an_image_keeps_its_pixels():
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert torch.from_numpy(np.asarray(images.to_pil(image)).copy()).permute(2, 0, 1).equal(image)


def test_a_grid_goes_row_by_row_with_small_images_enlarged_by_whole_factors():
    sheet = images.grid(stack(5), columns=3)
    assert sheet.size == (3 * 50 + 2, 2 * 50 + 2)
    for i in range(5):
        x, y = 2 + i % 3 * 50, 2 + i // 3 * 50
        assert colour(sheet, x, y) == colour(sheet, x + 47, y + 47) == (20 * i, 255 - 20 * i, 100)
    assert colour(sheet, 149, 99) == (255, 255, 255)


@pytest.mark.parametrize(("side", "shown"), [(8, 48), (32, 64), (48, 48), (64, 64), (50, 50)])
def test_large_images_are_shown_as_they_are(side, shown):
    assert images.grid(stack(1, side, side), 1).size == (shown + 4, shown + 4)


def test_captions_stand_above_the_columns_or_above_every_image():
    per_column, per_image = images.grid(stack(4), 2, ["a", "b"]), images.grid(stack(4), 2, list("abcd"))
    assert per_column.height == 2 * 50 + 2 + images.CAPTION
    assert per_image.height == 2 * (50 + images.CAPTION) + 2
    for sheet, top in ((per_column, 0), (per_image, 50 + images.CAPTION)):
        band = np.asarray(sheet.convert("L"))[top : top + images.CAPTION]
        assert (band < 128).any()
    assert colour(per_image, 2, 2 + images.CAPTION) == (0, 255, 100)


@pytest.mark.parametrize(
    ("n", "period", "columns", "captions"), [(20, 10, 10, 10), (4, 10, 4, 4), (20, 18, 16, 20), (3, 8, 3, 0)]
)
def test_a_saved_grid_has_a_column_for_every_condition_if_they_fit(tmp_path, monkeypatch, n, period, columns, captions):
    seen = []
    grid = images.grid

    def spy(*args):
        seen.append(args[1:])
        return grid(*args)

    monkeypatch.setattr(images, "grid", spy)
    conditions = [i % period if captions else None for i in range(n)]
    images.save_grid(stack(min(n, 12)).repeat(2, 1, 1, 1)[:n], conditions, period, tmp_path / "g.png")
    assert seen[0][0] == columns and len(seen[0][1]) == captions


def test_single_images_are_numbered(tmp_path):
    images.save_singles(stack(3), tmp_path / "new" / "folder")
    found = sorted((tmp_path / "new" / "folder").iterdir())
    assert [p.name for p in found] == ["000000.png", "000001.png", "000002.png"]
    assert Image.open(found[2]).size == (8, 8) and colour(Image.open(found[2]), 0, 0) == (40, 215, 100)


def test_strips_lie_below_one_another_under_their_titles(tmp_path):
    wide, narrow = images.grid(stack(4), 4), images.grid(stack(2), 2)
    images.save_strips({"first": wide, "second": narrow}, tmp_path / "s.png")
    sheet = Image.open(tmp_path / "s.png")
    assert sheet.size == (wide.width, wide.height + narrow.height + 2 * 24 + 4)
    for top in (0, 24 + wide.height):
        assert (np.asarray(sheet.convert("L"))[top : top + 24] < 128).any()
        assert colour(sheet, 2, top + 26) == (0, 255, 100)


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "p.png"
    images.save_png(images.grid(stack(1), 1), path)
    before = path.read_bytes()

    def full(self, draft, **kwargs):
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError):
        images.save_png(images.grid(stack(2), 2), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["p.png"]
