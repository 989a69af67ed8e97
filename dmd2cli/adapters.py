"""LoRA: networks that are a frozen base and an adapter; several of them may share one base in memory.

The trap with a shared base: the adapter that is active when a graph is differentiated decides what activation
checkpointing computes again, and peft's switches also set requires_grad. So there is one switch, `Adapters.use`, which
leaves requires_grad as it is, and whoever differentiates calls it first (Player.update).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dmd2cli.core.denoiser import Cond
from dmd2cli.errors import UserError
from dmd2cli.recipe_parts import Lora
from dmd2cli.weights import fit_weights

WRAPPED = "_checkpoint_wrapped_module"
"""What activation checkpointing adds to the path of a layer."""


class Adapters:
    """A base network whose own weights are frozen, its adapters by name, and which of them is active."""

    def __init__(self, base: nn.Module) -> None:
        """base: changed in place. No adapter is active at first."""
        self.base = base.requires_grad_(False)
        self.now: str | None = None
        self.configs: dict[str, LoraConfig] = {}
        self.layers: dict[str, LoraLayer] = {}
        """The adapted layers of the base, by their path."""

    def add(self, name: str, lora: Lora, targets: Sequence[str], seed: int) -> View:
        """A new adapter that changes nothing yet: B is zero, A is random by the seed (Hu et al. 2021, Sec. 4.1).

        Raises UserError if the base has no layer of the target names.
        """
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout, target_modules=list(lora.targets or targets)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._inject(name, config)
        return View(self, name)

    def copy(self, name: str, source: str) -> View:
        """A new adapter with the values of another: a moving average."""
        self._inject(name, self.configs[source])
        made = View(self, name)
        made.load_state_dict(View(self, source).state_dict())
        return made

    def _inject(self, name: str, config: LoraConfig) -> None:
        moving = {p for p in self.own if p.requires_grad}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")        # several are the point
                inject_adapter_in_model(config, self.base, name)
        except ValueError as err:
            raise UserError(f"LoRA: {str(err).splitlines()[0]}") from err
        self.configs[name] = config
        found = ((path, layer) for path, layer in self.base.named_modules() if isinstance(layer, LoraLayer))
        self.layers = {path.replace(f"{WRAPPED}.", ""): layer for path, layer in found}
        moving |= {p for layer in self.layers.values() for part in parts(layer) for p in part[name].parameters()}
        self.base.requires_grad_(False)
        for p in moving:
            p.requires_grad_(True)
        active, self.now = self.now, name                  # what peft has left behind
        self.use(active)

    @property
    def own(self) -> list[nn.Parameter]:
        """The parameters of all adapters."""
        return [p for layer in self.layers.values() for part in parts(layer) for p in part.parameters()]

    def use(self, name: str | None) -> None:
        """Make an adapter the active one, or none. No requires_grad changes."""
        if name == self.now:
            return
        for layer in self.layers.values():                 # peft's methods set requires_grad, 40 ms of SDXL's layers
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        self.now = name


def parts(layer: LoraLayer) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """A and B of a layer, of every adapter."""
    return layer.lora_A, layer.lora_B


class View(nn.Module):
    """A Denoiser: a base seen through one of its adapters, or through none. Its parameters are the adapter's alone."""

    def __init__(self, adapters: Adapters, name: str | None) -> None:
        super().__init__()
        self._adapters, self.name = (adapters,), name      # in a tuple, so that the base is no part of this module
        self.lora = nn.ModuleDict()
        if name is not None:
            for path, layer in adapters.layers.items():
                made = {"A": layer.lora_A[name], "B": layer.lora_B[name], "dropout": layer.lora_dropout[name]}
                self.lora[path.replace(".", "/")] = nn.ModuleDict(made)

    @property
    def adapters(self) -> Adapters:
        """The base that it looks at, with all of its adapters."""
        return self._adapters[0]

    def use(self) -> Any:
        """The base, with this adapter active."""
        self.adapters.use(self.name)
        return self.adapters.base

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.use()(x_t, t, cond)

    def features(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.use().features(x_t, t, cond)

    def taps(self, x_t: Tensor, t: Tensor, cond: Cond, depths: Sequence[int]) -> list[Tensor]:
        return self.use().taps(x_t, t, cond, depths)

    def joint(self, x_t: Tensor, t: Tensor, cond: Cond, n: int) -> tuple[Tensor, Tensor]:
        return self.use().joint(x_t, t, cond, n)

    def weigh(self, weight: float) -> None:
        """Let the adapter count that many times as much as it was trained to: 1 as trained, 0 not at all."""
        assert self.name is not None, "a view of an adapter"
        for layer in self.adapters.layers.values():
            layer.set_scale(self.name, weight)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> View:
        """Another adapter of the same base: copying a network of this kind does not copy the base."""
        if self.name is None:
            return View(self.adapters, None)
        taken = self.adapters.configs
        name = next(f"{self.name}-{n}" for n in range(1, len(taken) + 2) if f"{self.name}-{n}" not in taken)
        return self.adapters.copy(name, self.name)

    def weights(self) -> dict[str, Float[Tensor, ...]]:
        """The adapter by the names that peft writes: path of the layer in the base, lora_A or lora_B, weight."""
        return {as_peft(name): tensor for name, tensor in self.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Load what weights() gave. Raises UserError for other names or shapes."""
        names = {as_peft(name): name for name in self.state_dict()}
        fit_weights(self, {names.get(name, name): tensor for name, tensor in tensors.items()}, where)


def merged(view: View) -> nn.Module:
    """A copy of the base with the adapter merged into it: plain layers, as programs without adapters read them."""
    base = deepcopy(view.use())
    for path, layer in [found for found in base.named_modules() if isinstance(found[1], LoraLayer)]:
        if view.name is not None:
            layer.merge(adapter_names=[view.name])
        base.set_submodule(path, layer.get_base_layer())
    return base


def as_peft(name: str) -> str:
    """lora.PATH/OF/LAYER.A.weight -> PATH.OF.LAYER.lora_A.weight."""
    path, part, rest = name.removeprefix("lora.").rsplit(".", 2)
    return f"{path.replace('/', '.')}.lora_{part}.{rest}"
