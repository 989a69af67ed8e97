"""What a run is compared with: the same conditions drawn by the student now and, once, by the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dmd2cli.data.base import Loader
from dmd2cli.diversity import Diversity
from dmd2cli.engine.parallel import World
from dmd2cli.engine.preview import by_number, shown
from dmd2cli.looks import looks
from dmd2cli.protocols import Example, Teacher
from dmd2cli.source import Source

GROUP = 4
"""Images of one condition, or more where there are few conditions."""
STUDENT, TEACHER = 1, 2
"""Seeds of what they are drawn from. Images are numbered on from one measurement to the next: noise is always new."""


@dataclass(frozen=True)
class Drawn:
    """Samples x (n, *d), their images (n, 3, h, w), and which condition each was drawn for."""

    x: Tensor
    images: Tensor
    groups: list[int]

    def channels(self) -> tuple[Tensor, Tensor]:
        """(means, standard deviations) of the values of every channel, or of every dimension of vectors."""
        values = self.x.transpose(0, 1).flatten(1)
        return values.mean(1), values.std(1)

    def diversity(self) -> float:
        """Distance of two images of one condition, as Diversity has it; 0 where no two share one."""
        found = Diversity()
        found.update(self.images, self.groups)
        return found.compute() or 0.0


@dataclass(frozen=True)
class Probe:
    """Draws this rank's share of `samples` images, as many for each of some conditions."""

    teacher: Teacher
    loader: Loader
    reference: Source
    """The teacher with the recipe's sampler, at the guidance that the student is trained for."""
    samples: int
    world: World

    @cached_property
    def examples(self) -> list[Example]:
        """The conditions, one each: those of the previews, spread over the ranks."""
        found = distinct(shown(self.teacher, self.loader))
        wanted = max(1, min(len(found), self.own // GROUP))
        step = max(1, len(found) // (wanted * self.world.size))
        return [found[(i * self.world.size + self.world.rank) * step % len(found)] for i in range(wanted)]

    @property
    def own(self) -> int:
        """How many images this rank draws, at least two of one condition."""
        return max(2, self.samples // self.world.size)

    def draw(self, source: Source, seed: int, time: int = 0) -> Drawn:
        """Draw with a source. time: the how manieth measurement this is."""
        groups = [i for i in range(len(self.examples)) for _ in range(self.own // len(self.examples))]
        named, size = by_number(source, self.loader, self.examples), min(self.loader.micro_batch, source.batch)
        first, found = (time * self.world.size + self.world.rank) * len(groups), list[Tensor]()
        for begin in range(0, len(groups), size):
            part = groups[begin : begin + size]
            found.append(named.latents(part, seed, range(first + begin, first + begin + len(part))))
        images = torch.cat([self.teacher.decode(x).cpu() for x in found])
        return Drawn(torch.cat(found), images, groups)

    @cached_property
    def of_teacher(self) -> Drawn:
        """The teacher's images, drawn when they are first asked for."""
        return self.draw(self.reference, TEACHER)


def distinct(examples: list[Example]) -> list[Example]:
    """One example of every condition. Those that were encoded beforehand are taken for different ones."""
    found = dict[object, Example]()
    for i, example in enumerate(examples):
        found.setdefault(i if example.encoded is not None else example.condition, example)
    return list(found.values())


def compared(student: Drawn, teacher: Drawn) -> dict[str, Tensor]:
    """The student's images against the teacher's.

    mean_shift: the largest difference of a channel's mean, in the teacher's standard deviations of that channel.
    std_ratio: the standard deviation of the channel in which student and teacher differ most, over the teacher's.
    brightness: difference of the means, in [-1, 1]. contrast, saturation, high_frequency: ratios. diversity: ratio of
    the spread within conditions. A ratio is left out where the teacher's own number is as good as 0.
    """
    (mean, std), (its_mean, its_std) = student.channels(), teacher.channels()
    its_std = its_std.clamp(min=1e-8)
    ratios = std / its_std
    found = {
        "mean_shift": ((mean - its_mean).abs() / its_std).max(),
        "std_ratio": ratios[ratios.clamp(min=1e-8).log().abs().argmax()],
    }
    mine, its = looks(student.images), looks(teacher.images)
    found["brightness"] = mine.pop("brightness") - its.pop("brightness")
    found |= {name: value / its[name] for name, value in mine.items() if its[name] > 1e-3}
    if (spread := teacher.diversity()) > 0:
        found["diversity"] = torch.tensor(student.diversity() / spread)
    return found
