"""The networks of a distillation: the teacher's, and what starts as copies of it or as adapters on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from dmd2cli.adapters import Adapters, View
from dmd2cli.core.denoiser import Denoiser
from dmd2cli.core.heads import Heads, head_for
from dmd2cli.core.random import Rng
from dmd2cli.engine.parallel import ALONE, World
from dmd2cli.engine.runtime import prepare, store_teacher
from dmd2cli.engine.sharding import place
from dmd2cli.engine.terms import prefixed
from dmd2cli.errors import UserError
from dmd2cli.protocols import Nets, Teacher
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_parts import Lora
from dmd2cli.recipe_yaml import place as place_of


@dataclass(frozen=True)
class Networks:
    """The teacher, the student, and a critic for all or for each of the student's calls."""

    teacher: Teacher
    generator: nn.Module
    critics: Sequence[nn.ModuleDict]

    @property
    def learners(self) -> list[nn.Module]:
        """What is trained."""
        return [self.generator, *self.critics]

    @property
    def frozen(self) -> list[nn.Module]:
        """What is not: the teacher's network, and the bases of adapters where they have their own."""
        found = [base for module in (self.teacher.denoiser, *self.learners) for base in bases(module)]
        own = [] if isinstance(self.teacher.denoiser, View) else [self.teacher.denoiser]
        return list(dict.fromkeys([*own, *found]))

    def nets(self, recipe: Recipe) -> Nets:
        """As the loss terms see them."""
        source, first, asked = self.teacher, self.critics[0], recipe.critic.head
        real, fake, ours = (cast(Denoiser, net) for net in (source.denoiser, first["fake"], self.generator))
        places = (source.schedule, source.weighting, asked.reads, asked.depths, recipe.bins, source.decoders)
        return Nets(real, fake, first["head"], ours, *places)


def networks(recipe: Recipe, source: Teacher, device: torch.device, world: World = ALONE) -> Networks:
    """Generator and critics starting as copies of the teacher, or as adapters. Raises UserError if they cannot.

    Of several ranks the first one has the weights, on the CPU, and the others none yet: place_all() hands them out.
    """
    shared = Adapters(source.denoiser) if recipe.shared_base else None
    source = replace(source, denoiser=View(shared, None)) if shared is not None else source
    making = Making(recipe, source, device, world, shared)
    generator = making.trainable("student")
    calls = len(recipe.student.times) if recipe.critic.per_call else 1
    found = Networks(source, generator, [making.judge(call) for call in range(calls)])
    for base in found.frozen:                              # after the copies, of which some learn in float32
        store_teacher(base, recipe.run)
    if shared is not None:
        making.ready(shared.base)                          # once more, with its adapters in place
    return found


def place_all(found: Networks, device: torch.device, world: World) -> None:
    """Put all networks on the device, laid over the ranks."""
    units, heads = found.teacher.units, [critic["head"] for critic in found.critics]
    learners = [found.generator, *(critic["fake"] for critic in found.critics)]
    for module in dict.fromkeys([*(m for m in learners if not isinstance(m, View)), *found.frozen, *heads]):
        place(module, world, device, units)


def bases(module: nn.Module) -> Iterator[nn.Module]:
    """The bases of the adapters in a module."""
    yield from (part.adapters.base for part in module.modules() if isinstance(part, View))


@dataclass(frozen=True)
class Making:
    """What networks are made from."""

    recipe: Recipe
    source: Teacher
    device: torch.device
    world: World = ALONE
    shared: Adapters | None = None

    def ready(self, module: nn.Module) -> nn.Module:
        """runtime.prepare() for this run; one of several ranks places its networks later."""
        return prepare(module, self.device, self.recipe.run, self.source.units, place=self.world.size == 1)

    def judge(self, call: int) -> nn.ModuleDict:
        """A critic: the fake score, a copy of the teacher, and a GAN head that is the same in every run of a seed."""
        fake = self.trainable(f"critic-{call}" if call else "critic")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Rng(self.recipe.run.seed, 0).generator("head", torch.device("cpu")).initial_seed())
            return nn.ModuleDict({"fake": fake, "head": self.head(fake)})

    def trainable(self, name: str) -> nn.Module:
        """A network of the teacher's that learns: a copy, or an adapter on a copy or on the shared base.

        It reads the guidance scale if the student is to.
        """
        recipe, source = self.recipe, self.source
        if (lora := (recipe.student if name == "student" else recipe.critic).lora) is not None:
            return self.adapter(name, lora)
        if recipe.student.guidance is not None:
            if source.guided_network is None:
                where = place_of(recipe.places, "student.guidance")
                what = f"a {recipe.teacher.use} student cannot read the scale"
                raise UserError(f"{where}student.guidance: {what}; leave it out")
            copy = source.guided_network()
        else:
            copy = deepcopy(source.network or source.denoiser)
        return self.ready(copy.train().requires_grad_(True))

    def adapter(self, name: str, lora: Lora) -> View:
        """A network that learns as an adapter; its A is the same in every run of a seed. UserError if it cannot."""
        recipe, source = self.recipe, self.source
        key = f"{'student' if name == 'student' else 'critic'}.lora"
        where = f"{place_of(recipe.places, key)}{key}: "
        if recipe.student.guidance is not None or source.network is not None:
            raise UserError(f"{where}the student is not a copy of the teacher's network here; leave it out")
        if not (lora.targets or source.lora_targets):
            raise UserError(f"{where}this teacher names no layers for it; name some with {key}.targets")
        adapters = self.shared or Adapters(deepcopy(source.denoiser))
        seed = Rng(recipe.run.seed, 0).generator(f"lora/{name}", torch.device("cpu")).initial_seed()
        found = prefixed(where, lambda: adapters.add(name, lora, source.lora_targets, seed))
        if self.shared is None:
            self.ready(adapters.base)
        return found.train()

    def head(self, fake: nn.Module) -> nn.Module:
        """A fresh GAN head on what it is to read. Raises UserError for a depth that is not there."""
        asked, source = self.recipe.critic.head, self.source
        if asked.depths is None and asked.reads == "critic":
            made = source.head()
        else:
            judge = source.denoiser if asked.reads == "teacher" else fake
            where = self.device if self.world.size == 1 else torch.device("cpu")
            found = self.world.shared(lambda: [list(s) for s in shapes(source, judge, asked.depths, where)])
            sizes = [torch.Size(size) for size in found]
            made = Heads(sizes) if asked.depths is not None else head_for(sizes[0])
        return made.to(self.device) if self.world.size == 1 else made


@torch.no_grad()
def shapes(source: Teacher, judge: nn.Module, depths: tuple[int, ...] | None, device: torch.device) -> list[torch.Size]:
    """Of the features at some depths of a network, or of its bottleneck alone."""
    x, t = torch.zeros(2, *source.shape, device=device), torch.ones(2, device=device)
    cond = {k: torch.zeros(2, *v.shape[1:], dtype=v.dtype, device=device) for k, v in source.encode([])[0].items()}
    if depths is None:
        return [judge.features(x, t, cond).shape]  # type: ignore[operator]
    try:
        taps: list[Tensor] = judge.taps(x, t, cond, depths)  # type: ignore[operator]
    except (IndexError, AttributeError):
        found = f"{list(depths)} are not all depths of this network"
        raise UserError(f"critic.head.depths: {found}; leave depths out") from None
    return [h.shape for h in taps]
