"""Networks that loss terms bring along: LPIPS without its weights, reward models with theirs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dmd2cli.engine.plan.networks import fake
from dmd2cli.errors import UserError
from dmd2cli.losses import regression
from dmd2cli.losses.regression import Regression
from dmd2cli.losses.reward import Reward, reward
from dmd2cli.protocols import Loss


@contextmanager
def networks_of(losses: Iterable[Loss], mode: FakeTensorMode) -> Iterator[dict[str, nn.Module]]:
    """Inside, the terms can be rehearsed. Gives name -> frozen network, those of them that are modules.

    A reward model is built as in training, from its files: one that is not there is left to the rehearsal to report.
    """
    found = dict[str, nn.Module]()
    with ExitStack() as stack:
        for loss in losses:
            if isinstance(loss, Regression) and loss.distance == "lpips" and "lpips" not in found:
                found["lpips"] = empty_lpips()
                fake(found["lpips"], mode)
                stack.enter_context(patch.object(regression, "lpips_vgg", lambda *where: found["lpips"]))
            if isinstance(loss, Reward) and isinstance(model := reward_model(loss), nn.Module):
                found[loss.model] = model
        yield found


def empty_lpips() -> nn.Module:
    """The network of losses.perceptual on the meta device."""
    import lpips

    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        net: nn.Module = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    return net.eval().requires_grad_(False)


def reward_model(loss: Reward) -> object:
    """What the term asks, or None if it cannot be built."""
    try:
        return reward(loss.model, loss.options, torch.device("cpu"))
    except UserError:
        return None
