"""Numbers that are not finite, put into a run: {"do": "nan", "in": data | teacher | gradient, "first": S, "last": S}.

They come at steps first to last, counted from 1. gradient: of the critic.
"""

import math

import torch

from dmd2cli.engine import distill, watch


def install(given, honest=distill.job):
    """Spoil every job that this process makes from now on."""

    def job(*args, **kwargs):
        found = honest(*args, **kwargs)
        SPOILERS[given["in"]](found, lambda: given["first"] <= watch.here.step + 1 <= given["last"])
        return found

    distill.job = job


def in_data(job, bad):
    """All real samples."""

    class Spoilt(list):
        def __getitem__(self, i):
            return super().__getitem__(i) * (math.nan if bad() else 1)

    real = job.loader.real
    real.x = Spoilt(real.x)


def in_teacher(job, bad):
    """The answer to the first sample."""

    def spoil(module, args, output):
        return output.index_fill(0, torch.tensor([0]), math.nan) if bad() else output

    job.distillation.teacher.denoiser.register_forward_hook(spoil)


def in_gradient(job, bad):
    """Of one weight."""
    job.players()["critic"].parameters[3].register_hook(lambda grad: grad * math.inf if bad() else grad)


SPOILERS = {"data": in_data, "teacher": in_teacher, "gradient": in_gradient}
