"""How a student is called by programs that do not read its contract: in one line, in metadata, as a scheduler."""

from __future__ import annotations

from typing import Any

from dmd2_plugins.export import card, lcm
from dmd2cli.student import Student


def scheduler(student: Student) -> Any:
    """What a pipeline of the base is called with."""
    import diffusers

    kind = diffusers.EulerDiscreteScheduler if ode(student) else diffusers.LCMScheduler
    return kind(**lcm.table(student), steps_offset=1)


def ode(student: Student) -> bool:
    """Whether the student follows the ODE between its calls."""
    return len(student.times) > 1 and not lcm.stochastic(student)


def metadata(student: Student, **more: object) -> dict[str, str]:
    """What the file says of itself: strings."""
    steps, details = ",".join(map(str, lcm.timesteps(student))), student.contract["details"]
    return {
        "format": "pt",
        "usage": usage(student),
        "dmd2_timesteps": steps,
        "dmd2_times": ",".join(f"{t:g}" for t in student.times),
        "dmd2_sampler": "euler" if ode(student) else "lcm",
        "dmd2_base": card.named(str(details["model"])),
        "dmd2_base_sha256": str(details.get("sha256", "")),
        "dmd2_licence": "; ".join([*card.inherited(student.contract), str(details["licence"])]),
        **{name: str(value) for name, value in more.items()},
    }


def usage(student: Student) -> str:
    """One line for people."""
    steps = ", ".join(map(str, lcm.timesteps(student)))
    sampler = "Euler sampler" if ode(student) else "LCM sampler"
    return f"{sampler}, CFG 1, {len(student.times)} step(s) at exactly the timesteps {steps}, LoRA weight 1"
