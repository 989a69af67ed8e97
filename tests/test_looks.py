"""Four numbers of how images look, on images where they are known."""

import pytest
import torch

from dmd2cli.looks import looks


def grey(values):
    """(h, w) of 0 to 255 -> (1, 3, h, w)."""
    return torch.as_tensor(values, dtype=torch.uint8).expand(1, 3, -1, -1)


def test_a_flat_image_has_its_brightness_and_nothing_else():
    found = looks(grey(torch.full((8, 8), 51)))
    assert found["brightness"] == pytest.approx(0.2)
    assert all(found[name] == pytest.approx(0, abs=1e-6) for name in ("contrast", "saturation", "high_frequency"))


def test_half_black_and_half_white_has_a_contrast_of_a_half():
    image = torch.zeros(8, 8)
    image[:, 4:] = 255
    assert looks(grey(image))["contrast"] == pytest.approx(0.5)


def test_a_pure_colour_is_saturated_and_as_bright_as_its_luma():
    red = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    red[:, 0] = 255
    found = looks(red)
    assert found["saturation"] == pytest.approx(1) and found["brightness"] == pytest.approx(0.2126)


def test_a_chequerboard_is_all_fine_detail_and_a_slope_hardly_any():
    board = 255 * (torch.arange(16)[:, None] + torch.arange(16)[None] & 1)
    slope = torch.linspace(0, 255, 16).expand(16, 16)
    assert looks(grey(board))["high_frequency"] > 0.7 > 0.02 > looks(grey(slope.clone()))["high_frequency"]
