"""The signals of one measurement, of a distillation as it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dmd2cli.core import calibration
from dmd2cli.core.denoiser import Cond, Denoise, bind, guided
from dmd2cli.core.noise import NoiseSchedule, diffuse, scales
from dmd2cli.core.random import Rng
from dmd2cli.data.base import Batch
from dmd2cli.engine.distillation import Distillation
from dmd2cli.engine.health import data, scores
from dmd2cli.engine.health.probe import STUDENT, Probe, compared
from dmd2cli.engine.health.validation import Drawing
from dmd2cli.engine.parallel import World
from dmd2cli.engine.watch import at

ROWS = 64
"""Samples that gap, gradients and accuracy are measured on, and at most a micro-batch of them the teacher."""
LEVELS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Noise, in standard deviations of the data, at which the teacher's one-step error is measured."""
CLEAR = 2
"""Levels whose slope does not count: of little noise, small faults of the samples are a large share."""


NAMES = (
    "mean_shift", "std_ratio", "brightness", "contrast", "saturation", "high_frequency", "diversity", "ema",
    *(f"gap/band-{b}" for b in range(scores.BANDS)), "accuracy/fake", "accuracy/real", "conditions", "real/distinct",
    "teacher/error", "teacher/slope", "teacher/guided_error",
)  # fmt: skip
"""Of all signals there can be, besides gradient/TERM: which of them a rank has depends on its rows."""


@dataclass
class Health:
    """Measures; one for each stage of a run."""

    distillation: Distillation
    probe: Probe
    every: int
    known: int = 0
    """How many different conditions there could be; 0 for no end of them."""
    teacher: dict[str, Tensor] = field(default_factory=dict)
    """What was measured of the teacher, once."""

    def signals(self, source: Drawing, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """All of them, as health/NAME, after the step that was trained on these batches."""
        at("health")
        d, rng = self.distillation, Rng(self.distillation.seed, step).stream("health")
        found = self.appearance(source, step // self.every)
        samples = (d.student(part, rng.stream("student"), grad=False) for part in heads(batches, ROWS))
        found |= mean([scores.all_of(d, s, rng.at(s.rows, s.total)) for s in samples])
        found |= data.conditions(batches, self.known) | data.distinct(batches)
        self.teacher = self.teacher or self.of_teacher()
        names = [*NAMES, *(f"gradient/{name}" for name, (_, loss) in d.terms.items() if loss.player == "generator")]
        agreed = over_ranks(found | self.teacher, names, self.probe.world)
        return {f"health/{name}": value for name, value in agreed.items()}

    def appearance(self, source: Drawing, time: int) -> dict[str, Tensor]:
        """The student's images against the teacher's, and its moving average against its weights.

        ema: root mean square of what the average changes in a sample, in standard deviations of the samples.
        """
        with source(False) as student:
            drawn = self.probe.draw(student, STUDENT, time)
        found = compared(drawn, self.probe.of_teacher)
        if self.distillation.generator.ema is not None:
            with source(True) as averaged:
                late = self.probe.draw(averaged, STUDENT, time)
            found["ema"] = (late.x - drawn.x).square().mean().sqrt() / drawn.x.std().clamp(min=1e-8)
        return found

    def of_teacher(self) -> dict[str, Tensor]:
        """Is it what its wrapper says (core.calibration), and how far does the recipe's guidance drive it?

        teacher/error: the largest over LEVELS. teacher/slope: the one furthest from 0, without the CLEAR ones.
        teacher/guided_error: the error of the guided prediction, where there is guidance. On the first real samples of
        the run, or where there are none on the teacher's own.
        """
        d, loader, scale = self.distillation, self.probe.loader, self.probe.reference.guidance
        first = loader(0, d.teacher, slice(0, min(ROWS, loader.micro_batch)))[0]
        x, cond, null = (first.x, first.real_cond, first.null) if first.x is not None else self.own()
        rng = Rng(d.seed, 0).stream("health/teacher")
        errors, slopes = denoised(bind(d.nets.real, cond), d.nets.schedule, x, rng)
        slope = slopes[CLEAR:]
        found = {"teacher/error": errors.max(), "teacher/slope": slope[slope.abs().argmax()]}
        if scale != 1.0:
            driven, _ = denoised(guided(d.nets.real, scale, cond, null), d.nets.schedule, x, rng)
            found["teacher/guided_error"] = driven.max()
        return found

    def own(self) -> tuple[Tensor, Cond, Cond]:
        """The teacher's samples, with their conditions and null conditions."""
        drawn = self.probe.of_teacher
        examples = [self.probe.examples[i] for i in drawn.groups]
        return drawn.x, *self.probe.loader.encoded(self.probe.teacher, examples)


@torch.no_grad()
def denoised(denoise: Denoise, schedule: NoiseSchedule, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """One-step errors and slopes (core.calibration) at LEVELS of noise, as far as the schedule has them."""
    errors, slopes = list[Tensor](), list[Tensor]()
    for level in LEVELS:
        t = schedule.time(torch.full((len(x),), level * float(x.std()), device=x.device)).clamp(0, 1).to(x.dtype)
        alpha, sigma = scales(schedule, t, x)
        x_t = diffuse(x, t, schedule, rng.normal(f"eps/{level}", x))
        x_hat = denoise(x_t, t)
        errors.append(calibration.error(x, x_t, x_hat, alpha, sigma))
        slopes.append(calibration.slope(x, x_t, x_hat, alpha))
    return torch.stack(errors).float(), torch.stack(slopes).float()


def heads(batches: Sequence[Batch], n: int) -> Iterator[Batch]:
    """The first n rows of a step's batch, in its micro-batches."""
    for batch in batches:
        if n > 0:
            yield head(batch, n)
        n -= len(batch)


def mean(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of every number over the micro-batches that have it."""
    names = dict.fromkeys(name for one in found for name in one)
    return {name: torch.stack([one[name].float() for one in found if name in one]).mean() for name in names}


def over_ranks(found: Mapping[str, Tensor], names: Sequence[str], world: World) -> dict[str, Tensor]:
    """The mean of every number over the ranks that have it, the same names on each. names: of all there can be."""
    assert found.keys() <= {*names}, found.keys() - {*names}
    held = [[float(found[name]) if name in found else 0.0, float(name in found)] for name in names]
    sums, counts = world.total(torch.tensor(held, dtype=torch.float64)).unbind(1)
    return {name: (s / n).float() for name, s, n in zip(names, sums, counts, strict=True) if n}


def head(batch: Batch, n: int) -> Batch:
    """The first n rows of a micro-batch, without its pairs."""
    if len(batch) <= n:
        return replace(batch, pair=None)
    cond, null, real_cond = ({k: v[:n] for k, v in c.items()} for c in (batch.cond, batch.null, batch.real_cond))
    x = None if batch.x is None else batch.x[:n]
    rows = slice(batch.rows.start, batch.rows.start + n)
    return Batch(rows, batch.total, cond, null, x, real_cond, batch.raw[:n])
