"""Does the null condition serve as one, and how far does guidance carry: the conditional side of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd2cli.core import calibration
from dmd2cli.core.denoiser import Cond
from dmd2cli.core.noise import scales
from dmd2cli.core.objective import guide
from dmd2cli.doctor.causes import GUIDED
from dmd2cli.doctor.finding import Finding
from dmd2cli.engine.preflight.reading import WORSE, Reading, denoised, finite
from dmd2cli.engine.preflight.subject import Subject

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
EFFECT = 0.01
"""Of what the conditional prediction misses. Digits: 0.9; a tiny Stable Diffusion: 0.6; one that ignores it: 0."""


@dataclass(frozen=True)
class Asked:
    """The guidance of a recipe: what the student is taught, the most where it is taught a range."""

    scale: float = 1.0
    range: bool = False

    def override(self, scale: float) -> str:
        """What sets another one."""
        return f"{'student.guidance.max' if self.range else 'losses.distribution_matching.guidance'}={scale:g}"


@dataclass(frozen=True)
class Null:
    """What is known of the null condition."""

    shapes: bool
    """As the condition's."""
    same: bool
    """The same in all rows."""
    differs: bool
    """From the condition."""
    effect: float
    """How far it moves the prediction, over what the conditional prediction misses (both root mean squares)."""
    error: float
    """Of the null prediction, the largest of all noise levels, over that of the best linear one."""
    empty_prompt: bool | None
    """Whether it is the embedding of the empty prompt; None where conditions are no prompts."""


@dataclass(frozen=True)
class Scale:
    """The guided one-step prediction at one scale, over all noise levels."""

    scale: float
    error: float
    """Largest, over that of the best linear prediction."""
    std: float
    """Largest standard deviation of the prediction, over that of the data."""
    moved: float
    """Largest distance from the unguided prediction, over what that one misses (both root mean squares)."""


Branch = tuple[Tensor, Tensor, Tensor, Tensor]
"""(times, x_t, conditional prediction, null prediction) of one noise level."""


def measured(s: Subject, reading: Reading) -> tuple[Null | None, list[Scale]]:
    """The null condition and the range of guidance.

    (None, []) for a teacher without conditions, or a recipe that asks for none. No guidance if the null does not fit.
    """
    if not s.cond or (s.raw and all(one is None for one in s.raw)):
        return None, []
    if {k: v.shape for k, v in s.cond.items()} != {k: v.shape for k, v in s.null.items()}:
        return Null(False, True, True, 0.0, 0.0, None), []
    pairs = zip(denoised(reading, s, s.cond), denoised(reading, s, s.null), strict=True)
    both = [(t, x_t, x_cond, x_null) for (_, t, x_t, x_cond), (_, _, _, x_null) in pairs]
    return null(s, reading, both), [guided(s, reading, both, scale) for scale in SCALES]


def null(s: Subject, reading: Reading, both: Sequence[Branch]) -> Null:
    """Of a null condition with the shapes of the condition."""
    same = all(bool((v == v[:1]).all()) for v in s.null.values())
    differs = any(not torch.equal(s.cond[k], s.null[k]) for k in s.cond)
    effect = max(rms(x_null - x_cond) / rms(s.x - x_cond) for _, _, x_cond, x_null in both)
    error = max(relative(s, reading, t, x_t, x_null) for t, x_t, _, x_null in both)
    return Null(True, same, differs, effect, error, empty(s))


def guided(s: Subject, reading: Reading, both: Sequence[Branch], scale: float) -> Scale:
    """The guided prediction at one scale."""
    error, std, moved = list[float](), list[float](), list[float]()
    for t, x_t, x_cond, x_null in both:
        x_hat = guide(x_null, x_cond, scale)
        error.append(relative(s, reading, t, x_t, x_hat))
        std.append(finite(x_hat.std() / s.x.std()))
        moved.append(rms(x_hat - x_cond) / rms(s.x - x_cond))
    return Scale(scale, max(error), max(std), max(moved))


def largest(scales: Sequence[Scale], bound: float) -> float | None:
    """The largest scale up to which the error stays below a bound; None if even 1 exceeds it."""
    found = None
    for one in scales:
        if one.error >= bound:
            break
        found = one.scale
    return found


def error_at(found: Sequence[Scale], scale: float) -> float:
    """The error at a scale, linear between those that were measured, and beyond the last."""
    low = max((i for i, one in enumerate(found[:-1]) if one.scale <= scale), default=0)
    a, b = found[low], found[low + 1]
    return a.error + (b.error - a.error) * (scale - a.scale) / (b.scale - a.scale)


def relative(s: Subject, reading: Reading, t: Tensor, x_t: Tensor, x_hat: Tensor) -> float:
    """Error over that of the best linear prediction."""
    return finite(calibration.error(s.x, x_t, x_hat, *scales(reading.schedule, t, s.x)))


def rms(x: Tensor) -> float:
    """Root mean square, above 0."""
    return max(1e-12, finite(x.square().mean().sqrt()))


def empty(s: Subject) -> bool | None:
    """Whether the null condition is the empty prompt's."""
    if not s.teacher.prompts or not all(isinstance(one, str) for one in s.raw):
        return None
    cond: Cond = s.teacher.encode([""])[0]
    return all(torch.allclose(cond[k].to(v), v[:1], atol=1e-4) for k, v in s.null.items() if k in cond)


def findings(found: Null | None, asked: Asked, scales: Sequence[Scale], sound: bool) -> list[Finding]:
    """What is wrong with the null condition. sound: whether the teacher denoises; else its form alone is judged."""
    if found is None:
        return []
    wrong = [
        Finding("null", "null", 0.0, 1.0, says, "the teacher's encode gives no null condition")
        for fine, says in (
            (found.shapes, "the null condition has other parts or shapes than the condition"),
            (found.same, "the null condition is not the same in all rows of a batch"),
            (found.differs, "the null condition is the condition itself"),
        )
        if not fine
    ]
    if wrong or not sound:
        return wrong
    if found.effect < EFFECT:
        says = f"the condition moves the prediction by {found.effect:.2g} of what it misses, as good as not at all"
        cause = "the network does not read its conditions, or conditions are those of other samples"
        return [Finding("null", "null/effect", found.effect, EFFECT, says, cause)]
    if found.error > WORSE and asked.scale != 1.0:
        says = f"without its condition the teacher errs {found.error:.3g} times as much as the best linear prediction"
        cause = "it was not trained with conditions left out, or its null condition is another one"
        return [Finding("null", "null/error", found.error, WORSE, says, cause, [asked.override(1.0)])]
    return []


def too_much(asked: Asked, scales: Sequence[Scale]) -> list[Finding]:
    """More guidance than the one-step prediction bears. Not of a range: its student knows the scale."""
    if asked.scale == 1.0 or asked.range or not scales or (value := error_at(scales, asked.scale)) <= GUIDED:
        return []
    says = f"under guidance {asked.scale:g} one step errs {value:.3g} times as much as the best linear prediction"
    cause = "guidance beyond what this teacher bears: it is what the student is taught"
    most = largest(scales, GUIDED)
    return [Finding("guidance", "guided/error", value, GUIDED, says, cause, [asked.override(most)] if most else [])]
