"""The recipe of a model of one's own, as text: each value with its reason behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from dmd2cli.core.noise import Discrete, Karras, RectifiedFlow
from dmd2cli.data.offered import Offered
from dmd2cli.engine.inspect import Found
from dmd2cli.engine.plan.choice import Way
from dmd2cli.errors import UserError
from dmd2cli.recipe_settings import Setting, Settings, settings
from dmd2cli.samplers.few_step import check_table

WIDTH = 44
"""Where reasons begin."""

Line = tuple[str, str]
"""YAML, and the reason that stands behind it; "" for none."""


@dataclass(frozen=True)
class Draft:
    """All that a recipe is written from. Raises UserError for steps that the teacher's table cannot have."""

    found: Found
    steps: int
    prompts: Mapping[str, Any] | None
    """data.prompts; None for all classes, or no conditions."""
    missing: bool
    """Whether the file of prompts is still to be written."""
    real: Offered | None
    metrics: Sequence[Setting] = ()

    @property
    def settings(self) -> Settings:
        """What it starts from."""
        return settings(self.found.family, self.found.text, self.found.parameters)

    def __post_init__(self) -> None:
        times(self.found, self.steps, self.settings.one_step)

    @property
    def times(self) -> Setting:
        """Of the student's calls."""
        return times(self.found, self.steps, self.settings.one_step)


def text(draft: Draft, way: Way, planned: bool, micro_batch: int | None = None, head: Sequence[str] = ()) -> str:
    """The recipe. planned: for a GPU whose memory is known. head: lines of its first comment."""
    parts = (teacher, players, losses, data, rest)
    lines = [line for part in parts for line in part(draft, way)]
    lines += run(draft, way, planned, micro_batch)
    return "".join(f"# {line}\n" for line in head) + "".join(laid(*line) for line in lines)


def laid(said: str, why: str) -> str:
    """A line with its reason."""
    return f"{said:<{WIDTH}}  # {why}\n" if why else f"{said}\n"


def plain(value: Any) -> str:
    """A value as strict YAML, in one line."""
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.6g}".partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{f'e{int(exponent):+d}' if exponent else ''}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plain(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(plain(one) for one in value)}]"
    bare = isinstance(value, str) and re.fullmatch(r"[A-Za-z_./][\w./-]*", value) and yaml.safe_load(value) == value
    return str(value) if bare else json.dumps(value, ensure_ascii=False)


def teacher(draft: Draft, way: Way) -> Iterator[Line]:
    """Which model."""
    found, facts = draft.found, draft.found.facts
    yield "teacher:", ""
    yield f"  use: {found.family}", f"{facts['prediction']} prediction, {facts['schedule']}, {facts['resolution']}"
    for key, value in found.use.items():
        if key != "use":
            yield f"  {key}: {plain(value)}", "as given"


def players(draft: Draft, way: Way) -> Iterator[Line]:
    """Student, critic, and how they take turns."""
    chosen, lr = draft.settings, draft.settings.lora_lr if way.lora else draft.settings.lr
    adapter = "{rank: 64, alpha: 8.0}"
    yield "student:", ""
    yield f"  times: {plain(draft.times.value)}", draft.times.why
    yield f"  lr: {plain(lr.value)}", lr.why
    if way.lora:
        yield f"  lora: {adapter}", "release, SDXL; not all weights learn, because they do not fit the device"
    yield "critic:", ""
    yield f"  lr: {plain(lr.value)}", "the student's, as in the release"
    if way.lora:
        yield f"  lora: {adapter}", "the student's; the release has a whole critic, which takes more memory"
    if way.shared:
        yield "shared_base: true", "teacher, student and critic are one network in memory"
    yield f"ttur: {chosen.ttur.value}", chosen.ttur.why
    if isinstance(draft.found.teacher.schedule, Discrete):
        bins = len(draft.found.teacher.schedule.alphas_cumprod)
        yield f"bins: {bins}", "noise levels are the teacher's timesteps"


def losses(draft: Draft, way: Way) -> Iterator[Line]:
    """Terms of both players."""
    chosen = draft.settings
    yield "losses:", ""
    yield "  distribution_matching:", ""
    yield "    weight: 1.0", "the unit of the others"
    yield f"    guidance: {plain(guidance(draft).value)}", guidance(draft).why
    yield "    t_min: 0.02", "DMD, Sec. 3.2: neither almost clean nor pure noise"
    yield "    t_max: 0.98", "the same"
    yield "  denoising:", ""
    yield "    weight: 1.0", "the critic learns the student's distribution"
    if draft.real is None:
        return
    yield "  gan_generator:", ""
    yield f"    weight: {plain(chosen.gan.value)}", chosen.gan.why
    yield "  gan_critic:", ""
    yield "    weight: 1.0e-2", "release; a larger one hurts the fake score"


