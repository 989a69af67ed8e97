"""Rules over signals that have one cause each. Thresholds: docs/healthy.md has the runs they were calibrated on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dmd2cli.doctor.finding import Finding, Rule
from dmd2cli.doctor.record import Record
from dmd2cli.doctor.symptoms import symptoms
from dmd2cli.recipe import Recipe

SKIPPED = 0.002
"""Share of a player's updates: one bad sample in a run is survived, more have a cause."""
ERROR = 1.2
"""Of the best linear prediction's, which an exact denoiser of a Gaussian equals, up to the noise of few samples."""
SLOPE = 0.2
"""Share of the noise that is left in or taken out too much."""
CONDITIONS = 0.5
DISTINCT = 0.8
BATCH = 0.5
"""Of the recipe's."""
FEWEST = 16
"""Samples in a batch, where there is no recipe to compare with."""
LAG = 0.05
GRADIENT = 30.0
GUIDED = 3.0
"""Of the best linear prediction's error, again."""
AVERAGE = 1.5
"""Of the metric without the moving average, for a metric of which less is better."""


def skipped(run: Record) -> Finding | None:
    """Updates that were not finite."""
    counts = {p: run.recent(f"{p}/skipped") or 0.0 for p in ("generator", "critic")}
    updates = {"generator": run.step / run.recipe.ttur, "critic": float(run.step)}
    player = max(counts, key=lambda p: counts[p] / max(1.0, updates[p]))
    share, stopped = counts[player] / max(1.0, updates[player]), sorted((run.folder / "diverged").glob("*.json"))
    if share <= SKIPPED and not stopped:
        return None
    says = f"{counts[player]:.0f} of about {updates[player]:.0f} updates of the {player} were not finite"
    first = f"; {stopped[-1].relative_to(run.folder)} names the first tensor" if stopped else ""
    r = run.recipe
    change = "run.precision=fp32" if r.run.precision == "fp16" else f"student.lr={r.student.lr / 3:.2g}"
    cause = "NaN or infinity in the data, a network or a loss" + first
    return Finding("finite", f"{player}/skipped", share, SKIPPED, says, cause, ["dmd2 data check", change])


def parametrisation(run: Record) -> Finding | None:
    """A teacher that errs more in one step than a linear prediction."""
    if (value := run.recent("health/teacher/error")) is None or value <= ERROR:
        return None
    says = f"in one step the teacher errs {value:.3g} times as much as the best linear prediction of its input"
    cause = "its output is read with the wrong parametrisation or scaling, or it was trained on other data"
    return Finding("teacher-error", "health/teacher/error", value, ERROR, says, cause, [preflight(run)])


def noise_level(run: Record) -> Finding | None:
    """A teacher that takes too little or too much noise away."""
    value, error = run.recent("health/teacher/slope"), run.recent("health/teacher/error")
    if value is None or abs(value) <= SLOPE or (error is not None and error > ERROR):
        return None
    side = "leaves noise in" if value < 0 else "smooths too much"
    says = f"the teacher {side}: {abs(value):.2g} of what it takes away is wrong"
    cause = "sigma mismatch: schedule, its units, or a timestep shift that the weights were not trained with"
    return Finding("teacher-noise", "health/teacher/slope", value, SLOPE, says, cause, [preflight(run)])


def labels(run: Record) -> Finding | None:
    """Batches with few different conditions."""
    if (value := run.recent("health/conditions")) is None or value >= CONDITIONS:
        return None
    says = f"a batch has {value:.2g} of the different conditions that chance would give it"
    cause = "collapsed labels: the data repeats few conditions"
    change = ["dmd2 data check", "data.prompts=..."]
    return Finding("conditions", "health/conditions", value, CONDITIONS, says, cause, change)


def stale(run: Record) -> Finding | None:
    """Real data that repeats within a batch."""
    if (value := run.recent("health/real/distinct")) is None or value >= DISTINCT:
        return None
    says = f"{value:.0%} of the real samples of a batch are different ones"
    cause = "stale data: the data set hands out the same few samples"
    change = ["dmd2 data check", "data.real=..."]
    return Finding("real-data", "health/real/distinct", value, DISTINCT, says, cause, change)


def batch(run: Record) -> Finding | None:
    """A batch that is much smaller than the recipe's, or small at all."""
    mine, known = run.recipe.run.batch, run.reference
    value, least = (mine / known.run.batch, BATCH) if known is not None else (mine / FEWEST, 1.0)
    if value >= least:
        return None
    wanted = known.run.batch if known is not None else FEWEST
    what = "the recipe's" if known is not None else "what any known recipe has at least,"
    says = f"the batch is {mine}, {what} {wanted}"
    change = [f"run.batch={wanted}", f"run.micro_batch={mine}"]
    return Finding("batch", "run.batch", value, least, says, "batch too small: gradients are mostly noise", change)


