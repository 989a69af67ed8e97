"""A player: a network, its optimiser, its moving average. Loss -> accumulate -> judge -> clip -> optimise -> EMA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from dmd2cli.adapters import WRAPPED
from dmd2cli.engine import optimisers
from dmd2cli.engine.guard import Guard
from dmd2cli.engine.loss_scale import LossScale
from dmd2cli.engine.parallel import ALONE, World
from dmd2cli.engine.ratios import update_ratio
from dmd2cli.engine.sharding import local
from dmd2cli.engine.writer import copied
from dmd2cli.recipe import Averaged, Optimiser, Run


class Sized(Protocol):
    def __len__(self) -> int: ...


MicroBatch = TypeVar("MicroBatch", bound=Sized)
Losses = Mapping[str, Tensor]


def learning_rate(config: Optimiser, step: int, steps: int) -> float:
    """The rate at a step: linear warm-up from 0, flat, linear decay from decay_from * steps to decay_to * lr."""
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    start = config.decay_from * steps
    fall = (step - start) / (steps - start) if step > start else 0.0
    return config.lr * warm * (1 - fall * (1 - config.decay_to))


class Player:
    """How a loss is run: micro-batches, guards, gradient clipping, AdamW, EMA. What the loss is, is not its business.

    One that is laid over several ranks is given the rows of its own rank; gradients are means over the ranks.
    """

    def __init__(
        self,
        module: nn.Module,
        config: Optimiser,
        steps: int,
        clip: float | None,
        run: Run | None = None,
        world: World = ALONE,
    ) -> None:
        """clip: largest L2 norm of the gradient if config.clip is "run", or None. run: how its optimiser works, and in
        which precision; by default AdamW in one kernel, in float32. The rest as in enter().
        """
        self.module, self.world, self.updates = module, world, 0
        self.agree = world.agree if world.mesh is not None else kept        # replicas agree on what they have averaged
        self.named = {plain(name): p for name, p in module.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        run = run or Run.model_validate({"steps": steps, "batch": 1})
        self.optimiser = optimisers.make(self.parameters, run, config.lr)
        self.guard = Guard(self.device, self.agree)
        self.scale = LossScale(self.device) if run.precision == "fp16" else None
        self.asks = self.device.type == "cpu" or not optimisers.can_skip(self.optimiser)
        """Whether the host looks if an update is to be skipped: on a GPU it would wait for it."""
        self.ema: dict[str, Tensor] | None = None
        self.enter(config, steps, clip)

    def enter(self, config: Optimiser, steps: int, clip: float | None, first: int = 0) -> None:
        """Begin a stage of `steps` steps at step `first`, with weights and moments as they are.

        The learning rate warms up and decays within the stage; a moving average that is new starts from the weights.
        """
        self.config, self.first, self.steps = config, first, steps
        self.clip = clip if config.clip == "run" else config.clip
        for group in self.optimiser.param_groups:
            group |= {"betas": config.betas, "weight_decay": config.weight_decay}
        averaged = isinstance(config, Averaged) and config.ema_halflife_images is not None
        if averaged != (self.ema is not None):
            self.ema = {name: p.detach().clone() for name, p in self.named.items()} if averaged else None

    @property
    def device(self) -> torch.device:
        """Where its network is."""
        return self.parameters[0].device

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Its network with the moving average in place of the weights, if there is one: what is sampled from."""
        self._swap()
        try:
            yield self.module
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in (self.ema or {}).items():
            mine, its = local(self.named[name]), local(average)
            held = mine.detach().clone()
            mine.copy_(its)
            its.copy_(held)

    def update(
        self,
        loss: Callable[[MicroBatch], Losses],
        batches: Sequence[MicroBatch],
        step: int,
        frozen: Sequence[Player] = (),
        backward: Callable[[Tensor], None] = Tensor.backward,
    ) -> dict[str, Tensor]:
        """One optimiser step over the micro-batches of one global batch; returns the mean of every term.

        loss: terms whose sum is the objective, each a mean over its micro-batch. frozen: players whose
        parameters must not collect a gradient meanwhile. backward: how the objective is differentiated.
        An update whose objective or gradient is not finite is skipped, on all ranks (Guard).
        """
        total, log = sum(len(b) for b in batches), dict[str, Tensor]()
        with without_gradient(frozen):
            for batch in batches:
                share, terms = len(batch) / total, loss(batch)
                objective = share * torch.stack(list(terms.values())).sum()
                backward(objective if self.scale is None else objective * self.scale.scale)
                for name, value in terms.items():
                    log[name] = log.get(name, 0) + share * value.detach()
        log["gradient_norm"] = self._optimise(step, torch.stack(list(log.values())).sum())
        self.updates += 1
        self._average(total * self.world.size)
        return log

    def _optimise(self, step: int, objective: Tensor) -> Tensor:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.world.mode == "replicate":
            self.world.average([*grads, objective])
        if self.scale is not None:
            self.scale.unscale_(grads)
        norm = whole(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))
        bad = self.guard.judge(norm, objective, step, None if self.scale is None else self.scale.falling)
        if self.scale is not None:
            self.scale.update(bad)
        if self.clip is not None and (not self.asks or norm > self.clip):
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm, foreach=True)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, step - self.first, self.steps)
        if not self.asks:
            self.optimiser.found_inf = bad  # type: ignore[attr-defined]
        if not self.asks or not bad:
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def _average(self, images: int) -> None:
        """EMA with its half-life in images, at most ema_ramp of the images seen (Karras et al. 2022, App. F.2)."""
        if self.ema is None or not isinstance(self.config, Averaged) or self.config.ema_halflife_images is None:
            return
        halflife = self.config.ema_halflife_images
        if self.config.ema_ramp is not None:
            halflife = min(halflife, self.config.ema_ramp * self.updates * images)
        weight = 1 - 0.5 ** (images / halflife)
        torch._foreach_lerp_([local(t) for t in self.ema.values()], [local(p) for p in self.parameters], weight)

    def ratio(self) -> Tensor:
        """|last update| / |weights|: about 1e-3 in a healthy run."""
        moments = (optimisers.moments(self.optimiser, p) for p in self.parameters)
        group = self.optimiser.param_groups[0]
        options = (group["lr"], group["betas"], group["eps"], group["weight_decay"])
        return update_ratio(self.parameters, moments, *options, total=self.world.total)

    def state(self) -> dict[str, Any]:
        """Everything that a continued run needs, as nested dictionaries of tensors, most of them those in use."""
        moments = {name: optimisers.moments(self.optimiser, p) for name, p in self.named.items()}
        ema = {"ema": dict(self.ema)} if self.ema is not None else {}
        guards = {"skipped": self.guard.state(), **({"scale": self.scale.state()} if self.scale is not None else {})}
        model = {plain(name): t.detach() for name, t in self.module.state_dict().items()}
        rate = torch.tensor(self.optimiser.param_groups[0]["lr"], dtype=torch.float64)
        done = {"updates": torch.tensor(self.updates), "rate": rate}
        state = {"model": model, "optim": moments, **done, **ema, **guards}
        return tree_map(lambda x: x.contiguous(), state)

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what state() gave."""
        for name, held in self.module.state_dict().items():
            held.copy_(state["model"][plain(name)])
        for name, p in self.named.items():
            optimisers.set_moments(self.optimiser, p, state["optim"][name])
        for name, average in (self.ema or {}).items():
            average.copy_(state["ema"][name])
        self.updates = int(state["updates"])
        for group in self.optimiser.param_groups:
            group["lr"] = float(state["rate"])                 # of the last update, for ratio()
        self.guard.load_state(state["skipped"])
        if self.scale is not None:
            self.scale.load_state(state["scale"])

    @contextmanager
    def borrowed(self) -> Iterator[Mapping[str, Any]]:
        """Whatever is done to it inside is undone afterwards. Gives the state that it will have again, on the CPU."""
        held, guard = copied(self.state()), self.guard
        self.guard = Guard(self.device, self.agree)
        try:
            yield held
        finally:
            self.guard = guard
            self.load_state(held)


def kept(flag: Tensor) -> Tensor:
    """As it is."""
    return flag


def plain(name: str) -> str:
    """The name of a parameter, without what activation checkpointing adds to it."""
    return name.replace(f"{WRAPPED}.", "")


def whole(value: Tensor) -> Tensor:
    """A number that was computed over shards, on every rank."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@contextmanager
def without_gradient(players: Sequence[Player]) -> Iterator[None]:
    """Their parameters do not require a gradient inside; afterwards they do again."""
    parameters = [p for player in players for p in player.parameters]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
