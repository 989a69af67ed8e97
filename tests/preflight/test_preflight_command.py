"""dmd2 doctor RECIPE as a person runs it."""

import json
import sys

import pytest
from dmd2_plugins.digits import teacher as digits

from dmd2cli import registry
from dmd2cli.cli import app
from dmd2cli.core.parametrization import edm, eps
from dmd2cli.engine.preflight.candidates import then, times, with_

QUICK = ("digits", "run.threads=1", "run.batch=32", "--samples", "32")


@pytest.fixture
def dmd2(monkeypatch, capsys, tmp_path):
    """`dmd2 ARGS` in an empty folder -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["dmd2", *map(str, args)])
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr())

    return run


def like(change):
    """A digits teacher whose wrapping is another, its weights the packaged ones."""

    def teacher(weights: str | None = None):
        found = digits.teacher()
        return digits.wrap(change(found.denoiser), found.details)

    return registry.override("teachers", "digits", teacher)


def twice(network, k=2.0):
    """Told k times the sigma that there is, everywhere but in the schedule by which samples are diffused."""
    own = network.schedule
    clock = then(network.c_noise, times(own, k))
    return with_(network, parametrization=scaled(network.parametrization, k), c_noise=clock)


def scaled(row, k):
    return lambda alpha, sigma: row(alpha, k * sigma)


@pytest.mark.slow
def test_the_digits_teacher_is_ready_and_every_number_is_in_the_json(dmd2):
    code, out, err = dmd2("doctor", *QUICK, "--updates", "2", "--json")
    assert code == 0 and err == ""
    found = json.loads(out)
    assert found["verdict"] == "ready" and found["findings"] == found["warnings"] == []
    assert len(found["configured"]["levels"]) == 6 and found["configured"]["error"] < 0.6
    assert found["candidates"][0]["mean_error"] > found["configured"]["mean_error"]
    named = [one["override"].partition("=")[0] for one in found["proposals"]]
    times = ["student.times"] * 3
    assert named == [*times, "losses.distribution_matching.guidance", "losses.gan_generator.weight"]


WRONG = {
    "prediction of eps": (lambda n: with_(n, parametrization=eps), "edm(0.7"),
    "prediction of other data": (lambda n: with_(n, parametrization=edm(0.5)), "edm(0.7"),
    "noise-level": (twice, "sigma x0.5"),
    "noise-level too low": (lambda n: twice(n, 0.5), "sigma x2"),
}


@pytest.mark.parametrize(
    "what", [pytest.param(name, marks=[pytest.mark.slow] if " " in name else []) for name in WRONG]
)
def test_a_digits_teacher_that_is_wrapped_wrongly_is_not_ready_and_told_how_it_is_right(dmd2, what):
    change, answer = WRONG[what]
    with like(change):
        code, out, _ = dmd2("doctor", *QUICK)
    assert code == 0 and out.startswith("digits: not ready; measured on 32 real samples")
    assert f"\n{what.partition(' ')[0]}: read as {answer}" in out and "propose" not in out


def test_the_toy_teacher_passes_and_its_kind_is_told(dmd2):
    code, out, _ = dmd2("doctor", "toy-grid25", "teacher.pretrain_steps=0")
    assert code == 0 and out.startswith("toy-grid25: ready;") and "no Preconditioned" in out and "no real data" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("no-such",), "no-such"),
        (("digits", "teacher.weights=missing.safetensors"), "missing.safetensors"),
        (("digits", "--samples", "1"), "--samples: must be from 8 to 65536"),
        (("digits", "--updates", "-1"), "--updates: must be 0 or more"),
        (("digits", "nonsense=1"), "nonsense"),
        (("digits", "data.real={use: image-folder, path: nowhere}"), "image-folder"),
        (("digits-teacher",), "dmd2 pretrain"),
        (("empty.yaml",), "empty.yaml"),
        ((".",), "no run folder"),
        ((".", "--samples", "9"), "is for a recipe"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(dmd2, tmp_path, args, says):
    (tmp_path / "empty.yaml").touch()
    code, out, err = dmd2("doctor", *args)
    assert code == 2 and out == "" and err.startswith("dmd2: error: ") and err.count("\n") == 1 and says in err


