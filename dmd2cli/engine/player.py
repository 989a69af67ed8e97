"""A player: one network, its optimiser and its moving average. Loss -> accumulate -> clip -> optimise -> EMA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.utils._pytree import tree_map

from dmd2cli.recipe import Averaged, Optimiser


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
    """How a loss is run: micro-batches, gradient clipping, AdamW, EMA. What the loss is, is not its business."""

    def __init__(self, module: nn.Module, config: Optimiser, steps: int, clip: float | None) -> None:
        """clip: largest L2 norm of the gradient if config.clip is "run", or None. The rest as in enter()."""
        self.module, self.updates = module, 0
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, config.lr, fused=True)
        self.ema: nn.Module | None = None
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
            self.ema = deepcopy(self.module).eval().requires_grad_(False) if averaged else None

    @property
    def device(self) -> torch.device:
        """Where its network is."""
        return self.parameters[0].device

    @property
    def best(self) -> nn.Module:
        """The network to sample from: the moving average if there is one."""
        return self.ema or self.module

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
        """
        total, log = sum(len(b) for b in batches), dict[str, Tensor]()
        with without_gradient(frozen):
            for batch in batches:
                share, terms = len(batch) / total, loss(batch)
                backward(share * torch.stack(list(terms.values())).sum())
                for name, value in terms.items():
                    log[name] = log.get(name, 0) + share * value.detach()
        log["gradient_norm"] = self._optimise(step)
        self.updates += 1
        self._average(total)
        return log

    def _optimise(self, step: int) -> Tensor:
        norms = torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None])
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if self.clip is not None and (norm.is_cuda or norm > self.clip):       # on a GPU, asking would wait for it
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm, foreach=True)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, step - self.first, self.steps)
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
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.module.parameters()), weight)

    def state(self) -> dict[str, Any]:
        """Everything that a continued run needs, as nested dictionaries of contiguous tensors on the CPU."""
        self._complete()
        model, optim = dcp.get_state_dict(self.module, self.optimiser)
        ema = {"ema": self.ema.state_dict()} if self.ema is not None else {}
        state = {"model": model, "optim": optim["state"], "updates": torch.tensor(self.updates), **ema}
        return tree_map(lambda x: x.cpu().contiguous(), state)                     # not on a GPU: it may be full

    def _complete(self) -> None:
        """Moments of parameters that no loss has reached yet, zero as they will start: checkpoints have one layout."""
        for p in self.parameters:
            if p not in self.optimiser.state:
                step = torch.zeros((), device=p.device)
                fresh = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.optimiser.state[p] = {name: value.detach() for name, value in fresh.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what state() gave."""
        groups = dcp.get_optimizer_state_dict(self.module, self.optimiser)["param_groups"]
        optim = {"state": state["optim"], "param_groups": groups}
        dcp.set_state_dict(self.module, self.optimiser, model_state_dict=state["model"], optim_state_dict=optim)
        for p, moments in self.optimiser.state.items():     # the fused kernel wants the layout of the parameter
            moments |= {k: torch.empty_like(p).copy_(v) for k, v in moments.items() if v.shape == p.shape}
        self.updates = int(state["updates"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])


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
