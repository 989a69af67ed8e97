"""Checks of the network that students start from: its features, and that copies of it are copies."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from dmd2cli.core.heads import logits
from dmd2cli.protocols import Teacher
from dmd2cli.testing.said import say
from dmd2cli.testing.setting import ROWS, denoiser, noisy, some, student_network

OWN = "hand the network in as an argument, and keep it a submodule, so that copies stay copies"


def features(teacher: Teacher) -> None:
    """features() are float32, carry a gradient to x_t, and fit the head, which gives one logit per sample."""
    (x_t, t), cond = noisy(teacher), teacher.encode(some(teacher))[0]
    found = denoiser(student_network(teacher)).features(x_t.requires_grad_(), t, cond)
    say(len(found) == ROWS, f"features() must give one row per sample, not {tuple(found.shape)}")
    say(found.dtype == torch.float32, f"features() must be float32, not {found.dtype}")
    try:
        judged = logits(teacher.head(), found)
    except RuntimeError as err:
        say(False, f"head() does not fit features() of shape {tuple(found.shape)}: {err}")
    say(judged.shape == (ROWS, 1), f"head() must give one logit (b, 1) per sample, not {tuple(judged.shape)}")
    say(judged.requires_grad, "features() carry no gradient: compute them without no_grad() or detach()")
    (grad,) = torch.autograd.grad(judged.sum(), x_t, allow_unused=True)
    say(grad is not None and grad.any(), "features() carry no gradient to x_t: a GAN could teach nothing")


def deep_copies(teacher: Teacher) -> None:
    """The networks can be deep-copied in memory: they hold no file, lock, generator or other handle."""
    for module in (teacher.denoiser, teacher.network):
        try:
            deepcopy(module)
        except (TypeError, RuntimeError) as err:
            why = "keep files, locks and generators out of modules, and tensors of a graph too (register_buffer)"
            say(False, f"the network cannot be deep-copied: {' '.join(str(err).split())}; {why}")


def own_weights(teacher: Teacher) -> None:
    """Generator and critic start as copies that share no weights with each other nor with the teacher."""
    (x_t, t), cond = noisy(teacher), teacher.encode(some(teacher))[0]
    networks: list[nn.Module] = [teacher.denoiser, student_network(teacher), student_network(teacher)]
    own = [{p.data_ptr() for p in network.parameters()} for network in networks]
    say(own[1], f"the student network has no parameters to train; {OWN}")
    say(not (own[0] & own[1] | own[1] & own[2]), f"copies share storage; {OWN}")
    with torch.no_grad():
        before = [network(x_t, t, cond) for network in networks]
        for p in networks[1].parameters():
            p.mul_(1.1).add_(0.01)
        moved = [not b.equal(network(x_t, t, cond)) for b, network in zip(before, networks, strict=True)]
    say(moved[1], f"the weights of a copy do not change what it computes: it calls another network; {OWN}")
    say(not moved[0] and not moved[2], f"changing one copy changes another: both call the same network; {OWN}")
