"""Text encoders, VAEs and their like: which of a teacher's helpers a run loads, and what decoding a preview takes.

What a helper is for is seen, not declared: those that `Teacher.decode` or a loss on images runs through decode, and the
others serve `Teacher.encode`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dmd2cli import registry
from dmd2cli.engine.plan.networks import stand_in
from dmd2cli.engine.plan.probe import UNKNOWN
from dmd2cli.engine.plan.tape import Tape
from dmd2cli.protocols import Teacher
from dmd2cli.recipe import Recipe

AS_TRUE = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.item.default)
"""How PyTorch asks for the value of a tensor of one element."""


class Fine(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers every question of yes or no about fake tensors with yes: pixels are finite."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in AS_TRUE and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(helpers: Sequence[nn.Module]) -> Iterator[set[int]]:
    """Collects the positions of the helpers of which a part is called inside."""
    used, hooks = set[int](), list[Any]()
    for i, helper in enumerate(helpers):
        for part in helper.modules():
            hooks.append(part.register_forward_pre_hook(lambda module, given, i=i: used.add(i)))
    try:
        yield used
    finally:
        for hook in hooks:
            hook.remove()


class Decoding:
    """A teacher's way to images, rehearsed. Beside the weights."""

    used: set[int]
    """Positions of the helpers that it runs."""
    problem: str | None = None
    """Why it could not be rehearsed."""

    def __init__(self, teacher: Teacher, mode: FakeTensorMode) -> None:
        """teacher: made of fake tensors under the mode."""
        self.teacher, self.mode, self._known = teacher, mode, dict[int, int]()
        with watched(teacher.helpers) as self.used:
            try:
                self.peak(1)
            except UNKNOWN as err:
                self.problem, self.used = str(err).partition("\n")[0] or type(err).__name__, set()

    def peak(self, n: int) -> int:
        """Bytes at the worst moment of decoding n images in one call."""
        if n not in self._known:
            x, tape = empty(self.teacher, n, self.mode), Tape(1)
            with self.mode, torch.no_grad(), tape, Fine():
                self.teacher.decode(x)
            self._known[n] = x.nbytes + max((a + b for a, b in zip(tape.fixed, tape.grown, strict=True)), default=0)
        return self._known[n]


def loaded(teacher: Teacher, used: set[int], text: bool, mode: FakeTensorMode) -> list[tuple[str, nn.Module]]:
    """(name, helper) of those that a run loads. used: positions of those that losses and previews run.

    text: whether conditions are encoded in training. A helper without the attribute `loaded` is there from the start.
    """
    with watched(teacher.helpers) as decodes, mode, torch.no_grad(), Fine():
        for decode in teacher.decoders.values():
            decode(empty(teacher, 1, mode))
    wanted = used | (set(range(len(teacher.helpers))) - used - decodes if text else set())
    found = zip(names(teacher.helpers), teacher.helpers, strict=True)
    return [one for i, one in enumerate(found) if i in wanted or not hasattr(one[1], "loaded")]


def empty(teacher: Teacher, n: int, mode: FakeTensorMode) -> Tensor:
    """Samples that hold nothing."""
    return stand_in(torch.empty(n, *teacher.shape, device="meta"), mode)


def on_the_fly(recipe: Recipe) -> bool:
    """Whether conditions are encoded in training: of any data set whose class does not say that they come encoded.

    One that can say so has `encoded(**options) -> bool`. No data set is opened.
    """
    data = recipe.data
    asked = data.real if data.prompts_of_real else data.prompts
    used = [use for use in (asked, data.real, data.pairs) if use is not None]
    return asked is None or not all(encoded(use.use, use.options) for use in used)


def encoded(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a data set brings its conditions encoded."""
    says = getattr(registry.load("datasets", name), "encoded", None)
    return says is not None and says(**options)


def names(helpers: Sequence[nn.Module]) -> list[str]:
    """What rows call them: the class of the module in each, numbered where one comes more than once."""
    found = [type(inner(helper)).__name__ for helper in helpers]
    seen, many = Counter[str](), Counter(found)
    for i, name in enumerate(found):
        seen[name] += 1
        found[i] = f"{name} {seen[name]}" if many[name] > 1 else name
    return found


def inner(helper: nn.Module) -> nn.Module:
    """The module that a helper does nothing but hold, or itself."""
    children = list(helper.children())
    return children[0] if len(children) == 1 and not list(helper.parameters(recurse=False)) else helper
