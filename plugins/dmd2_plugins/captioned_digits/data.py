"""The digits as pictures with captions, right or, like captions found on the web, sometimes wrong."""

from __future__ import annotations

import torch

from dmd2_plugins.digits.captions import WORDINGS, caption
from dmd2_plugins.digits.data import CLASSES, images
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example


class CaptionedDigits:
    """Dataset of scikit-learn's 1,797 digits: RGB in [-1, 1] of 8 x 8 pixels. wrong_captions: the share of them."""

    def __init__(self, wrong_captions: float = 0.0) -> None:
        if not 0 <= wrong_captions <= 1:
            raise UserError(f"wrong_captions must lie in [0, 1], got {wrong_captions}")
        self.x, labels = images()
        rng, rows = Rng(0, 0), self.x
        other = (rng.uniform("digit", rows) * CLASSES).long()
        self.digits = torch.where(rng.uniform("wrong", rows) < wrong_captions, other, labels).tolist()
        self.wordings = (rng.uniform("wording", rows) * len(WORDINGS)).long().tolist()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Example:
        return Example(self.x[i].expand(3, -1, -1), self.condition(i))

    def condition(self, i: int) -> str:
        """Of item i."""
        return caption(self.digits[i], self.wordings[i])
