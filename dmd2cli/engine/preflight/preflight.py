"""All of a pre-flight: what is measured of a recipe's teacher, what is wrong, and what it proposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.data.base import Loader
from dmd2cli.doctor.causes import matching
from dmd2cli.doctor.finding import Finding
from dmd2cli.engine import build, oom
from dmd2cli.engine.phases import check_encoded, check_labels, check_real, fitting
from dmd2cli.engine.preflight import conditions, decoder, judge, times
from dmd2cli.engine.preflight.candidates import configured
from dmd2cli.engine.preflight.gan import TERM, balanced
from dmd2cli.engine.preflight.proposals import Proposal, proposals
from dmd2cli.engine.preflight.reading import Fit
from dmd2cli.engine.preflight.subject import Subject, subject
from dmd2cli.protocols import Teacher
from dmd2cli.recipe import Recipe
from dmd2cli.recipe_build import build as made
from dmd2cli.recipe_stages import staged


@dataclass(frozen=True)
class Preflight:
    """What was measured. Findings make a teacher not ready; warnings are about the recipe around it."""

    verdict: Literal["ready", "not ready"]
    samples: int
    real: bool
    """Whether measured on data, and not on the teacher's own samples."""
    std: float
    """Of the samples."""
    fits: Sequence[Fit]
    """The configured reading first, then others, the best first."""
    precisions: Sequence[decoder.Precision]
    channels: Sequence[decoder.Channel]
    null: conditions.Null | None
    scales: Sequence[conditions.Scale]
    guidance: conditions.Asked
    curve: Sequence[times.Open]
    student: Sequence[tuple[float, float | None]]
    """(time, log-SNR) of every call of the student."""
    findings: Sequence[Finding]
    warnings: Sequence[Finding]
    proposals: Sequence[Proposal]
    notes: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        own, *others = self.fits
        held = {k: v for k, v in vars(self).items() if k != "fits"}
        plain = {k: [asdict(one) for one in v] if listed(v) else v for k, v in held.items()}
        plain |= {"guidance": asdict(self.guidance), "null": None if self.null is None else asdict(self.null)}
        plain["student"] = [list(one) for one in self.student]
        return {**plain, "configured": as_json(own), "candidates": [as_json(fit) for fit in others]}


def listed(value: Any) -> bool:
    """Whether it is a sequence of dataclasses."""
    return isinstance(value, list) and bool(value) and hasattr(value[0], "__dataclass_fields__")


def as_json(fit: Fit) -> dict[str, Any]:
    """One reading."""
    named = {"name": fit.reading.name, "kind": fit.reading.kind}
    summary = {"mean_error": fit.mean, "error": fit.error, "slope": fit.slope}
    return {**named, **summary, "levels": [asdict(level) for level in fit.levels]}


def preflight(recipe: Recipe, device: torch.device, samples: int | None, updates: int) -> Preflight:
    """Measure the teacher of a recipe. samples: None for as many as suffice. updates: of the generator, for the weight
    of the GAN; 0 leaves it out. Raises UserError for what a training would refuse as well.
    """
    last = staged(recipe)[-1].recipe
    found = examined(last, device, samples)
    if found.findings:
        return found
    weight, note = gan(last, device, updates)
    if weight is None:
        return replace(found, notes=[*found.notes, *note])
    because = f"the two gradients at the sample are equal over the first {updates} updates of the generator"
    more = Proposal(f"losses.{TERM}.weight={weight:.2g}", because)
    return replace(found, proposals=[*found.proposals, more])


def examined(recipe: Recipe, device: torch.device, samples: int | None) -> Preflight:
    """All but the weight of the GAN, which needs the other networks as well."""
    teacher = build.teacher(recipe.model_copy(update={"run": recipe.run.model_copy(update={"offload": ()})}), device)
    loader = loaded(recipe, teacher, device)
    s = subject(recipe, teacher, made("samplers", recipe.sampler, "sampler"), loader, samples)
    loader.close()
    own, asked, spots = configured(teacher), guidance(recipe), recipe.student.times
    fits, precisions = judge.fits(s, own), decoder.precisions(s)
    (null, scales), curve = conditions.measured(s, own), times.curve(s, own)
    read = judge.findings(recipe, fits)
    findings = [*read, *conditions.findings(null, asked, scales, not read), *decoder.findings(s, precisions)]
    spare = times.wasted(curve, teacher.schedule, s.std, spots)
    warnings = [] if findings else [*conditions.too_much(asked, scales), *spare]
    student = list(zip(spots, times.log_snr(teacher.schedule, spots), strict=True))
    proposed = [] if findings else proposals(scales, curve, teacher.schedule, s.std, asked)
    verdict: Literal["ready", "not ready"] = "not ready" if findings else "ready"
    measured = (len(s.x), s.real, s.std, fits, precisions, decoder.channels(s), null, scales, asked, curve, student)
    return Preflight(verdict, *measured, findings, warnings, proposed, notes(s))


def loaded(recipe: Recipe, teacher: Teacher, device: torch.device) -> Loader:
    """The data of a recipe, without pairs, which may not be made yet. Raises UserError as a training does."""
    data = recipe.data.model_copy(update={"pairs": None})
    found = build.loader(data, recipe.run, device, made=partial(fitting, teacher))
    check_encoded(recipe, teacher, found)
    check_labels(recipe, teacher, found.prompts)
    check_real(recipe, teacher, found.real, quiet=True)
    return found


def guidance(recipe: Recipe) -> conditions.Asked:
    """What a recipe asks for."""
    wide = recipe.student.guidance
    return conditions.Asked(matching(recipe)) if wide is None else conditions.Asked(wide.max, range=True)


def gan(recipe: Recipe, device: torch.device, updates: int) -> tuple[float | None, list[str]]:
    """The balanced weight of the GAN, or why there is none."""
    short = f"the weight of the GAN is not known after {updates} updates of the generator; take more (--updates)"
    try:
        found = balanced(recipe, device, updates)
        return found, [short] if found is None and TERM in recipe.losses and updates else []
    except (RuntimeError, MemoryError) as err:
        if not oom.is_oom(err):
            raise
        return None, ["the weight of the GAN is not measured: all networks together do not fit into memory here"]


def notes(s: Subject) -> list[str]:
    """What a reader must know of these numbers."""
    found = list[str]()
    if not s.real:
        found.append(
            "measured on the teacher's own samples, because the recipe names no real data: a wrong noise level shows "
            "less there; data.real=... is surer"
        )
    if not isinstance(s.teacher.denoiser, Preconditioned):
        found.append("this teacher's denoiser is no Preconditioned: error and slope alone, no other reading was tried")
    return found
