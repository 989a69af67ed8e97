"""Images that are there, for `eval --images`: how many, and what each is said to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from dmd2cli.cli.asking import Round
from dmd2cli.cli.readying import Measure
from dmd2cli.cli.subject import count
from dmd2cli.engine.evaluate import check
from dmd2cli.errors import UserError
from dmd2cli.pictures import Pictures, open_pictures
from dmd2cli.prompt_list import of_texts
from dmd2cli.protocols import Raw


@dataclass(frozen=True)
class There:
    """Images of a path as what is measured: nothing is drawn, so that a seed changes nothing."""

    pictures: Pictures

    def draw(self, raw: Sequence[Raw], seed: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
        """The first ones, as many as there are conditions."""
        return self.pictures.draw(range(len(raw)))

    def conditions(self, n: int) -> list[Raw]:
        """Labels or captions of the first n."""
        return self.pictures.conditions(n)

    @property
    def cost(self) -> dict[str, Any]:
        """Nothing is known."""
        return {}


def there(path: Path, measure: Measure, place: int, n: int | None, column: str | None) -> tuple[There, Round]:
    """The first n images of a path, or all, with the prompts that were named for them, or their captions or labels.

    place: where the result of the metric belongs.
    Raises UserError if the metric needs prompts and there are none, or prompts and images are not as many.
    """
    pictures = opened(path, measure, column)
    number = count(n, len(pictures))
    if number > len(pictures):
        raise UserError(f"-n {number}: {path} has {len(pictures)} images")
    check([measure.metric], number)
    if (prompts := measure.prompts) is not None:
        if number > prompts.total or (n is None and number < prompts.total):
            asked = f"{len(prompts.texts)} prompts x {prompts.per_prompt}"
            raise UserError(f"{path}: {number} images, and {prompts.where} has {asked}; they must be as many")
        return There(pictures), Round([measure], [place], number, prompts.conditions(number), prompts.about)
    raw, about = pictures.conditions(number), dict[str, Any]()
    if pictures.captions:
        about = {"of": "captions", **of_texts(str(path), [str(one) for one in raw]).about}
        about.pop("per_prompt")
    elif grouping(measure) and set(raw) == {None}:
        raise UserError(f"{measure.metric.name}: {path} has neither captions nor labels; say them: --prompts FILE")
    return There(pictures), Round([measure], [place], number, raw, about)


def opened(path: Path, measure: Measure, column: str | None) -> Pictures:
    """The images, with captions if the metric needs them, or compares images of one condition and they are there."""
    mixed, needs = getattr(measure.metric, "any_size", False), getattr(measure.metric, "reads_prompts", False)
    if measure.prompts is not None or not (needs or grouping(measure)):
        return open_pictures(path, mixed=mixed)
    try:
        return open_pictures(path, mixed=mixed, captions=column or True)
    except UserError:
        if needs or column is not None:
            raise
        return open_pictures(path, mixed=mixed)


def grouping(measure: Measure) -> bool:
    """Whether the metric compares images of one condition."""
    return getattr(measure.metric, "per_prompt", None) is not None
