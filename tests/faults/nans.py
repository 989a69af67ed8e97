"""Numbers that are not finite, put into a run: {"do": "nan", "in": data | teacher | gradient, "first": S, "last": S}.

They come at steps first to last, counted from 1. gradient: of the critic.
"""

import math

import torch

from dmd2cli.data.base import item
from dmd2cli.engine import distill, watch


def install(given, honest=distill.job):
    """Spoil every job that this process makes from now on."""

    def job(*args, **kwargs):
        found = honest(*args, **kwargs)
        steps = range(given["first"] - 1, given["last"])
        SPOILERS[given["in"]](found, steps)
        return found

    distill.job = job


def in_data(job, steps):
    """All real samples of these steps, whenever they are read."""
    real, batch = job.loader.real, job.recipe.run.batch
    wrong = {item(0, "real", i, len(real)) for step in steps for i in range(step * batch, (step + 1) * batch)}
    real.x = [x * math.nan if i in wrong else x for i, x in enumerate(real.x)]


def in_teacher(job, steps):
    """The answer to the first sample."""

    def spoil(module, args, output):
        return output.index_fill(0, torch.tensor([0]), math.nan) if watch.here.step in steps else output

    job.distillation.teacher.denoiser.register_forward_hook(spoil)


def in_gradient(job, steps):
    """Of one weight."""
    p = job.players()["critic"].parameters[3]
    p.register_hook(lambda grad: grad * math.inf if watch.here.step in steps else grad)


SPOILERS = {"data": in_data, "teacher": in_teacher, "gradient": in_gradient}
