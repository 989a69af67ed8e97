"""Weightings by registered name, with the number of arguments their loss will give them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor

from dmd2cli import registry
from dmd2cli.errors import UserError


def weighting(name: str, *arguments: str) -> Callable[..., Tensor]:
    """The registered weighting `name`, which must take exactly `arguments` (others need defaults).

    Raises UserError for an unknown name, or a denoising weight where a DM weight is wanted and vice versa.
    """
    found = registry.load("weightings", name)
    required = [p.name for p in inspect.signature(found).parameters.values() if p.default is p.empty]
    if required != list(arguments):
        raise UserError(
            f"weighting '{name}' takes ({', '.join(required)}), and ({', '.join(arguments)}) is needed here: "
            "denoising weights and distribution-matching weights are two kinds"
        )
    return found
