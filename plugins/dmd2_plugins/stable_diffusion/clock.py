"""From the scheduler configuration of a pipeline to a noise schedule, what the network predicts, and its own clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmd2cli.core import parametrization, weighting
from dmd2cli.core.noise import Discrete, NoiseSchedule, RectifiedFlow
from dmd2cli.core.parametrization import Parametrization
from dmd2cli.core.weighting import Weighting
from dmd2cli.errors import UserError

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "flow_prediction": "flow"}
"""diffusers' names of what networks predict, and ours."""

KNOWN = {
    "eps": (parametrization.eps, weighting.snr),
    "v": (parametrization.v, weighting.flow),            # v-MSE is x_hat-MSE / sigma^2 where alpha^2 + sigma^2 = 1
    "flow": (parametrization.flow, weighting.flow),
}
"""Prediction -> (parametrisation, weight that makes its own MSE of x_hat-MSE)."""

KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
"""Of a table, besides prediction_type."""


@dataclass(frozen=True)
class Clock:
    """All that a scheduler configuration says of a network."""

    schedule: NoiseSchedule
    prediction: str
    """eps, v or flow."""
    config: Mapping[str, Any]
    """The keys that matter, from which read() makes the same again. JSON values."""

    @property
    def parametrization(self) -> Parametrization:
        return KNOWN[self.prediction][0]

    @property
    def weighting(self) -> Weighting:
        return KNOWN[self.prediction][1]

    @property
    def steps(self) -> int:
        """Timesteps that the network was trained with."""
        return int(self.config["num_train_timesteps"])

    def c_noise(self, t: Tensor) -> Tensor:
        """The network's own time: the index into a table, or sigma times the number of timesteps."""
        return index(t, self.schedule) if isinstance(self.schedule, Discrete) else level(t, self.schedule, self.steps)


def index(t: Tensor, schedule: Discrete) -> Tensor:
    """The integer timestep."""
    return schedule.index(t)


def level(t: Tensor, schedule: NoiseSchedule, steps: int) -> Tensor:
    """sigma in [0, 1] in units of timesteps, as flow networks take it."""
    return steps * schedule(t)[1]


def read(config: Mapping[str, Any], given: Mapping[str, Any] | None = None, tokens: int = 0) -> Clock:
    """given: options that override the configuration: prediction (eps, v, flow), zero_snr, shift.

    tokens: of an image in the network, for schedules whose shift depends on it. Raises UserError for a scheduler of
    another kind or that nobody knows, and for eps at alpha(1) = 0.
    """
    given, name = {k: v for k, v in (given or {}).items() if v is not None}, str(config.get("_class_name", ""))
    known(name)
    flow = name.startswith("FlowMatch") or config.get("use_flow_sigmas")
    named = "flow_prediction" if flow else config.get("prediction_type", "epsilon")
    prediction = given.get("prediction", PREDICTIONS.get(named))
    if prediction not in KNOWN:
        raise UserError(f"scheduler: prediction_type {named} is not one of {', '.join(PREDICTIONS)}")
    with torch.device("cpu"):                            # tables hold numbers, in a skeleton as well
        return straight(config, given, tokens) if prediction == "flow" else table(config, given, prediction)


def known(name: str) -> None:
    """Raise UserError for a class of schedulers that diffusers does not have: its keys may mean something else."""
    import diffusers

    if name and not hasattr(diffusers, name):
        advice = "write the class that the model was trained with into scheduler_config.json, such as DDIMScheduler"
        raise UserError(f"scheduler {name}: this diffusers has none of that name; {advice}")


def straight(config: Mapping[str, Any], given: Mapping[str, Any], tokens: int) -> Clock:
    """Straight paths with the configured shift."""
    shift = float(given.get("shift", dynamic(config, tokens) or config.get("flow_shift") or config.get("shift", 1.0)))
    steps = config.get("num_train_timesteps", 1000)
    kept = {"num_train_timesteps": steps, "prediction_type": "flow_prediction", "shift": shift}
    return Clock(RectifiedFlow(shift), "flow", kept)


def dynamic(config: Mapping[str, Any], tokens: int) -> float | None:
    """The shift of a schedule that depends on the number of tokens (FLUX): linear between two, and its exponential."""
    if not config.get("use_dynamic_shifting"):
        return None
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    mu = config["base_shift"] + (config["max_shift"] - config["base_shift"]) * (tokens - few) / (many - few)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def table(config: Mapping[str, Any], given: Mapping[str, Any], prediction: str) -> Clock:
    """A table of betas, rescaled so that it ends in pure noise where that is asked (Lin et al. 2023, Alg. 1)."""
    if "shift" in given:
        raise UserError("shift: belongs to flow matching, and this scheduler has a table of betas; leave it out")
    zero = bool(given.get("zero_snr", config.get("rescale_betas_zero_snr", False)))
    named = next(name for name, ours in PREDICTIONS.items() if ours == prediction)
    kept = {key: config[key] for key in KEYS if config.get(key) is not None}
    kept |= {"prediction_type": named, "rescale_betas_zero_snr": zero}
    found = betas(config)
    if zero:
        from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

        found = rescale_zero_terminal_snr(found)
    schedule = Discrete(torch.cumprod(1 - found, 0))
    if prediction == "eps" and float(schedule.alphas_cumprod[-1]) == 0:
        why = "the last timestep is pure noise, of which eps says nothing"
        raise UserError(f"scheduler: prediction_type epsilon with zero terminal SNR: {why}; set teacher.prediction: v")
    return Clock(schedule, prediction, kept | {"num_train_timesteps": len(found)})


def betas(config: Mapping[str, Any]) -> Tensor:
    """In float64, by the library's rules."""
    if (trained := config.get("trained_betas")) is not None:
        return torch.tensor(trained, dtype=torch.float64)
    kind, n = config.get("beta_schedule"), config.get("num_train_timesteps", 1000)
    if kind == "linear":
        return torch.linspace(config["beta_start"], config["beta_end"], n, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, n, dtype=torch.float64) ** 2
    if kind == "squaredcos_cap_v2":
        from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar

        return betas_for_alpha_bar(n).double()
    name = config.get("_class_name", "?")
    raise UserError(f"scheduler {name}: neither a table of betas nor flow matching; choose another teacher.model")
