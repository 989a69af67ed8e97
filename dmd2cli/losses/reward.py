"""Reward: a generator term that raises what a reward model says of the student's images.

A reward alone is hacked: images are found that the model likes and nobody else does, and variety goes first. The anchor
is distribution matching, which this term stands beside and never replaces. Its weight is a ratio of gradients at
x: at `weight: auto` the reward pulls as hard as distribution matching does, which is too much for most models; start
at a tenth of the number that auto logs, and watch precision, recall and diversity (`dmd2 eval`), not the reward.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dmd2cli import protocols, registry
from dmd2cli.core.random import Rng
from dmd2cli.errors import UserError
from dmd2cli.protocols import Nets, Raw, Sample, Teacher
from dmd2cli.recipe_build import build
from dmd2cli.recipe_parts import Use

PROBES = 2
"""Images that a model is asked about before training."""


@dataclass(frozen=True)
class Reward:
    """Generator term, minus the mean reward of the decoded samples.

    model: a reward by registered name. options: of that model, by name.
    decoder: the teacher's way to pixels, "full", or "tiny" where there is one, which needs less memory.
    """

    model: str
    decoder: str = "full"
    options: Mapping[str, Any] = field(default_factory=dict)

    player: ClassVar = "generator"
    reads_real: ClassVar = False

    def check(self, teacher: Teacher, nets: Nets) -> None:
        """Raise UserError for an unknown decoder or model, or a model whose answer on a probe is of no use."""
        if self.decoder not in teacher.decoders:
            known = ", ".join(sorted(teacher.decoders))
            way = f"it has {known}" if known else "it has none, so a reward cannot see its images; remove the term"
            raise UserError(f"decoder '{self.decoder}': this teacher has no such way to pixels: {way}")
        device = next(cast(nn.Module, nets.generator).parameters()).device
        x = Rng(0, 0).normal("probe", torch.empty(PROBES, *teacher.shape, device=device)).requires_grad_()
        with torch.enable_grad():
            found = self.rewards(x, some_conditions(teacher), teacher.decoders)
        if found.shape != (PROBES,) or not found.isfinite().all():
            raise UserError(
                f"model '{self.model}': must give one finite number per image, ({PROBES},), "
                f"not {found.detach().cpu().tolist()} of shape {tuple(found.shape)}; repair the model"
            )
        if not found.requires_grad:
            raise UserError(f"model '{self.model}': gives no gradient, so it can teach nothing; remove its no_grad()")

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Tensor:
        return -self.rewards(s.x, s.raw, nets.decoders).mean()

    def rewards(self, x: Tensor, raw: Sequence[Raw], decoders: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
        """Of samples in model units: (b,)."""
        model = reward(self.model, self.options, x.device)
        return model(decoders[self.decoder](x).float(), raw)


def reward(name: str, options: Mapping[str, Any], device: torch.device) -> protocols.Reward:
    """The registered model on the device, built once. Raises UserError for an unknown name or option."""
    return _built(registry.load("rewards", name), name, json.dumps(options, sort_keys=True), device)


def frozen(model: protocols.Reward, device: torch.device) -> protocols.Reward:
    """The model on the device, in evaluation mode, its weights without gradient; a plain function as it is."""
    if isinstance(model, nn.Module):
        model.to(device).eval().requires_grad_(False)
    return model


def some_conditions(teacher: Teacher) -> list[Raw]:
    """What probes are drawn for: labels where they can be listed, else text, or None if there is no condition."""
    if teacher.conditions:
        return [teacher.conditions[i % len(teacher.conditions)] for i in range(PROBES)]
    return ["a photo" if teacher.encode([])[0] else None] * PROBES


@lru_cache
def _built(factory: object, name: str, options: str, device: torch.device) -> protocols.Reward:
    """factory: what name stands for, there to make the cache notice when that is something else."""
    return frozen(build("rewards", Use.model_validate({**json.loads(options), "use": name}), "options"), device)
