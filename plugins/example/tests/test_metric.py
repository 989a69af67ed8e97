"""The metric keeps dmd2's protocol, and knows flat images from those with edges."""

import torch
from dmd2cli.testing import check_metric

from dmd2_example.metric import Sharpness


def images() -> torch.Tensor:
    return torch.randint(0, 256, (9, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_it_keeps_the_protocol() -> None:
    check_metric(Sharpness, images(), [None] * 9)


def test_flat_images_have_none_and_a_chessboard_has_all() -> None:
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 255
    for picture, value in ((torch.zeros(8, 8), 0.0), (board, 1.0)):
        metric = Sharpness()
        metric.update(picture.to(torch.uint8).expand(2, 3, 8, 8), [None] * 2)
        assert metric.compute() == {"value": value}