def lag(run: Record) -> Finding | None:
    """A critic that further training would bring much closer to the student."""
    if (value := run.overall("critic/lag")) is None or value <= LAG:        # falls with the rates at the end of a run
        return None
    r = run.recipe
    says = f"training on, with the student standing still, would lower the critic's loss by {value:.0%}"
    if r.critic.lr < r.student.lr / 2:
        cause, change = "the critic learns too slowly for this student", [f"critic.lr={r.student.lr:.2g}"]
    elif r.ttur < 5:
        cause, change = "too few critic updates for one of the generator (ttur)", ["ttur=5"]
    else:
        cause = "the critic is behind the student: its samples are stale, or the student moves too fast"
        change = [f"student.lr={r.student.lr / 3:.2g}", f"ttur={2 * r.ttur}"]
    return Finding("critic-lag", "critic/lag", value, LAG, says, cause, change)


def gan(run: Record) -> Finding | None:
    """A GAN term that outweighs distribution matching."""
    name = "health/gradient/gan_generator"
    if (value := run.recent(name)) is None or value <= GRADIENT:
        return None
    says = f"at the sample, the GAN's gradient is {value:.3g} times that of distribution matching"
    weight = run.recipe.losses["gan_generator"].weight
    change = ["losses.gan_generator.weight=auto"]
    if isinstance(weight, float):
        change.insert(0, f"losses.gan_generator.weight={weight / value:.2g}")
    return Finding("gan-weight", name, value, GRADIENT, says, "GAN weight too large", change)


def guidance(run: Record) -> Finding | None:
    """A guided teacher that is driven far from the data, more than the recipe asks for, and a student that shows it."""
    name = "health/teacher/guided_error"
    if (value := run.recent(name)) is None or value <= GUIDED or not above_reference(run) or not symptoms(run):
        return None
    scale = matching(run.recipe)
    says = f"under guidance {scale:g} the teacher errs up to {value:.3g} times as much as the best linear prediction"
    change = [f"losses.distribution_matching.guidance={1 + (scale - 1) / 3:.2g}"]
    return Finding("guidance", name, value, GUIDED, says, "guidance too high: it is what the student is taught", change)


def average(run: Record) -> Finding | None:
    """A moving average that is worse than the weights that it averages."""
    asked = run.recipe.health.validation
    name = f"validation/{asked.use}" if asked is not None else ""
    with_it, without = run.recent(name), run.recent(f"{name}/raw")
    if with_it is None or without is None or without <= 0 or run.recent("validation/score") != with_it:
        return None
    if (value := with_it / without) <= AVERAGE:
        return None
    says = f"{asked.use if asked else ''} is {with_it:.3g} with the moving average and {without:.3g} without it"
    seen = run.step / run.recipe.ttur * run.recipe.run.batch
    change = [f"student.ema_halflife_images={seen / 20:.2g}", "student.ema_ramp=0.05"]
    cause = "EMA too long for this run: its half-life is not small beside the images seen"
    return Finding("average", f"{name} over {name}/raw", value, AVERAGE, says, cause, change)


def preflight(run: Record) -> str:
    """The command that measures the teacher of a run."""
    return f"dmd2 doctor {run.folder / 'recipe.yaml'}"


def matching(recipe: Recipe) -> float:
    """Guidance of distribution matching, 1 without."""
    term = recipe.losses.get("distribution_matching")
    return 1.0 if term is None else float(term.options.get("guidance", 1.0))


def above_reference(run: Record) -> bool:
    """Whether the guidance is higher than in the packaged recipe that the run was made from."""
    return run.reference is None or matching(run.recipe) > matching(run.reference) * (1 + math.ulp(1.0))


CAUSES: Sequence[Rule] = (
    Rule("finite", "PLAYER/skipped", f"at most {SKIPPED:.1%} of the updates", skipped),
    Rule("teacher-error", "health/teacher/error", f"below {ERROR:g}", parametrisation),
    Rule("teacher-noise", "health/teacher/slope", f"within {SLOPE:g} of 0", noise_level),
    Rule("conditions", "health/conditions", f"above {CONDITIONS:g}", labels),
    Rule("real-data", "health/real/distinct", f"above {DISTINCT:g}", stale),
    Rule("batch", "run.batch", f"at least {BATCH:g} of the recipe's", batch),
    Rule("gan-weight", "health/gradient/gan_generator", f"below {GRADIENT:g}", gan),
    Rule("guidance", "health/teacher/guided_error", f"below {GUIDED:g}, or the recipe's own guidance", guidance),
    Rule("critic-lag", "critic/lag", f"below {LAG:g}", lag),
    Rule("average", "validation/METRIC over validation/METRIC/raw", f"below {AVERAGE:g}", average),
)
"""In the order in which they are told: what stands first may bring about the rest."""