def guidance(draft: Draft) -> Setting:
    """Of the teacher's score."""
    if dict(draft.found.teacher.details.get("config", {})).get("guidance_embeds"):
        return Setting(1.0, "this network was guided in its own training already")
    return draft.settings.guidance


def data(draft: Draft, way: Way) -> Iterator[Line]:
    """Conditions and real samples."""
    classes, shown = len(draft.found.teacher.conditions), list[Line]()
    if draft.prompts is not None:
        why = "still to be written: one prompt on each line" if draft.missing else "what samples are drawn for"
        shown.append((f"  prompts: {plain(draft.prompts)}", why))
    elif classes:
        shown.append((f"  prompts: {plain({'use': 'class-labels', 'classes': classes})}", "every class equally often"))
    if draft.real is not None:
        later = ", by the commands above" if draft.real.commands else ""
        shown.append((f"  real: {plain(draft.real.real)}", f"{draft.real.what}{later}; for the GAN"))
    yield from [("data:", ""), *shown] if shown else []


def rest(draft: Draft, way: Way) -> Iterator[Line]:
    """What the teacher is drawn with, and what is measured."""
    if isinstance(draft.found.teacher.schedule, Karras):
        yield "sampler: {use: heun, steps: 18}", "the teacher's, for comparison; EDM's own, 35 calls"
    else:
        yield "sampler: {use: ddim, steps: 50}", "the teacher's, for comparison; deterministic, as pairs need"
    if draft.metrics:
        yield f"metrics: {plain([one.value for one in draft.metrics])}", "; ".join(one.why for one in draft.metrics)
    else:
        yield "metrics: []", "none yet: name here what `dmd2 eval all` is to measure"


def run(draft: Draft, way: Way, planned: bool, micro_batch: int | None) -> Iterator[Line]:
    """Length, size, machine."""
    chosen = draft.settings
    batch = chosen.batch.value
    yield "run:", ""
    yield f"  steps: {chosen.steps.value}", chosen.steps.why
    yield f"  batch: {batch}", chosen.batch.why
    if micro_batch is not None and micro_batch < batch:
        yield f"  micro_batch: {micro_batch}", "the largest that fits; gradients of a batch are summed"
    if planned:
        yield "  precision: bf16", "release; products in bfloat16, weights and sums in float32"
    else:
        yield "  precision: auto", "bf16 where the GPU has it"
    if planned and (draft.found.text or way.lora):
        yield "  teacher_weights: bf16", "release; what does not learn is stored in half of the memory"
    if way.checkpointing:
        yield "  checkpointing: true", "activations do not fit; one more forward pass of what learns"


def times(found: Found, steps: int, one: Setting | None) -> Setting:
    """Evenly spaced from noise. Raises UserError for a number of steps that a table cannot have."""
    if steps < 1:
        raise UserError(f"--steps {steps}: must be at least 1")
    schedule, spaced = found.teacher.schedule, [round(1 - i / steps, 6) for i in range(steps)]
    if one is not None and steps == 1 and on_table(schedule, [one.value]):
        return Setting([one.value], one.why)
    if isinstance(schedule, Discrete):
        n = len(schedule.alphas_cumprod)
        try:
            check_table(schedule, [1 - i / steps for i in range(steps)])
        except UserError as err:
            raise UserError(f"--steps {steps}: {err}") from None
        return Setting(spaced, f"evenly spaced, as in the release: timesteps {shown(round(t * n) - 1 for t in spaced)}")
    if isinstance(schedule, RectifiedFlow | Karras):
        sigmas = schedule(torch.tensor(spaced, dtype=torch.float64))[1].tolist()
        return Setting(spaced, f"evenly spaced on the clock: sigma {shown(f'{sigma:.3g}' for sigma in sigmas)}")
    return Setting(spaced, "evenly spaced")


def on_table(schedule: Any, asked: Sequence[float]) -> bool:
    """Whether times are timesteps of a schedule."""
    try:
        check_table(schedule, asked)
    except UserError:
        return False
    return True


def shown(values: Any) -> str:
    """A list in words."""
    return ", ".join(str(value) for value in values)
