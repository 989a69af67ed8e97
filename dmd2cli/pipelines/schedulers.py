"""Schedulers of diffusers by short names, made from the configuration of a pipeline's own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dmd2cli.errors import UserError, suggest
from dmd2cli.installation.problem import problem


@dataclass(frozen=True)
class Named:
    """A scheduler's class in diffusers, what is set besides the pipeline's own configuration, its class for flows."""

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    flow: str | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    """Options of the pipeline's call, where it has them."""


OURS = "RectifiedFlow"
SCHEDULERS = {
    "ddim": Named("DDIMScheduler"),
    "ddpm": Named("DDPMScheduler"),
    "pndm": Named("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": Named("LMSDiscreteScheduler"),
    "euler": Named("EulerDiscreteScheduler", flow="FlowMatchEulerDiscreteScheduler"),
    "euler-a": Named("EulerAncestralDiscreteScheduler"),
    "heun": Named("HeunDiscreteScheduler", flow="FlowMatchHeunDiscreteScheduler"),
    "dpm++": Named("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpm++-sde": Named("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "unipc": Named("UniPCMultistepScheduler"),
    "lcm": Named("LCMScheduler", flow="FlowMatchLCMScheduler"),
    "tcd": Named("TCDScheduler", call={"eta": 0.3}),
    "rectified-flow": Named(OURS),
}
"""dpm++ is the multistep one of second order, 2M. eta of tcd: as its authors advise for few steps."""


def scheduler(asked: str, own: Any) -> tuple[Any, Mapping[str, Any]]:
    """NAME[:key=value:...] from the configuration of a pipeline's own scheduler; and options of the pipeline's call.

    Raises UserError for a name or option that there is not, and for one that does not do for flow matching.
    """
    name, *pairs = re.split(r":(?=\w+=)", asked)
    if (found := SCHEDULERS.get(name)) is None:
        raise UserError(f"--scheduler {name}: no such scheduler{suggest(name, SCHEDULERS)}")
    kind = class_of(found, own, name)
    settings = {**found.config, **dict(read(pair) for pair in pairs)}
    known = inspect.signature(kind.__init__).parameters
    for key in settings:
        if key not in known:
            raise UserError(f"--scheduler {asked}: {name} has no option {key!r}{suggest(key, known)}")
    try:
        return kind.from_config(dict(own.config), **settings), found.call
    except (ValueError, TypeError, NotImplementedError, ImportError) as err:
        raise UserError(f"--scheduler {asked}: {problem(err) or ' '.join(str(err).split())[:200]}") from err


def class_of(found: Named, own: Any, name: str) -> Any:
    """The class for a pipeline with that scheduler of its own."""
    import diffusers

    if found.kind == OURS:
        from dmd2cli.pipelines.rectified_flow import RectifiedFlow

        return RectifiedFlow
    if not is_flow(own):
        return getattr(diffusers, found.kind)
    if found.flow is None:
        can = [each for each, one in SCHEDULERS.items() if one.flow is not None]
        raise UserError(f"--scheduler {name}: this pipeline is of flow matching; choose from {', '.join(can)}")
    return getattr(diffusers, found.flow)


def is_flow(own: Any) -> bool:
    """Whether a scheduler is one of flow matching."""
    return type(own).__name__.startswith("FlowMatch")


def read(pair: str) -> tuple[str, Any]:
    """key=value, the value as in YAML. Raises UserError for one that is none."""
    import yaml

    key, _, value = pair.partition("=")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--scheduler: {pair}: the value is no number, word or list; see dmd2 sample --help") from None
