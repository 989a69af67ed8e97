"""What `dmd2 doctor RECIPE` prints: the teacher level by level, what is wrong, what to set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmd2cli.doctor.finding import Finding
    from dmd2cli.engine.preflight.preflight import Preflight

FEWEST, MOST = 8, 2**16
"""Samples: a mean of fewer says nothing, and more say no more."""
UPDATES = 4
"""Of the generator, over which the weight of the GAN is measured."""
SHOWN = 4
"""Readings in the table besides the configured one."""


def show(name: str, overrides: Sequence[str], samples: int | None, updates: int | None, as_json: bool) -> None:
    """Measure a recipe's teacher and print it. Raises UserError for bad options, and as a training does."""
    import json

    from dmd2cli.engine import runtime
    from dmd2cli.engine.preflight.preflight import preflight
    from dmd2cli.errors import UserError
    from dmd2cli.recipe import load
    from dmd2cli.recipe_build import check

    if samples is not None and not FEWEST <= samples <= MOST:
        raise UserError(f"--samples: must be from {FEWEST} to {MOST}, got {samples}")
    if updates is not None and updates < 0:
        raise UserError(f"--updates: must be 0 or more, got {updates}")
    recipe = load(name, overrides)
    check(recipe)
    device = runtime.device(recipe.run.device)
    runtime.set_threads(recipe.run.threads)
    runtime.set_tf32(recipe.run)
    found = preflight(recipe, device, samples, UPDATES if updates is None else updates)
    facts = {"recipe": name, **found.as_json()}
    print(json.dumps(facts, indent=2) if as_json else "\n\n".join(paragraphs(name, found)))


def paragraphs(name: str, found: Preflight) -> Iterator[str]:
    """The pre-flight for people."""
    of = "real samples" if found.real else "samples of the teacher's own"
    yield f"{name}: {found.verdict}; measured on {found.samples} {of}, standard deviation {found.std:.3g}"
    yield levels(found)
    if len(found.fits) > 1:
        yield readings(found)
    if found.precisions:
        yield precisions(found)
    if found.scales:
        yield guidance(found)
    for heading, listed in (("", found.findings), ("warning: ", found.warnings)):
        yield from (finding(heading, one) for one in listed)
    if found.proposals:
        yield "\n".join(f"propose  {one.override}\n         {one.because}" for one in found.proposals)
    yield from (f"note: {note}" for note in found.notes)


def levels(found: Preflight) -> str:
    """The configured reading. NOISE: sigma / alpha in standard deviations of the samples."""
    from dmd2cli.cli.table import table

    rows = [
        (f"{one.noise:g}", f"{one.t:.3f}", f"{one.error:.3f}", f"{one.slope:+.3f}", f"{one.left:.1%}")
        for one in found.fits[0].levels
    ]
    return table(("NOISE", "TIME", "ERROR", "SLOPE", "LEFT"), rows)


def readings(found: Preflight) -> str:
    """The configured reading against the best of all others."""
    from dmd2cli.cli.table import table

    first = found.fits[: 1 + SHOWN]
    rows = [(fit.reading.name, f"{fit.mean:.3f}", f"{fit.error:.3f}", f"{fit.slope:+.3f}") for fit in first]
    shown = table(("READ AS", "MEAN ERROR", "LARGEST", "SLOPE"), rows)
    return shown + (f"\nand {more} that fit worse" if (more := len(found.fits) - 1 - SHOWN) > 0 else "")


def precisions(found: Preflight) -> str:
    """The decoder in every type. DIFFERENCE: largest, to fp32, of 255."""
    from dmd2cli.cli.table import table

    words = {True: "finite", False: "NOT FINITE", None: "-"}
    rows = [
        (
            one.dtype + " (configured)" * one.configured,
            words[one.finite],
            "-" if one.difference is None else f"{one.difference:.2f}",
            words[one.encodes],
        )
        for one in found.precisions
    ]
    return table(("DECODER", "PIXELS", "DIFFERENCE", "LATENTS"), rows)


def guidance(found: Preflight) -> str:
    """Scale by scale."""
    from dmd2cli.cli.table import table

    rows = [(f"{one.scale:g}", f"{one.error:.3f}", f"{one.std:.2f}", f"{one.moved:.2f}") for one in found.scales]
    asked = f"\nthe recipe asks for {found.guidance.scale:g}" if found.guidance.scale != 1 else ""
    return table(("GUIDANCE", "ERROR", "STD", "MOVED"), rows) + asked


def finding(heading: str, one: Finding) -> str:
    """What is wrong, as for a run."""
    lines = [
        f"{heading}{one.rule}: {one.says}",
        f"    signal   {one.signal} = {one.value:.4g}, threshold {one.threshold:g}",
        f"    cause    {one.cause}",
    ]
    return "\n".join(lines + ([f"    change   {'  '.join(one.change)}"] if one.change else []))
