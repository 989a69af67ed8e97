"""`dmd2 convert` as a person runs it, with the converters of the EDM family registered."""

import os

import torch
import typer
from dmd2_plugins.edm.convert import Teacher
from dmd2_plugins.edm.convert_student import Student
from dmd2_plugins.edm.network import network
from dmd2_plugins.edm.presets import find
from typer.testing import CliRunner

from dmd2cli import registry
from dmd2cli.cli.app import outcome
from dmd2cli.cli.convert import convert


def command(*args):
    """(exit code, stdout, stderr) of `dmd2 convert ARGS`."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(convert)
    with registry.override("converters", "edm", Teacher), registry.override("converters", "edm-student", Student):
        done = CliRunner().invoke(app, list(map(str, args)))
    if done.exception is None or isinstance(done.exception, SystemExit):
        return done.exit_code, done.stdout, done.stderr
    code, message = outcome(done.exception)
    return code, done.stdout, message


def refusal(source, *options):
    """The one line that a file is refused with; nothing was written, and nothing in it ran."""
    before = set(os.listdir())
    code, out, said = command(source, "-o", "out.safetensors", *options)
    assert code == 2 and out == "" and said.startswith("error: ") and "\n" not in said, (code, out, said)
    assert set(os.listdir()) == before and not os.path.exists("executed")
    return said.removeprefix("error: ")


def randomised(preset, seed=0):
    """The network of a preset, no weight of it zero, so that every one has a say."""
    made = network(find(preset).config, seed).eval().requires_grad_(False)
    rows = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=rows)
    return made


def published_names(made):
    """Its state dict under the names of the published files."""
    return {name.replace("backbone.", "model.", 1): tensor for name, tensor in made.state_dict().items()}


def outputs(denoiser, config):
    """What a network says about some noise at three noise levels, for each of three labels."""
    x = torch.randn(3, 3, config.img_resolution, config.img_resolution, generator=torch.Generator().manual_seed(1))
    labels = {"label": torch.eye(max(config.label_dim, 3))[:3, : config.label_dim]} if config.label_dim else {}
    return denoiser(x, torch.tensor([0.1, 0.5, 1.0]), labels)
